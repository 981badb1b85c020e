#ifndef ZEROCAST_CLIENT_FORMATS_CRC32_H_
#define ZEROCAST_CLIENT_FORMATS_CRC32_H_

#include <cstdint>

#include "absl/strings/string_view.h"

namespace zerocast {

// The CRC-32 of zip files (polynomial 0xEDB88320, reflected).  `before`: the CRC of the bytes that
// come before `data`, 0 where there are none.
uint32_t Crc32(absl::string_view data, uint32_t before = 0);

// The CRC of bytes whose first part has the CRC `first` and whose last `second_bytes` bytes have
// `second`.
uint32_t CombineCrc32(uint32_t first, uint32_t second, int64_t second_bytes);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_FORMATS_CRC32_H_
