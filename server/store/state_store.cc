#include "server/store/state_store.h"

#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/store/memory_store.h"
#include "server/store/sqlite_store.h"

namespace zerocast {
namespace {

absl::Status CheckWrites(const std::vector<StoreWrite>& writes) {
  if (writes.empty()) return absl::InvalidArgumentError("commit: no writes");
  std::set<absl::string_view> keys;
  for (const StoreWrite& write : writes) {
    if (write.key.empty()) return absl::InvalidArgumentError("commit: a key is empty");
    if (!keys.insert(write.key).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("commit: key '", write.key, "' is written twice"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<int64_t> StateStore::Commit(const std::vector<StoreWrite>& writes) {
  ZC_ASSIGN_OR_RETURN(const std::vector<int64_t> revisions, CommitAll({writes}));
  return revisions[0];
}

absl::StatusOr<int64_t> StateStore::Put(absl::string_view key, absl::string_view value,
                                        std::optional<int64_t> expected_revision) {
  return Commit({{std::string(key), std::string(value), expected_revision}});
}

absl::StatusOr<int64_t> StateStore::Delete(absl::string_view key,
                                           std::optional<int64_t> expected_revision) {
  return Commit({{std::string(key), std::nullopt, expected_revision}});
}

absl::StatusOr<std::unique_ptr<StateStore>> OpenStore(absl::string_view spec) {
  const absl::string_view given = spec;
  if (spec == "memory") return std::make_unique<MemoryStore>();
  if (absl::ConsumePrefix(&spec, "sqlite:") && !spec.empty()) {
    return SqliteStore::Open(std::string(spec));
  }
  return InvalidFields(
      {{"store", absl::StrCat("must be 'memory' or 'sqlite:PATH', was '", given, "'")}});
}

absl::Status CheckCommits(const std::vector<std::vector<StoreWrite>>& commits) {
  if (commits.empty()) return absl::InvalidArgumentError("commit: no commits");
  for (const std::vector<StoreWrite>& writes : commits) ZC_RETURN_IF_ERROR(CheckWrites(writes));
  return absl::OkStatus();
}

absl::Status ExpectationFailed(absl::string_view key, int64_t expected, int64_t actual) {
  return WithReason(
      absl::AbortedError(absl::StrCat("commit: '", key, "' is at revision ", actual, ", expected ",
                                      expected, "; read it again and retry")),
      "WRONG_STATE");
}

}  // namespace zerocast
