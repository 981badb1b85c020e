#ifndef ZEROCAST_TESTS_CUDA_EMU_CUDA_EMU_H_
#define ZEROCAST_TESTS_CUDA_EMU_CUDA_EMU_H_

#include <dlfcn.h>

#include <cstdint>

// What tests may ask and tell the stand-ins of CUDA.  Header-only: on a real GPU cudaEmu() is null,
// and the same program runs.
//
//   if (const CudaEmu* emu = cudaEmu()) emu->fail("cudaMalloc:3");

// Accesses to global memory, summed over warp instructions.  A sector has 32 bytes.
struct CudaEmuTraffic {
  uint64_t instructions;
  uint64_t requestedBytes;  // over all lanes
  uint64_t usefulBytes;     // distinct bytes of each instruction
  uint64_t sectors;         // distinct sectors of each instruction
};

struct CudaEmuStats {
  uint64_t launches, warpInstructions, threadInstructions;
  CudaEmuTraffic load, store, atomic;
  uint64_t sharedInstructions, sharedWavefronts, bankConflicts;
  uint64_t localBytes, barriers;
};

struct CudaEmu {
  // Whether launches that start from now on are counted, as by EMU_STATS.
  void (*collectStats)(int on);
  void (*resetStats)();
  // Sums over the kernels whose readable name contains the text ("" is all); returns how many those
  // are.  To be called after a synchronisation.
  int (*kernelStats)(const char* nameContains, CudaEmuStats* out);
  // A new plan of failures in the syntax of EMU_FAIL; "" fails nothing any more.
  void (*fail)(const char* plan);
  // How many calls the present plan has failed.
  uint64_t (*failures)();
  // The last report of a memory error, race, hang or assertion; "" if there is none.
  const char* (*lastReport)();
  // Allocations, streams, events, handles and communicators that were not given back.
  uint64_t (*objectsAlive)();
  // The seed of EMU_SCHEDULE=random.
  uint64_t (*seed)();
  // The functions of the libraries that this process has called, sorted, with commas between them:
  // those that can be told to fail.
  const char* (*called)();
  // Bytes that copies (not kernels, not NCCL) have taken from host memory to a device since
  // resetStats, and from a device to host memory.
  uint64_t (*bytesToDevices)();
  uint64_t (*bytesToHost)();
  // Bytes allocated on a device, and the most at once since resetMostAllocated.
  uint64_t (*allocated)(int device);
  uint64_t (*mostAllocated)(int device);
  void (*resetMostAllocated)();
};

// Null when the program does not run on the stand-ins.
inline const CudaEmu* cudaEmu() {
  using Get = const CudaEmu* (*)();
  static const Get get = reinterpret_cast<Get>(dlsym(RTLD_DEFAULT, "emuForTests"));
  return get != nullptr ? get() : nullptr;
}

#endif  // ZEROCAST_TESTS_CUDA_EMU_CUDA_EMU_H_
