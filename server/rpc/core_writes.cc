// The writer: records and changes to the store, and who waits for it.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/rpc/core.h"
#include "server/rpc/records.h"

namespace zerocast::rpc {
namespace {

constexpr absl::Duration kRetry = absl::Milliseconds(200);
// A commit that takes longer than this is no slow disk any more: the server says that it is not
// ready.
constexpr absl::Duration kStuck = absl::Seconds(10);
// A round ends with the change that goes beyond this, so that a burst of large jobs does not wait
// for one large transaction.
constexpr size_t kRoundBytes = size_t{16} << 20;

absl::Status Refused(const absl::Status& error) {
  return Annotate(error, "the state store does not take writes; try again");
}

// The name of the job or load that a command is about; null: about none.
struct NameOf {
  const std::string* operator()(const jobs::Send& c) const {
    return std::visit([](const auto& message) { return &message.load; }, c.message);
  }
  const std::string* operator()(const jobs::EndSession&) const { return nullptr; }
  const std::string* operator()(const jobs::CompilePlanCommand& c) const { return &c.load; }
  template <typename Named>
  const std::string* operator()(const Named& c) const {
    return &c.name;
  }
};

// Those that look themselves whether what they are about is written, and come again when it is.
bool ComesAgain(const jobs::Command& command) {
  return std::holds_alternative<jobs::NotifyJob>(command) ||
         std::holds_alternative<jobs::NotifyLoad>(command) ||
         std::holds_alternative<jobs::ForgetJob>(command);
}

bool IsPersist(const jobs::Command& command) {
  return std::holds_alternative<jobs::PersistJob>(command) ||
         std::holds_alternative<jobs::PersistLoad>(command);
}

}  // namespace

void Core::CarryLocked(const std::vector<jobs::Command>& commands) {
  for (const jobs::Command& command : commands) {
    if (!IsPersist(command)) continue;
    const std::string& name = *std::visit(NameOf(), command);
    const auto deleted = being_deleted_.find(name);
    if (deleted != being_deleted_.end()) {
      deleted->second = true;
      continue;
    }
    unwritten_[name].version = ++version_;
    write_wanted_.Signal();
  }
  for (const jobs::Command& command : commands) {
    const std::string* const name = std::visit(NameOf(), command);
    const auto unwritten = name == nullptr ? unwritten_.end() : unwritten_.find(*name);
    // Watchers are told once it is written, whatever happened until then; the next tick asks to
    // forget a job.
    if (unwritten == unwritten_.end() || ComesAgain(command)) {
      std::visit([this](const auto& c) ABSL_NO_THREAD_SAFETY_ANALYSIS { DoLocked(c); }, command);
    } else if (!IsPersist(command)) {
      unwritten->second.held.push_back({unwritten->second.version, command});
    }
  }
}

void Core::ReleaseLocked(uint64_t version) {
  durable_ = std::max(durable_, version);
  std::vector<jobs::Command> commands;
  for (auto it = unwritten_.begin(); it != unwritten_.end();) {
    std::vector<Held>& held = it->second.held;
    // Versions grow along the list.
    const auto end = std::find_if(held.begin(), held.end(),
                                  [version](const Held& h) { return h.version > version; });
    for (auto h = held.begin(); h != end; ++h) commands.push_back(std::move(h->command));
    held.erase(held.begin(), end);
    if (it->second.version > version) {
      ++it;
      continue;
    }
    if (absl::StartsWith(it->first, "jobs/")) {
      commands.push_back(jobs::NotifyJob{it->first});
    } else {
      commands.push_back(jobs::NotifyLoad{it->first});
    }
    it = unwritten_.erase(it);
  }
  for (const jobs::Command& command : commands) {
    std::visit([this](const auto& c) ABSL_NO_THREAD_SAFETY_ANALYSIS { DoLocked(c); }, command);
  }
}

void Core::WriteLoop() {
  Round round;
  // A failure is kept for whoever asks, and tried again.
  while (TakeRound(&round)) WriteRound(round).IgnoreError();
}

bool Core::TakeRound(Round* round) {
  MutexLock lock(&mutex_);
  while (changes_.empty() && !stopping_writer_) {
    if (unwritten_.empty()) {
      write_wanted_.Wait(&mutex_);
    } else if (store_error_.ok() || write_wanted_.WaitWithTimeout(&mutex_, kRetry)) {
      break;
    }
  }
  // The last round is tried once: nobody is there any more to wait for it.
  const bool nothing = changes_.empty() && unwritten_.empty();
  if (stopping_writer_ && (nothing || !store_error_.ok())) return false;
  *round = TakeRoundLocked();
  writing_since_ = Clock::Real()->Steady();
  return true;
}

Core::Round Core::TakeRoundLocked() {
  Round round;
  round.version = version_;
  for (const auto& [name, unwritten] : unwritten_) {
    if (absl::StartsWith(name, "jobs/")) {
      auto job = machine_.GetJob(name);
      if (job.ok()) round.jobs.push_back(*std::move(job));
    } else {
      const auto load = machine_.GetLoad(name);
      if (load.ok()) round.loads.push_back(**load);
    }
  }
  size_t bytes = 0;
  for (const std::shared_ptr<Change>& change : changes_) {
    if (bytes > kRoundBytes) break;
    for (const StoreWrite& write : change->writes)
      bytes += write.value.has_value() ? write.value->size() : 0;
    round.changes.push_back(change);
  }
  return round;
}

absl::Status Core::WriteRound(const Round& round) {
  std::vector<StoreWrite> records;
  for (const auto& job : round.jobs) {
    records.push_back({job->name, JobToRecord(*job), std::nullopt});
  }
  for (const jobs::Load& load : round.loads) {
    records.push_back({load.name, LoadToRecord(load), std::nullopt});
  }
  std::vector<std::vector<StoreWrite>> commits;
  const size_t first_change = records.empty() ? 0 : 1;
  // Before the changes: one of these may delete what has a record here.
  if (!records.empty()) commits.push_back(std::move(records));
  for (const auto& change : round.changes) commits.push_back(change->writes);
  absl::StatusOr<std::vector<int64_t>> revisions = std::vector<int64_t>();
  if (!commits.empty()) revisions = store_->CommitAll(commits);

  MutexLock lock(&mutex_);
  writing_since_ = absl::InfiniteDuration();
  if (!revisions.ok() && store_error_.ok()) {
    spdlog::error("{}", std::string(Refused(revisions.status()).message()));
  } else if (revisions.ok() && !store_error_.ok()) {
    spdlog::info("the state store takes writes again");
  }
  store_error_ = revisions.status();
  if (revisions.ok()) {
    if (!revisions->empty()) last_number_ = std::max(last_number_, revisions->back());
    ReleaseLocked(round.version);
  }
  for (size_t i = 0; i < round.changes.size(); ++i) {
    changes_.pop_front();
    FinishLocked(round.changes[i].get(),
                 revisions.ok() ? absl::StatusOr<int64_t>((*revisions)[first_change + i])
                                : revisions.status());
  }
  round_done_.SignalAll();
  changed_.SignalAll();
  return revisions.status();
}

void Core::FinishLocked(Change* change, const absl::StatusOr<int64_t>& revision) {
  std::vector<jobs::Command> commands;
  change->status = revision.ok() ? absl::OkStatus() : Refused(revision.status());
  if (!change->removed_job.empty()) {
    for (const StoreWrite& write : change->writes) {
      const auto it = being_deleted_.find(write.key);
      // It stays, so its record has to come after all.
      if (!revision.ok() && it->second && absl::StartsWith(write.key, "jobs/")) {
        commands.push_back(jobs::PersistJob{write.key});
      } else if (!revision.ok() && it->second) {
        commands.push_back(jobs::PersistLoad{write.key});
      }
      being_deleted_.erase(it);
    }
    if (revision.ok()) machine_.RemoveJob(change->removed_job);
  }
  if (revision.ok() && change->new_job.has_value()) {
    machine_.AddJob(*std::move(change->new_job), &commands);
  }
  if (revision.ok() && change->new_load.has_value()) {
    jobs::Load& load = *change->new_load;
    load.epoch = *revision;
    spdlog::info("{} of {} is created: {}, {} ranks on {} nodes", load.name, load.job->name,
                 load.job->checkpoint_path, load.job->layout.world_size,
                 load.job->layout.num_nodes);
    machine_.AddLoad(std::move(load), Now(), &commands);
  }
  for (const std::string& claim : change->claims) claims_.erase(claim);
  change->done = true;
  CarryLocked(commands);
}

absl::Status Core::CheckUsableLocked() const {
  if (!store_error_.ok() && !unwritten_.empty()) return Refused(store_error_);
  return absl::OkStatus();
}

absl::Status Core::AwaitRoundLocked(absl::Duration until) {
  if (ended_) {
    return WithReason(absl::UnavailableError("this server is stopping; try again"),
                      "SHUTTING_DOWN");
  }
  if (num_waiting_ >= options_.max_waiting) {
    return WithReason(
        absl::UnavailableError(absl::StrCat("write to the state store: ", num_waiting_,
                                            " calls already wait for it; try again later")),
        "STORE_UNAVAILABLE");
  }
  const absl::Duration left = until - Clock::Real()->Steady();
  if (left <= absl::ZeroDuration()) {
    return WithReason(
        absl::DeadlineExceededError(
            "write to the state store: it had not answered when the call's time was over; what was "
            "asked for may still happen: ask again, a creation with the same request_id"),
        "DEADLINE_EXCEEDED");
  }
  ++num_waiting_;
  round_done_.WaitWithTimeout(&mutex_, left);
  --num_waiting_;
  return absl::OkStatus();
}

absl::Status Core::AwaitDurableLocked(uint64_t version, absl::Duration until) {
  while (durable_ < version) {
    if (!store_error_.ok()) return Refused(store_error_);
    ZC_RETURN_IF_ERROR(AwaitRoundLocked(until));
  }
  return absl::OkStatus();
}

absl::Status Core::AwaitUnclaimedLocked(const std::string& claim, absl::Duration until) {
  while (claims_.count(claim) > 0) ZC_RETURN_IF_ERROR(AwaitRoundLocked(until));
  return absl::OkStatus();
}

void Core::HandOverLocked(const std::shared_ptr<Change>& change) {
  claims_.insert(change->claims.begin(), change->claims.end());
  if (!change->removed_job.empty()) {
    for (const StoreWrite& write : change->writes) being_deleted_[write.key] = false;
  }
  changes_.push_back(change);
  write_wanted_.Signal();
}

absl::Status Core::DoChangeLocked(const std::shared_ptr<Change>& change, absl::Duration until) {
  // Before it is handed over: what is refused must not happen.
  if (ended_ || num_waiting_ >= options_.max_waiting) return AwaitRoundLocked(until);
  HandOverLocked(change);
  while (!change->done) ZC_RETURN_IF_ERROR(AwaitRoundLocked(until));
  return change->status;
}

uint64_t Core::VersionLocked(absl::string_view name) const {
  const auto it = unwritten_.find(name);
  return it == unwritten_.end() ? 0 : it->second.version;
}

bool Core::Healthy() {
  MutexLock lock(&mutex_);
  return CheckUsableLocked().ok() && Clock::Real()->Steady() - writing_since_ <= kStuck;
}

}  // namespace zerocast::rpc
