// Server machine, agents and faults in one thread, from one seed.  ZC_SEED=n repeats a run.
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/base/errors.h"
#include "server/jobs/machine.h"
#include "server/plan/layout.h"
#include "tests/status_matchers.h"

namespace zerocast::jobs {
namespace {

constexpr char kDigest[] = "digest";
constexpr int kNumNodes = 3, kNumJobs = 4;
constexpr absl::Duration kLease = absl::Seconds(20), kKeepEnded = absl::Seconds(50);

// Messages travel with delays, agents die and come back, lie about digests, fail and hang; callers
// create, finish and cancel, and those who made jobs with a lease die; the server restarts from its
// records.
class Simulation {
 public:
  explicit Simulation(uint32_t seed) : random_(seed) { StartServer(); }

  void Run(int steps) {
    for (int i = 0; i < steps && !::testing::Test::HasFailure(); ++i) Step();
    // No more faults: everything must end by the deadlines alone.
    quiet_ = true;
    for (int i = 0; i < 400 && !::testing::Test::HasFailure(); ++i) Step();
    for (const Load* load : machine_->Loads()) {
      EXPECT_TRUE(IsFinal(load->state)) << load->name << " is " << LoadStateName(load->state);
      if (load->state == LoadState::kReady) CheckShards(*load);
    }
    EXPECT_GT(num_ready_, 0);
    for (const auto& [name, job] : machine_->jobs()) {
      EXPECT_EQ(job->lease, absl::ZeroDuration()) << name << " is still there, and nobody renews";
    }
  }
  int num_ready() const { return num_ready_; }
  int num_freed() const { return num_freed_; }
  int num_shared() const { return num_shared_; }
  int num_failed() const { return num_failed_; }
  int num_expired() const { return num_expired_; }

 private:
  struct FakeAgent {
    SessionId session = 0;  // 0: not connected
    uint64_t incarnation = 1;
    bool hung = false;
    std::deque<AgentMessage> inbox;
    std::map<std::string, int64_t> epochs;  // highest seen by load
    std::map<std::string, int64_t> held;
    std::map<std::string, std::set<int32_t>> told;  // by load: ranks that its plan's report named
    std::map<std::string, int64_t> giving;          // donations, with their epochs
  };

  bool Chance(int percent) { return static_cast<int>(random_() % 100) < percent; }
  Moment Now() const { return {steady_, absl::UnixEpoch() + steady_}; }

  void StartServer() {
    MachineOptions options;
    options.keep_ended = kKeepEnded;
    machine_ = std::make_unique<Machine>(options);
    // Leases start anew.
    for (auto& [name, latest] : renewed_) latest = steady_;
    for (const auto& [name, job] : job_records_) machine_->RestoreJob(job);
    std::vector<Command> out;
    for (const auto& [name, load] : load_records_) machine_->RestoreLoad(load, &out);
    for (auto& [name, agent] : agents_) agent.session = 0;
    Carry(std::move(out));
  }

  void Step() {
    steady_ += absl::Seconds(1);
    Apply(Tick{});
    for (int i = 0; i < kNumNodes; ++i) StepAgent(absl::StrCat("n", i));
    if (!compilations_.empty() && Chance(70)) {
      const PlanCompiled compiled = compilations_.front();
      compilations_.pop_front();
      Apply(compiled);
    }
    if (!quiet_) StepCallers();
    if (!quiet_ && Chance(1)) {
      compilations_.clear();
      StartServer();
    }
    CheckInvariants();
  }

  void StepCallers() {
    const std::string job_name = absl::StrCat("jobs/", random_() % kNumJobs);
    if (Chance(20)) {
      if (!machine_->GetJob(job_name).ok()) {
        Job job;
        job.name = job_name;
        job.layout.world_size = 4;
        job.layout.num_nodes = 1 + static_cast<int32_t>(random_() % kNumNodes);
        job.layout.node_of_rank = PlaceRanks(4, job.layout.num_nodes);
        job.stage_timeout = absl::Seconds(10);
        if (Chance(50)) {
          job.lease = kLease;
          renewed_[job_name] = steady_;
        }
        job_records_[job_name] = job;
        std::vector<Command> out;
        machine_->AddJob(job, &out);
        Carry(std::move(out));
      }
      if (machine_->CheckNewLoad(job_name).ok()) {
        Load load;
        load.epoch = ++revision_;
        load.name = absl::StrCat("loads/", load.epoch);
        load.job = *machine_->GetJob(job_name);
        load_records_[load.name] = load;
        std::vector<Command> out;
        machine_->AddLoad(load, Now(), &out);
        Carry(std::move(out));
      }
    }
    StepOwners();
    if (Chance(2) && !load_records_.empty()) {
      auto it = load_records_.begin();
      std::advance(it, random_() % load_records_.size());
      std::vector<Command> out;
      ASSERT_THAT(machine_->CancelLoadByName(it->first, Now(), &out), IsOk());
      Carry(std::move(out));
    }
  }

  // Those who made jobs with a lease.
  void StepOwners() {
    const auto jobs = machine_->jobs();
    for (const auto& [name, job] : jobs) {
      if (job->lease == absl::ZeroDuration() || dead_owners_.count(name) > 0) continue;
      if (IsFinal(job->state)) continue;
      std::vector<Command> out;
      if (Chance(1)) {
        dead_owners_.insert(name);
      } else if (Chance(2) && machine_->FinishJob(name, Now(), &out).ok()) {
        Carry(std::move(out));
      } else if (Chance(50)) {
        ASSERT_THAT(machine_->RenewJobLease(name, Now()), IsOk());
        renewed_[name] = steady_;
      }
    }
  }

  void StepAgent(const std::string& name) {
    FakeAgent& agent = agents_[name];
    if (agent.session == 0) {
      if (Chance(30)) Connect(name, &agent);
      return;
    }
    if (!quiet_ && Chance(1)) {  // dies: forgets everything
      if (Chance(50)) Apply(SessionClosed{agent.session, "its stream closed"});
      const uint64_t incarnation = agent.incarnation + 1;
      agent = FakeAgent();
      agent.incarnation = incarnation;
      return;
    }
    if (!agent.hung && !agent.giving.empty() && Chance(40)) EndDonation(&agent);
    // Nobody comes for what it holds.
    if (!quiet_ && Chance(3) && !agent.held.empty()) Expire(name, &agent);
    if (!quiet_ && Chance(1)) agent.hung = !agent.hung;
    if (quiet_) agent.hung = false;
    if (agent.hung) return;
    Apply(Heartbeat{agent.session});
    if (!agent.inbox.empty() && Chance(60)) {
      const AgentMessage message = agent.inbox.front();
      agent.inbox.pop_front();
      std::visit([&](const auto& m) { Handle(name, &agent, m); }, message);
    }
  }

  // The ranks of the shards that an agent holds, all of one content.
  std::set<int32_t> RanksOf(const std::string& name, const FakeAgent& agent) const {
    std::set<int32_t> ranks;
    for (const auto& [load, epoch] : agent.held) {
      for (const int32_t rank : OwnRanks(prepared_.at(load), name)) ranks.insert(rank);
    }
    return ranks;
  }
  static std::vector<int32_t> OwnRanks(const PreparePlan& plan, const std::string& name) {
    std::vector<int32_t> ranks;
    for (size_t rank = 0; rank < plan.job->layout.node_of_rank.size(); ++rank) {
      if (plan.node_names[plan.job->layout.node_of_rank[rank]] != name) continue;
      ranks.push_back(static_cast<int32_t>(rank));
    }
    return ranks;
  }
  std::vector<HeldShards> Inventory(const std::string& name, const FakeAgent& agent) const {
    const std::set<int32_t> ranks = RanksOf(name, agent);
    if (ranks.empty()) return {};
    return {{kDigest, "key", {ranks.begin(), ranks.end()}}};
  }
  void SayInventory(const std::string& name, const FakeAgent& agent) {
    // Sometimes too late, for whoever decides meanwhile.
    if (agent.session != 0 && Chance(80)) {
      Apply(HeldShardsReport{agent.session, Inventory(name, agent), 0});
    }
  }
  void EndDonation(FakeAgent* agent) {
    const auto [load, epoch] = *agent->giving.begin();
    agent->giving.erase(agent->giving.begin());
    DonationReport report{agent->session, load, epoch, absl::OkStatus(), true};
    if (!quiet_ && Chance(10)) report.failure = absl::UnavailableError("a link broke");
    Apply(report);
  }

  // Frees what it holds of one load; says so, or the stream dies before.
  void Expire(const std::string& name, FakeAgent* agent) {
    const auto [load, epoch] = *agent->held.begin();
    agent->held.erase(agent->held.begin());
    SayInventory(name, *agent);
    if (Chance(30)) {
      Apply(SessionClosed{agent->session, "its stream closed"});
      agent->session = 0;
      return;
    }
    ShardsFreedReport report{
        agent->session, load, epoch, {}, absl::FailedPreconditionError("late")};
    const auto& placed = prepared_.at(load);
    for (size_t rank = 0; rank < placed.job->layout.node_of_rank.size(); ++rank) {
      if (placed.node_names[placed.job->layout.node_of_rank[rank]] == name) {
        report.ranks.push_back(static_cast<int32_t>(rank));
      }
    }
    Apply(report);
  }

  void Connect(const std::string& name, FakeAgent* agent) {
    agent->session = ++last_session_;
    agent->inbox.clear();
    agent->giving.clear();
    AgentRegistered event;
    event.session = agent->session;
    event.node_name = name;
    event.incarnation = agent->incarnation;
    for (const auto& [load, epoch] : agent->held) event.held_loads.push_back({load, epoch});
    event.held_shards = Inventory(name, *agent);
    Apply(event);
  }

  void See(FakeAgent* agent, const std::string& load, int64_t epoch) {
    int64_t& seen = agent->epochs[load];
    EXPECT_GE(epoch, seen) << "a command of an older epoch of " << load;
    seen = epoch;
  }
  void Handle(const std::string&, FakeAgent* agent, const InspectCheckpoint& m) {
    See(agent, m.load, m.epoch);
    ManifestReport report{agent->session, m.load, m.epoch, absl::OkStatus(), "manifest"};
    if (!quiet_ && Chance(5)) report.failure = absl::NotFoundError("no such checkpoint");
    Apply(report);
  }
  void Handle(const std::string& name, FakeAgent* agent, const PreparePlan& m) {
    See(agent, m.load, m.epoch);
    prepared_[m.load] = m;
    const char* digest = !quiet_ && Chance(3) ? "another" : kDigest;
    // Sometimes a report of an attempt that never was.
    if (Chance(5)) {
      Apply(PlanReport{agent->session, m.load, m.epoch - 1, absl::OkStatus(), "stale"});
    }
    PlanReport report{agent->session, m.load, m.epoch, absl::OkStatus(), digest};
    // Now and then the files are others.
    if (m.node == 0) report.shards.content_key = Chance(80) ? "key" : "another";
    report.shards.held = Inventory(name, *agent);
    agent->told[m.load] = RanksOf(name, *agent);
    Apply(report);
  }
  void Handle(const std::string& name, FakeAgent* agent, const DonateShards& m) {
    See(agent, m.load, m.epoch);
    EXPECT_EQ(m.peers.participants.at(m.peers.participant), name);
    const std::set<int32_t> ranks = RanksOf(name, *agent);
    bool has_all = !Chance(10);
    for (const ShardTransfer& transfer : m.peers.transfers) {
      if (transfer.donor == m.peers.participant) has_all &= ranks.count(transfer.rank) > 0;
    }
    if (quiet_ || Chance(90)) {  // else it never answers
      agent->giving.erase(m.load);
      if (has_all) agent->giving[m.load] = m.epoch;
      Apply(DonationReport{
          agent->session, m.load, m.epoch,
          has_all ? absl::OkStatus() : absl::FailedPreconditionError("not here any more"), false});
    }
  }
  // Nobody is told to take what is not there.
  void CheckSource(const std::string& name, const FakeAgent& agent, const StartLoad& m) {
    if (m.source == LoadSource::kFiles) return;
    ++num_shared_;
    EXPECT_EQ(m.content_key, "key");
    std::set<int32_t> there = agent.told.at(m.load);
    for (const ShardTransfer& transfer : m.peers.transfers) {
      if (transfer.donor == m.peers.participant) {
        EXPECT_EQ(there.count(transfer.rank), 1) << name << " gives what it has not";
      }
    }
    for (const ShardTransfer& transfer : m.peers.transfers) {
      if (transfer.taker == m.peers.participant) there.insert(transfer.rank);
    }
    for (const int32_t rank : OwnRanks(prepared_.at(m.load), name)) {
      EXPECT_EQ(there.count(rank), 1) << name << " does not get rank " << rank;
    }
  }
  void Handle(const std::string& name, FakeAgent* agent, const StartLoad& m) {
    See(agent, m.load, m.epoch);
    CheckSource(name, *agent, m);
    Apply(RendezvousEntry{agent->session, m.load, m.epoch, "k", "v"});
    NodeReport report;
    report.session = agent->session;
    report.load = m.load;
    report.epoch = m.epoch;
    if (!quiet_ && Chance(5)) {
      report.failure = absl::DataLossError("torn file");
    } else {
      const PreparePlan& plan = prepared_.at(m.load);
      for (size_t rank = 0; rank < plan.job->layout.node_of_rank.size(); ++rank) {
        if (plan.node_names[plan.job->layout.node_of_rank[rank]] != name) continue;
        report.shards.emplace_back();
        report.shards.back().rank = static_cast<int32_t>(rank);
      }
      agent->held[m.load] = m.epoch;
    }
    Apply(report);
    SayInventory(name, *agent);
  }
  void Handle(const std::string&, FakeAgent*, const RelayEntry&) {}
  void Handle(const std::string& name, FakeAgent* agent, const CancelLoad& m) {
    agent->held.erase(m.load);
    agent->giving.erase(m.load);
    SayInventory(name, *agent);
  }

  void Apply(const Event& event) {
    std::vector<Command> out;
    machine_->Apply(event, Now(), &out);
    Carry(std::move(out));
  }

  void Carry(std::vector<Command> commands) {
    for (const Command& command : commands) {
      std::visit([this](const auto& c) { Do(c); }, command);
    }
  }
  FakeAgent* AgentOf(SessionId session) {
    for (auto& [name, agent] : agents_) {
      if (agent.session == session) return &agent;
    }
    return nullptr;
  }
  void Do(const Send& c) {
    if (FakeAgent* agent = AgentOf(c.session)) agent->inbox.push_back(c.message);
  }
  void Do(const EndSession& c) {
    if (FakeAgent* agent = AgentOf(c.session)) agent->session = 0;
  }
  void Do(const CompilePlanCommand& c) {
    PlanCompiled compiled{c.load,        c.epoch,  absl::OkStatus(),
                          PlanSummary(), Report(), std::make_shared<std::string>("input")};
    compiled.plan->digest = kDigest;
    if (!quiet_ && Chance(3)) compiled.status = absl::FailedPreconditionError("missing weights");
    compilations_.push_back(std::move(compiled));
  }
  void Do(const PersistJob& c) { job_records_[c.name] = **machine_->GetJob(c.name); }
  void Do(const PersistLoad& c) { load_records_[c.name] = **machine_->GetLoad(c.name); }
  void Do(const NotifyJob&) {}
  void Do(const JobExpired& c) {
    EXPECT_GT(steady_ - renewed_.at(c.name), kLease) << c.name;
    EXPECT_EQ(job_records_.at(c.name).state, JobState::kExpired);
    ++num_expired_;
  }
  void Do(const ForgetJob& c) {
    EXPECT_GT(Now().wall - job_records_.at(c.name).end_time, kKeepEnded);
    ZC_ASSERT_OK_AND_ASSIGN(const auto loads, machine_->CheckDeleteJob(c.name));
    for (const std::string& load : loads) load_records_.erase(load);
    job_records_.erase(c.name);
    renewed_.erase(c.name);
    dead_owners_.erase(c.name);
    machine_->RemoveJob(c.name);
  }
  void Do(const NotifyLoad&) {}
  void Do(const LoadEnded& c) {
    EXPECT_TRUE(ended_.insert(c.name).second) << c.name << " ended twice";
  }

  // With all agents connected: a shard is held by its agent, or it is known why not.
  void CheckShards(const Load& load) {
    for (const Shard& shard : load.shards) {
      const bool held = agents_.at(shard.node_name).held.count(load.name) > 0;
      EXPECT_EQ(held, shard.freed.ok()) << load.name << " rank " << shard.rank << " of "
                                        << shard.node_name << ": " << shard.freed;
      if (!held) {
        EXPECT_NE(ReasonOf(shard.freed), "");
        ++num_freed_;
      }
      EXPECT_EQ(load_records_.at(load.name).shards[shard.rank].freed, shard.freed);
    }
  }

  void CheckInvariants() {
    for (const auto& [name, job] : machine_->jobs()) {
      const JobState recorded = job_records_.at(name).state;
      EXPECT_EQ(job->state, recorded) << name << " changed, but not its record";
      if (IsFinal(job->state) || job->lease == absl::ZeroDuration()) continue;
      // A tick starts a lease, and one ends it.
      EXPECT_LE(steady_ - renewed_.at(name), kLease + absl::Seconds(2)) << name << " lives on";
    }
    for (const Load* load : machine_->Loads()) {
      const auto final = final_.find(load->name);
      if (final != final_.end()) {
        EXPECT_EQ(load->state, final->second.first) << load->name << " left a final state";
        EXPECT_EQ(load->failure, final->second.second) << load->name << " changed its failure";
        continue;
      }
      if (!IsFinal(load->state)) continue;
      final_[load->name] = {load->state, load->failure};
      EXPECT_EQ(ended_.count(load->name), 1) << load->name << " ended without a word";
      EXPECT_EQ(load_records_.at(load->name).state, load->state) << "final, but not persisted";
      EXPECT_EQ(load->state == LoadState::kFailed, !load->failure.ok());
      if (load->state == LoadState::kFailed) {
        EXPECT_NE(ReasonOf(load->failure), "");
        ++num_failed_;
      }
      if (load->state == LoadState::kReady) {
        EXPECT_EQ(load->shards.size(), 4);
        ++num_ready_;
      }
    }
  }

  std::mt19937 random_;
  std::unique_ptr<Machine> machine_;
  absl::Duration steady_;
  std::map<std::string, Job> job_records_;
  std::map<std::string, Load> load_records_;
  std::map<std::string, absl::Duration> renewed_;  // by job with a lease
  std::set<std::string> dead_owners_;
  int64_t revision_ = 0;
  SessionId last_session_ = 0;
  std::map<std::string, FakeAgent> agents_;
  std::set<std::string> ended_;
  std::map<std::string, PreparePlan> prepared_;
  std::deque<PlanCompiled> compilations_;
  std::map<std::string, std::pair<LoadState, absl::Status>> final_;
  bool quiet_ = false;
  int num_ready_ = 0, num_failed_ = 0, num_freed_ = 0, num_shared_ = 0, num_expired_ = 0;
};

TEST(Simulation, EveryLoadEndsAndStaysAsItEnded) {
  const char* fixed = std::getenv("ZC_SEED");
  const uint32_t first = fixed != nullptr ? static_cast<uint32_t>(std::atoll(fixed)) : 1;
  const uint32_t count = fixed != nullptr ? 1 : 60;
  int ready = 0, failed = 0, freed = 0, shared = 0, expired = 0;
  for (uint32_t seed = first; seed < first + count; ++seed) {
    Simulation simulation(seed);
    simulation.Run(600);
    ready += simulation.num_ready();
    failed += simulation.num_failed();
    freed += simulation.num_freed();
    shared += simulation.num_shared();
    expired += simulation.num_expired();
    ASSERT_FALSE(HasFailure()) << "repeat with ZC_SEED=" << seed;
  }
  EXPECT_GT(shared, 0);
  EXPECT_GT(expired, 0);
  std::printf(
      "%u seeds from %u: %d loads ready, %d failed; %d shards freed; %d parts not read; %d jobs "
      "expired\n",
      count, first, ready, failed, freed, shared, expired);
}

}  // namespace
}  // namespace zerocast::jobs
