#include "server/rpc/checkpoint_registry.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/rpc/checkpoint_convert.h"
#include "server/rpc/random_hex.h"
#include "server/rpc/records.h"

namespace zerocast::rpc {
namespace {

constexpr char kPrefix[] = "checkpoints/";
constexpr int64_t kPage = 1000;

absl::Status NoSuchCheckpoint(absl::string_view name) {
  return WithReason(absl::NotFoundError(absl::StrCat("find checkpoint '", name,
                                                     "': no such checkpoint; it was forgotten, or "
                                                     "another one took its place")),
                    "NOT_FOUND");
}

absl::Status Outrun(absl::string_view what) {
  return WithReason(
      absl::AbortedError(absl::StrCat(what, ": it has changed meanwhile; read it again")),
      "WRONG_STATE");
}

// The number in "checkpoints/000000000001-0a1b2c3d"; 0 when there is none.
int64_t NumberOf(absl::string_view name) {
  const absl::string_view id = name.substr(name.find('/') + 1);
  int64_t number = 0;
  return absl::SimpleHexAtoi(id.substr(0, id.find('-')), &number) ? number : 0;
}

// A path as it is registered: without slashes at the end.
std::string Folder(absl::string_view path) {
  while (path.size() > 1 && absl::ConsumeSuffix(&path, "/")) continue;
  return std::string(path);
}

struct TagFolder {
  std::string path, tag;
};

// "/runs/a/global_step3" as the tag global_step3 in /runs/a.
TagFolder SplitTag(absl::string_view path) {
  const std::string folder = Folder(path);
  const size_t slash = folder.rfind('/');
  if (slash == std::string::npos) return {"", folder};
  return {slash == 0 ? "/" : folder.substr(0, slash), folder.substr(slash + 1)};
}

// The same but for when and by whom it was looked at.
bool SameContent(const jobs::Checkpoint& a, const jobs::Checkpoint& b) {
  return CheckpointToProto(a).etag() == CheckpointToProto(b).etag() &&
         a.found.digest == b.found.digest;
}

}  // namespace

bool CheckpointRegistry::Key::operator<(const Key& other) const {
  return std::tie(path, tag, job) < std::tie(other.path, other.tag, other.job);
}

CheckpointRegistry::CheckpointRegistry(const Options& options, StateStore* store,
                                       const Clock* clock)
    : options_(options), store_(store), clock_(clock) {}

absl::StatusOr<std::unique_ptr<CheckpointRegistry>> CheckpointRegistry::Create(
    const Options& options, StateStore* store, const Clock* clock) {
  std::unique_ptr<CheckpointRegistry> registry(new CheckpointRegistry(options, store, clock));
  ZC_RETURN_IF_ERROR(registry->Restore());
  return registry;
}

absl::Status CheckpointRegistry::Restore() {
  MutexLock write_lock(&write_mutex_);
  ZC_ASSIGN_OR_RETURN(last_number_, store_->Revision());
  MutexLock lock(&mutex_);
  std::string after;
  for (bool more = true; more;) {
    ZC_ASSIGN_OR_RETURN(const auto entries, store_->List(kPrefix, after, kPage));
    for (const StoreEntry& entry : entries) {
      ZC_ASSIGN_OR_RETURN(jobs::Checkpoint checkpoint,
                          CheckpointFromRecordText(entry.key, entry.value));
      last_number_ = std::max(last_number_, NumberOf(entry.key));
      PutLocked(std::move(checkpoint), entry.mod_revision);
      after = entry.key;
    }
    more = !entries.empty();
  }
  return absl::OkStatus();
}

CheckpointRegistry::Key CheckpointRegistry::KeyOf(const jobs::Checkpoint& checkpoint) {
  return {checkpoint.path, checkpoint.found.tag, checkpoint.job};
}

void CheckpointRegistry::PutLocked(jobs::Checkpoint checkpoint, int64_t revision) {
  by_key_[KeyOf(checkpoint)] = checkpoint.name;
  if (!checkpoint.request.request_id.empty()) {
    by_request_[checkpoint.request.request_id] = checkpoint.name;
  }
  std::string name = checkpoint.name;
  checkpoints_[std::move(name)] = {std::move(checkpoint), revision};
}

void CheckpointRegistry::EraseLocked(absl::string_view name) {
  const auto it = checkpoints_.find(name);
  if (it == checkpoints_.end()) return;
  const jobs::Checkpoint& checkpoint = it->second.checkpoint;
  const auto key = by_key_.find(KeyOf(checkpoint));
  if (key != by_key_.end() && key->second == name) by_key_.erase(key);
  const auto request = by_request_.find(checkpoint.request.request_id);
  if (request != by_request_.end() && request->second == name) by_request_.erase(request);
  checkpoints_.erase(it);
}

absl::Status CheckpointRegistry::ReadAgain(const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    const absl::StatusOr<StoreEntry> entry = store_->Get(name);
    if (!entry.ok() && !absl::IsNotFound(entry.status())) return entry.status();
    MutexLock lock(&mutex_);
    EraseLocked(name);
    if (!entry.ok()) continue;
    ZC_ASSIGN_OR_RETURN(jobs::Checkpoint checkpoint, CheckpointFromRecordText(name, entry->value));
    PutLocked(std::move(checkpoint), entry->mod_revision);
  }
  return absl::OkStatus();
}

absl::Status CheckpointRegistry::ReadUnsure() {
  ZC_RETURN_IF_ERROR(ReadAgain(unsure_));
  unsure_.clear();
  return absl::OkStatus();
}

absl::Status CheckpointRegistry::Write(std::vector<jobs::Checkpoint> changed,
                                       const std::vector<std::string>& removed) {
  if (changed.empty() && removed.empty()) return absl::OkStatus();
  std::vector<StoreWrite> writes;
  std::vector<std::string> names = removed;
  {
    MutexLock lock(&mutex_);
    const auto revision = [this](const std::string& name) ABSL_NO_THREAD_SAFETY_ANALYSIS {
      const auto it = checkpoints_.find(name);
      return it == checkpoints_.end() ? int64_t{0} : it->second.revision;
    };
    for (const jobs::Checkpoint& checkpoint : changed) {
      names.push_back(checkpoint.name);
      writes.push_back(
          {checkpoint.name, CheckpointToRecord(checkpoint), revision(checkpoint.name)});
    }
    for (const std::string& name : removed) writes.push_back({name, std::nullopt, revision(name)});
  }
  const absl::StatusOr<int64_t> written = store_->Commit(writes);
  if (absl::IsAborted(written.status())) {
    ZC_RETURN_IF_ERROR(ReadAgain(names));
    return Outrun(absl::StrCat("write ", names.front()));
  }
  if (!written.ok()) {
    // It may have happened: whoever writes next looks.
    unsure_ = std::move(names);
    return Annotate(written.status(), "the state store does not take writes; try again");
  }
  MutexLock lock(&mutex_);
  for (const std::string& name : removed) EraseLocked(name);
  for (jobs::Checkpoint& checkpoint : changed) PutLocked(std::move(checkpoint), *written);
  last_number_ = std::max(last_number_, *written);
  return absl::OkStatus();
}

absl::StatusOr<std::optional<jobs::Checkpoint>> CheckpointRegistry::FindOfLocked(
    const jobs::RequestKey& request) const {
  if (request.request_id.empty()) return std::nullopt;
  const auto it = by_request_.find(request.request_id);
  if (it == by_request_.end()) return std::nullopt;
  const jobs::Checkpoint& made = checkpoints_.find(it->second)->second.checkpoint;
  if (made.request.fingerprint == request.fingerprint) return made;
  return InvalidFields(
      {{"request_id", absl::StrCat("was given with another body; it made ", made.name)}});
}

absl::StatusOr<std::optional<jobs::Checkpoint>> CheckpointRegistry::FindOf(
    const jobs::RequestKey& request) const {
  MutexLock lock(&mutex_);
  return FindOfLocked(request);
}

absl::StatusOr<jobs::Checkpoint> CheckpointRegistry::Add(jobs::Checkpoint checkpoint,
                                                         const jobs::FolderLook& look,
                                                         const jobs::FoundCheckpoint& found,
                                                         bool validate_only) {
  jobs::Note(look, found, &checkpoint);
  checkpoint.create_time = clock_->Now();
  if (validate_only) return checkpoint;
  MutexLock write_lock(&write_mutex_);
  ZC_RETURN_IF_ERROR(ReadUnsure());
  std::vector<std::string> replaced;
  bool is_same = false;
  {
    MutexLock lock(&mutex_);
    ZC_ASSIGN_OR_RETURN(std::optional<jobs::Checkpoint> made, FindOfLocked(checkpoint.request));
    if (made.has_value()) return *std::move(made);
    const auto old = by_key_.find(KeyOf(checkpoint));
    if (old != by_key_.end()) {
      jobs::Checkpoint before = checkpoints_.find(old->second)->second.checkpoint;
      is_same = !checkpoint.digest.empty() && before.digest == checkpoint.digest;
      checkpoint.pinned |= before.pinned;
      if (is_same) {
        const bool pinned = checkpoint.pinned;
        checkpoint = std::move(before);
        checkpoint.pinned = pinned;
        jobs::Note(look, found, &checkpoint);
      } else {
        replaced.push_back(old->second);
      }
    } else if (static_cast<int64_t>(checkpoints_.size()) >= options_.max_checkpoints) {
      return WithReason(absl::ResourceExhaustedError(
                            absl::StrCat("register a checkpoint: this server keeps at most ",
                                         options_.max_checkpoints, "; prune or delete some")),
                        "RESOURCE_EXHAUSTED");
    }
  }
  if (!is_same) {
    checkpoint.name = absl::StrFormat("%s%012x-%s", kPrefix, ++last_number_, RandomHex(4));
  }
  ZC_RETURN_IF_ERROR(Write({checkpoint}, replaced));
  return checkpoint;
}

absl::StatusOr<jobs::Checkpoint> CheckpointRegistry::Get(absl::string_view name) const {
  MutexLock lock(&mutex_);
  const auto it = checkpoints_.find(name);
  if (it == checkpoints_.end()) return NoSuchCheckpoint(name);
  return it->second.checkpoint;
}

std::vector<jobs::Checkpoint> CheckpointRegistry::List(absl::string_view job,
                                                       absl::string_view path,
                                                       absl::string_view before,
                                                       int64_t limit) const {
  MutexLock lock(&mutex_);
  std::vector<jobs::Checkpoint> found;
  auto it = before.empty() ? checkpoints_.end() : checkpoints_.lower_bound(before);
  while (it != checkpoints_.begin() && static_cast<int64_t>(found.size()) < limit) {
    --it;
    const jobs::Checkpoint& checkpoint = it->second.checkpoint;
    if (!job.empty() && checkpoint.job != job) continue;
    if (!path.empty() && checkpoint.path != path) continue;
    found.push_back(checkpoint);
  }
  return found;
}

std::vector<jobs::Checkpoint> CheckpointRegistry::OfLoad(absl::string_view path,
                                                         absl::string_view tag) const {
  std::vector<jobs::Checkpoint> found;
  const TagFolder whole = {Folder(path), std::string(tag)};
  const TagFolder own = SplitTag(path);
  MutexLock lock(&mutex_);
  for (const TagFolder& folder : {whole, own}) {
    if (folder.tag != tag) continue;
    for (auto it = by_key_.lower_bound({folder.path, folder.tag, ""});
         it != by_key_.end() && it->first.path == folder.path && it->first.tag == folder.tag;
         ++it) {
      found.push_back(checkpoints_.find(it->second)->second.checkpoint);
    }
  }
  return found;
}

bool CheckpointRegistry::MayHaveOfLoad(absl::string_view path) const {
  const std::string whole = Folder(path);
  const TagFolder own = SplitTag(path);
  MutexLock lock(&mutex_);
  const auto of_whole = by_key_.lower_bound({whole, "", ""});
  if (of_whole != by_key_.end() && of_whole->first.path == whole) return true;
  const auto of_own = by_key_.lower_bound({own.path, own.tag, ""});
  return of_own != by_key_.end() && of_own->first.path == own.path && of_own->first.tag == own.tag;
}

absl::Status CheckpointRegistry::NoteLook(absl::string_view path, const jobs::FolderLook& look) {
  MutexLock write_lock(&write_mutex_);
  ZC_RETURN_IF_ERROR(ReadUnsure());
  std::vector<jobs::Checkpoint> changed;
  {
    MutexLock lock(&mutex_);
    for (const auto& [name, kept] : checkpoints_) {
      if (kept.checkpoint.path != path) continue;
      const jobs::FoundCheckpoint* const found = look.Find(kept.checkpoint.found.tag);
      if (found == nullptr) continue;
      jobs::Checkpoint checkpoint = kept.checkpoint;
      // A look that began before a later one was noted tells nothing new.
      if (look.time < checkpoint.look_time) continue;
      jobs::Note(look, *found, &checkpoint);
      changed.push_back(std::move(checkpoint));
    }
  }
  return Write(std::move(changed), {});
}

absl::StatusOr<jobs::Checkpoint> CheckpointRegistry::SetPinned(absl::string_view name,
                                                               bool pinned) {
  MutexLock write_lock(&write_mutex_);
  ZC_RETURN_IF_ERROR(ReadUnsure());
  ZC_ASSIGN_OR_RETURN(jobs::Checkpoint checkpoint, Get(name));
  if (checkpoint.pinned == pinned) return checkpoint;
  checkpoint.pinned = pinned;
  ZC_RETURN_IF_ERROR(Write({checkpoint}, {}));
  return checkpoint;
}

absl::Status CheckpointRegistry::Remove(const std::vector<jobs::Checkpoint>& checkpoints) {
  MutexLock write_lock(&write_mutex_);
  ZC_RETURN_IF_ERROR(ReadUnsure());
  std::vector<std::string> names;
  for (const jobs::Checkpoint& checkpoint : checkpoints) {
    const absl::StatusOr<jobs::Checkpoint> now = Get(checkpoint.name);
    if (!now.ok() || !SameContent(*now, checkpoint)) {
      return Outrun(absl::StrCat("forget ", checkpoint.name));
    }
    names.push_back(checkpoint.name);
  }
  return Write({}, names);
}

std::map<std::string, int64_t> CheckpointRegistry::CountByState() const {
  std::map<std::string, int64_t> counts;
  for (const jobs::CheckpointState state : jobs::kCheckpointStates) {
    counts[jobs::CheckpointStateName(state)] = 0;
  }
  MutexLock lock(&mutex_);
  for (const auto& [name, kept] : checkpoints_) {
    ++counts[jobs::CheckpointStateName(jobs::StateOf(kept.checkpoint))];
  }
  return counts;
}

}  // namespace zerocast::rpc
