#include "client/formats/zip_writer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "client/formats/crc32.h"
#include "client/formats/little_endian.h"
#include "kernels/base/status_macros.h"

namespace zerocast {
namespace {

// As zip_archive.cc's, by the sections of PKWARE's APPNOTE.TXT.
constexpr uint32_t kLocalSignature = 0x04034b50, kDescriptorSignature = 0x08074b50,
                   kCentralSignature = 0x02014b50, kEnd64Signature = 0x06064b50,
                   kLocator64Signature = 0x07064b50, kEndSignature = 0x06054b50;
constexpr int64_t kLocalBytes = 30;
constexpr uint32_t kNone32 = 0xFFFFFFFF;
constexpr uint32_t kNone16 = 0xFFFF;
constexpr uint64_t kVersion = 45;           // what reads zip64
constexpr uint64_t kFlags = 0x0808;         // a descriptor follows; the name is UTF-8
constexpr uint64_t kDate = 0x21;            // 1980-01-01: the same input gives the same bytes
constexpr int64_t kAlignment = 64;          // torch's; readers map the data
constexpr uint64_t kPaddingExtra = 0x4246;  // the id that torch pads with
constexpr int64_t kZip64ExtraBytes = 20;    // of an entry's header: two sizes

// The fields that header and directory share.
void PutFixed(uint32_t crc32, uint64_t size, size_t name_bytes, int64_t extra_bytes,
              std::string* out) {
  PutLittleEndian(kVersion, 2, out);
  PutLittleEndian(kFlags, 2, out);
  PutLittleEndian(0, 2, out);  // stored
  PutLittleEndian(0, 2, out);  // midnight
  PutLittleEndian(kDate, 2, out);
  PutLittleEndian(crc32, 4, out);
  PutLittleEndian(size, 4, out);
  PutLittleEndian(size, 4, out);
  PutLittleEndian(name_bytes, 2, out);
  PutLittleEndian(static_cast<uint64_t>(extra_bytes), 2, out);
}

}  // namespace

absl::StatusOr<ZipWriter> ZipWriter::Create(const std::string& path, int64_t zip64_from) {
  ZC_ASSIGN_OR_RETURN(OutputFile file, OutputFile::Create(path));
  return ZipWriter(std::move(file), zip64_from);
}

absl::StatusOr<int64_t> ZipWriter::Add(absl::string_view name, int64_t num_bytes) {
  if (name.size() > kNone16 || num_bytes < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("write zip entry of ", num_bytes, " bytes: its name has ", name.size()));
  }
  Entry entry;
  entry.name = std::string(name);
  entry.header = position_;
  entry.num_bytes = num_bytes;
  const bool is_zip64 = IsZip64(entry);
  const int64_t extra_bytes = is_zip64 ? kZip64ExtraBytes : 0;
  const int64_t unpadded =
      entry.header + kLocalBytes + static_cast<int64_t>(name.size()) + extra_bytes;
  int64_t padding = (kAlignment - unpadded % kAlignment) % kAlignment;
  if (padding > 0 && padding < 4) padding += kAlignment;  // an extra field has 4 bytes at least
  std::string bytes;
  PutLittleEndian(kLocalSignature, 4, &bytes);
  PutFixed(0, is_zip64 ? kNone32 : 0, name.size(), extra_bytes + padding, &bytes);
  bytes.append(name.data(), name.size());
  if (is_zip64) {
    PutLittleEndian(1, 2, &bytes);
    PutLittleEndian(16, 2, &bytes);
    PutLittleEndian(0, 8, &bytes);
    PutLittleEndian(0, 8, &bytes);
  }
  if (padding > 0) {
    PutLittleEndian(kPaddingExtra, 2, &bytes);
    PutLittleEndian(static_cast<uint64_t>(padding - 4), 2, &bytes);
    bytes.append(static_cast<size_t>(padding - 4), 'Z');
  }
  ZC_RETURN_IF_ERROR(file_.WriteAt(position_, bytes));
  entry.data = position_ + static_cast<int64_t>(bytes.size());
  position_ = entry.data + num_bytes + static_cast<int64_t>(Descriptor(entry).size());
  entries_.push_back(std::move(entry));
  return entries_.back().data;
}

absl::Status ZipWriter::Put(absl::string_view name, absl::string_view data) {
  ZC_ASSIGN_OR_RETURN(const int64_t position, Add(name, static_cast<int64_t>(data.size())));
  SetCrc(entries_.size() - 1, Crc32(data));
  return file_.WriteAt(position, data);
}

std::string ZipWriter::Descriptor(const Entry& entry) const {
  std::string descriptor;
  const uint64_t size = static_cast<uint64_t>(entry.num_bytes);
  PutLittleEndian(kDescriptorSignature, 4, &descriptor);
  PutLittleEndian(entry.crc32, 4, &descriptor);
  PutLittleEndian(size, IsZip64(entry) ? 8 : 4, &descriptor);
  PutLittleEndian(size, IsZip64(entry) ? 8 : 4, &descriptor);
  return descriptor;
}

void ZipWriter::ListEntry(const Entry& entry, std::string* directory) const {
  const uint64_t size = static_cast<uint64_t>(entry.num_bytes),
                 header = static_cast<uint64_t>(entry.header);
  const bool is_zip64 = IsZip64(entry), is_far = entry.header >= zip64_from_;
  const int64_t field_bytes = (is_zip64 ? 16 : 0) + (is_far ? 8 : 0);
  PutLittleEndian(kCentralSignature, 4, directory);
  PutLittleEndian(kVersion, 2, directory);
  PutFixed(entry.crc32, is_zip64 ? kNone32 : size, entry.name.size(),
           field_bytes > 0 ? field_bytes + 4 : 0, directory);
  PutLittleEndian(0, 2, directory);  // comment
  PutLittleEndian(0, 2, directory);  // disk
  PutLittleEndian(0, 2, directory);
  PutLittleEndian(0, 4, directory);
  PutLittleEndian(is_far ? kNone32 : header, 4, directory);
  *directory += entry.name;
  if (field_bytes > 0) {
    PutLittleEndian(1, 2, directory);
    PutLittleEndian(static_cast<uint64_t>(field_bytes), 2, directory);
    if (is_zip64) PutLittleEndian(size, 8, directory);
    if (is_zip64) PutLittleEndian(size, 8, directory);
    if (is_far) PutLittleEndian(header, 8, directory);
  }
}

absl::Status ZipWriter::Commit() {
  std::string directory;
  for (const Entry& entry : entries_) {
    ZC_RETURN_IF_ERROR(file_.WriteAt(entry.data + entry.num_bytes, Descriptor(entry)));
    ListEntry(entry, &directory);
  }
  const uint64_t begin = static_cast<uint64_t>(position_), num_bytes = directory.size(),
                 num_entries = entries_.size();
  const bool needs64 =
      position_ + static_cast<int64_t>(num_bytes) >= zip64_from_ || num_entries >= kNone16;
  std::string end;
  if (needs64) {
    PutLittleEndian(kEnd64Signature, 4, &end);
    PutLittleEndian(44, 8, &end);
    PutLittleEndian(kVersion, 2, &end);
    PutLittleEndian(kVersion, 2, &end);
    PutLittleEndian(0, 8, &end);  // disks
    PutLittleEndian(num_entries, 8, &end);
    PutLittleEndian(num_entries, 8, &end);
    PutLittleEndian(num_bytes, 8, &end);
    PutLittleEndian(begin, 8, &end);
    PutLittleEndian(kLocator64Signature, 4, &end);
    PutLittleEndian(0, 4, &end);
    PutLittleEndian(begin + num_bytes, 8, &end);
    PutLittleEndian(1, 4, &end);
  }
  PutLittleEndian(kEndSignature, 4, &end);
  PutLittleEndian(0, 4, &end);
  PutLittleEndian(needs64 ? kNone16 : num_entries, 2, &end);
  PutLittleEndian(needs64 ? kNone16 : num_entries, 2, &end);
  PutLittleEndian(needs64 ? kNone32 : num_bytes, 4, &end);
  PutLittleEndian(needs64 ? kNone32 : begin, 4, &end);
  PutLittleEndian(0, 2, &end);
  ZC_RETURN_IF_ERROR(file_.WriteAt(position_, directory + end));
  return file_.Commit();
}

}  // namespace zerocast
