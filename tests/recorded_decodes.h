#ifndef ZEROCAST_TESTS_RECORDED_DECODES_H_
#define ZEROCAST_TESTS_RECORDED_DECODES_H_

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>

namespace zerocast {

// What tests/oracle/make_decodes.py made the recorded answers with.

inline constexpr int64_t kNumScales = 256;

// splitmix64 of an index.
inline uint64_t Mix(uint64_t index) {
  uint64_t z = (index + 1) * 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

// The checksum of elements of `size` bytes, little-endian: 16 hexadecimal digits.
template <typename Bytes>
std::string Checksum(const Bytes& elements, int64_t size) {
  uint64_t sum = 0;
  for (size_t i = 0; i < elements.size() / size; ++i) {
    uint64_t bits = 0;
    std::memcpy(&bits, &elements[i * size], size);
    sum += bits * (Mix(i) | 1);
  }
  char text[17];
  std::snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(sum));
  return text;
}

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_RECORDED_DECODES_H_
