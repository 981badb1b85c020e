// Life, commands, compilers; core_resources.cc has jobs and loads, core_agents.cc the streams,
// core_looks.cc what agents find in folders, core_writes.cc the store.
#include "server/rpc/core.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/rpc/compile.h"
#include "server/rpc/convert.h"
#include "server/rpc/records.h"

namespace zerocast::rpc {
namespace {

// How often deadlines are looked at: the resolution of every timeout of the machine.
constexpr absl::Duration kTick = absl::Milliseconds(200);
constexpr int64_t kRestorePage = 1000;

// The number in "jobs/000000000001-0a1b2c3d"; 0 when there is none.
int64_t NumberOf(absl::string_view name) {
  const absl::string_view id = name.substr(name.find('/') + 1);
  int64_t number = 0;
  return absl::SimpleHexAtoi(id.substr(0, id.find('-')), &number) ? number : 0;
}

}  // namespace

Core::Core(const Options& options, std::unique_ptr<StateStore> store, const Clock* clock)
    : options_(options), store_(std::move(store)), clock_(clock), machine_(options.machine) {}

absl::StatusOr<std::unique_ptr<Core>> Core::Create(const Options& options,
                                                   std::unique_ptr<StateStore> store,
                                                   const Clock* clock) {
  std::unique_ptr<Core> core(new Core(options, std::move(store), clock));
  ZC_ASSIGN_OR_RETURN(core->checkpoints_, CheckpointRegistry::Create({}, core->store(), clock));
  ZC_RETURN_IF_ERROR(core->Restore());
  for (int i = 0; i < options.num_compilers; ++i) {
    core->threads_.emplace_back([c = core.get()] { c->CompileLoop(); });
  }
  core->threads_.emplace_back([c = core.get()] { c->TickLoop(); });
  core->writer_ = std::thread([c = core.get()] { c->WriteLoop(); });
  return core;
}

Core::~Core() {
  {
    MutexLock lock(&compile_mutex_);
    stopping_ = true;
    compile_wanted_.SignalAll();
    stop_ticking_.SignalAll();
  }
  for (std::thread& thread : threads_) thread.join();
  {
    MutexLock lock(&mutex_);
    stopping_writer_ = true;
    write_wanted_.SignalAll();
  }
  if (writer_.joinable()) writer_.join();
}

absl::Status Core::Restore() {
  Round round;
  {
    MutexLock lock(&mutex_);
    ZC_RETURN_IF_ERROR(RestoreLocked());
    round = TakeRoundLocked();
  }
  return WriteRound(round);
}

absl::Status Core::RestoreLocked() {
  ZC_ASSIGN_OR_RETURN(last_number_, store_->Revision());
  std::string after;
  for (bool more = true; more;) {
    ZC_ASSIGN_OR_RETURN(const auto entries, store_->List("jobs/", after, kRestorePage));
    for (const StoreEntry& entry : entries) {
      ZC_ASSIGN_OR_RETURN(jobs::Job job, JobFromRecordText(entry.key, entry.value));
      last_number_ = std::max(last_number_, NumberOf(job.name));
      machine_.RestoreJob(std::move(job));
      after = entry.key;
    }
    more = !entries.empty();
  }
  std::vector<jobs::Command> commands;
  after.clear();
  for (bool more = true; more;) {
    ZC_ASSIGN_OR_RETURN(const auto entries, store_->List("loads/", after, kRestorePage));
    for (const StoreEntry& entry : entries) {
      std::string job_name;
      ZC_ASSIGN_OR_RETURN(jobs::Load load, LoadFromRecordText(entry.key, entry.value,
                                                              entry.create_revision, &job_name));
      // A job goes together with its loads, in one commit.
      ZC_ASSIGN_OR_RETURN(load.job, machine_.GetJob(job_name));
      last_number_ = std::max(last_number_, NumberOf(load.name));
      machine_.RestoreLoad(std::move(load), &commands);
      after = entry.key;
    }
    more = !entries.empty();
  }
  CarryLocked(commands);
  return absl::OkStatus();
}

absl::Status Core::CheckNotDrainingLocked() const {
  if (!draining_) return absl::OkStatus();
  return WithReason(absl::UnavailableError("this server is stopping; try again, or another one"),
                    "SHUTTING_DOWN");
}

void Core::DoLocked(const jobs::Send& command) {
  const auto it = sessions_.find(command.session);
  if (it == sessions_.end()) return;
  v1::SessionResponse message = MessageToProto(command.message, clock_->Steady());
  if (message.has_inspect_checkpoint()) {
    v1::InspectCheckpoint* const inspect = message.mutable_inspect_checkpoint();
    inspect->set_wants_digest(checkpoints_->MayHaveOfLoad(inspect->checkpoint_path()));
  }
  it->second->Deliver(std::move(message));
}

void Core::DoLocked(const jobs::EndSession& command) {
  const auto it = sessions_.find(command.session);
  if (it == sessions_.end()) return;
  const std::shared_ptr<SessionSink> sink = it->second;
  sessions_.erase(it);
  LoseLooksLocked(command.session, command.status.message());
  sink->End(command.status);
}

void Core::DoLocked(const jobs::CompilePlanCommand& command) {
  MutexLock lock(&compile_mutex_);
  compilations_.push_back(command);
  compile_wanted_.Signal();
}

void Core::DoLocked(const jobs::NotifyJob& command) {
  if (unwritten_.count(command.name) > 0) return;
  const auto [begin, end] = job_sinks_.equal_range(command.name);
  if (begin == end) return;
  const auto job = machine_.GetJob(command.name);
  if (!job.ok()) return;
  const bool final = jobs::IsFinal((*job)->state);
  const auto shown = std::make_shared<const v1::Job>(JobToProto(**job));
  for (auto it = begin; it != end; ++it) it->second->Update(shown, final);
  if (final) job_sinks_.erase(begin, end);
}

void Core::DoLocked(const jobs::NotifyLoad& command) {
  changed_.SignalAll();
  if (unwritten_.count(command.name) > 0) return;
  const auto [begin, end] = load_sinks_.equal_range(command.name);
  if (begin == end) return;
  const auto load = machine_.GetLoad(command.name);
  if (!load.ok()) return;
  const bool final = jobs::IsFinal((*load)->state);
  const auto shown = std::make_shared<const v1::Load>(ShowLocked(**load, final));
  for (auto it = begin; it != end; ++it) it->second->Update(shown, final);
  if (final) load_sinks_.erase(begin, end);
}

void Core::DoLocked(const jobs::LoadEnded& command) {
  const auto found = machine_.GetLoad(command.name);
  if (!found.ok()) return;
  const jobs::Load& load = **found;
  // A dry run's caller hears everything by itself.
  if (load.plan_only) return;
  const double seconds = absl::ToDoubleSeconds(load.elapsed);
  if (load.state == jobs::LoadState::kFailed) {
    spdlog::warn("{} of {} is {} after {:.3f} s: {}: {}", load.name, load.job->name,
                 jobs::LoadStateName(load.state), seconds, ReasonOf(load.failure),
                 std::string(load.failure.message()));
  } else {
    spdlog::info("{} of {} is {} after {:.3f} s", load.name, load.job->name,
                 jobs::LoadStateName(load.state), seconds);
  }
}

void Core::DoLocked(const jobs::JobExpired& command) {
  const auto job = machine_.GetJob(command.name);
  if (!job.ok()) return;
  spdlog::warn(
      "{} expired: nobody renewed its lease of {}; its loads are cancelled, and their shards freed",
      command.name, absl::FormatDuration((*job)->lease));
}

void Core::DoLocked(const jobs::ForgetJob& command) {
  // The next tick asks again: its record is on its way, or it is being deleted, which may fail.
  if (unwritten_.count(command.name) > 0 || claims_.count(command.name) > 0) return;
  const auto loads = machine_.CheckDeleteJob(command.name);
  if (loads.ok()) HandOverLocked(DeletionOf(command.name, *loads));
}

v1::Load Core::ShowLocked(const jobs::Load& load, bool with_digests) const {
  // By the wall clock: the time since an earlier process's steady clock means nothing.
  const absl::Duration elapsed = std::max(clock_->Now() - load.create_time, absl::ZeroDuration());
  v1::Load shown = LoadToProto(load, elapsed, with_digests ? Digests::kKeep : Digests::kDrop);
  for (std::string& name : machine_.WaitsFor(load.name)) shown.add_waits_for(std::move(name));
  return shown;
}

void Core::Apply(const jobs::Event& event) {
  MutexLock lock(&mutex_);
  std::vector<jobs::Command> commands;
  machine_.Apply(event, Now(), &commands);
  CarryLocked(commands);
}

void Core::CompileLoop() {
  while (true) {
    jobs::CompilePlanCommand command;
    {
      MutexLock lock(&compile_mutex_);
      while (compilations_.empty() && !stopping_) compile_wanted_.Wait(&compile_mutex_);
      if (stopping_) return;
      command = std::move(compilations_.front());
      compilations_.pop_front();
    }
    Apply(CompileForLoad(command, [this](absl::string_view path, absl::string_view tag) {
      return checkpoints_->OfLoad(path, tag);
    }));
  }
}

void Core::TickLoop() {
  while (true) {
    {
      MutexLock lock(&compile_mutex_);
      if (!stopping_) stop_ticking_.WaitWithTimeout(&compile_mutex_, kTick);
      if (stopping_) return;
    }
    Apply(jobs::Tick{});
  }
}

CoreCounts Core::Counts() {
  MutexLock lock(&mutex_);
  CoreCounts counts;
  for (int state = 0; state <= static_cast<int>(jobs::LoadState::kCancelled); ++state) {
    counts.loads_by_state[jobs::LoadStateName(static_cast<jobs::LoadState>(state))] = 0;
  }
  for (const jobs::Load* load : machine_.Loads()) {
    ++counts.loads_by_state[jobs::LoadStateName(load->state)];
  }
  counts.agents = static_cast<int64_t>(machine_.agents().size());
  counts.jobs = static_cast<int64_t>(machine_.jobs().size());
  counts.sessions = static_cast<int64_t>(sessions_.size());
  counts.watches = static_cast<int64_t>(job_sinks_.size() + load_sinks_.size());
  counts.dropped_reports = machine_.num_dropped();
  counts.waiting = num_waiting_;
  return counts;
}

void Core::StartDraining() {
  MutexLock lock(&mutex_);
  draining_ = true;
}

bool Core::WaitIdle(absl::Duration timeout) {
  // Real time: the tick, which ends loads, runs in it too.
  const absl::Duration until = Clock::Real()->Steady() + timeout;
  MutexLock lock(&mutex_);
  while (machine_.num_active() > 0 || !changes_.empty() || !unwritten_.empty()) {
    const absl::Duration left = until - Clock::Real()->Steady();
    if (left <= absl::ZeroDuration()) return false;
    changed_.WaitWithTimeout(&mutex_, left);
  }
  return true;
}

}  // namespace zerocast::rpc
