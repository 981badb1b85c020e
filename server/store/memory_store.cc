#include "server/store/memory_store.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"

namespace zerocast {

absl::StatusOr<StoreEntry> MemoryStore::Get(absl::string_view key) const {
  MutexLock lock(&mutex_);
  const auto it = entries_.find(key);
  if (it == entries_.end()) {
    return WithReason(absl::NotFoundError(absl::StrCat("get '", key, "': no such key")),
                      "NOT_FOUND");
  }
  return it->second;
}

absl::StatusOr<std::vector<StoreEntry>> MemoryStore::List(absl::string_view prefix,
                                                          absl::string_view after,
                                                          int64_t limit) const {
  MutexLock lock(&mutex_);
  std::vector<StoreEntry> found;
  auto it = after < prefix ? entries_.lower_bound(prefix) : entries_.upper_bound(after);
  for (; it != entries_.end() && absl::StartsWith(it->first, prefix) &&
         static_cast<int64_t>(found.size()) < limit;
       ++it) {
    found.push_back(it->second);
  }
  return found;
}

absl::StatusOr<std::vector<int64_t>> MemoryStore::CommitAll(
    const std::vector<std::vector<StoreWrite>>& commits) {
  ZC_RETURN_IF_ERROR(CheckCommits(commits));
  MutexLock lock(&mutex_);
  std::vector<int64_t> revisions;
  std::vector<Before> undo;
  for (const std::vector<StoreWrite>& writes : commits) {
    const int64_t revision = revision_ + static_cast<int64_t>(revisions.size()) + 1;
    absl::Status written = WriteLocked(writes, revision, &undo);
    if (!written.ok()) {
      for (auto before = undo.rbegin(); before != undo.rend(); ++before) {
        entries_.erase(before->key);
        if (before->entry.has_value()) entries_[before->key] = *std::move(before->entry);
      }
      return written;
    }
    revisions.push_back(revision);
  }
  revision_ = revisions.back();
  return revisions;
}

absl::Status MemoryStore::WriteLocked(const std::vector<StoreWrite>& writes, int64_t revision,
                                      std::vector<Before>* undo) {
  for (const StoreWrite& write : writes) {
    const auto it = entries_.find(write.key);
    const int64_t actual = it == entries_.end() ? 0 : it->second.mod_revision;
    if (write.expected_revision.has_value() && actual != *write.expected_revision) {
      return ExpectationFailed(write.key, *write.expected_revision, actual);
    }
    if (it == entries_.end()) {
      undo->push_back({write.key, std::nullopt});
    } else {
      undo->push_back({write.key, it->second});
    }
    if (!write.value.has_value()) {
      entries_.erase(write.key);
      continue;
    }
    StoreEntry& entry = entries_[write.key];
    if (entry.create_revision == 0) entry.create_revision = revision;
    entry.key = write.key;
    entry.value = *write.value;
    entry.mod_revision = revision;
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> MemoryStore::Revision() const {
  MutexLock lock(&mutex_);
  return revision_;
}

}  // namespace zerocast
