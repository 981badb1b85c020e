#ifndef ZEROCAST_CLIENT_FORMATS_ZIP_ARCHIVE_H_
#define ZEROCAST_CLIENT_FORMATS_ZIP_ARCHIVE_H_

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/formats/file.h"

namespace zerocast {

// One stored entry of a zip file.
struct ZipEntry {
  std::string name;
  int64_t data_begin = 0;  // absolute offset in the file, bytes
  int64_t num_bytes = 0;
  uint32_t crc32 = 0;   // as the directory says; CheckZipEntry compares it with the bytes
  bool has_crc = true;  // false: the archive was written without (ZipArchive::has_crcs)
};

// The largest central directory that is read.
inline constexpr int64_t kMaxZipDirectoryBytes = 256 << 20;

// What a zip file's central directory lists, each entry compared with its own header and, where it
// has one, its data descriptor.  Immutable; any thread.
class ZipArchive {
 public:
  // Reads the directory of an open file and the headers of its entries; no data.  Only stored
  // entries: torch.save compresses nothing, and only stored bytes can be mapped.  Zip64 is read.
  // Errors, all naming the file and the entry or offset:
  //   DATA_LOSS      no end record (truncated?), ranges beyond the file, entries that overlap or
  //                  come twice, a header or descriptor that contradicts the directory; reason
  //                  CHECKPOINT_CORRUPT
  //   UNIMPLEMENTED  compressed or encrypted entries, several disks, a directory beyond
  //                  kMaxZipDirectoryBytes; reason UNSUPPORTED
  //   as InputFile::ReadInto
  static absl::StatusOr<ZipArchive> Read(const InputFile& file);

  // In the order of their bytes in the file.
  const std::vector<ZipEntry>& entries() const { return entries_; }
  // False where every CRC of the directory is 0, as after torch's set_crc32_options(False): bytes
  // that were damaged are not noticed then.
  bool has_crcs() const { return has_crcs_; }
  // Null when there is none.
  const ZipEntry* Find(absl::string_view name) const;

 private:
  std::vector<ZipEntry> entries_;
  bool has_crcs_ = false;
  std::unordered_map<std::string, size_t> index_;
};

// Whether a file that starts with these bytes (four are enough) claims to be a zip file.
bool LooksLikeZip(absl::string_view prefix);

// The bytes of an entry, compared with its CRC, where it has one.  Errors: DATA_LOSS (another CRC),
// UNIMPLEMENTED (more than `max_bytes`), as InputFile::ReadInto.
absl::StatusOr<std::string> ReadZipEntry(const InputFile& file, const ZipEntry& entry,
                                         int64_t max_bytes);

// Reads an entry's bytes, a part at a time, and compares their CRC; nothing where it has none.
// Errors: DATA_LOSS, and as InputFile::ReadInto.
absl::Status CheckZipEntry(const InputFile& file, const ZipEntry& entry);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_FORMATS_ZIP_ARCHIVE_H_
