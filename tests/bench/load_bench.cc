// One agent's load against the floor: the same files read by as many threads into fresh memory of
// the same kind.  Prints a table and, where asked, JSON; asserts no time.  README.md says how it is
// read.
//
//   load_bench [--folder DIR] [--gb N] [--runs N] [--ranks N] [--threads N] [--kind NAME] [--json
//   FILE]
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
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

#include "absl/strings/str_cat.h"
#include "client/agent/arena.h"
#include "client/agent/executor.h"
#include "client/agent/round_reader.h"
#include "client/formats/checkpoint.h"
#include "server/plan/plan.h"
#include "server/plan/schedule.h"
#include "tests/bench/bench_checkpoints.h"

namespace zerocast {
namespace {

constexpr int64_t kFloorReadBytes = int64_t{8} << 20;

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "load_bench: %s\n", what.c_str());
  std::exit(1);
}

template <typename T>
T Take(absl::StatusOr<T> value) {
  if (!value.ok()) Die(value.status().ToString());
  return *std::move(value);
}

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Options {
  std::string folder = "/tmp/zerocast-bench";
  double gb = 2;
  int runs = 7;
  int ranks = 2;
  int threads = static_cast<int>(std::thread::hardware_concurrency());
  std::string kind;
  std::string json;
};

// Reads all files of `manifest` with `threads` threads into a fresh memfd; seconds.
double ReadFloor(const Manifest& manifest, const std::string& folder, int threads) {
  struct File {
    int fd;
    int64_t begin, num_bytes;  // in the memory
  };
  const double start = Now();
  std::vector<File> files;
  int64_t total = 0;
  for (const ManifestFile& file : manifest.files) {
    files.push_back({open((folder + "/" + file.path).c_str(), O_RDONLY), total, file.num_bytes});
    total += file.num_bytes;
  }
  Arena memory = Take(Arena::Create("floor", total));
  std::atomic<int64_t> next{0};
  std::vector<std::thread> readers;
  for (int t = 0; t < threads; ++t) {
    readers.emplace_back([&] {
      for (int64_t at = next.fetch_add(kFloorReadBytes); at < total;
           at = next.fetch_add(kFloorReadBytes)) {
        for (const File& file : files) {
          const int64_t begin = std::max(at, file.begin);
          const int64_t end = std::min(at + kFloorReadBytes, file.begin + file.num_bytes);
          for (int64_t place = begin; place < end;) {
            const ssize_t got = pread(file.fd, memory.data() + place,
                                      static_cast<size_t>(end - place), place - file.begin);
            if (got <= 0) Die("read the floor");
            place += got;
          }
        }
      }
    });
  }
  for (std::thread& reader : readers) reader.join();
  const double seconds = Now() - start;
  for (const File& file : files) close(file.fd);
  return seconds;
}

// What one load took, by its own stages.
struct LoadRun {
  double seconds = 0;
  ExecutorProgress progress;
};

// From a manifest to filled arenas, as an agent does it.
LoadRun Load(const std::shared_ptr<const Manifest>& manifest, const BenchCheckpoint& checkpoint,
             const Options& options) {
  Layout layout;
  layout.world_size = options.ranks;
  layout.num_nodes = 1;
  layout.node_of_rank = PlaceRanks(options.ranks, 1);
  layout.dtype = checkpoint.dtype;
  LoadRun run;
  const double start = Now();
  const auto plan = std::make_shared<const Plan>(
      Take(CompilePlan(manifest, &checkpoint.spec, {}, layout, nullptr)));
  const auto schedule = std::make_shared<const Schedule>(Take(Schedule::Create(*plan)));
  ExecutorOptions executor;
  executor.plan = plan;
  executor.schedule = schedule;
  executor.checkpoint_path = checkpoint.folder;
  executor.reader = MakePosixReader({});
  executor.identities =
      Take(IdentifyFiles(*plan, *schedule, 0, checkpoint.folder, executor.reader.get()));
  const auto arenas = std::make_shared<std::vector<Arena>>();
  for (int rank = 0; rank < options.ranks; ++rank) {
    arenas->push_back(Take(Arena::Create("bench", plan->arena_bytes)));
  }
  executor.arenas = arenas;
  const absl::Status status = ExecuteLoad(executor, &run.progress);
  run.seconds = Now() - start;
  if (!status.ok()) Die(status.ToString());
  return run;
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
  ReadFloor(*manifest, checkpoint.folder, options.threads);  // warms the page cache
  std::vector<double> floors, loads, ratios, read, copy;
  for (int i = 0; i < options.runs; ++i) {
    floors.push_back(ReadFloor(*manifest, checkpoint.folder, options.threads));
    const LoadRun run = Load(manifest, checkpoint, options);
    loads.push_back(run.seconds);
    ratios.push_back(run.seconds / floors.back());
    read.push_back(absl::ToDoubleSeconds(run.progress.read));
    copy.push_back(absl::ToDoubleSeconds(run.progress.copy));
  }
  std::printf("%-12s %6.2f %8.2f %8.2f %8.3f %8.3f %7.2f\n", kind.c_str(),
              static_cast<double>(num_bytes) / 1e9,
              static_cast<double>(num_bytes) / 1e9 / Median(floors),
              static_cast<double>(num_bytes) / 1e9 / Median(loads), Median(read), Median(copy),
              Median(ratios));
  std::fflush(stdout);
  return {{"kind", kind},
          {"bytes", num_bytes},
          {"floor_seconds", floors},
          {"load_seconds", loads},
          {"ratio", Median(ratios)}};
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
    } else if (flag == "--ranks") {
      options.ranks = std::atoi(value);
    } else if (flag == "--threads") {
      options.threads = std::atoi(value);
    } else if (flag == "--kind") {
      options.kind = value;
    } else if (flag == "--json") {
      options.json = value;
    } else {
      Die("no flag " + flag);
    }
  }
  if (options.gb <= 0 || options.runs < 1 || options.ranks < 1 || options.threads < 1) {
    Die("flags must be positive");
  }
  return options;
}

void Run(int argc, char** argv) {
  const Options options = ReadFlags(argc, argv);
  for (int i = 0; i < argc; ++i) std::printf("%s%s", i == 0 ? "$ " : " ", argv[i]);
#ifdef NDEBUG
  std::printf("\n");
#else
  std::printf("     (not optimized: build Release for numbers)\n");
#endif
  std::printf("%-12s %6s %8s %8s %8s %8s %7s\n", "", "GB", "floor", "load", "read s", "copy s",
              "ratio");
  nlohmann::json all = nlohmann::json::array();
  for (const std::string& kind : BenchKinds()) {
    if (options.kind.empty() || options.kind == kind) all.push_back(Measure(kind, options));
  }
  if (!options.json.empty()) std::ofstream(options.json) << all.dump(2) << "\n";
}

}  // namespace
}  // namespace zerocast

int main(int argc, char** argv) {
  zerocast::Run(argc, argv);
  return 0;
}
