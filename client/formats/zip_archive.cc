#include "client/formats/zip_archive.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/formats/crc32.h"
#include "client/formats/little_endian.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/base/utf8.h"

namespace zerocast {
namespace {

// The records of PKWARE's APPNOTE.TXT, by their sections.
constexpr uint32_t kLocalSignature = 0x04034b50;       // 4.3.7
constexpr uint32_t kDescriptorSignature = 0x08074b50;  // 4.3.9
constexpr uint32_t kCentralSignature = 0x02014b50;     // 4.3.12
constexpr uint32_t kEnd64Signature = 0x06064b50;       // 4.3.14
constexpr uint32_t kLocator64Signature = 0x07064b50;   // 4.3.15
constexpr uint32_t kEndSignature = 0x06054b50;         // 4.3.16
constexpr int64_t kLocalBytes = 30, kCentralBytes = 46, kEndBytes = 22, kLocator64Bytes = 20,
                  kEnd64Bytes = 56, kMaxCommentBytes = 0xFFFF;
constexpr uint32_t kNone32 = 0xFFFFFFFF;  // the value stands in the zip64 extra field
constexpr uint32_t kNone16 = 0xFFFF;
constexpr uint32_t kEncrypted = 1 << 0, kHasDescriptor = 1 << 3, kStrongEncryption = 1 << 6,
                   kMaskedHeaders = 1 << 13;
constexpr uint16_t kZip64Extra = 1;

absl::Status Corrupt(const InputFile& file, absl::string_view what) {
  return WithReason(
      absl::DataLossError(absl::StrCat("read zip ", file.path(), ": ", EscapeControls(what))),
      "CHECKPOINT_CORRUPT");
}

absl::Status Unsupported(const InputFile& file, absl::string_view what) {
  return WithReason(
      absl::UnimplementedError(absl::StrCat("read zip ", file.path(), ": ", EscapeControls(what))),
      "UNSUPPORTED");
}

// Where the central directory lies and how many entries it says to have.
struct Directory {
  uint64_t offset = 0, num_bytes = 0, num_entries = 0;
};

// One record of the central directory.
struct Central {
  std::string name;
  uint32_t flags = 0, method = 0, crc32 = 0;
  uint64_t compressed = 0, size = 0, header = 0;  // bytes, bytes, absolute offset
};

absl::StatusOr<Directory> ReadEnd64(const InputFile& file, int64_t locator_offset,
                                    absl::string_view locator, const Directory& end,
                                    int64_t* end_offset) {
  const uint64_t offset = GetLittleEndian(locator, 8, 8);
  if (GetLittleEndian(locator, 4, 4) != 0 || GetLittleEndian(locator, 16, 4) > 1) {
    return Unsupported(file, "it is one of several disks, one file is read");
  }
  if (locator_offset < kEnd64Bytes ||
      offset > static_cast<uint64_t>(locator_offset - kEnd64Bytes)) {
    return Corrupt(file, absl::StrCat("the zip64 locator at offset ", locator_offset,
                                      " names offset ", offset, ", which is not before it"));
  }
  ZC_ASSIGN_OR_RETURN(const std::string record,
                      file.Read(static_cast<int64_t>(offset), kEnd64Bytes));
  const uint64_t record_bytes = GetLittleEndian(record, 4, 8);
  if (GetLittleEndian(record, 0, 4) != kEnd64Signature ||
      record_bytes != static_cast<uint64_t>(locator_offset) - offset - 12) {
    return Corrupt(file, absl::StrCat("no zip64 end record at offset ", offset,
                                      " that ends at its locator at ", locator_offset));
  }
  if (GetLittleEndian(record, 16, 4) != 0 || GetLittleEndian(record, 20, 4) != 0) {
    return Unsupported(file, "it is one of several disks, one file is read");
  }
  Directory directory;
  directory.num_entries = GetLittleEndian(record, 32, 8);
  directory.num_bytes = GetLittleEndian(record, 40, 8);
  directory.offset = GetLittleEndian(record, 48, 8);
  if ((end.num_entries != kNone16 && end.num_entries != directory.num_entries) ||
      (end.num_bytes != kNone32 && end.num_bytes != directory.num_bytes) ||
      (end.offset != kNone32 && end.offset != directory.offset)) {
    return Corrupt(file, absl::StrCat("the end record and the zip64 end record at offset ", offset,
                                      " contradict each other"));
  }
  *end_offset = static_cast<int64_t>(offset);
  return directory;
}

absl::StatusOr<Directory> FindDirectory(const InputFile& file) {
  const int64_t tail_bytes =
      std::min(file.num_bytes(), kEndBytes + kLocator64Bytes + kMaxCommentBytes);
  const int64_t tail_begin = file.num_bytes() - tail_bytes;
  ZC_ASSIGN_OR_RETURN(const std::string tail, file.Read(tail_begin, tail_bytes));
  int64_t at = tail_bytes - kEndBytes;
  // The record whose comment ends where the file ends; a comment may hold anything.
  for (; at >= 0; --at) {
    if (GetLittleEndian(tail, at, 4) == kEndSignature &&
        static_cast<int64_t>(GetLittleEndian(tail, at + 20, 2)) == tail_bytes - at - kEndBytes) {
      break;
    }
  }
  if (at < 0) {
    return Corrupt(file, absl::StrCat("no end record in its last bytes (", file.num_bytes(),
                                      " bytes; truncated?)"));
  }
  Directory directory;
  directory.num_entries = GetLittleEndian(tail, at + 10, 2);
  directory.num_bytes = GetLittleEndian(tail, at + 12, 4);
  directory.offset = GetLittleEndian(tail, at + 16, 4);
  const uint64_t disk = GetLittleEndian(tail, at + 4, 2),
                 directory_disk = GetLittleEndian(tail, at + 6, 2),
                 entries_here = GetLittleEndian(tail, at + 8, 2);
  int64_t end_offset = tail_begin + at;
  const bool has_locator = at >= kLocator64Bytes &&
                           GetLittleEndian(tail, at - kLocator64Bytes, 4) == kLocator64Signature;
  if (has_locator) {
    const absl::string_view locator =
        absl::string_view(tail).substr(at - kLocator64Bytes, kLocator64Bytes);
    ZC_ASSIGN_OR_RETURN(
        directory, ReadEnd64(file, end_offset - kLocator64Bytes, locator, directory, &end_offset));
  } else if (disk != 0 || directory_disk != 0 || entries_here != directory.num_entries) {
    return Unsupported(file, "it is one of several disks, one file is read");
  }
  // Unsigned sums of two numbers below 2^63 cannot wrap.
  if (directory.offset > static_cast<uint64_t>(end_offset) ||
      directory.num_bytes != static_cast<uint64_t>(end_offset) - directory.offset) {
    return Corrupt(
        file, absl::StrCat("the directory of ", directory.num_bytes, " bytes at offset ",
                           directory.offset, " does not end at the end record at ", end_offset));
  }
  if (directory.num_bytes > static_cast<uint64_t>(kMaxZipDirectoryBytes)) {
    return Unsupported(file, absl::StrCat("a directory of ", directory.num_bytes,
                                          " bytes, at most ", kMaxZipDirectoryBytes, " are read"));
  }
  return directory;
}

// Fills in those of size, compressed and header that stand in the zip64 field of `extra`.  False
// where one is missing.
bool ApplyZip64(absl::string_view extra, uint64_t* size, uint64_t* compressed, uint64_t* header) {
  uint64_t* wanted[] = {size, compressed, header};
  if (std::none_of(std::begin(wanted), std::end(wanted),
                   [](const uint64_t* value) { return value != nullptr && *value == kNone32; })) {
    return true;
  }
  while (extra.size() >= 4) {
    const uint64_t id = GetLittleEndian(extra, 0, 2), num_bytes = GetLittleEndian(extra, 2, 2);
    extra.remove_prefix(4);
    if (num_bytes > extra.size()) return false;
    if (id == kZip64Extra) {
      absl::string_view field = extra.substr(0, num_bytes);
      for (uint64_t* value : wanted) {
        if (value == nullptr || *value != kNone32) continue;
        if (field.size() < 8) return false;
        *value = GetLittleEndian(field, 0, 8);
        field.remove_prefix(8);
      }
      return true;
    }
    extra.remove_prefix(num_bytes);
  }
  return false;
}

// Takes one record off `data`, which starts at `offset` of the file.
absl::StatusOr<Central> TakeCentral(const InputFile& file, int64_t offset,
                                    absl::string_view* data) {
  const absl::string_view record = *data;
  if (static_cast<int64_t>(record.size()) < kCentralBytes ||
      GetLittleEndian(record, 0, 4) != kCentralSignature) {
    return Corrupt(file, absl::StrCat("no directory record at offset ", offset));
  }
  Central central;
  central.flags = static_cast<uint32_t>(GetLittleEndian(record, 8, 2));
  central.method = static_cast<uint32_t>(GetLittleEndian(record, 10, 2));
  central.crc32 = static_cast<uint32_t>(GetLittleEndian(record, 16, 4));
  central.compressed = GetLittleEndian(record, 20, 4);
  central.size = GetLittleEndian(record, 24, 4);
  central.header = GetLittleEndian(record, 42, 4);
  const uint64_t name_bytes = GetLittleEndian(record, 28, 2),
                 extra_bytes = GetLittleEndian(record, 30, 2),
                 comment_bytes = GetLittleEndian(record, 32, 2);
  const uint64_t record_bytes = kCentralBytes + name_bytes + extra_bytes + comment_bytes;
  if (record_bytes > record.size()) {
    return Corrupt(file, absl::StrCat("the directory record at offset ", offset,
                                      " runs beyond the directory"));
  }
  central.name = std::string(record.substr(kCentralBytes, name_bytes));
  const uint64_t disk = GetLittleEndian(record, 34, 2);
  if (disk != 0 && disk != kNone16) {
    return Unsupported(file, "it is one of several disks, one file is read");
  }
  if (!ApplyZip64(record.substr(kCentralBytes + name_bytes, extra_bytes), &central.size,
                  &central.compressed, &central.header)) {
    return Corrupt(file, absl::StrCat("entry ", central.name, ": its directory record at offset ",
                                      offset, " lacks the zip64 field that it needs"));
  }
  if ((central.flags & (kEncrypted | kStrongEncryption | kMaskedHeaders)) != 0) {
    return Unsupported(file, absl::StrCat("entry ", central.name, " is encrypted"));
  }
  if (central.method != 0) {
    return Unsupported(
        file, absl::StrCat("entry ", central.name, " is compressed (method ", central.method,
                           "), only stored entries are read; save it with torch.save, which "
                           "compresses nothing"));
  }
  if (central.size != central.compressed) {
    return Corrupt(file, absl::StrCat("entry ", central.name, ": stored, but of two sizes, ",
                                      central.compressed, " and ", central.size));
  }
  data->remove_prefix(record_bytes);
  return central;
}

// Whether `data`, what follows an entry's bytes, is its descriptor; how long it is.  The signature
// may be missing, the sizes have 4 bytes or 8.
int64_t DescriptorBytes(absl::string_view data, const Central& central) {
  for (const size_t begin : {size_t{4}, size_t{0}}) {
    if (begin == 4 && (data.size() < 4 || GetLittleEndian(data, 0, 4) != kDescriptorSignature)) {
      continue;
    }
    for (const int width : {4, 8}) {
      const size_t end = begin + 4 + 2 * static_cast<size_t>(width);
      if (data.size() >= end && GetLittleEndian(data, begin, 4) == central.crc32 &&
          GetLittleEndian(data, begin + 4, width) == central.compressed &&
          GetLittleEndian(data, begin + 4 + static_cast<size_t>(width), width) == central.size) {
        return static_cast<int64_t>(end);
      }
    }
  }
  return -1;
}

// Compares an entry's header and descriptor with the directory.  The end of all that belongs to it.
absl::StatusOr<int64_t> CheckEntry(const InputFile& file, const Central& central, int64_t limit,
                                   ZipEntry* entry) {
  const auto contradicts = [&](absl::string_view what) {
    return Corrupt(file, absl::StrCat("entry ", central.name, ": ", what, " at offset ",
                                      central.header, " contradicts the directory"));
  };
  const int64_t name_bytes = static_cast<int64_t>(central.name.size());
  if (central.header > static_cast<uint64_t>(limit) ||
      limit - static_cast<int64_t>(central.header) < kLocalBytes + name_bytes) {
    return Corrupt(file, absl::StrCat("entry ", central.name, ": its header at offset ",
                                      central.header, " is not before the directory at ", limit));
  }
  const int64_t header = static_cast<int64_t>(central.header);
  ZC_ASSIGN_OR_RETURN(const std::string local, file.Read(header, kLocalBytes + name_bytes));
  if (GetLittleEndian(local, 0, 4) != kLocalSignature) {
    return Corrupt(file,
                   absl::StrCat("entry ", central.name, ": no entry header at offset ", header));
  }
  if (GetLittleEndian(local, 26, 2) != central.name.size() ||
      local.compare(kLocalBytes, std::string::npos, central.name) != 0) {
    return contradicts("the name in its header");
  }
  const int64_t extra_bytes = static_cast<int64_t>(GetLittleEndian(local, 28, 2));
  const uint64_t flags = GetLittleEndian(local, 6, 2);
  if (GetLittleEndian(local, 8, 2) != 0 || ((flags ^ central.flags) & kHasDescriptor) != 0 ||
      (flags & kEncrypted) != 0) {
    return contradicts("its header");
  }
  const int64_t data_begin = header + kLocalBytes + name_bytes + extra_bytes;
  if (data_begin > limit || central.size > static_cast<uint64_t>(limit - data_begin)) {
    return Corrupt(file,
                   absl::StrCat("entry ", central.name, ": its ", central.size, " bytes at offset ",
                                data_begin, " do not end before the directory at ", limit));
  }
  int64_t end = data_begin + static_cast<int64_t>(central.size);
  uint64_t compressed = GetLittleEndian(local, 18, 4), size = GetLittleEndian(local, 22, 4);
  const uint64_t crc32 = GetLittleEndian(local, 14, 4);
  if ((flags & kHasDescriptor) != 0) {
    ZC_ASSIGN_OR_RETURN(const std::string after,
                        file.Read(end, std::min<int64_t>(limit - end, 24)));
    const int64_t descriptor_bytes = DescriptorBytes(after, central);
    if (descriptor_bytes < 0) {
      return Corrupt(file, absl::StrCat("entry ", central.name, ": the data descriptor at offset ",
                                        end, " is missing or contradicts the directory"));
    }
    end += descriptor_bytes;
    // Written before the size was known: 0 or "in the zip64 field"; else they must hold.
    const auto open = [](uint64_t value) { return value == 0 || value == kNone32; };
    if ((!open(size) && size != central.size) ||
        (!open(compressed) && compressed != central.size) ||
        (crc32 != 0 && crc32 != central.crc32)) {
      return contradicts("its header");
    }
  } else {
    ZC_ASSIGN_OR_RETURN(const std::string extra,
                        file.Read(header + kLocalBytes + name_bytes, extra_bytes));
    if (!ApplyZip64(extra, &size, &compressed, nullptr) || size != central.size ||
        compressed != central.size || crc32 != central.crc32) {
      return contradicts("its header");
    }
  }
  entry->name = central.name;
  entry->data_begin = data_begin;
  entry->num_bytes = static_cast<int64_t>(central.size);
  entry->crc32 = central.crc32;
  return end;
}

absl::Status CheckCrc(const InputFile& file, const ZipEntry& entry, uint32_t crc32) {
  if (crc32 == entry.crc32 || !entry.has_crc) return absl::OkStatus();
  return Corrupt(file,
                 absl::StrCat("entry ", entry.name, ": its ", entry.num_bytes, " bytes at offset ",
                              entry.data_begin, " have CRC-32 ", absl::Hex(crc32, absl::kZeroPad8),
                              ", the directory says ", absl::Hex(entry.crc32, absl::kZeroPad8)));
}

}  // namespace

bool LooksLikeZip(absl::string_view prefix) {
  return prefix.size() >= 4 && GetLittleEndian(prefix, 0, 4) == kLocalSignature;
}

absl::StatusOr<ZipArchive> ZipArchive::Read(const InputFile& file) {
  ZC_ASSIGN_OR_RETURN(const Directory directory, FindDirectory(file));
  const int64_t begin = static_cast<int64_t>(directory.offset);
  ZC_ASSIGN_OR_RETURN(const std::string records,
                      file.Read(begin, static_cast<int64_t>(directory.num_bytes)));
  struct Placed {
    int64_t begin, end;
    ZipEntry entry;
  };
  std::vector<Placed> placed;
  absl::string_view left = records;
  while (!left.empty()) {
    const int64_t offset = begin + static_cast<int64_t>(records.size() - left.size());
    ZC_ASSIGN_OR_RETURN(const Central central, TakeCentral(file, offset, &left));
    ZipEntry entry;
    ZC_ASSIGN_OR_RETURN(const int64_t end, CheckEntry(file, central, begin, &entry));
    placed.push_back({static_cast<int64_t>(central.header), end, std::move(entry)});
  }
  if (placed.size() != directory.num_entries) {
    return Corrupt(
        file, absl::StrCat("the end record says ", directory.num_entries,
                           " entries, the directory at offset ", begin, " has ", placed.size()));
  }
  std::sort(placed.begin(), placed.end(),
            [](const Placed& a, const Placed& b) { return a.begin < b.begin; });
  ZipArchive archive;
  for (size_t k = 0; k < placed.size(); ++k) {
    if (k > 0 && placed[k].begin < placed[k - 1].end) {
      return Corrupt(file,
                     absl::StrCat("entries ", archive.entries_.back().name, " and ",
                                  placed[k].entry.name, " overlap at offset ", placed[k].begin));
    }
    if (!archive.index_.emplace(placed[k].entry.name, k).second) {
      return Corrupt(file, absl::StrCat("entry ", placed[k].entry.name, " comes twice"));
    }
    archive.has_crcs_ |= placed[k].entry.crc32 != 0;
    archive.entries_.push_back(std::move(placed[k].entry));
  }
  for (ZipEntry& entry : archive.entries_) entry.has_crc = archive.has_crcs_;
  return archive;
}

const ZipEntry* ZipArchive::Find(absl::string_view name) const {
  const auto found = index_.find(std::string(name));
  return found == index_.end() ? nullptr : &entries_[found->second];
}

absl::StatusOr<std::string> ReadZipEntry(const InputFile& file, const ZipEntry& entry,
                                         int64_t max_bytes) {
  if (entry.num_bytes > max_bytes) {
    return Unsupported(file, absl::StrCat("entry ", entry.name, ": ", entry.num_bytes,
                                          " bytes, at most ", max_bytes, " are read"));
  }
  ZC_ASSIGN_OR_RETURN(std::string data, file.Read(entry.data_begin, entry.num_bytes));
  ZC_RETURN_IF_ERROR(CheckCrc(file, entry, Crc32(data)));
  return data;
}

absl::Status CheckZipEntry(const InputFile& file, const ZipEntry& entry) {
  if (!entry.has_crc) return absl::OkStatus();
  constexpr int64_t kPartBytes = 1 << 20;
  std::string part(static_cast<size_t>(std::min(kPartBytes, entry.num_bytes)), '\0');
  uint32_t crc32 = 0;
  for (int64_t done = 0; done < entry.num_bytes;) {
    const int64_t now = std::min(kPartBytes, entry.num_bytes - done);
    ZC_RETURN_IF_ERROR(file.ReadInto(entry.data_begin + done, now, part.data()));
    crc32 = Crc32(absl::string_view(part.data(), static_cast<size_t>(now)), crc32);
    done += now;
  }
  return CheckCrc(file, entry, crc32);
}

}  // namespace zerocast
