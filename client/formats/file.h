#ifndef ZEROCAST_CLIENT_FORMATS_FILE_H_
#define ZEROCAST_CLIENT_FORMATS_FILE_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/formats/file_observer.h"

namespace zerocast {

// A regular file opened for reading.  Move-only; closes itself.  Thread-compatible.
class InputFile {
 public:
  // `about_to` is told of every call, those of the reads too.  Errors: NOT_FOUND,
  // PERMISSION_DENIED, INVALID_ARGUMENT (not a regular file), UNAVAILABLE (I/O).
  static absl::StatusOr<InputFile> Open(const std::string& path, FileObserver about_to = {});

  InputFile(InputFile&& other) noexcept;
  InputFile& operator=(InputFile&& other) noexcept;
  ~InputFile();

  const std::string& path() const { return path_; }
  int64_t num_bytes() const { return num_bytes_; }
  int64_t mtime_ns() const { return mtime_ns_; }

  // Reads exactly [offset, offset + num_bytes).  Errors: DATA_LOSS when the file ends before that
  // (it was cut after it was opened), UNAVAILABLE (I/O); both name file and offset.
  absl::StatusOr<std::string> Read(int64_t offset, int64_t num_bytes) const;
  // The same into `target`, which has room for num_bytes.
  absl::Status ReadInto(int64_t offset, int64_t num_bytes, void* target) const;

 private:
  InputFile() = default;
  std::string path_;
  FileObserver about_to_;
  int fd_ = -1;
  int64_t num_bytes_ = 0;
  int64_t mtime_ns_ = 0;
};

// Reads a small text file whole.  Errors: as InputFile; RESOURCE_EXHAUSTED beyond `max_bytes`.
absl::StatusOr<std::string> ReadTextFile(const std::string& path, int64_t max_bytes,
                                         const FileObserver& about_to = {});

// A file that appears under its name only when it is complete: written beside it, renamed by
// Commit(), removed by the destructor otherwise.  Move-only.
class OutputFile {
 public:
  // Errors: NOT_FOUND (the folder), PERMISSION_DENIED, RESOURCE_EXHAUSTED (disk full), UNAVAILABLE.
  static absl::StatusOr<OutputFile> Create(const std::string& path);

  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&&) = delete;
  ~OutputFile();

  const std::string& path() const { return path_; }
  absl::Status Append(absl::string_view data);
  // Writes at an offset, in any order; not with Append.  Any number of threads.
  absl::Status WriteAt(int64_t offset, absl::string_view data) const;
  // Flushes to disk and renames.  No Append after it.
  absl::Status Commit();

 private:
  OutputFile() = default;
  std::string path_, temporary_path_;
  int fd_ = -1;
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_FORMATS_FILE_H_
