#ifndef ZEROCAST_KERNELS_COPY_COPY_H_
#define ZEROCAST_KERNELS_COPY_COPY_H_

// Running boxes on the CPU.  Thread-safe: functions of their arguments.

#include <cstdint>

#include "kernels/copy/box.h"
#include "kernels/copy/dtype.h"

namespace zerocast {

// True when CopyBox can turn `from` into `to`: the same type, or a floating or integer one (bool,
// too) and a floating one.
bool CanCast(DType from, DType to);

// Executes `box`.  `source` points at element 0 of the source (element type `source_dtype`),
// `target` at element 0 of the target (`target_dtype`); neither needs alignment, they must not
// overlap.  Requires CanCast(source_dtype, target_dtype); the caller guarantees that every place of
// the box lies within its buffers.  Casts round to nearest even and equal torch 2.15's
// Tensor.to(dtype) bit for bit, NaNs included, as cast.h has it (float8_e4m3fn saturates to 448;
// float8_e5m2 overflows to infinity).
//
// CopyBoxReference is the specification: one element at a time.  CopyBox is what the product runs:
// contiguous runs by memcpy or vectorised casts, transpositions in cache-sized blocks.  It uses up
// to 300 KiB of the caller's stack.
void CopyBoxReference(const Box& box, const void* source, DType source_dtype, void* target,
                      DType target_dtype);
void CopyBox(const Box& box, const void* source, DType source_dtype, void* target,
             DType target_dtype);

// Casts `count` contiguous elements; as CopyBox with one loop.
void CastElements(const void* source, DType source_dtype, void* target, DType target_dtype,
                  int64_t count);

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_COPY_H_
