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

absl::StatusOr<int64_t> MemoryStore::Commit(const std::vector<StoreWrite>& writes) {
  ZC_RETURN_IF_ERROR(CheckWrites(writes));
  MutexLock lock(&mutex_);
  for (const StoreWrite& write : writes) {
    if (!write.expected_revision.has_value()) continue;
    const auto it = entries_.find(write.key);
    const int64_t actual = it == entries_.end() ? 0 : it->second.mod_revision;
    if (actual != *write.expected_revision) {
      return ExpectationFailed(write.key, *write.expected_revision, actual);
    }
  }
  ++revision_;
  for (const StoreWrite& write : writes) {
    if (!write.value.has_value()) {
      entries_.erase(write.key);
      continue;
    }
    StoreEntry& entry = entries_[write.key];
    if (entry.create_revision == 0) entry.create_revision = revision_;
    entry.key = write.key;
    entry.value = *write.value;
    entry.mod_revision = revision_;
  }
  return revision_;
}

absl::StatusOr<int64_t> MemoryStore::Revision() const {
  MutexLock lock(&mutex_);
  return revision_;
}

}  // namespace zerocast
