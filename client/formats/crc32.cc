#include "client/formats/crc32.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define ZC_PCLMUL __attribute__((target("pclmul,sse4.1")))
#endif

#include <array>
#include <cstddef>

namespace zerocast {
namespace {

using Tables = std::array<std::array<uint32_t, 256>, 8>;

// tables[k][b]: the CRC of byte b followed by k zero bytes.
constexpr Tables MakeTables() {
  Tables tables{};
  for (uint32_t b = 0; b < 256; ++b) {
    uint32_t crc = b;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0xEDB88320u : 0);
    tables[0][b] = crc;
  }
  for (size_t k = 1; k < 8; ++k) {
    for (uint32_t b = 0; b < 256; ++b) {
      const uint32_t crc = tables[k - 1][b];
      tables[k][b] = (crc >> 8) ^ tables[0][crc & 0xFF];
    }
  }
  return tables;
}

constexpr Tables kTables = MakeTables();

// `crc` is the register, inverted twice by the caller.
uint32_t ByTable(const unsigned char* bytes, size_t left, uint32_t crc) {
  // Eight bytes a step: a byte at a time depends on the one before, these look-ups do not.
  for (; left >= 8; left -= 8, bytes += 8) {
    crc ^= bytes[0] | static_cast<uint32_t>(bytes[1]) << 8 | static_cast<uint32_t>(bytes[2]) << 16 |
           static_cast<uint32_t>(bytes[3]) << 24;
    crc = kTables[7][crc & 0xFF] ^ kTables[6][(crc >> 8) & 0xFF] ^ kTables[5][(crc >> 16) & 0xFF] ^
          kTables[4][crc >> 24] ^ kTables[3][bytes[4]] ^ kTables[2][bytes[5]] ^
          kTables[1][bytes[6]] ^ kTables[0][bytes[7]];
  }
  for (; left > 0; --left, ++bytes) crc = (crc >> 8) ^ kTables[0][(crc ^ *bytes) & 0xFF];
  return crc;
}

// a * b modulo the polynomial, all of them bit-reflected: the highest bit is that of x^0.
uint32_t Multiply(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (uint32_t bit = 0x80000000u; bit != 0; bit >>= 1) {
    if ((a & bit) != 0) product ^= b;
    b = (b >> 1) ^ ((b & 1) != 0 ? 0xEDB88320u : 0);
  }
  return product;
}

#if defined(__x86_64__)

// x^n modulo the polynomial, bit-reflected; one bit further left, as the carry-less product of two
// reflected numbers is one bit short.  A sum of 128 bits is carried n bits forward by x^(n + 32)
// for its low half and x^(n - 32) for its high one.
constexpr uint64_t Power(int n) {
  uint32_t value = 0x80000000;  // x^0
  for (int k = 0; k < n; ++k) value = (value >> 1) ^ ((value & 1) != 0 ? 0xEDB88320u : 0);
  return static_cast<uint64_t>(value) << 1;
}

// Adds `data` to `sum` moved forward by the distance that the two factors stand for.
ZC_PCLMUL __m128i Fold(__m128i sum, __m128i factors, __m128i data) {
  const __m128i low = _mm_clmulepi64_si128(sum, factors, 0x00);
  const __m128i high = _mm_clmulepi64_si128(sum, factors, 0x11);
  return _mm_xor_si128(_mm_xor_si128(low, high), data);
}

ZC_PCLMUL __m128i Load(const unsigned char* bytes) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
}

// Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ" (Intel, 2009): four
// sums of 16 bytes each are carried 64 bytes forward a step, then made one; what is left is less
// than any CRC's worth of bytes and goes by table.  At least 64 bytes.
ZC_PCLMUL uint32_t ByProducts(const unsigned char* bytes, size_t left, uint32_t crc) {
  constexpr int kBlockBits = 512, kSumBits = 128;
  const __m128i by_block = _mm_set_epi64x(static_cast<long long>(Power(kBlockBits - 32)),
                                          static_cast<long long>(Power(kBlockBits + 32)));
  const __m128i by_sum = _mm_set_epi64x(static_cast<long long>(Power(kSumBits - 32)),
                                        static_cast<long long>(Power(kSumBits + 32)));
  __m128i sums[4];
  for (int k = 0; k < 4; ++k) sums[k] = Load(bytes + 16 * k);
  sums[0] = _mm_xor_si128(sums[0], _mm_cvtsi32_si128(static_cast<int>(crc)));
  for (bytes += 64, left -= 64; left >= 64; bytes += 64, left -= 64) {
    for (int k = 0; k < 4; ++k) sums[k] = Fold(sums[k], by_block, Load(bytes + 16 * k));
  }
  __m128i sum = sums[0];
  for (int k = 1; k < 4; ++k) sum = Fold(sum, by_sum, sums[k]);
  for (; left >= 16; bytes += 16, left -= 16) sum = Fold(sum, by_sum, Load(bytes));
  unsigned char rest[16];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(rest), sum);
  return ByTable(bytes, left, ByTable(rest, sizeof(rest), 0));
}

bool HasProducts() {
  static const bool has =
      __builtin_cpu_supports("pclmul") != 0 && __builtin_cpu_supports("sse4.1") != 0;
  return has;
}

#endif

}  // namespace

uint32_t Crc32(absl::string_view data, uint32_t before) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(data.data());
#if defined(__x86_64__)
  if (data.size() >= 64 && HasProducts()) return ~ByProducts(bytes, data.size(), ~before);
#endif
  return ~ByTable(bytes, data.size(), ~before);
}

uint32_t CombineCrc32(uint32_t first, uint32_t second, int64_t second_bytes) {
  // The first part is followed by as many bits as the second has: a multiplication by x to that.
  uint32_t power = 0x00800000u;  // x^8, then its squares
  for (int64_t left = second_bytes; left != 0; left >>= 1) {
    if ((left & 1) != 0) first = Multiply(first, power);
    power = Multiply(power, power);
  }
  return first ^ second;
}

}  // namespace zerocast
