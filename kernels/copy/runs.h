#ifndef ZEROCAST_KERNELS_COPY_RUNS_H_
#define ZEROCAST_KERNELS_COPY_RUNS_H_

// Casts of contiguous runs by vector instructions.  Internal to kernels/copy.

#include <cstdint>

#include "kernels/copy/dtype.h"

namespace zerocast {

// Casts a multiple of kRunStep elements; neither side needs alignment.
using RunFunction = void (*)(const void* source, void* target, int64_t count);
inline constexpr int64_t kRunStep = 16;

// The function for this pair on this CPU; nullptr when the elements have to go one by one.  Its
// results equal CastElement's.
RunFunction VectorRun(DType from, DType to);

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_RUNS_H_
