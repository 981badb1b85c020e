#include "server/store/sqlite_store.h"

#include <sqlite3.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/base/missing_folder.h"

namespace zerocast {
namespace {

constexpr int64_t kSchemaVersion = 1;

// A prepared statement; finalized with the object.
class Statement {
 public:
  Statement(sqlite3* db, const char* sql) {
    result_ = sqlite3_prepare_v2(db, sql, -1, &statement_, nullptr);
  }
  ~Statement() { sqlite3_finalize(statement_); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  // Keys and values are bound as blobs: their order is that of their bytes.  The views must live
  // until the last Step().
  Statement& Bind(int index, absl::string_view bytes) {
    if (result_ == SQLITE_OK) {
      // A null pointer would bind NULL, which is not the empty blob.
      result_ = sqlite3_bind_blob(statement_, index, bytes.data() == nullptr ? "" : bytes.data(),
                                  static_cast<int>(bytes.size()), SQLITE_STATIC);
    }
    return *this;
  }
  Statement& Bind(int index, int64_t value) {
    if (result_ == SQLITE_OK) result_ = sqlite3_bind_int64(statement_, index, value);
    return *this;
  }

  // True when there is a row; false at the end and on an error, which ok() tells apart.
  bool Step() {
    if (result_ != SQLITE_OK && result_ != SQLITE_ROW) return false;
    result_ = sqlite3_step(statement_);
    return result_ == SQLITE_ROW;
  }
  bool ok() const {
    return result_ == SQLITE_OK || result_ == SQLITE_ROW || result_ == SQLITE_DONE;
  }

  std::string Bytes(int column) {
    const void* data = sqlite3_column_blob(statement_, column);
    const int size = sqlite3_column_bytes(statement_, column);
    return data == nullptr ? std::string() : std::string(static_cast<const char*>(data), size);
  }
  int64_t Int(int column) { return sqlite3_column_int64(statement_, column); }

 private:
  sqlite3_stmt* statement_ = nullptr;
  int result_;
};

StoreEntry EntryOf(Statement* statement) {
  return {statement->Bytes(0), statement->Bytes(1), statement->Int(2), statement->Int(3)};
}

}  // namespace

absl::StatusOr<std::unique_ptr<SqliteStore>> SqliteStore::Open(const std::string& path) {
  std::unique_ptr<SqliteStore> store(new SqliteStore(path));
  {
    MutexLock lock(&store->mutex_);
    ZC_RETURN_IF_ERROR(store->InitLocked());
  }
  return store;
}

SqliteStore::~SqliteStore() {
  MutexLock lock(&mutex_);
  sqlite3_close(db_);
}

absl::Status SqliteStore::InitLocked() {
  // The store's own mutex serializes all calls.
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
  if (sqlite3_open_v2(path_.c_str(), &db_, flags, nullptr) != SQLITE_OK) {
    return OpenErrorLocked();
  }
  // EXCLUSIVE before WAL: the lock is then taken once and kept, and no shared memory file is made.
  ZC_RETURN_IF_ERROR(ExecLocked("PRAGMA locking_mode = EXCLUSIVE"));
  ZC_RETURN_IF_ERROR(ExecLocked("PRAGMA journal_mode = WAL"));
  ZC_RETURN_IF_ERROR(ExecLocked("PRAGMA synchronous = FULL"));
  ZC_RETURN_IF_ERROR(ExecLocked("BEGIN IMMEDIATE"));
  absl::Status status = CheckSchemaLocked();
  if (status.ok()) status = ExecLocked("COMMIT");
  return status;
}

absl::Status SqliteStore::OpenErrorLocked() const {
  const int error = db_ == nullptr ? 0 : sqlite3_system_errno(db_);
  if (error == 0) return ErrorLocked("open");
  const std::string what = absl::StrCat("open store '", path_, "'");
  absl::Status status = error == ENOENT ? MissingFolder(what, path_, "--store=sqlite:PATH")
                                        : ErrnoStatus(error, what);
  return WithReason(std::move(status), "STORE_UNAVAILABLE");
}

absl::Status SqliteStore::CheckSchemaLocked() {
  ZC_RETURN_IF_ERROR(
      ExecLocked("CREATE TABLE IF NOT EXISTS meta (name BLOB PRIMARY KEY, value INTEGER NOT NULL) "
                 "WITHOUT ROWID"));
  ZC_ASSIGN_OR_RETURN(const int64_t version, MetaLocked("schema_version"));
  if (version > kSchemaVersion) {
    return WithReason(
        absl::FailedPreconditionError(absl::StrCat(
            "open store '", path_, "': its schema is version ", version, ", this server knows ",
            kSchemaVersion, "; use the zerocast that made it, or another file")),
        "WRONG_STATE");
  }
  ZC_RETURN_IF_ERROR(
      ExecLocked("CREATE TABLE IF NOT EXISTS entries (key BLOB PRIMARY KEY, value BLOB NOT NULL, "
                 "create_revision INTEGER NOT NULL, mod_revision INTEGER NOT NULL) WITHOUT ROWID"));
  return SetMetaLocked("schema_version", kSchemaVersion);
}

absl::Status SqliteStore::ExecLocked(const char* sql) const {
  if (sqlite3_exec(db_, sql, nullptr, nullptr, nullptr) != SQLITE_OK) return ErrorLocked(sql);
  return absl::OkStatus();
}

absl::Status SqliteStore::ErrorLocked(absl::string_view what) const {
  const int code = db_ == nullptr ? SQLITE_NOMEM : sqlite3_errcode(db_);
  std::string message = absl::StrCat("store '", path_, "': ", what, ": ",
                                     db_ == nullptr ? "out of memory" : sqlite3_errmsg(db_));
  if (code == SQLITE_BUSY || code == SQLITE_LOCKED) {
    absl::StrAppend(&message, "; another server has this file open");
  }
  return WithReason(absl::UnavailableError(message), "STORE_UNAVAILABLE");
}

absl::StatusOr<int64_t> SqliteStore::MetaLocked(absl::string_view name) const {
  Statement statement(db_, "SELECT value FROM meta WHERE name = ?1");
  statement.Bind(1, name);
  const int64_t value = statement.Step() ? statement.Int(0) : 0;
  if (!statement.ok()) return ErrorLocked("read meta");
  return value;
}

absl::Status SqliteStore::SetMetaLocked(absl::string_view name, int64_t value) {
  Statement statement(db_, "INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)");
  statement.Bind(1, name).Bind(2, value).Step();
  return statement.ok() ? absl::OkStatus() : ErrorLocked("write meta");
}

absl::StatusOr<StoreEntry> SqliteStore::GetLocked(absl::string_view key) const {
  Statement statement(
      db_, "SELECT key, value, create_revision, mod_revision FROM entries WHERE key = ?1");
  statement.Bind(1, key);
  if (statement.Step()) return EntryOf(&statement);
  if (!statement.ok()) return ErrorLocked(absl::StrCat("get '", key, "'"));
  return WithReason(absl::NotFoundError(absl::StrCat("get '", key, "': no such key")), "NOT_FOUND");
}

absl::StatusOr<StoreEntry> SqliteStore::Get(absl::string_view key) const {
  MutexLock lock(&mutex_);
  return GetLocked(key);
}

absl::StatusOr<std::vector<StoreEntry>> SqliteStore::List(absl::string_view prefix,
                                                          absl::string_view after,
                                                          int64_t limit) const {
  MutexLock lock(&mutex_);
  Statement statement(db_,
                      "SELECT key, value, create_revision, mod_revision FROM entries "
                      "WHERE key >= ?1 AND key > ?2 ORDER BY key LIMIT ?3");
  statement.Bind(1, prefix).Bind(2, after).Bind(3, limit);
  std::vector<StoreEntry> found;
  while (statement.Step()) {
    StoreEntry entry = EntryOf(&statement);
    if (entry.key.compare(0, prefix.size(), prefix.data(), prefix.size()) != 0) return found;
    found.push_back(std::move(entry));
  }
  if (!statement.ok()) return ErrorLocked(absl::StrCat("list '", prefix, "'"));
  return found;
}

absl::StatusOr<std::vector<int64_t>> SqliteStore::CommitAll(
    const std::vector<std::vector<StoreWrite>>& commits) {
  ZC_RETURN_IF_ERROR(CheckCommits(commits));
  MutexLock lock(&mutex_);
  // One transaction, so one wait for the disk.
  ZC_RETURN_IF_ERROR(ExecLocked("BEGIN IMMEDIATE"));
  absl::StatusOr<std::vector<int64_t>> revisions = WriteLocked(commits);
  if (revisions.ok()) {
    const absl::Status committed = ExecLocked("COMMIT");
    if (committed.ok()) return revisions;
    revisions = committed;
  }
  // SQLite may have rolled back by itself (disk full, I/O error); a second rollback is refused.
  if (sqlite3_get_autocommit(db_) == 0) {
    absl::Status rolled_back = ExecLocked("ROLLBACK");
    if (!rolled_back.ok()) return rolled_back;
  }
  return revisions;
}

absl::StatusOr<std::vector<int64_t>> SqliteStore::WriteLocked(
    const std::vector<std::vector<StoreWrite>>& commits) {
  ZC_ASSIGN_OR_RETURN(int64_t revision, MetaLocked("revision"));
  std::vector<int64_t> revisions;
  for (const std::vector<StoreWrite>& writes : commits) {
    ++revision;
    for (const StoreWrite& write : writes) ZC_RETURN_IF_ERROR(WriteOneLocked(write, revision));
    revisions.push_back(revision);
  }
  ZC_RETURN_IF_ERROR(SetMetaLocked("revision", revision));
  return revisions;
}

absl::Status SqliteStore::WriteOneLocked(const StoreWrite& write, int64_t revision) {
  const absl::StatusOr<StoreEntry> before = GetLocked(write.key);
  if (!before.ok() && !absl::IsNotFound(before.status())) return before.status();
  const int64_t actual = before.ok() ? before->mod_revision : 0;
  if (write.expected_revision.has_value() && *write.expected_revision != actual) {
    return ExpectationFailed(write.key, *write.expected_revision, actual);
  }
  if (!write.value.has_value()) {
    Statement statement(db_, "DELETE FROM entries WHERE key = ?1");
    statement.Bind(1, write.key).Step();
    return statement.ok() ? absl::OkStatus() : ErrorLocked(absl::StrCat("delete ", write.key));
  }
  Statement statement(db_,
                      "INSERT OR REPLACE INTO entries (key, value, create_revision, mod_revision) "
                      "VALUES (?1, ?2, ?3, ?4)");
  statement.Bind(1, write.key)
      .Bind(2, *write.value)
      .Bind(3, before.ok() ? before->create_revision : revision)
      .Bind(4, revision)
      .Step();
  return statement.ok() ? absl::OkStatus() : ErrorLocked(absl::StrCat("put ", write.key));
}

absl::StatusOr<int64_t> SqliteStore::Revision() const {
  MutexLock lock(&mutex_);
  return MetaLocked("revision");
}

}  // namespace zerocast
