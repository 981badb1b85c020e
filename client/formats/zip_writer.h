#ifndef ZEROCAST_CLIENT_FORMATS_ZIP_WRITER_H_
#define ZEROCAST_CLIENT_FORMATS_ZIP_WRITER_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/formats/file.h"

namespace zerocast {

// Writes a zip file of stored entries: all are announced by Add, which says where their data goes;
// the data is written there in any order and by any number of threads; their CRCs are set; Commit.
// Each entry's data starts at a multiple of 64 bytes; its CRC stands behind it.  Until Commit()
// nothing appears under the path.  Errors: as OutputFile.  Move-only; thread-compatible but for
// file().
class ZipWriter {
 public:
  // `zip64_from`: the size or offset from which on 8 bytes say it; 0xFFFFFFFF at most.
  static absl::StatusOr<ZipWriter> Create(const std::string& path, int64_t zip64_from);

  // Writes the header of the next entry, of `num_bytes` bytes, and returns where its data goes.
  absl::StatusOr<int64_t> Add(absl::string_view name, int64_t num_bytes);
  // The same of an entry whose data is at hand.
  absl::Status Put(absl::string_view name, absl::string_view data);
  // For data: WriteAt.
  const OutputFile& file() const { return file_; }
  // The CRC of entry `index`, in the order of Add.
  void SetCrc(size_t index, uint32_t crc32) { entries_[index].crc32 = crc32; }
  size_t num_entries() const { return entries_.size(); }
  absl::Status Commit();

 private:
  struct Entry {
    std::string name;
    int64_t header = 0;  // offset in the file
    int64_t data = 0;
    int64_t num_bytes = 0;
    uint32_t crc32 = 0;
  };

  ZipWriter(OutputFile file, int64_t zip64_from)
      : file_(std::move(file)), zip64_from_(zip64_from) {}
  bool IsZip64(const Entry& entry) const { return entry.num_bytes >= zip64_from_; }
  // The descriptor behind the data of `entry`.
  std::string Descriptor(const Entry& entry) const;
  void ListEntry(const Entry& entry, std::string* directory) const;

  OutputFile file_;
  int64_t zip64_from_;
  int64_t position_ = 0;  // where the next entry begins
  std::vector<Entry> entries_;
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_FORMATS_ZIP_WRITER_H_
