#ifndef ZEROCAST_CLIENT_FORMATS_SAFETENSORS_H_
#define ZEROCAST_CLIENT_FORMATS_SAFETENSORS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/formats/file.h"
#include "kernels/copy/dtype.h"

namespace zerocast {

// One tensor as a safetensors header describes it.
struct SafetensorsEntry {
  std::string name;
  DType dtype = DType::kInvalid;
  std::vector<int64_t> shape;
  int64_t file_begin = 0;  // absolute offset in the file, bytes
  int64_t file_end = 0;
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> tensors;        // sorted by (file_begin, file_end, name)
  std::map<std::string, std::string> metadata;  // "__metadata__"
  int64_t data_begin = 0;                       // absolute offset of the first data byte
  uint64_t digest = 0;                          // XXH3-64 of the length field and the header's JSON
};

// The largest header that is read: the format's own limit.
inline constexpr int64_t kMaxSafetensorsHeaderBytes = 100'000'000;

// Parses the header of a file of `file_bytes` bytes.  `prefix` holds the file's first bytes: the
// length field and at least the whole JSON.  Nothing in it is believed before it is checked: every
// tensor's range must lie in the file, match shape times dtype, and together the ranges must cover
// the data without gap or overlap.  Errors:
//   DATA_LOSS  any of that does not hold; names `file`, and the tensor or the offset; reason
//              CHECKPOINT_CORRUPT.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(absl::string_view prefix,
                                                         int64_t file_bytes,
                                                         absl::string_view file);

// Reads and parses the header of an open file.  Errors: as ParseSafetensorsHeader, and UNAVAILABLE
// (I/O).
absl::StatusOr<SafetensorsHeader> ReadSafetensorsHeader(const InputFile& file);

// Opens `path`, reads and parses its header.  Errors: NOT_FOUND, PERMISSION_DENIED, UNAVAILABLE
// (I/O), and as ParseSafetensorsHeader.
absl::StatusOr<SafetensorsHeader> ReadSafetensorsHeader(const std::string& path);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_FORMATS_SAFETENSORS_H_
