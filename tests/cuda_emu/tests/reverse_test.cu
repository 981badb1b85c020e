// Tests a kernel: its result, its accesses to memory, its host code under failures.
#include "tests/cuda_emu/cuda_emu.h"
#include <cuda_runtime.h>

#include <cstdio>
#include <string>
#include <vector>

// The code under test.
__global__ void reverseBlocks(const float* in, float* out, int n) {
  __shared__ float tile[256];
  int i = blockIdx.x * 256 + threadIdx.x;
  if (i < n) tile[threadIdx.x] = in[i];
  __syncthreads();
  int last = min(255, n - 1 - int(blockIdx.x) * 256);
  if (i < n) out[i] = tile[last - threadIdx.x];
}
cudaError_t reverse(const float* in, float* out, int n, cudaStream_t stream) {
  float* device = nullptr;
  size_t bytes = n * sizeof(float);
  cudaError_t e = cudaMalloc(&device, 2 * bytes);
  if (e != cudaSuccess) return e;
  e = cudaMemcpyAsync(device, in, bytes, cudaMemcpyHostToDevice, stream);
  if (e == cudaSuccess) {
    reverseBlocks<<<(n + 255) / 256, 256, 0, stream>>>(device, device + n, n);
    e = cudaGetLastError();
  }
  if (e == cudaSuccess) e = cudaMemcpyAsync(out, device + n, bytes, cudaMemcpyDeviceToHost, stream);
  if (e == cudaSuccess) e = cudaStreamSynchronize(stream);
  cudaFree(device);
  return e;
}

#define CHECK(e) do { if (!(e)) { printf("FAILED line %d: %s\n", __LINE__, #e); return 1; } } while (0)

int main() {
  const int n = 1024;
  std::vector<float> in(n), out(n);
  for (int i = 0; i < n; ++i) in[i] = float(i);
  cudaStream_t stream;
  CHECK(cudaStreamCreate(&stream) == cudaSuccess);

  const CudaEmu* emu = cudaEmu();  // null on a GPU
  if (emu) emu->collectStats(1);
  CHECK(reverse(in.data(), out.data(), n, stream) == cudaSuccess);
  for (int i = 0; i < n; ++i) CHECK(out[i] == float(i / 256 * 256 + 255 - i % 256));

  if (emu) {
    CudaEmuStats s;
    CHECK(emu->kernelStats("reverseBlocks", &s) == 1);
    CHECK(s.load.usefulBytes == s.load.sectors * 32);    // every byte fetched is used
    CHECK(s.store.usefulBytes == s.store.sectors * 32);
    CHECK(s.bankConflicts == 0);

    // Each CUDA call fails once: the error comes back and nothing leaks.
    uint64_t before = emu->objectsAlive();
    for (int call = 1;; ++call) {
      emu->fail(("cudaM*:" + std::to_string(call)).c_str());  // cudaMalloc, cudaMemcpyAsync
      cudaError_t e = reverse(in.data(), out.data(), n, stream);
      CHECK(emu->objectsAlive() == before);
      if (emu->failures() == 0) break;
      CHECK(e != cudaSuccess);
      cudaGetLastError();
    }
  }
  CHECK(cudaStreamDestroy(stream) == cudaSuccess);
  return 0;
}
