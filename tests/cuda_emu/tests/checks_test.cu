// Each case makes a mistake, or asks for a failure, that the emulator must name;
// CMakeLists.txt says what the output must hold.
#include "tests/cuda_emu/cuda_emu.h"
#include <cuda_runtime.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <string>

int failures = 0;
#define CHECK(e) do { if (!(e)) { printf("FAILED line %d: %s\n", __LINE__, #e); ++failures; } } while (0)
#define OK(call) do { cudaError_t e_ = (call); if (e_ != cudaSuccess) { printf("FAILED line %d: %s: %s\n", __LINE__, #call, cudaGetErrorString(e_)); ++failures; } } while (0)

__global__ void writeAll(int* p, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) p[i] = i;
}
__global__ void strided(const float* in, float* out, int stride) { out[threadIdx.x] = in[threadIdx.x * stride]; }
__global__ void columns(float* out) {
  __shared__ float tile[32][32];
  tile[threadIdx.x][threadIdx.y] = 1;
  __syncthreads();
  out[threadIdx.y * 32 + threadIdx.x] = tile[threadIdx.y][threadIdx.x];
}
__global__ void vectors(const char* in, uint4* out) { out[threadIdx.x] = reinterpret_cast<const uint4*>(in + 4)[threadIdx.x]; }
__global__ void shuffle(int* out) {
  __shared__ int s[64];
  s[threadIdx.x] = int(threadIdx.x);
  out[threadIdx.x] = s[63 - threadIdx.x];  // no __syncthreads()
}
__global__ void writeSum(const int* in, int* out) { *out = in[0] + in[1]; }
__global__ void halfWritten(int* out) {
  __shared__ int s[64];
  if (threadIdx.x < 32) s[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = s[threadIdx.x];
}
__global__ void matrixLoad(int* out) {
  __shared__ __align__(128) int s[128];
  s[threadIdx.x] = int(threadIdx.x);
  __syncthreads();
  unsigned at = unsigned(__cvta_generic_to_shared(s)), v;
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(v) : "r"(at + (threadIdx.x & 7) * 16));
  out[threadIdx.x] = int(v);
}
__global__ void forEver(volatile int* flag) { while (*flag != 1) {} }

template <class T>
T* device(size_t n) {
  T* p = nullptr;
  OK(cudaMalloc(&p, n * sizeof(T)));
  return p;
}

void stats() {
  const CudaEmu* emu = cudaEmu();
  CHECK(emu);
  emu->collectStats(1);
  float *in = device<float>(32 * 32), *out = device<float>(32 * 32);
  OK(cudaMemset(in, 0, 32 * 32 * 4));
  CudaEmuStats s;
  strided<<<1, 32>>>(in, out, 1);
  OK(cudaDeviceSynchronize());
  CHECK(emu->kernelStats("strided", &s) == 1 && s.launches == 1);
  CHECK(s.load.sectors == 4 && s.load.usefulBytes == 128 && s.store.sectors == 4);
  emu->resetStats();
  strided<<<1, 32>>>(in, out, 32);  // every lane in a sector of its own
  OK(cudaDeviceSynchronize());
  CHECK(emu->kernelStats("strided", &s) == 1);
  CHECK(s.load.sectors == 32 && s.load.usefulBytes == 128 && s.load.requestedBytes == 128);
  columns<<<1, dim3(32, 32)>>>(out);
  OK(cudaDeviceSynchronize());
  CHECK(emu->kernelStats("columns", &s) == 1 && s.bankConflicts == 32 * 31 && s.sharedWavefronts == 32 * 32 + 32 && s.barriers == 1);
  CHECK(emu->kernelStats("", &s) == 2 && emu->kernelStats("nobody", &s) == 0);
  float host[100];
  emu->resetStats();
  OK(cudaMemcpy(in, host, 400, cudaMemcpyHostToDevice));
  OK(cudaMemcpy(out, in, 4096, cudaMemcpyDeviceToDevice));
  OK(cudaMemcpy(host, out, 200, cudaMemcpyDeviceToHost));
  CHECK(emu->bytesToDevices() == 400 && emu->bytesToHost() == 200);
  emu->resetStats();
  CHECK(emu->bytesToDevices() == 0 && emu->bytesToHost() == 0);
  std::string called = std::string(",") + emu->called() + ",";
  CHECK(called.find(",cudaMemcpy,") != called.npos && called.find(",cudaMemset,") != called.npos);
  CHECK(called.find(",cudaMemcpyAsync,") == called.npos);
  OK(cudaFree(in));
  OK(cudaFree(out));
}

// What a program under test does, returning its first error.
cudaError_t work() {
  int *d = nullptr, *h = nullptr;
  cudaStream_t stream = nullptr;
  cudaError_t e = cudaStreamCreate(&stream);
  if (e == cudaSuccess) e = cudaMalloc(&d, 400);
  if (e == cudaSuccess) e = cudaMallocHost(&h, 400);
  if (e == cudaSuccess) {
    writeAll<<<1, 128, 0, stream>>>(d, 100);
    e = cudaGetLastError();
  }
  if (e == cudaSuccess) e = cudaMemcpyAsync(h, d, 400, cudaMemcpyDeviceToHost, stream);
  if (e == cudaSuccess) e = cudaStreamSynchronize(stream);
  if (e == cudaSuccess) CHECK(h[99] == 99);
  cudaEmu()->fail("");  // releasing is not under test
  cudaFreeHost(h);
  cudaFree(d);
  if (stream) cudaStreamDestroy(stream);
  return e;
}

// Fails every call of work() in turn: each failure is seen and nothing leaks.
void sweep() {
  const CudaEmu* emu = cudaEmu();
  uint64_t before = emu->objectsAlive();
  int n = 1;
  for (;; ++n) {
    emu->fail(("cuda*:" + std::to_string(n)).c_str());
    cudaError_t e = work();
    CHECK(emu->objectsAlive() == before);
    if (e == cudaSuccess) break;
    cudaGetLastError();
  }
  printf("%d calls failed in turn\n", n - 1);
  CHECK(n - 1 >= 6);
}

int main(int, char** argv) {
  std::string which = argv[1];
  if ((which == "missing" || which == "host" || which == "unmapped") && fork()) {  // the child may be killed
    wait(nullptr);
    return 0;
  }
  if (which == "stats") stats();
  if (which == "sweep") sweep();
  if (which == "bounds") {
    writeAll<<<1, 128>>>(device<int>(100), 101);
    CHECK(cudaDeviceSynchronize() == cudaErrorIllegalAddress);
    CHECK(strstr(cudaEmu()->lastReport(), "thread (100,0,0)"));
  }
  if (which == "misaligned") {
    vectors<<<1, 32>>>(device<char>(1024), device<uint4>(32));
    CHECK(cudaDeviceSynchronize() == cudaErrorMisalignedAddress);
  }
  if (which == "race") {
    shuffle<<<1, 64>>>(device<int>(64));
    CHECK(cudaDeviceSynchronize() != cudaSuccess);
  }
  if (which == "uninit") {
    int* p = device<int>(2);
    OK(cudaMemset(p, 0, 4));
    writeSum<<<1, 1>>>(p, device<int>(1));
    CHECK(cudaDeviceSynchronize() != cudaSuccess);
  }
  if (which == "uninit_shared") {
    halfWritten<<<1, 64>>>(device<int>(64));
    CHECK(cudaDeviceSynchronize() != cudaSuccess);
  }
  if (which == "instruction") {
    matrixLoad<<<1, 32>>>(device<int>(64));
    CHECK(cudaDeviceSynchronize() == cudaErrorInvalidPtx);
  }
  if (which == "leaks" || which == "clean") {
    int *d = device<int>(100), *h;
    cudaStream_t s;
    cudaEvent_t e;
    OK(cudaMallocHost(&h, 64));
    OK(cudaStreamCreate(&s));
    OK(cudaEventCreate(&e));
    if (which == "clean") {
      OK(cudaFree(d));
      OK(cudaFreeHost(h));
      OK(cudaStreamDestroy(s));
      OK(cudaEventDestroy(e));
    }
  }
  if (which == "unregistered" || which == "host_pointer" || which == "registered_leak") {
    alignas(64) static int host[32];
    int* mapped;
    OK(cudaHostRegister(host, 64, cudaHostRegisterMapped));
    OK(cudaHostGetDevicePointer(&mapped, host, 0));
    if (which != "registered_leak") {
      // One element behind what is registered; or by an address that is the host's alone.
      writeAll<<<1, 32>>>(which == "unregistered" ? mapped : host, 17);
      CHECK(cudaDeviceSynchronize() == cudaErrorIllegalAddress);
    }
  }
  if (which == "unmapped") {
    void* p = mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    OK(cudaHostRegister(p, 8192, cudaHostRegisterMapped));
    munmap(p, 8192);
    OK(cudaHostUnregister(p));
  }
  if (which == "fail") {
    int* p;
    OK(cudaMalloc(&p, 4));
    OK(cudaMalloc(&p, 4));
    printf("third: %d\n", int(cudaMalloc(&p, 4)));
    OK(cudaMalloc(&p, 4));
  }
  if (which == "kernel") {
    int* p = device<int>(100);
    writeAll<<<1, 128>>>(p, 100);
    OK(cudaDeviceSynchronize());
    writeAll<<<1, 128>>>(p, 100);
    printf("kernel: %d\n", int(cudaDeviceSynchronize()));
  }
  if (which == "seed") {
    device<int>(1);
    printf("seed %llu\n", (unsigned long long)cudaEmu()->seed());
  }
  if (which == "missing") {
    cudaGraph_t g;
    printf("returned %d\n", int(cudaGraphCreate(&g, 0)));
  }
  if (which == "host") *(volatile int*)device<int>(1) = 1;
  if (which == "hang") {
    int* p = device<int>(1);
    OK(cudaMemset(p, 0, 4));
    forEver<<<1, 1>>>(p);
    CHECK(cudaDeviceSynchronize() == cudaErrorLaunchTimeout);
  }
  printf("%s: %d failures\n", which.c_str(), failures);
  return failures != 0;
}
