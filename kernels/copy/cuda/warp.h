#ifndef ZEROCAST_KERNELS_COPY_CUDA_WARP_H_
#define ZEROCAST_KERNELS_COPY_CUDA_WARP_H_

// A warp and its accesses to memory, for device and host: on the CPU a warp is a loop over its
// lanes, which is how the kernels' functions are tested without a GPU.  Internal to
// kernels/copy/cuda.

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "kernels/copy/cast.h"

// Arrays stay in registers only where all their indices are constants.  Elsewhere repeated code
// gains nothing, for no load may pass the store before it.
#ifdef __CUDA_ARCH__
#define ZC_UNROLL _Pragma("unroll")
#define ZC_NO_UNROLL _Pragma("unroll 1")
#else
#define ZC_UNROLL
#define ZC_NO_UNROLL
#endif

namespace zerocast {

inline constexpr int kWarpSize = 32;
inline constexpr int kVectorBytes = 16;

// The lanes of a warp.  All of them make the same calls with the same arguments.
class Warp {
 public:
  // `lane` is this thread's; on the host it says nothing.
  ZC_HOST_DEVICE explicit Warp(int lane) : lane_(lane) {}

  // Runs work(lane) for all lanes.
  template <typename Work>
  ZC_HOST_DEVICE void Each(const Work& work) const {
#ifdef __CUDA_ARCH__
    work(lane_);
#else
    for (int lane = 0; lane < kWarpSize; ++lane) work(lane);
#endif
  }

  // What lanes wrote to shared memory before, all lanes read after it.
  ZC_HOST_DEVICE void Sync() const {
#ifdef __CUDA_ARCH__
    __syncwarp();
#endif
  }

 private:
  int lane_;
};

// `pointer`, known to the compiler to be of global memory: for an address that was read from memory
// it would else make instructions that look for the kind of memory first.
template <typename T>
ZC_HOST_DEVICE inline T* InGlobalMemory(T* pointer) {
#ifdef __CUDA_ARCH__
  __builtin_assume(__isGlobal(pointer));
#endif
  return pointer;
}

// kCount elements that are read or written by one instruction.  A device faults where an address
// does not have their alignment; the host ends the process there, too.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Vector {
  T values[kCount];
};

#ifdef __CUDA_ARCH__
// What one instruction loads.
template <int kNumBytes>
struct Access;
template <>
struct Access<1> {
  using Type = uint8_t;
};
template <>
struct Access<2> {
  using Type = uint16_t;
};
template <>
struct Access<4> {
  using Type = uint32_t;
};
template <>
struct Access<8> {
  using Type = uint2;
};
template <>
struct Access<16> {
  using Type = uint4;
};
#endif

template <typename T, int kCount>
ZC_HOST_DEVICE inline Vector<T, kCount> LoadVector(const T* from) {
  Vector<T, kCount> vector;
#ifdef __CUDA_ARCH__
  using Word = typename Access<sizeof(vector)>::Type;
  const Word word = *reinterpret_cast<const Word*>(from);
  memcpy(&vector, &word, sizeof(vector));
#else
  if (reinterpret_cast<uintptr_t>(from) % sizeof(vector) != 0) std::abort();
  std::memcpy(&vector, from, sizeof(vector));
#endif
  return vector;
}

// To global memory.
template <typename T, int kCount>
ZC_HOST_DEVICE inline void StoreVector(const Vector<T, kCount>& vector, T* to) {
#ifdef __CUDA_ARCH__
  typename Access<sizeof(vector)>::Type word;
  memcpy(&word, &vector, sizeof(vector));
  // The compiler takes a wide store apart, as it took its value: assembly is kept as it is.  No
  // clobber: nothing in the kernels reads what they write to global memory.
  if constexpr (sizeof(vector) == 16) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)),
                 "r"(word.x), "r"(word.y), "r"(word.z), "r"(word.w));
  } else if constexpr (sizeof(vector) == 8) {
    asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(to)),
                 "r"(word.x), "r"(word.y));
  } else {
    *reinterpret_cast<decltype(word)*>(to) = word;
  }
#else
  if (reinterpret_cast<uintptr_t>(to) % sizeof(vector) != 0) std::abort();
  std::memcpy(to, &vector, sizeof(vector));
#endif
}

// Word by word, to memory of any kind.
template <typename T, int kCount>
ZC_HOST_DEVICE inline void StoreWords(const Vector<T, kCount>& vector, T* to) {
#ifdef __CUDA_ARCH__
  *reinterpret_cast<Vector<T, kCount>*>(to) = vector;
#else
  std::memcpy(to, &vector, sizeof(vector));
#endif
}

// The number of elements by which `pointer` lies behind an address that is aligned to kCount of
// them.
template <int kCount, typename T>
ZC_HOST_DEVICE inline int Misalignment(const T* pointer) {
  return static_cast<int>(reinterpret_cast<uintptr_t>(pointer) / sizeof(T) % kCount);
}

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_CUDA_WARP_H_
