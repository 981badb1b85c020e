#ifndef ZEROCAST_CLIENT_VERIFY_CAST_H_
#define ZEROCAST_CLIENT_VERIFY_CAST_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/copy/dtype.h"

namespace zerocast::verify {

// The elements of `bytes` (row-major, little endian, a whole number of elements of `from`) as `to`:
// nearest, ties to even, as torch 2.15's Tensor.to(dtype); float8_e4m3fn saturates at 448,
// float8_e5m2 overflows to infinity from 61440 on; NaNs are those of torch's vectorised kernels
// (tests/data/casts).  Bits are kept where from == to.
//
// Integers go to anything smaller than float32 by way of it; a bool is 1 where its byte is not 0.
//
// Errors: UNIMPLEMENTED where the types differ and `to` is not floating, or `from` neither floating
// nor an integer.
absl::StatusOr<std::string> CastBytes(std::string bytes, DType from, DType to);

// The floating type that holds values of both, as torch.promote_types (two different 8-bit ones:
// float32); kInvalid where the types differ and one is not floating: what is cast to the model's
// dtype before it is joined, as the library does, may be other numbers than what is cast after.
DType PromotedDType(DType a, DType b);

}  // namespace zerocast::verify

#endif  // ZEROCAST_CLIENT_VERIFY_CAST_H_
