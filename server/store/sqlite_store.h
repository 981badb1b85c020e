#ifndef ZEROCAST_SERVER_STORE_SQLITE_STORE_H_
#define ZEROCAST_SERVER_STORE_SQLITE_STORE_H_

#include <memory>
#include <string>
#include <vector>

#include "kernels/base/mutex.h"
#include "server/store/state_store.h"

struct sqlite3;
struct sqlite3_stmt;

namespace zerocast {

// A SQLite file, locked by this process while it is open.
class SqliteStore : public StateStore {
 public:
  // Opens or makes the file at `path`; its folder must exist.  Errors (STORE_UNAVAILABLE):
  //   NOT_FOUND, PERMISSION_DENIED, ...  as the system says; a missing folder with what to do.
  //   UNAVAILABLE          another process has it, or SQLite cannot use it.
  //   FAILED_PRECONDITION  a newer zerocast made it (WRONG_STATE).
  static absl::StatusOr<std::unique_ptr<SqliteStore>> Open(const std::string& path);
  ~SqliteStore() override;

  absl::StatusOr<StoreEntry> Get(absl::string_view key) const override;
  absl::StatusOr<std::vector<StoreEntry>> List(absl::string_view prefix, absl::string_view after,
                                               int64_t limit) const override;
  absl::StatusOr<std::vector<int64_t>> CommitAll(
      const std::vector<std::vector<StoreWrite>>& commits) override;
  absl::StatusOr<int64_t> Revision() const override;
  absl::string_view kind() const override { return "sqlite"; }

 private:
  explicit SqliteStore(std::string path) : path_(std::move(path)) {}

  absl::Status InitLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckSchemaLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status ExecLocked(const char* sql) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<int64_t> MetaLocked(absl::string_view name) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status SetMetaLocked(absl::string_view name, int64_t value)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<StoreEntry> GetLocked(absl::string_view key) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<std::vector<int64_t>> WriteLocked(
      const std::vector<std::vector<StoreWrite>>& commits) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status WriteOneLocked(const StoreWrite& write, int64_t revision)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // A status for SQLite's last error, after `what`.
  absl::Status OpenErrorLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status ErrorLocked(absl::string_view what) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string path_;
  mutable Mutex mutex_;
  sqlite3* db_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_STORE_SQLITE_STORE_H_
