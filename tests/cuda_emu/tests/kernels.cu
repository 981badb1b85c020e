// Kernels that kernels_test.cc runs through the PTX interpreter: copy, gather,
// transpose, cast, reduce, and intentional bugs.
#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

// 1. Plain copy, one 16-byte vector per thread.
extern "C" __global__ void copy_vec16(const uint4* __restrict__ src, uint4* __restrict__ dst, size_t n) {
  size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x;
  if (i < n) dst[i] = src[i];
}

// 2. Strided gather with a by-value descriptor struct.
struct Strided { int64_t size[4]; int64_t stride[4]; int rank; };
extern "C" __global__ void strided_gather(const float* src, float* dst, Strided d, int64_t n) {
  for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
    int64_t rest = i, off = 0;
    for (int k = d.rank - 1; k >= 0; --k) { off += (rest % d.size[k]) * d.stride[k]; rest /= d.size[k]; }
    dst[i] = src[off];
  }
}

// 3. Transpose through shared memory, padded or not.
template <int kPad, class T>
__device__ void transpose_tile(const T* src, T* dst, int rows, int cols) {
  __shared__ T tile[32][32 + kPad];
  int x = blockIdx.x * 32 + threadIdx.x, y0 = blockIdx.y * 32 + threadIdx.y;
#pragma unroll
  for (int j = 0; j < 32; j += 8)
    if (x < cols && y0 + j < rows) tile[threadIdx.y + j][threadIdx.x] = src[(size_t)(y0 + j) * cols + x];
  __syncthreads();
  int tx = blockIdx.y * 32 + threadIdx.x, ty = blockIdx.x * 32 + threadIdx.y;
#pragma unroll
  for (int j = 0; j < 32; j += 8)
    if (tx < rows && ty + j < cols) dst[(size_t)(ty + j) * rows + tx] = tile[threadIdx.x][threadIdx.y + j];
}
extern "C" __global__ void transpose_padded(const float* s, float* d, int r, int c) { transpose_tile<1>(s, d, r, c); }
extern "C" __global__ void transpose_conflict(const float* s, float* d, int r, int c) { transpose_tile<0>(s, d, r, c); }
extern "C" __global__ void transpose_u8(const uint8_t* s, uint8_t* d, int r, int c) { transpose_tile<4>(s, d, r, c); }

// 4. Casts with packed instructions.
extern "C" __global__ void cast_f32_bf16(const float2* src, __nv_bfloat162* dst, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) dst[i] = __float22bfloat162_rn(src[i]);
}
extern "C" __global__ void cast_bf16_f32(const __nv_bfloat162* src, float2* dst, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) dst[i] = __bfloat1622float2(src[i]);
}
extern "C" __global__ void cast_f32_f16(const float2* src, __half2* dst, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) dst[i] = __float22half2_rn(src[i]);
}
extern "C" __global__ void cast_f16_f32(const __half2* src, float2* dst, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) dst[i] = __half22float2(src[i]);
}
extern "C" __global__ void cast_f16_bf16(const __half* src, __nv_bfloat16* dst, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) dst[i] = __float2bfloat16(__half2float(src[i]));
}

// 5. fp8 with scale.
extern "C" __global__ void fp8_dequant(const __nv_fp8x4_e4m3* src, float4* dst, const float* scale, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) {
    float4 v = float4(src[i]);
    float s = *scale;
    dst[i] = make_float4(v.x * s, v.y * s, v.z * s, v.w * s);
  }
}
extern "C" __global__ void fp8_quant(const float* src, __nv_fp8_e4m3* dst, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) dst[i] = __nv_fp8_e4m3(src[i]);
}
extern "C" __global__ void fp8_to_bf16(const __nv_fp8_e4m3* src, __nv_bfloat16* dst, float scale, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) dst[i] = __float2bfloat16(float(src[i]) * scale);
}
extern "C" __global__ void e5m2_round_trip(const float* src, float* dst, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) dst[i] = float(__nv_fp8_e5m2(src[i]));
}

// 6. Batched copy descriptors, found by binary search over start offsets.
struct CopyDesc { const uint8_t* src; uint8_t* dst; uint64_t bytes; };
extern "C" __global__ void batched_copy(const CopyDesc* descs, const uint64_t* starts, int count, uint64_t total) {
  for (uint64_t v = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; v * 16 < total; v += (uint64_t)gridDim.x * blockDim.x) {
    uint64_t at = v * 16;
    int lo = 0, hi = count - 1;
    while (lo < hi) { int mid = (lo + hi + 1) / 2; if (starts[mid] <= at) lo = mid; else hi = mid - 1; }
    uint64_t off = at - starts[lo];
    CopyDesc d = descs[lo];
    uint64_t left = d.bytes - off;
    if (left >= 16 && !(((uintptr_t)d.src | (uintptr_t)d.dst) & 15)) {
      *(uint4*)(d.dst + off) = *(const uint4*)(d.src + off);
    } else {
      for (uint64_t b = 0; b < (left < 16 ? left : 16); ++b) d.dst[off + b] = d.src[off + b];
    }
  }
}

// 7. Grid-stride loop, with constant and global variables.
__constant__ float kTable[4] = {1.0f, 0.5f, 0.25f, 2.0f};
__device__ unsigned long long launches;
extern "C" __global__ void grid_stride(const float* src, float* dst, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) dst[i] = src[i] * kTable[i & 3] + 1.0f;
  if (threadIdx.x == 0) atomicAdd(&launches, 1ull);
}

// 8. Warp-shuffle reduction, dynamic shared memory, atomics.
extern "C" __global__ void reduce_sum(const int* src, int* dst, int n) {
  extern __shared__ int partial[];
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  int v = i < n ? src[i] : 0;
  for (int o = 16; o; o >>= 1) v += __shfl_down_sync(0xffffffffu, v, o);
  if ((threadIdx.x & 31) == 0) partial[threadIdx.x >> 5] = v;
  __syncthreads();
  if (threadIdx.x < 32) {
    v = threadIdx.x < (blockDim.x >> 5) ? partial[threadIdx.x] : 0;
    v = __reduce_add_sync(0xffffffffu, v);
    if (threadIdx.x == 0) atomicAdd(dst, v);
  }
}
extern "C" __global__ void absmax_bf16(const __nv_bfloat16* src, float* dst, int n) {
  __shared__ float m[32];
  float v = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) v = fmaxf(v, fabsf(__bfloat162float(src[i])));
  for (int o = 16; o; o >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, o));
  if ((threadIdx.x & 31) == 0) m[threadIdx.x >> 5] = v;
  __syncthreads();
  if (threadIdx.x == 0) { for (int w = 1; w < (blockDim.x + 31) / 32; ++w) v = fmaxf(v, m[w]); *dst = v; }
}

// 9. cp.async staging copy.
extern "C" __global__ void cp_async_copy(const uint4* src, uint4* dst, int n) {
  extern __shared__ uint4 stage[];
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) {
    unsigned s = (unsigned)__cvta_generic_to_shared(stage + threadIdx.x);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(s), "l"(src + i));
  }
  asm volatile("cp.async.commit_group;\ncp.async.wait_group 0;" ::: "memory");
  __syncthreads();
  if (i < n) dst[i] = stage[threadIdx.x];
}

// 10. Packed bf16/f16 arithmetic.
extern "C" __global__ void bf16_axpy(const __nv_bfloat162* x, __nv_bfloat162* y, __nv_bfloat16 a, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = __hfma2(__bfloat162bfloat162(a), x[i], y[i]);
}
extern "C" __global__ void f16_axpy(const __half2* x, __half2* y, __half a, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = __hfma2(__half2half2(a), x[i], y[i]);
}

// 11. Device function call, local array, dense switch (brx.idx).
__device__ __noinline__ int pick(int kind, const int* v) {
  switch (kind) {
    case 0: return v[0] + 1; case 1: return v[1] * 3; case 2: return v[2] ^ 0x55; case 3: return v[3] - v[0];
    case 4: return v[0] << 2; case 5: return v[2] / 3; case 6: return v[1] % 7; default: return -1;
  }
}
extern "C" __global__ void call_switch(const int* src, int* dst, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  int v[4];
  for (int k = 0; k < 4; ++k) v[(k + i) & 3] = src[i * 4 + k];
  dst[i] = pick(i & 7, v);
}

// 12. Integer/bit instructions.
extern "C" __global__ void bits(const uint32_t* src, uint32_t* dst, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  uint32_t x = src[i], r = 0;
  r += __byte_perm(x, ~x, 0x3715); r ^= __funnelshift_l(x, r, x & 31); r += __popc(x) + __clz(x) + __ffs(x);
  r ^= __brev(x); r += __umulhi(x, 0x9e3779b9u); r ^= (x & r) | (~x & 0x12345678u); r += x / 10u + x % 1000u;
  r ^= (uint32_t)(((uint64_t)x * 0x123456789abcull) >> 17); r += max((int)x, 5) - min(x, 77u); r ^= __sad((int)x, (int)r, 3u);
  dst[i] = r;
}

// 13. Instructions nvcc chooses late or only by inline assembly.
extern "C" __global__ void asm_bits(const uint32_t* src, uint32_t* dst, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  uint32_t x = src[i], y = src[(i + 1) % n], z = src[(i + 2) % n], r[8];
  asm("lop3.b32 %0, %1, %2, %3, 0xca;" : "=r"(r[0]) : "r"(x), "r"(y), "r"(z));
  asm("bfe.u32 %0, %1, %2, %3;" : "=r"(r[1]) : "r"(x), "r"(y & 63), "r"(z & 63));
  asm("bfe.s32 %0, %1, %2, %3;" : "=r"(r[2]) : "r"(x), "r"(y & 63), "r"(z & 63));
  asm("bfi.b32 %0, %1, %2, %3, %4;" : "=r"(r[3]) : "r"(x), "r"(y), "r"(z & 63), "r"((x >> 8) & 63));
  asm("{.reg .u64 a, b; mov.b64 a, {%2, %3}; mov.b64 b, {%3, %4}; add.cc.u32 %0, %2, %3; addc.u32 %1, %3, %4;}" : "=&r"(r[4]), "=&r"(r[5]) : "r"(x), "r"(y), "r"(z));
  asm("{.reg .b16 l, h; mov.b32 {l, h}, %1; mov.b32 %0, {h, l};}" : "=r"(r[6]) : "r"(x));
  asm("{.reg .pred p, q; setp.lt.u32 p|q, %1, %2; selp.u32 %0, %1, %2, p; @q add.u32 %0, %0, 1;}" : "=r"(r[7]) : "r"(x), "r"(y));
  for (int k = 0; k < 8; ++k) dst[i * 8 + k] = r[k];
}
#if __CUDA_ARCH__ >= 900
// One thread brings the block's data in by a bulk copy that a barrier awaits,
// and sends it out by another one.
extern "C" __global__ void bulk_copy(const uint4* src, uint4* dst, int perBlock) {
  extern __shared__ __align__(128) uint4 stage4[];
  __shared__ __align__(8) uint64_t full;
  unsigned bar = (unsigned)__cvta_generic_to_shared(&full), s = (unsigned)__cvta_generic_to_shared(stage4), bytes = perBlock * 16;
  if (threadIdx.x == 0) asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(bar));
  __syncthreads();
  if (threadIdx.x == 0) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes));
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(s), "l"(src + blockIdx.x * perBlock), "r"(bytes), "r"(bar));
  }
  uint32_t done = 0;
  while (!done) asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], 0; selp.u32 %0, 1, 0, p;}" : "=r"(done) : "r"(bar));
  stage4[threadIdx.x].x += 1;
  asm volatile("fence.proxy.async.shared::cta;");
  __syncthreads();
  if (threadIdx.x == 0) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(dst + blockIdx.x * perBlock), "r"(s), "r"(bytes));
    asm volatile("cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;");
  }
}
#endif

// 14. Intentional bugs for the sanitizer.
extern "C" __global__ void bug_out_of_bounds(const float* src, float* dst, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i <= n) dst[i] = src[i];
}
extern "C" __global__ void bug_misaligned(const char* src, uint4* dst) { dst[threadIdx.x] = *(const uint4*)(src + 4 + threadIdx.x * 16); }
extern "C" __global__ void bug_shared_oob(int* dst) {
  extern __shared__ int s[];
  s[threadIdx.x + 1] = threadIdx.x; __syncthreads(); dst[threadIdx.x] = s[threadIdx.x];
}
extern "C" __global__ void bug_uninit_shared(int* dst) {
  __shared__ int s[64];
  if (threadIdx.x < 32) s[threadIdx.x] = 1;
  __syncthreads(); dst[threadIdx.x] = s[threadIdx.x];
}
extern "C" __global__ void bug_divergent_barrier(int* dst) {
  if (threadIdx.x < 32) { asm volatile("barrier.sync 1;"); } else { asm volatile("barrier.sync 2;"); }
  dst[threadIdx.x] = 1;
}
extern "C" __global__ void bug_race(int* dst) {
  __shared__ int s[64];
  s[threadIdx.x] = threadIdx.x; dst[threadIdx.x] = s[63 - threadIdx.x];
}
