#ifndef ZEROCAST_KERNELS_COPY_CUDA_DIVIDER_H_
#define ZEROCAST_KERNELS_COPY_CUDA_DIVIDER_H_

// Division by a number that is known before the launch, without the division that a GPU has not.
// Plain data: CUDA sources include this header.

#include <cstdint>

#include "kernels/copy/cast.h"

namespace zerocast {

// Divides numbers of 32 bits by a multiplication and shifts (T. Granlund and P. Montgomery,
// "Division by Invariant Integers using Multiplication", figure 4.1).
struct Divider {
  uint32_t magic = 1;
  uint8_t first_shift = 0;
  uint8_t second_shift = 0;
};

// For a divisor of 1 to 2^32 - 1.
inline Divider MakeDivider(uint32_t divisor) {
  int bits = 0;  // the least such that 2^bits >= divisor
  while ((uint64_t{1} << bits) < divisor) ++bits;
  Divider divider;
  divider.magic = static_cast<uint32_t>((((uint64_t{1} << bits) - divisor) << 32) / divisor + 1);
  divider.first_shift = bits > 0 ? 1 : 0;
  divider.second_shift = static_cast<uint8_t>(bits > 0 ? bits - 1 : 0);
  return divider;
}

ZC_HOST_DEVICE inline uint32_t Quotient(uint32_t number, const Divider& divider) {
  const uint32_t high = static_cast<uint32_t>((uint64_t{number} * divider.magic) >> 32);
  return (high + ((number - high) >> divider.first_shift)) >> divider.second_shift;
}

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_CUDA_DIVIDER_H_
