#ifndef ZEROCAST_CLIENT_FORMATS_LITTLE_ENDIAN_H_
#define ZEROCAST_CLIENT_FORMATS_LITTLE_ENDIAN_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace zerocast {

// The unsigned number in the `num_bytes` (at most 8) bytes at `offset`, all of them in `data`.
inline uint64_t GetLittleEndian(absl::string_view data, size_t offset, int num_bytes) {
  uint64_t value = 0;
  for (int k = num_bytes - 1; k >= 0; --k) {
    value = value << 8 | static_cast<uint8_t>(data[offset + static_cast<size_t>(k)]);
  }
  return value;
}

inline void PutLittleEndian(uint64_t value, int num_bytes, std::string* out) {
  for (int k = 0; k < num_bytes; ++k) out->push_back(static_cast<char>(value >> (8 * k)));
}

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_FORMATS_LITTLE_ENDIAN_H_
