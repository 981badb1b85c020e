#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/rpc/convert.h"
#include "server/rpc/core.h"
#include "server/rpc/server.h"

namespace zerocast::rpc {
namespace {

absl::Status TooMany(absl::string_view what, int64_t limit) {
  return WithReason(absl::ResourceExhaustedError(absl::StrCat("this server serves at most ", limit,
                                                              " ", what, "; try again later")),
                    "RESOURCE_EXHAUSTED");
}

absl::Status Stopping() {
  return WithReason(absl::UnavailableError("this server is stopping; connect again"),
                    "SHUTTING_DOWN");
}

}  // namespace

absl::StatusOr<jobs::SessionId> Core::ReserveSession() {
  MutexLock lock(&mutex_);
  if (draining_) return Stopping();
  if (static_cast<int>(reserved_.size()) >= options_.max_sessions) {
    return TooMany("agents", options_.max_sessions);
  }
  reserved_.insert(++last_session_);
  return last_session_;
}

absl::Status Core::Register(jobs::AgentRegistered event, std::shared_ptr<SessionSink> sink) {
  MutexLock lock(&mutex_);
  const jobs::Moment now = Now();
  ZC_RETURN_IF_ERROR(machine_.CheckNewAgent(event, now));
  v1::SessionResponse answer;
  *answer.mutable_registered()->mutable_heartbeat_interval() =
      DurationToProto(options_.machine.heartbeat_interval);
  answer.mutable_registered()->set_server_version(Server::Version());
  sink->Deliver(std::move(answer));
  sessions_[event.session] = std::move(sink);
  std::vector<jobs::Command> commands;
  machine_.Apply(std::move(event), now, &commands);
  CarryLocked(commands);
  return absl::OkStatus();
}

void Core::CloseSession(jobs::SessionId session, absl::string_view why) {
  MutexLock lock(&mutex_);
  reserved_.erase(session);
  if (sessions_.erase(session) == 0) return;
  LoseLooksLocked(session, why);
  std::vector<jobs::Command> commands;
  machine_.Apply(jobs::SessionClosed{session, std::string(why)}, Now(), &commands);
  CarryLocked(commands);
}

std::vector<v1::AgentInfo> Core::ListAgents() {
  MutexLock lock(&mutex_);
  std::vector<v1::AgentInfo> agents;
  for (const auto& [name, agent] : machine_.agents()) {
    v1::AgentInfo info;
    info.set_node_name(name);
    info.set_version(agent.version);
    info.set_socket_path(agent.socket_path);
    for (std::string& load : machine_.LoadsOf(agent)) info.add_loads(std::move(load));
    *info.mutable_silent_for() = DurationToProto(clock_->Steady() - agent.last_heard);
    info.set_cache_bytes(agent.cache_bytes);
    for (const jobs::Gpu& gpu : agent.gpus) {
      v1::Gpu* const out = info.add_gpus();
      out->set_uuid(gpu.uuid);
      out->set_name(gpu.name);
      out->set_memory_bytes(gpu.memory_bytes);
    }
    info.set_no_gpus_because(agent.no_gpus_because);
    agents.push_back(std::move(info));
  }
  return agents;
}

absl::Status Core::WatchJob(absl::string_view name, std::shared_ptr<JobSink> sink) {
  MutexLock lock(&mutex_);
  if (absl::Status usable = CheckUsableLocked(); !usable.ok()) return usable;
  const auto job = machine_.GetJob(name);
  if (!job.ok()) return job.status();
  if (draining_) return Stopping();
  if (static_cast<int>(job_sinks_.size() + load_sinks_.size()) >= options_.max_watches) {
    return TooMany("watches", options_.max_watches);
  }
  const bool final = jobs::IsFinal((*job)->state);
  const bool written = VersionLocked(name) == 0;
  if (written) sink->Update(std::make_shared<const v1::Job>(JobToProto(**job)), final);
  if (!final || !written) job_sinks_.emplace(std::string(name), std::move(sink));
  return absl::OkStatus();
}

absl::Status Core::WatchLoad(absl::string_view name, std::shared_ptr<LoadSink> sink) {
  MutexLock lock(&mutex_);
  if (absl::Status usable = CheckUsableLocked(); !usable.ok()) return usable;
  const auto load = machine_.GetLoad(name);
  if (!load.ok()) return load.status();
  if (draining_ && !jobs::IsFinal((*load)->state)) return Stopping();
  if (static_cast<int>(job_sinks_.size() + load_sinks_.size()) >= options_.max_watches) {
    return TooMany("watches", options_.max_watches);
  }
  const bool final = jobs::IsFinal((*load)->state);
  const bool written = VersionLocked(name) == 0;
  if (written) sink->Update(std::make_shared<const v1::Load>(ShowLocked(**load, final)), final);
  if (!final || !written) load_sinks_.emplace(std::string(name), std::move(sink));
  return absl::OkStatus();
}

void Core::Unwatch(const JobSink* sink) {
  MutexLock lock(&mutex_);
  for (auto it = job_sinks_.begin(); it != job_sinks_.end();) {
    it = it->second.get() == sink ? job_sinks_.erase(it) : std::next(it);
  }
}

void Core::Unwatch(const LoadSink* sink) {
  MutexLock lock(&mutex_);
  for (auto it = load_sinks_.begin(); it != load_sinks_.end();) {
    it = it->second.get() == sink ? load_sinks_.erase(it) : std::next(it);
  }
}

void Core::EndStreams() {
  MutexLock lock(&mutex_);
  draining_ = true;
  ended_ = true;
  round_done_.SignalAll();
  looked_.SignalAll();
  for (const auto& [session, sink] : sessions_) sink->End(Stopping());
  for (const auto& [name, sink] : job_sinks_) sink->End(Stopping());
  for (const auto& [name, sink] : load_sinks_) sink->End(Stopping());
  job_sinks_.clear();
  load_sinks_.clear();
}

}  // namespace zerocast::rpc
