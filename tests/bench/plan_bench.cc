// From the bytes that an agent receives to a proved plan, its schedule and slices: time, memory and
// size over four models and four world sizes.  Prints a table; asserts no time.
//
//   plan_bench                 all models and world sizes, each measured in a process of its own
//   plan_bench --one FILE      the measured process: the plan input that FILE holds
//
// ZC_GOLDEN_MODELS may name a folder with other listings.

#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "client/cli/model_listing.h"
#include "kernels/copy/algebra.h"
#include "server/plan/plan.h"
#include "server/plan/schedule.h"
#include "server/wire/plan_input.h"
#include "tests/bench/processor_seconds.h"
#include "tests/server/conversion/golden.h"

namespace zerocast {
namespace {

constexpr int kRanksPerNode = 8;
constexpr int kRepeats = 5;

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "plan_bench: %s\n", what.c_str());
  std::exit(1);
}

struct Measured {
  int64_t tensors = 0, targets = 0, boxes = 0, slices = 0;
  double receive = 0, plan = 0, schedule = 0, slice = 0;  // seconds
  double peak_mb = 0;                                     // of the process
};

// The boxes of the ranks of one node, as that node's agent cuts them.
int64_t CountSlices(const Plan& plan, int32_t node) {
  std::vector<Box> slices;
  int64_t count = 0;
  for (const Target& target : plan.targets) {
    const int64_t part = target.partition_elements;
    for (int32_t rank = node * kRanksPerNode; rank < (node + 1) * kRanksPerNode; ++rank) {
      const int64_t begin = target.partitioned ? rank * part : 0;
      slices.clear();
      for (const Box& box : target.boxes) SliceTarget(box, begin, begin + part, &slices);
      count += static_cast<int64_t>(slices.size());
    }
  }
  return count;
}

Measured MeasureOnce(const std::string& bytes) {
  Measured measured;
  double start = ProcessorSeconds();
  absl::StatusOr<PlanInput> input = DecompressPlanInput(bytes);
  if (!input.ok()) Die(input.status().ToString());
  measured.receive = ProcessorSeconds() - start;
  start = ProcessorSeconds();
  const absl::StatusOr<Plan> plan = CompilePlanInput(*input, nullptr);
  if (!plan.ok()) Die(plan.status().ToString());
  measured.plan = ProcessorSeconds() - start;
  start = ProcessorSeconds();
  const absl::StatusOr<Schedule> schedule = Schedule::Create(*plan);
  if (!schedule.ok()) Die(schedule.status().ToString());
  measured.schedule = ProcessorSeconds() - start;
  start = ProcessorSeconds();
  measured.slices = CountSlices(*plan, plan->layout.num_nodes / 2);
  measured.slice = ProcessorSeconds() - start;
  measured.tensors = static_cast<int64_t>(input->manifest->tensors.size());
  measured.targets = static_cast<int64_t>(plan->targets.size());
  for (const Target& target : plan->targets) {
    measured.boxes += static_cast<int64_t>(target.boxes.size());
  }
  return measured;
}

// The measured process: the fastest of a few repeats, and what the process held at most.
int MeasureFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  Measured best = MeasureOnce(bytes);
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  best.peak_mb = static_cast<double>(usage.ru_maxrss) / 1024;
  for (int i = 1; i < kRepeats; ++i) {
    const Measured next = MeasureOnce(bytes);
    best.receive = std::min(best.receive, next.receive);
    best.plan = std::min(best.plan, next.plan);
    best.schedule = std::min(best.schedule, next.schedule);
    best.slice = std::min(best.slice, next.slice);
  }
  std::printf("%8lld %8lld %8lld %8.1f %8.1f %8.1f %8lld %8.1f %8.1f",
              static_cast<long long>(best.tensors), static_cast<long long>(best.targets),
              static_cast<long long>(best.boxes), best.receive * 1e3, best.plan * 1e3,
              best.schedule * 1e3, static_cast<long long>(best.slices), best.slice * 1e3,
              best.peak_mb);
  return 0;
}

std::string Run(const std::string& command) {
  FILE* const pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) Die("run " + command);
  std::string output;
  char buffer[256];
  while (fgets(buffer, sizeof(buffer), pipe) != nullptr) output += buffer;
  if (pclose(pipe) != 0) Die(command + " failed");
  return output;
}

void MeasureModel(const std::string& self, const std::string& model, int32_t world_size) {
  const std::string folder = GoldenFolder("ZC_GOLDEN_MODELS", "models");
  absl::StatusOr<ModelListing> listing =
      ParseModelListing(ReadWholeFile(folder + "/" + model + ".json.gz"));
  if (!listing.ok()) Die(listing.status().ToString());
  PlanInput input;
  input.manifest = std::make_shared<const Manifest>(std::move(listing->manifest));
  input.model_spec_json = listing->model_spec_json;
  input.layout.world_size = world_size;
  input.layout.num_nodes = std::max(1, world_size / kRanksPerNode);
  for (int32_t rank = 0; rank < world_size; ++rank) {
    input.layout.node_of_rank.push_back(rank / kRanksPerNode);
  }
  const std::string bytes = CompressPlanInput(input);
  char path[] = "plan_bench.XXXXXX";
  const int fd = mkstemp(path);
  if (fd < 0 || write(fd, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) {
    Die("write the plan input into the working folder");
  }
  close(fd);
  const std::string row = Run("'" + self + "' --one " + path);
  unlink(path);
  std::printf("%-18s %6d %s %9.3f\n", model.c_str(), world_size, row.c_str(),
              static_cast<double>(bytes.size()) / 1e6);
  std::fflush(stdout);
}

int Main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == "--one") return MeasureFile(argv[2]);
  std::printf(
      "%s: processor time of one thread, the fastest of %d; "
      "peak is that of a whole process\n\n",
      argv[0], kRepeats);
  std::printf("%-18s %6s %8s %8s %8s %8s %8s %8s %8s %8s %8s %9s\n", "model", "world", "tensors",
              "targets", "boxes", "recv ms", "plan ms", "sched ms", "slices", "slice ms",
              "peak MiB", "wire MB");
  for (const char* model : {"mixtral-8x7b", "qwen3-moe-235b", "deepseek-v3-671b", "kimi-k2-1t"}) {
    MeasureModel(argv[0], model, 1024);
  }
  for (const int32_t world_size : {8, 128, 1024, 8192}) {
    MeasureModel(argv[0], "kimi-k2-1t", world_size);
  }
  return 0;
}

}  // namespace
}  // namespace zerocast

int main(int argc, char** argv) { return zerocast::Main(argc, argv); }
