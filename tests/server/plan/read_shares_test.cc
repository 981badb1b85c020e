// Who reads what where all nodes read: every byte once, the same number a node, and as much of it
// as can be where it is needed.

#include "server/plan/read_shares.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "server/plan/flat_group.h"
#include "server/plan/messages.h"
#include "server/plan/reads.h"
#include "server/plan/round_exchange.h"
#include "tests/bench/bench_models.h"
#include "tests/server/plan/random_plan.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

constexpr int kPlans = 250;
constexpr int64_t kModelBytes = 2000000000;

int64_t Sum(const std::vector<FileRange>& ranges) {
  int64_t sum = 0;
  for (const FileRange& range : ranges) sum += range.end - range.begin;
  return sum;
}

// As Joined ranges; what lies in two of them is there twice.
using Bytes = std::vector<std::vector<int64_t>>;
Bytes InOrder(std::vector<FileRange> ranges) {
  std::sort(ranges.begin(), ranges.end());
  Bytes bytes;
  for (const FileRange& range : ranges) {
    if (!bytes.empty() && bytes.back()[0] == range.file && bytes.back()[2] == range.begin) {
      bytes.back()[2] = range.end;
    } else {
      bytes.push_back({range.file, range.begin, range.end});
    }
  }
  return bytes;
}

// Every needed byte is in one share, and all shares are of one size.
void ExpectEqualShares(const Plan& plan, const SourceIndex& index,
                       const std::vector<std::vector<FileRange>>& shares) {
  ASSERT_EQ(shares.size(), static_cast<size_t>(plan.layout.num_nodes));
  std::vector<FileRange> all, needed;
  for (const NeededSource& source : index.needed()) needed.push_back(source.range);
  for (const std::vector<FileRange>& share : shares) {
    EXPECT_TRUE(std::is_sorted(share.begin(), share.end()));
    for (const FileRange& range : share) {
      EXPECT_EQ(index.ElementBoundary(range.file, range.begin), range.begin);
      EXPECT_EQ(index.ElementBoundary(range.file, range.end), range.end);
    }
    EXPECT_NEAR(static_cast<double>(Sum(share)),
                static_cast<double>(Sum(needed)) / plan.layout.num_nodes, 8.0);
    all.insert(all.end(), share.begin(), share.end());
  }
  EXPECT_EQ(InOrder(all), InOrder(needed));
}

TEST(ReadSharesTest, HoldEveryNeededByteOnceInEqualSharesWhateverIsCut) {
  const uint64_t seed = TestSeed();
  for (int i = 0; i < kPlans && !HasFailure(); ++i) {
    SCOPED_TRACE("plan " + std::to_string(i) + " of ZC_SEED=" + std::to_string(seed));
    Random random(seed + static_cast<uint64_t>(i));
    Layout layout = RandomLayout(&random);
    layout.read_mode = ReadMode::kParallel;
    const Plan plan = RandomPlan(&random, layout);
    const SourceIndex index(plan);
    ExpectEqualShares(
        plan, index,
        ShareReads(plan, index, FirstRanks(layout), /*least_bytes=*/random.Between(1, 300)));
  }
}

// The plan of a benchmark's model (tests/bench) stored in four files.
Plan PlanOf(const std::string& kind, int32_t world_size, int32_t num_nodes, MoveMode move_mode) {
  const BenchModel model = MakeBenchModel(kind, kModelBytes);
  auto manifest = std::make_shared<Manifest>();
  int64_t at = 8;
  for (const BenchTensor& tensor : model.stored) {
    const int64_t end = at + NumElements(tensor) * SizeOf(model.stored_dtype);
    if (manifest->files.empty() || end > kModelBytes / 4) {
      manifest->files.push_back({"f" + std::to_string(manifest->files.size()), 0, 0, 0});
      at = 8;
    }
    const int64_t num_bytes = NumElements(tensor) * SizeOf(model.stored_dtype);
    manifest->tensors.push_back({{tensor.name, model.stored_dtype, tensor.shape},
                                 static_cast<int32_t>(manifest->files.size()) - 1,
                                 at,
                                 at + num_bytes});
    at += num_bytes;
    manifest->files.back().num_bytes = at;
  }
  manifest->config_json = model.config_json;
  Layout layout;
  layout.world_size = world_size;
  layout.num_nodes = num_nodes;
  layout.node_of_rank = PlaceRanks(world_size, num_nodes);
  layout.move_mode = move_mode;
  if (kind == "fp32") layout.dtype = DTypePolicy::kBFloat16;
  absl::StatusOr<Plan> plan =
      CompilePlan(manifest, &model.spec, model.spec.transforms, layout, nullptr);
  EXPECT_THAT(plan, IsOk());
  return *std::move(plan);
}

struct Traffic {
  std::vector<int64_t> read, sent;  // by node
};

Traffic TrafficOf(const Plan& plan, const Schedule& schedule) {
  const std::vector<int32_t> first_ranks = FirstRanks(plan.layout);
  Traffic traffic;
  for (int32_t node = 0; node < plan.layout.num_nodes; ++node) {
    traffic.read.push_back(schedule.ReadBytes(node));
    traffic.sent.push_back(0);
    for (int64_t round = 0; round < schedule.num_rounds(); ++round) {
      const RoundExchange exchange(plan, schedule, round, node);
      for (int32_t to = 0; to < plan.layout.num_nodes; ++to) {
        if (to == node) continue;
        std::vector<Piece> pieces;
        exchange.AppendMessagePieces(to, &pieces);
        traffic.sent.back() += MessageBytes(plan, pieces, first_ranks[static_cast<size_t>(to)]) +
                               BroadcastBytes(plan, exchange.broadcast_pieces());
      }
    }
  }
  return traffic;
}

struct Cluster {
  int32_t world_size, num_nodes;
};
constexpr Cluster kClusters[] = {{2, 2}, {8, 2},  {6, 3},  {8, 4},
                                 {8, 8}, {40, 5}, {64, 8}, {128, 16}};

TEST(ReadSharesTest, NoNodeSendsMoreThanItReadsForOthers) {
  for (const std::string& kind : BenchKinds()) {
    for (const Cluster& cluster : kClusters) {
      SCOPED_TRACE(kind + ", " + std::to_string(cluster.world_size) + " ranks, " +
                   std::to_string(cluster.num_nodes) + " nodes");
      const Plan plan = PlanOf(kind, cluster.world_size, cluster.num_nodes, MoveMode::kScatter);
      ZC_ASSERT_OK_AND_ASSIGN(const Schedule schedule, Schedule::Create(plan));
      const Traffic traffic = TrafficOf(plan, schedule);
      for (int32_t node = 0; node < cluster.num_nodes; ++node) {
        const auto read = static_cast<double>(traffic.read[node]);
        EXPECT_NEAR(read, static_cast<double>(traffic.read[0]), 8.0);
        EXPECT_LE(static_cast<double>(traffic.sent[node]),
                  read * (1.0 - 1.0 / cluster.num_nodes) * 1.02)
            << "node " << node;
      }
    }
  }
}

// A node that holds more than others gets it from them a little at a time: what it receives in a
// round fits what is kept for it (DefaultRoundBytes).
TEST(ReadSharesTest, NoNodeReceivesManyRoundsAtOnce) {
  for (const std::string& kind : BenchKinds()) {
    for (const Cluster& cluster : {Cluster{3, 2}, {7, 3}, {9, 8}, {17, 16}, {8, 4}}) {
      SCOPED_TRACE(kind + ", " + std::to_string(cluster.world_size) + " ranks, " +
                   std::to_string(cluster.num_nodes) + " nodes");
      Plan plan = PlanOf(kind, cluster.world_size, cluster.num_nodes, MoveMode::kScatter);
      plan.layout.round_bytes = 8 << 20;
      ZC_ASSERT_OK_AND_ASSIGN(const Schedule schedule, Schedule::Create(plan));
      for (int32_t node = 0; node < cluster.num_nodes; ++node) {
        const ExchangeBuffers buffers = ComputeExchangeBuffers(plan, schedule, node);
        EXPECT_LE(buffers.sending() + buffers.receiving(), 6 * plan.layout.round_bytes)
            << "node " << node;
      }
    }
  }
}

// Without conversions, or with experts to stack, a node's parts are ranges of the files.
TEST(ReadSharesTest, NodesReadWhatTheirOwnRanksHold) {
  for (const std::string kind : {"llama", "mixtral", "fp32"}) {
    SCOPED_TRACE(kind);
    const Plan plan = PlanOf(kind, 8, 4, MoveMode::kScatter);
    ZC_ASSERT_OK_AND_ASSIGN(const Schedule schedule, Schedule::Create(plan));
    const Traffic traffic = TrafficOf(plan, schedule);
    for (int32_t node = 0; node < 4; ++node) {
      EXPECT_LE(traffic.sent[node], traffic.read[node] / 50) << "node " << node;
    }
  }
}

// What an engine of `stage` and `saved_by` ranks saved of 48 parameters of 1 to 16 MB (float32),
// with one moment.
Manifest EngineManifest(int32_t stage, int32_t saved_by) {
  constexpr int64_t kLargest = 4 << 20;
  Manifest manifest;
  EngineCheckpoint& engine = manifest.engine.emplace();
  engine.tag = "t";
  engine.stage = stage;
  engine.world_size = saved_by;
  engine.states = {"fp32", "exp_avg"};
  std::vector<int64_t> sizes;
  for (int k = 0; k < 48; ++k) sizes.push_back(kLargest >> (k % 5));
  FlatGroup group;
  EXPECT_TRUE(LayOutFlatGroup(sizes, {saved_by, false, 1}, &group));
  int64_t of_rank = group.num_elements / saved_by;
  if (stage == 3) {
    of_rank = 0;
    for (const int64_t size : sizes) of_rank += size / saved_by;
  }
  for (int32_t rank = 0; rank < saved_by; ++rank) {
    manifest.files.push_back({"t/rank" + std::to_string(rank), 8 * of_rank, 0, 1});
    for (int64_t state = 0; state < 2; ++state) {
      manifest.tensors.push_back(
          {{std::to_string(state) + " of " + std::to_string(rank), DType::kFloat32, {of_rank}},
           rank,
           4 * of_rank * state,
           4 * of_rank * (state + 1)});
    }
    engine.flats.push_back({2 * rank, 2 * rank + 1});
  }
  int64_t at = 0;  // stage 3: in the flat tensor of each rank
  for (size_t k = 0; k < sizes.size(); ++k) {
    EngineWeight& weight = engine.weights.emplace_back();
    weight.name = "w" + std::to_string(k);
    weight.shape = {sizes[k]};
    weight.dtype = DType::kBFloat16;
    weight.group = 0;
    weight.place = static_cast<int32_t>(k);
    for (int32_t rank = 0; rank < saved_by; ++rank) {
      if (stage == 3) {
        weight.in_states.push_back({rank, at, sizes[k] / saved_by});
        continue;
      }
      const int64_t begin = std::max(group.offsets[k], rank * of_rank);
      const int64_t end = std::min(group.offsets[k] + sizes[k], (rank + 1) * of_rank);
      if (begin < end) weight.in_states.push_back({rank, begin - rank * of_rank, end - begin});
    }
    at += sizes[k] / saved_by;
  }
  return manifest;
}

// Bytes that nodes send for each that is read.
double SentPart(int32_t saved_stage, int32_t saved_by, int32_t stage, const Cluster& cluster) {
  Layout layout;
  layout.zero_stage = stage;
  layout.round_bytes = 8 << 20;
  layout.world_size = cluster.world_size;
  layout.num_nodes = cluster.num_nodes;
  layout.node_of_rank = PlaceRanks(cluster.world_size, cluster.num_nodes);
  const absl::StatusOr<Plan> plan =
      CompilePlan(std::make_shared<const Manifest>(EngineManifest(saved_stage, saved_by)), nullptr,
                  {}, layout, nullptr);
  EXPECT_THAT(plan, IsOk());
  const SourceIndex index(*plan);
  for (const int64_t least_bytes : {int64_t{64}, int64_t{100000}, kLeastShareBytes}) {
    ExpectEqualShares(*plan, index, ShareReads(*plan, index, FirstRanks(layout), least_bytes));
  }
  const absl::StatusOr<Schedule> schedule = Schedule::Create(*plan);
  EXPECT_THAT(schedule, IsOk());
  for (int32_t node = 0; node < cluster.num_nodes; ++node) {
    const ExchangeBuffers buffers = ComputeExchangeBuffers(*plan, *schedule, node);
    EXPECT_LE(buffers.sending() + buffers.receiving(), 6 * layout.round_bytes) << "node " << node;
  }
  const Traffic traffic = TrafficOf(*plan, *schedule);
  int64_t sent = 0, read = 0;
  for (const int64_t bytes : traffic.sent) sent += bytes;
  for (const int64_t bytes : traffic.read) read += bytes;
  return static_cast<double>(sent) / static_cast<double>(read);
}

// An engine's flat tensors hold what is of many targets.  Where all of a parameter goes to one node
// nothing but the weights travels, half of the bytes, to each other node.
TEST(ReadSharesTest, NodesReadWhatOfFlatTensorsTheirOwnRanksHold) {
  struct {
    int32_t saved_stage, stage;
    Cluster cluster;
    double most;
  } const cases[] = {{3, 3, {8, 2}, 0.001},  {3, 3, {16, 4}, 0.001}, {3, 3, {4, 4}, 0.001},
                     {3, 3, {12, 3}, 0.15},  {2, 3, {8, 2}, 0.2},    {3, 2, {8, 2}, 0.501},
                     {3, 2, {16, 4}, 1.501}, {2, 2, {12, 3}, 1.001}};
  for (const auto& [saved_stage, stage, cluster, most] : cases) {
    SCOPED_TRACE("stage " + std::to_string(saved_stage) + " of 8 ranks -> stage " +
                 std::to_string(stage) + " of " + std::to_string(cluster.world_size) + " on " +
                 std::to_string(cluster.num_nodes) + " nodes");
    EXPECT_LE(SentPart(saved_stage, 8, stage, cluster), most);
  }
}

// Of a broadcast everybody gets everything: one long range a node is the best.
TEST(ReadSharesTest, AreRangesInFileOrderWhereAllIsBroadcast) {
  const Plan plan = PlanOf("llama", 8, 4, MoveMode::kBroadcast);
  const auto shares = ShareReads(plan, SourceIndex(plan), FirstRanks(plan.layout));
  FileRange last;
  for (const std::vector<FileRange>& share : shares) {
    EXPECT_LE(share.size(), 4u);  // files
    for (const FileRange& range : share) {
      EXPECT_TRUE(last < range);
      last = range;
    }
  }
}

}  // namespace
}  // namespace zerocast
