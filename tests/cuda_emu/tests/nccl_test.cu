// NCCL between forked processes, or threads, on the emulator.
#include <cuda_bf16.h>
#include "tests/cuda_emu/cuda_emu.h"
#include <cuda_runtime.h>
#include <nccl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

int failures = 0;
#define CHECK(e) do { if (!(e)) { printf("FAILED line %d: %s\n", __LINE__, #e); ++failures; } } while (0)
#define OK(call) do { auto e_ = (call); if (int(e_) != 0) { printf("FAILED line %d: %s: %d\n", __LINE__, #call, int(e_)); ++failures; } } while (0)

__global__ void fill(int* p, int n, int value) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) p[i] = value + i;
}

template <class T>
struct Buffer {
  explicit Buffer(size_t n) : n(n) { OK(cudaMalloc(&p, n * sizeof(T))); }
  ~Buffer() { cudaFree(p); }
  void set(const std::vector<T>& v) { OK(cudaMemcpy(p, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice)); }
  std::vector<T> get(cudaStream_t s) {
    std::vector<T> v(n);
    OK(cudaMemcpyAsync(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost, s));
    OK(cudaStreamSynchronize(s));
    return v;
  }
  T* p;
  size_t n;
};

// All collectives; `big` exceeds the rings by far.
void collectives(ncclComm_t comm) {
  int rank, ranks;
  OK(ncclCommUserRank(comm, &rank));
  OK(ncclCommCount(comm, &ranks));
  cudaStream_t s;
  OK(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
  const int big = 300000;
  Buffer<int> a(big), b(size_t(big) * size_t(ranks)), c(big);
  // Stream order: the kernel fills what the broadcast sends.
  fill<<<8, 128, 0, s>>>(a.p, big, 1000 * (rank + 1));
  OK(ncclBroadcast(a.p, c.p, big, ncclInt, 1, comm, s));
  auto v = c.get(s);
  CHECK(v[0] == 2000 && v[big - 1] == 2000 + big - 1);
  OK(ncclAllGather(a.p, b.p, big, ncclInt, comm, s));
  v = b.get(s);
  for (int r = 0; r < ranks; ++r) CHECK(v[size_t(r) * big] == 1000 * (r + 1) && v[size_t(r + 1) * big - 1] == 1000 * (r + 1) + big - 1);
  OK(ncclAllReduce(a.p, c.p, big, ncclInt, ncclSum, comm, s));
  v = c.get(s);
  CHECK(v[7] == 1000 * ranks * (ranks + 1) / 2 + 7 * ranks);
  OK(ncclReduceScatter(b.p, c.p, big, ncclInt, ncclMax, comm, s));
  v = c.get(s);
  CHECK(v[5] == 1000 * (rank + 1) + 5);
  OK(ncclReduce(a.p, c.p, big, ncclInt, ncclSum, 0, comm, s));
  if (rank == 0) CHECK(c.get(s)[1] == 1000 * ranks * (ranks + 1) / 2 + ranks);
  OK(ncclGather(a.p, b.p, big, ncclInt, 2, comm, s));
  OK(ncclScatter(b.p, c.p, big, ncclInt, 2, comm, s));
  CHECK(c.get(s)[big - 1] == 1000 * (rank + 1) + big - 1);
  const int piece = big / ranks;
  OK(ncclAlltoAll(a.p, c.p, size_t(piece), ncclInt, comm, s));
  v = c.get(s);
  for (int r = 0; r < ranks; ++r) CHECK(v[size_t(r) * size_t(piece)] == 1000 * (r + 1) + rank * piece);
  // A ring of sends and receives, two messages per pair, in a group.
  int next = (rank + 1) % ranks, previous = (rank + ranks - 1) % ranks;
  OK(ncclGroupStart());
  OK(ncclSend(a.p, big, ncclInt, next, comm, s));
  OK(ncclSend(a.p, 10, ncclInt, next, comm, s));
  OK(ncclRecv(c.p, big, ncclInt, previous, comm, s));
  OK(ncclRecv(b.p, 10, ncclInt, previous, comm, s));
  OK(ncclGroupEnd());
  CHECK(c.get(s)[big - 1] == 1000 * (previous + 1) + big - 1);
  CHECK(b.get(s)[9] == 1000 * (previous + 1) + 9);
  Buffer<__nv_bfloat16> h(3);
  h.set({__float2bfloat16(1.5f * float(rank)), __float2bfloat16(-2.0f), __float2bfloat16(0.25f)});
  OK(ncclAllReduce(h.p, h.p, 3, ncclBfloat16, ncclSum, comm, s));
  CHECK(__bfloat162float(h.get(s)[0]) == 1.5f * float(ranks * (ranks - 1) / 2));
  // Host memory is no valid buffer.
  CHECK(ncclAllReduce(v.data(), c.p, 3, ncclInt, ncclSum, comm, s) == ncclInvalidArgument);
  OK(cudaStreamDestroy(s));
}

template <class F>
void processes(int ranks, F body, int expectedDeath = -1) {
  ncclUniqueId id;
  OK(ncclGetUniqueId(&id));
  std::vector<pid_t> pids;
  for (int r = 0; r < ranks; ++r) {
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
      body(id, r);
      fflush(stdout);
      _exit(failures != 0);
    }
    pids.push_back(pid);
  }
  for (int r = 0; r < ranks; ++r) {
    int status;
    waitpid(pids[size_t(r)], &status, 0);
    CHECK(r == expectedDeath ? status != 0 : status == 0);
  }
}

int main(int, char** argv) {
  std::string which = argv[1];
  const int ranks = 3;
  if (which == "processes") {
    processes(ranks, [](ncclUniqueId id, int r) {
      OK(cudaSetDevice(r));
      ncclComm_t comm;
      ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
      config.blocking = 0;
      ncclResult_t e = ncclCommInitRankConfig(&comm, ranks, id, r, &config);
      CHECK(e == ncclSuccess || e == ncclInProgress);
      do { OK(ncclCommGetAsyncError(comm, &e)); } while (e == ncclInProgress);
      CHECK(e == ncclSuccess);
      collectives(comm);
      ncclComm_t half;
      OK(ncclCommSplit(comm, r == 2 ? NCCL_SPLIT_NOCOLOR : 0, -r, &half, nullptr));
      CHECK((half == nullptr) == (r == 2));
      if (half) {
        int rank;
        OK(ncclCommUserRank(half, &rank));
        CHECK(rank == 1 - r);  // the keys reverse the order
        OK(ncclCommDestroy(half));
      }
      OK(ncclCommFinalize(comm));
      OK(ncclCommDestroy(comm));
    });
  } else if (which == "threads") {
    ncclComm_t comms[3];
    int devices[3] = {0, 1, 2};
    OK(ncclCommInitAll(comms, ranks, devices));
    std::vector<std::thread> all;
    for (int r = 0; r < ranks; ++r) {
      all.emplace_back([r, &comms] {
        OK(cudaSetDevice(r));
        collectives(comms[r]);
        OK(ncclCommDestroy(comms[r]));
      });
    }
    for (auto& t : all) t.join();
  } else if (which == "one-thread") {  // all ranks from one thread, in groups
    ncclComm_t comms[3];
    OK(ncclCommInitAll(comms, ranks, nullptr));
    std::vector<int*> buffers(3);
    std::vector<cudaStream_t> streams(3);
    OK(ncclGroupStart());
    for (int r = 0; r < ranks; ++r) {
      OK(cudaSetDevice(r));
      OK(cudaStreamCreate(&streams[size_t(r)]));
      OK(cudaMalloc(&buffers[size_t(r)], 4000));
      fill<<<1, 128, 0, streams[size_t(r)]>>>(buffers[size_t(r)], 1000, r);
      OK(ncclAllReduce(buffers[size_t(r)], buffers[size_t(r)], 1000, ncclInt, ncclSum, comms[r], streams[size_t(r)]));
    }
    OK(ncclGroupEnd());
    for (int r = 0; r < ranks; ++r) {
      OK(cudaSetDevice(r));
      std::vector<int> v(1000);
      OK(cudaMemcpyAsync(v.data(), buffers[size_t(r)], 4000, cudaMemcpyDeviceToHost, streams[size_t(r)]));
      OK(cudaStreamSynchronize(streams[size_t(r)]));
      CHECK(v[999] == 3 * 999 + 3);
    }
    for (int r = 0; r < ranks; ++r) OK(ncclCommDestroy(comms[r]));
  } else if (which == "failure") {  // rank 2 dies before its second collective
    setenv("EMU_NCCL_DIE", "2:1", 1);
    processes(ranks, [](ncclUniqueId id, int r) {
      OK(cudaSetDevice(r));
      ncclComm_t comm;
      OK(ncclCommInitRank(&comm, ranks, id, r));
      Buffer<int> a(1000);
      cudaStream_t s;
      OK(cudaStreamCreate(&s));
      OK(ncclBroadcast(a.p, a.p, 1000, ncclInt, 0, comm, s));
      OK(cudaStreamSynchronize(s));
      OK(ncclAllReduce(a.p, a.p, 1000, ncclInt, ncclSum, comm, s));
      ncclResult_t e = ncclSuccess;
      for (int i = 0; i < 5000 && e == ncclSuccess; ++i) {
        usleep(1000);
        OK(ncclCommGetAsyncError(comm, &e));
      }
      CHECK(e == ncclRemoteError);
      CHECK(cudaStreamQuery(s) == cudaErrorNotReady);
      OK(ncclCommAbort(comm));
      OK(cudaStreamSynchronize(s));
    }, 2);
  } else if (which == "mismatch") {  // different sizes: reported, then aborted
    processes(2, [](ncclUniqueId id, int r) {
      OK(cudaSetDevice(r));
      ncclComm_t comm;
      OK(ncclCommInitRank(&comm, 2, id, r));
      Buffer<int> a(1000);
      cudaStream_t s;
      OK(cudaStreamCreate(&s));
      OK(ncclBroadcast(a.p, a.p, r ? 1000 : 999, ncclInt, 0, comm, s));
      if (r == 1) {
        ncclResult_t e = ncclSuccess;
        for (int i = 0; i < 5000 && e == ncclSuccess; ++i) {
          usleep(1000);
          OK(ncclCommGetAsyncError(comm, &e));
        }
        CHECK(e == ncclInvalidUsage);
      } else {
        OK(cudaStreamSynchronize(s));
        usleep(500000);  // let rank 1 see the message before the abort
      }
      OK(ncclCommAbort(comm));
      OK(cudaStreamSynchronize(s));
    });
  } else if (which == "nonblocking") {  // ranks as threads, each call polled
    ncclUniqueId id;
    OK(ncclGetUniqueId(&id));
    std::vector<std::thread> all;
    for (int r = 0; r < ranks; ++r) {
      all.emplace_back([r, id] {
        OK(cudaSetDevice(r));
        usleep(unsigned(r) * 20000);
        ncclComm_t comm;
        ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
        config.blocking = 0;
        ncclResult_t e = ncclCommInitRankConfig(&comm, ranks, id, r, &config);
        if (r == 0) CHECK(e == ncclInProgress);
        while (e == ncclInProgress) OK(ncclCommGetAsyncError(comm, &e));
        CHECK(e == ncclSuccess);
        cudaStream_t s;
        OK(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
        Buffer<int> a(1000), b(1000);
        fill<<<1, 128, 0, s>>>(a.p, 1000, 100 * r);
        OK(ncclGroupStart());
        OK(ncclSend(a.p, 1000, ncclInt, (r + 1) % ranks, comm, s));
        OK(ncclRecv(b.p, 1000, ncclInt, (r + 2) % ranks, comm, s));
        e = ncclGroupEnd();
        while (e == ncclInProgress) OK(ncclCommGetAsyncError(comm, &e));
        CHECK(e == ncclSuccess);
        CHECK(b.get(s)[999] == 100 * ((r + 2) % ranks) + 999);
        CHECK(ncclSend(a.p, 1, ncclInt, ranks, comm, s) == ncclInvalidArgument);
        CHECK(ncclSend(a.p, 1, ncclDataType_t(99), 0, comm, s) == ncclInvalidArgument);
        e = ncclCommFinalize(comm);
        while (e == ncclInProgress) OK(ncclCommGetAsyncError(comm, &e));
        OK(ncclCommDestroy(comm));
        OK(cudaStreamDestroy(s));
      });
    }
    for (auto& t : all) t.join();
  } else if (which == "abort") {  // a receive that nobody sends; rank 0 gives up, the others see it
    processes(ranks, [](ncclUniqueId id, int r) {
      OK(cudaSetDevice(r));
      ncclComm_t comm;
      OK(ncclCommInitRank(&comm, ranks, id, r));
      Buffer<int> a(1000);
      cudaStream_t s;
      OK(cudaStreamCreate(&s));
      OK(ncclRecv(a.p, 1000, ncclInt, (r + 1) % ranks, comm, s));
      ncclResult_t e = ncclSuccess;
      for (int i = 0; i < (r ? 5000 : 100) && e == ncclSuccess; ++i) {
        usleep(1000);
        OK(ncclCommGetAsyncError(comm, &e));
      }
      CHECK(e == (r ? ncclRemoteError : ncclSuccess));
      CHECK(cudaStreamQuery(s) == cudaErrorNotReady);
      if (r) usleep(100000);  // let the others see rank 0 first
      OK(ncclCommAbort(comm));
      OK(cudaStreamSynchronize(s));
    });
  } else if (which == "asynchronous") {  // the second job of rank 1 fails, and its third call
    processes(2, [](ncclUniqueId id, int r) {
      if (r == 1) cudaEmu()->fail("ncclAsync:2:3,ncclBroadcast:3");
      OK(cudaSetDevice(r));
      ncclComm_t comm;
      OK(ncclCommInitRank(&comm, 2, id, r));
      Buffer<int> a(1000);
      cudaStream_t s;
      OK(cudaStreamCreate(&s));
      OK(ncclBroadcast(a.p, a.p, 1000, ncclInt, 0, comm, s));
      OK(cudaStreamSynchronize(s));
      OK(ncclBroadcast(a.p, a.p, 1000, ncclInt, 0, comm, s));
      if (r == 0) {  // what it sends fits into the buffers
        OK(cudaStreamSynchronize(s));
        usleep(1000000);
      } else {
        ncclResult_t e = ncclSuccess;
        for (int i = 0; i < 5000 && e == ncclSuccess; ++i) {
          usleep(1000);
          OK(ncclCommGetAsyncError(comm, &e));
        }
        CHECK(e == ncclInternalError);
        CHECK(cudaStreamQuery(s) == cudaErrorNotReady);
        CHECK(ncclBroadcast(a.p, a.p, 1000, ncclInt, 0, comm, s) == ncclSystemError);
        usleep(500000);  // rank 0 has its part done before it sees the abort
      }
      OK(ncclCommAbort(comm));
      OK(cudaStreamSynchronize(s));
    });
  } else {
    printf("unknown case\n");
    return 2;
  }
  printf("%s: %d failures\n", which.c_str(), failures);
  return failures != 0;
}
