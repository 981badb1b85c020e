#ifndef ZEROCAST_KERNELS_BASE_XXH3_H_
#define ZEROCAST_KERNELS_BASE_XXH3_H_

// xxHash's XXH3 functions by the widest vectors that the processor has: the library's plain ones
// use SSE2, a third as fast where the bytes are in a cache.  The same digests everywhere.

#if defined(__x86_64__)
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

#endif  // ZEROCAST_KERNELS_BASE_XXH3_H_
