#ifndef ZEROCAST_CLIENT_FORMATS_ZIP_WRITER_H_
#define ZEROCAST_CLIENT_FORMATS_ZIP_WRITER_H_

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/formats/file.h"

namespace zerocast {

// Writes a zip file of stored entries from front to back: Begin, Append, ..., Begin, ..., Commit.
// Each entry's data starts at a multiple of 64 bytes; its CRC stands behind it.  Until Commit()
// nothing appears under the path.  Errors: as OutputFile.  Move-only; thread-compatible.
class ZipWriter {
 public:
  // `zip64_from`: the size or offset from which on 8 bytes say it; 0xFFFFFFFF at most.
  static absl::StatusOr<ZipWriter> Create(const std::string& path, int64_t zip64_from);

  // Starts an entry that will have `num_bytes` bytes; the one before is complete.
  absl::Status Begin(absl::string_view name, int64_t num_bytes);
  // No more than Begin said: INVALID_ARGUMENT.
  absl::Status Append(absl::string_view data);
  absl::Status Commit();

 private:
  ZipWriter(OutputFile file, int64_t zip64_from)
      : file_(std::move(file)), zip64_from_(zip64_from) {}
  absl::Status Put(absl::string_view bytes);
  // Writes the descriptor of the entry that is open, and lists it.
  absl::Status End();

  OutputFile file_;
  int64_t zip64_from_;
  int64_t position_ = 0;  // bytes written
  std::string directory_;
  int64_t num_entries_ = 0;
  // The entry that is open.
  bool is_open_ = false;
  std::string name_;
  int64_t header_ = 0, num_bytes_ = 0, left_ = 0;
  uint32_t crc32_ = 0;
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_FORMATS_ZIP_WRITER_H_
