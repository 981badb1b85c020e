// One rank's load into the memory of a GPU, or by the GPU into host memory, beside its floors: the
// same files read by as many threads into page-locked memory that is used again and again, and as
// many bytes copied from such memory to the device.  A load does both at once.  Prints a table and,
// where asked, JSON; asserts no time, but that the shard holds what the same load of processors
// brings into host memory.
//
//   device_load_bench [--folder DIR] [--gb N] [--runs N] [--threads N] [--kind NAME] [--json FILE]
//                     [--place device|host]
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "client/agent/arena.h"
#include "client/agent/cuda/cuda_copier.h"
#include "client/agent/devices.h"
#include "client/agent/executor.h"
#include "client/agent/locked_arenas.h"
#include "client/agent/memory_needs.h"
#include "client/agent/round_reader.h"
#include "client/formats/checkpoint.h"
#include "kernels/device/buffer.h"
#include "kernels/device/cuda_status.h"
#include "kernels/device/device_scope.h"
#include "kernels/device/event.h"
#include "kernels/device/stream.h"
#include "server/plan/plan.h"
#include "server/plan/schedule.h"
#include "tests/bench/bench_checkpoints.h"
#include "tests/bench/bench_models.h"
#include "tests/bench/gpu/bench_status.h"
#include "tests/bench/print_command.h"

namespace zerocast {
namespace {

constexpr int64_t kPieceBytes = int64_t{4} << 20;

struct Options {
  std::string folder = "/tmp/zerocast-bench";
  double gb = 2;
  int runs = 7;
  int threads = static_cast<int>(std::min(16u, std::thread::hardware_concurrency()));
  std::string kind;
  std::string json;
  bool to_host = false;  // as of offloaded parameters
};

// Seconds to read all files of `manifest`, each thread into one piece of page-locked memory.
double ReadFloor(const Manifest& manifest, const std::string& folder, int threads) {
  const PinnedBuffer memory = Take(PinnedBuffer::Create(0, threads * kPieceBytes));
  struct Part {
    int fd;
    int64_t begin, num_bytes;
  };
  std::vector<Part> parts;
  std::vector<int> fds;
  for (const ManifestFile& file : manifest.files) {
    fds.push_back(::open((folder + "/" + file.path).c_str(), O_RDONLY | O_CLOEXEC));
    if (fds.back() < 0) Die("open " + file.path);
    for (int64_t at = 0; at < file.num_bytes; at += kPieceBytes) {
      parts.push_back({fds.back(), at, std::min(kPieceBytes, file.num_bytes - at)});
    }
  }
  std::atomic<size_t> next{0};
  const double start = Now();
  std::vector<std::thread> readers;
  for (int k = 0; k < threads; ++k) {
    readers.emplace_back([&, k] {
      for (size_t i = next++; i < parts.size(); i = next++) {
        if (::pread(parts[i].fd, memory.data() + k * kPieceBytes,
                    static_cast<size_t>(parts[i].num_bytes),
                    parts[i].begin) != parts[i].num_bytes) {
          Die("read a checkpoint's file");
        }
      }
    });
  }
  for (std::thread& reader : readers) reader.join();
  const double seconds = Now() - start;
  for (const int fd : fds) ::close(fd);
  return seconds;
}

// Seconds to copy `num_bytes` from page-locked memory to the device.
double CopyFloor(int64_t num_bytes) {
  const PinnedBuffer host = Take(PinnedBuffer::Create(0, 8 * kPieceBytes));
  const DeviceBuffer device = Take(DeviceBuffer::Create(0, 8 * kPieceBytes));
  const Stream stream = Take(Stream::Create(0));
  const Event done = Take(Event::Create(0));
  const double start = Now();
  for (int64_t at = 0, k = 0; at < num_bytes; at += kPieceBytes, k = (k + 1) % 8) {
    Check(ToStatus(cudaMemcpyAsync(device.data() + k * kPieceBytes, host.data() + k * kPieceBytes,
                                   static_cast<size_t>(std::min(kPieceBytes, num_bytes - at)),
                                   cudaMemcpyHostToDevice, stream.get()),
                   "copy to the device"));
  }
  Check(done.Record(stream.get()));
  Check(done.Wait(absl::Minutes(1)));
  return Now() - start;
}

// A plan of one rank, ready to be executed.
struct Work {
  std::shared_ptr<const Plan> plan;
  std::shared_ptr<const Schedule> schedule;
  ExecutorOptions executor;
};

Work Prepare(const std::shared_ptr<const Manifest>& manifest, const BenchCheckpoint& checkpoint,
             const Options& options) {
  Layout layout;
  layout.world_size = layout.num_nodes = 1;
  layout.node_of_rank = PlaceRanks(1, 1);
  layout.dtype = checkpoint.dtype;
  Work work;
  work.plan = std::make_shared<const Plan>(
      Take(CompilePlan(manifest, &checkpoint.spec, {}, layout, nullptr)));
  work.schedule = std::make_shared<const Schedule>(Take(Schedule::Create(*work.plan)));
  work.executor.plan = work.plan;
  work.executor.schedule = work.schedule;
  work.executor.checkpoint_path = checkpoint.folder;
  work.executor.reader = MakePosixReader({});
  work.executor.identities = Take(
      IdentifyFiles(*work.plan, *work.schedule, 0, checkpoint.folder, work.executor.reader.get()));
  work.executor.num_threads = options.threads;
  return work;
}

// The arena that a GPU filled, and how long it took.
struct DeviceRun {
  double seconds = 0, ready_seconds = 0;  // of them until the ring is there
  int64_t device_bytes = 0;               // beside the arena
  ExecutorProgress progress;
  std::shared_ptr<DeviceBuffer> arena;                   // on the GPU, or
  std::shared_ptr<const std::vector<Arena>> host_arena;  // in host memory
};

// An arena on the GPU, all zero.
std::shared_ptr<DeviceBuffer> MakeOnDevice(int64_t num_bytes) {
  auto arena = std::make_shared<DeviceBuffer>(Take(DeviceBuffer::Create(0, num_bytes)));
  const Stream stream = Take(Stream::Create(0));
  const Event cleared = Take(Event::Create(0));
  {
    const DeviceScope scope = Take(DeviceScope::Enter(0));
    Check(ToStatus(
        cudaMemsetAsync(arena->data(), 0, static_cast<size_t>(arena->num_bytes()), stream.get()),
        "clear the arena"));
  }
  Check(cleared.Record(stream.get()));
  Check(cleared.Wait(absl::Minutes(1)));
  return arena;
}

std::shared_ptr<const std::vector<Arena>> MakeOnHost(int64_t num_bytes) {
  const auto arenas = std::make_shared<std::vector<Arena>>();
  arenas->push_back(Take(Arena::Create("bench", num_bytes)));
  return arenas;
}

DeviceRun LoadToDevice(const std::shared_ptr<const Manifest>& manifest,
                       const BenchCheckpoint& checkpoint, const Options& options) {
  DeviceRun run;
  const double start = Now();
  Work work = Prepare(manifest, checkpoint, options);
  std::shared_ptr<LockedArenas> locked;
  if (options.to_host) {
    run.host_arena = MakeOnHost(work.plan->arena_bytes);
    const std::shared_ptr<Devices> devices = Take(FindCudaDevices());
    locked = Take(LockedArenas::Create(run.host_arena, devices.get(), 0, options.threads, nullptr));
    work.executor.arenas = LockedArenas::MemoryOf(locked, 0);
  } else {
    run.arena = MakeOnDevice(work.plan->arena_bytes);
    work.executor.arenas.data = {reinterpret_cast<char*>(run.arena->data())};
    work.executor.arenas.owner = run.arena;
  }
  CudaCopierOptions copier;
  copier.num_threads = options.threads;
  work.executor.chunk_bytes = DeviceChunkBytes(*work.plan, options.threads, kDefaultBufferBytes);
  copier.staging_bytes = StagingBytes(*work.plan, work.executor.chunk_bytes);
  const std::shared_ptr<CudaCopier> device = Take(CudaCopier::Create(copier));
  Check(device->Reserve());
  work.executor.device = device;
  run.ready_seconds = Now() - start;
  Check(ExecuteLoad(work.executor, &run.progress));
  if (locked != nullptr) locked->Unlock();
  run.seconds = Now() - start;
  run.device_bytes = device->device_bytes();
  return run;
}

// Dies unless a shard that the device filled is the one that processors fill.
void CompareWithHost(const std::shared_ptr<const Manifest>& manifest,
                     const BenchCheckpoint& checkpoint, const Options& options) {
  const DeviceRun run = LoadToDevice(manifest, checkpoint, options);
  Work work = Prepare(manifest, checkpoint, options);
  const auto arenas = MakeOnHost(work.plan->arena_bytes);
  work.executor.arenas = MemoryOf(arenas);
  Check(ExecuteLoad(work.executor, nullptr));
  const std::string differs = checkpoint.name + ": the shard is not the one that processors fill";
  if (options.to_host) {
    const Arena &one = run.host_arena->front(), &other = arenas->front();
    if (std::memcmp(one.data(), other.data(), static_cast<size_t>(one.num_bytes())) != 0) {
      Die(differs);
    }
    return;
  }
  const PinnedBuffer piece = Take(PinnedBuffer::Create(0, 8 * kPieceBytes));
  const DeviceScope scope = Take(DeviceScope::Enter(0));
  for (int64_t at = 0; at < work.plan->arena_bytes; at += piece.num_bytes()) {
    const auto size = static_cast<size_t>(std::min(piece.num_bytes(), work.plan->arena_bytes - at));
    Check(ToStatus(cudaMemcpy(piece.data(), run.arena->data() + at, size, cudaMemcpyDeviceToHost),
                   "read the arena"));
    if (std::memcmp(piece.data(), arenas->front().data() + at, size) != 0) {
      Die(differs);
    }
  }
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

nlohmann::json Measure(const std::string& kind, const Options& options) {
  const BenchCheckpoint checkpoint =
      Take(MakeBenchCheckpoint(options.folder, kind, static_cast<int64_t>(options.gb * 1e9)));
  const auto manifest =
      std::make_shared<const Manifest>(Take(ReadCheckpointManifest(checkpoint.folder)));
  int64_t num_bytes = 0;
  for (const ManifestFile& file : manifest->files) num_bytes += file.num_bytes;
  CompareWithHost(manifest, checkpoint, options);  // reads the files into the page cache, too
  std::vector<double> read, copy, load, ready, ratio;
  int64_t device_bytes = 0;
  for (int i = 0; i < options.runs; ++i) {
    read.push_back(ReadFloor(*manifest, checkpoint.folder, options.threads));
    copy.push_back(CopyFloor(num_bytes));
    const DeviceRun run = LoadToDevice(manifest, checkpoint, options);
    load.push_back(run.seconds);
    ready.push_back(run.ready_seconds);
    ratio.push_back(run.seconds / std::max(read.back(), copy.back()));
    device_bytes = std::max(device_bytes, run.device_bytes);
  }
  const double gigabytes = static_cast<double>(num_bytes) / 1e9;
  std::printf("%-12s %6.2f %8.2f %8.2f %8.2f %8.3f %8.0f %7.2f\n", kind.c_str(), gigabytes,
              gigabytes / Median(read), gigabytes / Median(copy), gigabytes / Median(load),
              Median(ready), static_cast<double>(device_bytes) / 1e6, Median(ratio));
  std::fflush(stdout);
  return {{"kind", kind},
          {"bytes", num_bytes},
          {"read_seconds", read},
          {"copy_seconds", copy},
          {"load_seconds", load},
          {"ready_seconds", ready},
          {"device_bytes", device_bytes},
          {"ratio", Median(ratio)}};
}

Options ReadFlags(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; i += 2) {
    const std::string flag = argv[i];
    if (i + 1 == argc) Die(flag + " wants a value");
    const char* value = argv[i + 1];
    if (flag == "--folder") {
      options.folder = value;
    } else if (flag == "--gb") {
      options.gb = std::atof(value);
    } else if (flag == "--runs") {
      options.runs = std::atoi(value);
    } else if (flag == "--threads") {
      options.threads = std::atoi(value);
    } else if (flag == "--kind") {
      options.kind = value;
    } else if (flag == "--json") {
      options.json = value;
    } else if (flag == "--place") {
      options.to_host = std::string(value) == "host";
      if (!options.to_host && std::string(value) != "device") Die("--place is device or host");
    } else {
      Die("no flag " + flag);
    }
  }
  if (options.gb <= 0 || options.runs < 1 || options.threads < 1) Die("flags must be positive");
  return options;
}

int Run(int argc, char** argv) {
  const Options options = ReadFlags(argc, argv);
  if (const absl::StatusOr<int> count = DeviceCount(); !count.ok()) {
    std::printf("skipped: %s\n", std::string(count.status().message()).c_str());
    return kSkipped;
  }
  cudaDeviceProp properties = {};
  Check(ToStatus(cudaGetDeviceProperties(&properties, 0), "ask what device 0 is"));
  PrintCommand(argc, argv);
  std::printf("%s, %d threads\n", properties.name, options.threads);
  std::printf("%-12s %6s %8s %8s %8s %8s %8s %7s\n", "", "GB", "read", "to dev.", "load", "ready s",
              "beside MB", "ratio");
  const std::vector<std::string> kinds =
      options.kind.empty() ? BenchKinds() : std::vector<std::string>{options.kind};
  nlohmann::json all = nlohmann::json::array();
  for (const std::string& kind : kinds) all.push_back(Measure(kind, options));
  if (!options.json.empty()) {
    std::ofstream(options.json) << nlohmann::json{{"device", properties.name}, {"kinds", all}}.dump(
                                       2)
                                << "\n";
  }
  return 0;
}

}  // namespace
}  // namespace zerocast

int main(int argc, char** argv) { return zerocast::Run(argc, argv); }
