// One agent's load against the floor: the same files read by as many threads into fresh memory of
// the same kind.  Prints a table and, where asked, JSON; asserts no time.  README.md says how it is
// read.
//
//   load_bench [--folder DIR] [--gb N] [--runs N] [--ranks N] [--threads N] [--kind NAME]
//              [--json FILE]
//   load_bench --write-only ...     writes the checkpoints and prints their folders
//   load_bench --floor memfd|anonymous --checkpoint DIR [--threads N]
//                                   reads the files once and prints the seconds
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "client/agent/arena.h"
#include "client/agent/executor.h"
#include "client/agent/memory_needs.h"
#include "client/agent/round_reader.h"
#include "client/formats/checkpoint.h"
#include "server/plan/plan.h"
#include "server/plan/schedule.h"
#include "tests/bench/bench_checkpoints.h"
#include "tests/bench/bench_models.h"
#include "tests/bench/print_command.h"
#include "tests/bench/read_floor.h"

namespace zerocast {
namespace {

// Of the transposed kind's bytes; else it would measure something else.
constexpr double kLeastTransposed = 0.9;

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
  int threads = ReadingThreads(0);  // of the load and the floor
  std::string kind;
  std::string json;
  bool write_only = false;
  std::string floor;       // "memfd", "anonymous"
  std::string checkpoint;  // of the floor
};

// The share of the targets' bytes whose neighbours in the target are no neighbours in the file.
double TransposedShare(const Plan& plan) {
  double transposed = 0, all = 0;
  for (const Target& target : plan.targets) {
    for (const Box& box : target.boxes) {
      const double bytes = static_cast<double>(NumElements(box) * SizeOf(target.dtype));
      all += bytes;
      if (box.num_dims > 0 && box.dims[box.num_dims - 1].source_stride != 1) transposed += bytes;
    }
  }
  return transposed / all;
}

void CheckKind(const std::string& kind, const Plan& plan) {
  const double share = TransposedShare(plan);
  if (kind == "transposed" && share <= kLeastTransposed) {
    Die("of the kind transposed only " + std::to_string(share * 100) +
        " % of the bytes are transposed: it would not measure what its name says");
  }
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
  CheckKind(checkpoint.name, *plan);
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
  executor.arenas = MemoryOf(arenas);
  executor.num_threads = options.threads;
  executor.chunk_bytes = ChunkBytes(layout, options.threads, kDefaultBufferBytes);
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
  const auto floor = [&] {
    return Take(ReadFloor(*manifest, checkpoint.folder, options.threads, FloorMemory::kMemfd));
  };
  floor();  // warms the page cache
  std::vector<double> floors, loads, ratios, read, copy;
  for (int i = 0; i < options.runs; ++i) {
    floors.push_back(floor());
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
    if (flag == "--write-only") {
      options.write_only = true;
      --i;
      continue;
    }
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
    } else if (flag == "--floor") {
      options.floor = value;
    } else if (flag == "--checkpoint") {
      options.checkpoint = value;
    } else {
      Die("no flag " + flag);
    }
  }
  if (options.gb <= 0 || options.runs < 1 || options.ranks < 1 || options.threads < 1) {
    Die("flags must be positive");
  }
  return options;
}

void WriteOnly(const std::vector<std::string>& kinds, const Options& options) {
  for (const std::string& kind : kinds) {
    const BenchCheckpoint made =
        Take(MakeBenchCheckpoint(options.folder, kind, static_cast<int64_t>(options.gb * 1e9)));
    std::printf("%s\n", made.folder.c_str());
  }
}

void PrintFloor(const Options& options) {
  if (options.floor != "memfd" && options.floor != "anonymous") {
    Die("--floor is memfd or anonymous, not " + options.floor);
  }
  const Manifest manifest = Take(ReadCheckpointManifest(options.checkpoint));
  const FloorMemory memory =
      options.floor == "memfd" ? FloorMemory::kMemfd : FloorMemory::kAnonymous;
  std::printf("%.6f\n", Take(ReadFloor(manifest, options.checkpoint, options.threads, memory)));
}

void Run(int argc, char** argv) {
  const Options options = ReadFlags(argc, argv);
  const std::vector<std::string> kinds =
      options.kind.empty() ? BenchKinds() : std::vector<std::string>{options.kind};
  if (options.write_only) return WriteOnly(kinds, options);
  if (!options.floor.empty()) return PrintFloor(options);
  PrintCommand(argc, argv);
  std::printf("%-12s %6s %8s %8s %8s %8s %7s\n", "", "GB", "floor", "load", "read s", "copy s",
              "ratio");
  nlohmann::json all = nlohmann::json::array();
  for (const std::string& kind : kinds) all.push_back(Measure(kind, options));
  if (!options.json.empty()) std::ofstream(options.json) << all.dump(2) << "\n";
}

}  // namespace
}  // namespace zerocast

int main(int argc, char** argv) {
  zerocast::Run(argc, argv);
  return 0;
}
