// Who reads what where all nodes read: every byte once, the same number a node, and as much of it
// as can be where it is needed.

#include "server/plan/read_shares.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

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

TEST(ReadSharesTest, HoldEveryNeededByteOnceInEqualSharesWhateverIsCut) {
  const uint64_t seed = TestSeed();
  for (int i = 0; i < kPlans && !HasFailure(); ++i) {
    SCOPED_TRACE("plan " + std::to_string(i) + " of ZC_SEED=" + std::to_string(seed));
    Random random(seed + static_cast<uint64_t>(i));
    Layout layout = RandomLayout(&random);
    layout.read_mode = ReadMode::kParallel;
    const Plan plan = RandomPlan(&random, layout);
    const SourceIndex index(plan);
    const auto shares =
        ShareReads(plan, index, FirstRanks(layout), /*least_bytes=*/random.Between(1, 300));
    ASSERT_EQ(shares.size(), static_cast<size_t>(layout.num_nodes));
    std::vector<FileRange> all, needed;
    for (const NeededSource& source : index.needed()) needed.push_back(source.range);
    for (const std::vector<FileRange>& share : shares) {
      EXPECT_TRUE(std::is_sorted(share.begin(), share.end()));
      for (const FileRange& range : share) {
        EXPECT_EQ(index.ElementBoundary(range.file, range.begin), range.begin);
        EXPECT_EQ(index.ElementBoundary(range.file, range.end), range.end);
      }
      EXPECT_NEAR(static_cast<double>(Sum(share)),
                  static_cast<double>(Sum(needed)) / layout.num_nodes, 8.0);
      all.insert(all.end(), share.begin(), share.end());
    }
    EXPECT_EQ(InOrder(all), InOrder(needed));
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
