#ifndef ZEROCAST_TESTS_CLIENT_AGENT_LOAD_FIXTURE_H_
#define ZEROCAST_TESTS_CLIENT_AGENT_LOAD_FIXTURE_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "client/agent/arena.h"
#include "client/agent/executor.h"
#include "client/agent/file_work.h"
#include "client/agent/reader.h"
#include "kernels/comm/communicator.h"
#include "server/conversion/model_spec.h"
#include "server/plan/plan.h"
#include "server/plan/schedule.h"

namespace zerocast {

// Writes a small Mixtral-shaped checkpoint of two files into `folder`: several dtypes, experts that
// are stacked and concatenated across the files, a buffer of integers, a scalar.  The bytes depend
// on `seed`.  Its matrices have `scale` times as many rows and columns: 6 kB at 1, 1.5 MB at 16.
void WriteCheckpoint(const std::string& folder, uint64_t seed, int64_t scale = 1);
// Moves all tensors of such a checkpoint by a byte within their files: none is aligned any more.
void MisalignCheckpoint(const std::string& folder);
// The seed of this run: ZC_SEED, or a new one; printed.
uint64_t TestSeed();

ModelSpec CheckpointSpec(int64_t scale = 1);
std::string CheckpointSpecJson();

// `nodes` nodes of `ranks` ranks.
Layout MakeLayout(int nodes, int ranks);

std::shared_ptr<const Plan> MakePlan(const std::string& folder, const Layout& layout,
                                     int64_t scale = 1);

// What each rank must hold, computed from the files by the plain rules: whole targets by the
// reference copy, then cut and padded.  Element [rank][target].
std::vector<std::vector<std::string>> ExpectedPartitions(const Plan& plan,
                                                         const std::string& folder);
// XXH3-64 of each of them.
std::vector<std::vector<uint64_t>> ExpectedDigests(const Plan& plan, const std::string& folder);

// Runs every node of a load in threads over the given communicators (element k is node k's; null
// where nothing is exchanged).
struct ClusterRun {
  std::vector<absl::Status> statuses;      // by node
  std::vector<ExecutorProgress> progress;  // by node
  std::vector<Arena> arenas;               // by rank; empty ones of nodes that failed
};
struct ClusterOptions {
  std::shared_ptr<const Plan> plan;
  std::string folder;
  // By node; empty: each node gets a reader of its own on the file system.
  std::vector<std::shared_ptr<FileReader>> readers;
  std::vector<std::unique_ptr<Communicator>> communicators;  // empty: a loopback group
  std::vector<ExecutorHooks> hooks;                          // by node; may be empty
  absl::Duration stage_timeout = absl::Seconds(20);
  int num_threads = 0;  // of each node; as ExecutorOptions
  IoMode io = IoMode::kAuto;
  // Of all nodes; null: each has its own.
  std::shared_ptr<FileWork> file_work;
  // Called on a node's thread, unless empty: to change how it loads, and, when that went well, to
  // bring what its ranks got into their arenas.
  std::function<void(int32_t node, ExecutorOptions* options)> before_load;
  std::function<void(int32_t node, absl::Span<Arena> arenas)> after_load;
};
ClusterRun RunCluster(ClusterOptions options);

// "rank 1, model.norm.weight" for every partition that is not as expected.
std::vector<std::string> Differences(const Plan& plan, const std::vector<Arena>& arenas,
                                     const std::vector<std::vector<std::string>>& expected);

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_CLIENT_AGENT_LOAD_FIXTURE_H_
