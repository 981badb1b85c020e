#ifndef ZEROCAST_TESTS_CLIENT_FORMATS_ZIP_BYTES_H_
#define ZEROCAST_TESTS_CLIENT_FORMATS_ZIP_BYTES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "client/formats/crc32.h"
#include "client/formats/little_endian.h"

namespace zerocast {

// A zip file put together by hand, so that each field can be wrong.
struct ZipPart {
  std::string name, data;
  bool descriptor = false;         // sizes only behind the data
  bool zip64 = false;              // 8-byte sizes: extra fields and descriptor
  uint16_t method = 0, flags = 0;  // more flags
  int64_t directory_size = -1;     // another size in the directory
  int64_t descriptor_size = -1;    // another size in the descriptor
  int64_t header_offset = -1;      // another place in the directory
  std::string local_name;          // another name in the header
  uint32_t crc_error = 0;          // xor of every CRC
};

inline std::string ZipOf(const std::vector<ZipPart>& parts, bool end64 = false,
                         const std::string& comment = "") {
  std::string out, directory;
  for (const ZipPart& part : parts) {
    const uint64_t size = part.data.size();
    const uint32_t crc = Crc32(part.data) ^ part.crc_error;
    const uint16_t flags = static_cast<uint16_t>(part.flags | (part.descriptor ? 8 : 0));
    const uint64_t header = part.header_offset < 0 ? out.size() : uint64_t(part.header_offset);
    const std::string& local_name = part.local_name.empty() ? part.name : part.local_name;
    const auto fixed = [&](uint64_t shown, uint64_t shown_crc, std::string* to) {
      PutLittleEndian(20, 2, to);
      PutLittleEndian(flags, 2, to);
      PutLittleEndian(part.method, 2, to);
      PutLittleEndian(0, 4, to);
      PutLittleEndian(shown_crc, 4, to);
      PutLittleEndian(shown, 4, to);
      PutLittleEndian(shown, 4, to);
    };
    PutLittleEndian(0x04034b50, 4, &out);
    fixed(part.zip64 ? 0xFFFFFFFF : part.descriptor ? 0 : size, part.descriptor ? 0 : crc, &out);
    PutLittleEndian(local_name.size(), 2, &out);
    PutLittleEndian(part.zip64 ? 20 : 0, 2, &out);
    out += local_name;
    if (part.zip64) {
      PutLittleEndian(1, 2, &out);
      PutLittleEndian(16, 2, &out);
      PutLittleEndian(part.descriptor ? 0 : size, 8, &out);
      PutLittleEndian(part.descriptor ? 0 : size, 8, &out);
    }
    out += part.data;
    if (part.descriptor) {
      const uint64_t shown = part.descriptor_size < 0 ? size : uint64_t(part.descriptor_size);
      PutLittleEndian(0x08074b50, 4, &out);
      PutLittleEndian(crc, 4, &out);
      PutLittleEndian(shown, part.zip64 ? 8 : 4, &out);
      PutLittleEndian(shown, part.zip64 ? 8 : 4, &out);
    }
    const uint64_t listed = part.directory_size < 0 ? size : uint64_t(part.directory_size);
    PutLittleEndian(0x02014b50, 4, &directory);
    PutLittleEndian(20, 2, &directory);
    fixed(part.zip64 ? 0xFFFFFFFF : listed, crc, &directory);
    PutLittleEndian(part.name.size(), 2, &directory);
    PutLittleEndian(part.zip64 ? 28 : 0, 2, &directory);
    PutLittleEndian(0, 2 + 2 + 2, &directory);  // comment, disk, attributes
    PutLittleEndian(0, 4, &directory);
    PutLittleEndian(part.zip64 ? 0xFFFFFFFF : header, 4, &directory);
    directory += part.name;
    if (part.zip64) {
      PutLittleEndian(1, 2, &directory);
      PutLittleEndian(24, 2, &directory);
      PutLittleEndian(listed, 8, &directory);
      PutLittleEndian(listed, 8, &directory);
      PutLittleEndian(header, 8, &directory);
    }
  }
  const uint64_t begin = out.size();
  out += directory;
  if (end64) {
    const uint64_t end = out.size();
    PutLittleEndian(0x06064b50, 4, &out);
    PutLittleEndian(44, 8, &out);
    PutLittleEndian(45 | 45 << 16, 4, &out);
    PutLittleEndian(0, 8, &out);
    PutLittleEndian(parts.size(), 8, &out);
    PutLittleEndian(parts.size(), 8, &out);
    PutLittleEndian(directory.size(), 8, &out);
    PutLittleEndian(begin, 8, &out);
    PutLittleEndian(0x07064b50, 4, &out);
    PutLittleEndian(0, 4, &out);
    PutLittleEndian(end, 8, &out);
    PutLittleEndian(1, 4, &out);
  }
  PutLittleEndian(0x06054b50, 4, &out);
  PutLittleEndian(0, 4, &out);
  PutLittleEndian(end64 ? 0xFFFF : parts.size(), 2, &out);
  PutLittleEndian(end64 ? 0xFFFF : parts.size(), 2, &out);
  PutLittleEndian(end64 ? 0xFFFFFFFF : directory.size(), 4, &out);
  PutLittleEndian(end64 ? 0xFFFFFFFF : begin, 4, &out);
  PutLittleEndian(comment.size(), 2, &out);
  return out + comment;
}

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_CLIENT_FORMATS_ZIP_BYTES_H_
