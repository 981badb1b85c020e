#ifndef ZEROCAST_TESTS_SERVER_JOBS_MACHINE_FIXTURE_H_
#define ZEROCAST_TESTS_SERVER_JOBS_MACHINE_FIXTURE_H_

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "server/jobs/machine.h"
#include "server/plan/layout.h"

namespace zerocast::jobs {

inline constexpr char kDigest[] = "00112233445566778899aabbccddeeff";
inline constexpr char kLoad[] = "loads/l";

inline Job TwoNodes(const std::string& name = "jobs/j") {
  Job job;
  job.name = name;
  job.checkpoint_path = "/ckpt";
  job.nodes = {"a", "b"};
  job.layout.world_size = 4;
  job.layout.num_nodes = 2;
  job.layout.node_of_rank = PlaceRanks(4, 2);
  job.stage_timeout = absl::Seconds(60);
  job.max_buffer_bytes = int64_t{100} << 20;
  return job;
}

// Two agents, a (session 1) and b (session 2), one job and one load, driven step by step.
class MachineTest : public ::testing::Test {
 protected:
  MachineTest() : machine_(MachineOptions()) { machine_.AddJob(TwoNodes(), &ignored_); }

  Moment Now() const { return {steady_, absl::FromUnixSeconds(1700000000) + steady_}; }

  std::vector<Command> Apply(const Event& event) {
    std::vector<Command> out;
    machine_.Apply(event, Now(), &out);
    return out;
  }
  std::vector<Command> Register(const std::string& node, SessionId session,
                                std::vector<HeldLoad> held = {}, uint64_t incarnation = 1,
                                AgentLimits limits = {}) {
    AgentRegistered event;
    event.limits = limits;
    event.session = session;
    event.node_name = node;
    event.incarnation = incarnation;
    event.socket_path = "/run/" + node;
    event.held_loads = std::move(held);
    return Apply(event);
  }
  std::vector<Command> Create(const std::string& name = kLoad, int64_t epoch = 7,
                              bool plan_only = false) {
    Load load;
    load.name = name;
    load.job = *machine_.GetJob("jobs/j");
    load.epoch = epoch;
    load.plan_only = plan_only;
    std::vector<Command> out;
    machine_.AddLoad(std::move(load), Now(), &out);
    return out;
  }
  std::vector<Command> Compiled(absl::Status status = absl::OkStatus()) {
    PlanCompiled event{kLoad, 7, status, {}, Report(), std::make_shared<std::string>("input")};
    if (status.ok()) {
      event.plan = PlanSummary();
      event.plan->digest = kDigest;
    }
    return Apply(event);
  }
  std::vector<Command> Finish(SessionId session, std::vector<int32_t> ranks, int64_t epoch = 7) {
    NodeReport report;
    report.session = session;
    report.load = kLoad;
    report.epoch = epoch;
    for (const int32_t rank : ranks) {
      report.shards.emplace_back();
      report.shards.back().rank = rank;
    }
    return Apply(report);
  }
  // Up to and including `state`.
  void DriveTo(LoadState state) {
    Register("a", 1);
    Register("b", 2);
    Create();
    if (state == LoadState::kInspecting) return;
    Apply(ManifestReport{1, kLoad, 7, absl::OkStatus(), "manifest"});
    Compiled();
    if (state == LoadState::kPreparing) return;
    Apply(PlanReport{1, kLoad, 7, absl::OkStatus(), kDigest});
    Apply(PlanReport{2, kLoad, 7, absl::OkStatus(), kDigest});
    if (state == LoadState::kLoading) return;
    Finish(2, {3, 2});
    Finish(1, {0, 1});
  }
  void After(absl::Duration time) {
    // Heartbeats go on, so that only the load's own wait runs out.
    const absl::Duration step = absl::Seconds(5);
    for (absl::Duration gone; gone < time; gone += step) {
      steady_ += step;
      for (const SessionId session : {1, 2}) Apply(Heartbeat{session});
      last_ = Apply(Tick{});
    }
  }
  const Load& load() const { return **machine_.GetLoad(kLoad); }

  template <typename T>
  static std::vector<T> Only(const std::vector<Command>& commands) {
    std::vector<T> found;
    for (const Command& command : commands) {
      if (const T* c = std::get_if<T>(&command)) found.push_back(*c);
    }
    return found;
  }
  // The sessions that got a message of type T.
  template <typename T>
  static std::vector<SessionId> SentTo(const std::vector<Command>& commands) {
    std::vector<SessionId> sessions;
    for (const Send& send : Only<Send>(commands)) {
      if (std::holds_alternative<T>(send.message)) sessions.push_back(send.session);
    }
    return sessions;
  }

  Machine machine_;
  absl::Duration steady_;
  std::vector<Command> ignored_, last_;
};

}  // namespace zerocast::jobs

#endif  // ZEROCAST_TESTS_SERVER_JOBS_MACHINE_FIXTURE_H_
