#ifndef ZEROCAST_SERVER_STORE_STATE_STORE_H_
#define ZEROCAST_SERVER_STORE_STATE_STORE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace zerocast {

struct StoreEntry {
  std::string key;
  std::string value;
  int64_t create_revision = 0;  // of the commit that made it, since it was last absent
  int64_t mod_revision = 0;     // of the commit that wrote it last
};

// One write of a commit.
struct StoreWrite {
  std::string key;                   // not empty
  std::optional<std::string> value;  // nullopt deletes; deleting what is absent is no error
  // The mod_revision that the entry must have, 0 for "must be absent"; nullopt: whatever it has.
  std::optional<int64_t> expected_revision;
};

// Keys and values with revisions.  Safe for concurrent use; commits are totally ordered.
//
// Every method: UNAVAILABLE, reason STORE_UNAVAILABLE, when the medium does not answer; the outcome
// of a commit that ended so is unknown.
class StateStore {
 public:
  virtual ~StateStore() = default;

  // Errors: NOT_FOUND, reason NOT_FOUND.
  virtual absl::StatusOr<StoreEntry> Get(absl::string_view key) const = 0;

  // At most `limit` (at least 1) entries whose keys start with `prefix` and are greater than
  // `after`, in the order of the keys' bytes.
  virtual absl::StatusOr<std::vector<StoreEntry>> List(absl::string_view prefix,
                                                       absl::string_view after,
                                                       int64_t limit) const = 0;

  // Does all of `writes`, durably, or none; returns the commit's revision, greater than that of
  // every commit before.  Errors:
  //   ABORTED           an expectation did not hold; names the key and both revisions.
  //   INVALID_ARGUMENT  no writes, an empty key, or a key written twice.
  absl::StatusOr<int64_t> Commit(const std::vector<StoreWrite>& writes);

  // Several commits, in their order, each with a revision of its own (the next number after the one
  // before it), made durable at once: all of them or none.  A later one sees what an earlier one
  // wrote.  Returns their revisions.  Errors: those of Commit, for whichever commit has them;
  // INVALID_ARGUMENT when there are no commits.
  virtual absl::StatusOr<std::vector<int64_t>> CommitAll(
      const std::vector<std::vector<StoreWrite>>& commits) = 0;

  // The revision of the last commit; 0 before the first.
  virtual absl::StatusOr<int64_t> Revision() const = 0;

  // "memory" or "sqlite".
  virtual absl::string_view kind() const = 0;

  // One write.
  absl::StatusOr<int64_t> Put(absl::string_view key, absl::string_view value,
                              std::optional<int64_t> expected_revision = std::nullopt);
  absl::StatusOr<int64_t> Delete(absl::string_view key,
                                 std::optional<int64_t> expected_revision = std::nullopt);
};

// Opens "memory" or "sqlite:PATH".  Errors: INVALID_ARGUMENT for another form; those of
// SqliteStore.
absl::StatusOr<std::unique_ptr<StateStore>> OpenStore(absl::string_view spec);

// For implementations: the checks of CommitAll's arguments, and the error of a failed expectation.
absl::Status CheckCommits(const std::vector<std::vector<StoreWrite>>& commits);
absl::Status ExpectationFailed(absl::string_view key, int64_t expected, int64_t actual);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_STORE_STATE_STORE_H_
