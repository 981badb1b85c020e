#include "client/agent/memory_needs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "client/agent/placement.h"
#include "server/base/errors.h"
#include "server/plan/round_exchange.h"
#include "tests/server/plan/random_plan.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(MemoryNeeds, EveryRoundsMessagesFitIntoWhatWasStated) {
  const uint64_t seed = TestSeed();
  int exchanging = 0;
  for (int i = 0; i < 200 && !HasFailure(); ++i) {
    SCOPED_TRACE("plan " + std::to_string(i) + " of ZC_SEED=" + std::to_string(seed));
    Random random(seed + static_cast<uint64_t>(i));
    const Plan plan = RandomPlan(&random, RandomLayout(&random));
    ZC_ASSERT_OK_AND_ASSIGN(const Schedule schedule, Schedule::Create(plan));
    // What all nodes send in a round comes to others, a broadcast to all of them.
    std::vector<MemoryNeeds> needs;
    int64_t most_sent = 0;
    for (int32_t node = 0; node < plan.layout.num_nodes; ++node) {
      needs.push_back(ComputeMemoryNeeds(plan, schedule, node, 2, 100));
      const auto [first, last] = RanksOfNode(plan.layout, node);
      EXPECT_EQ(needs.back().arenas, plan.arena_bytes * (last - first));
      EXPECT_EQ(needs.back().device_arenas, 0);
    }
    for (int64_t round = 0; round < schedule.num_rounds(); ++round) {
      for (int32_t reader = 0; reader < plan.layout.num_nodes; ++reader) {
        const RoundExchange exchange(plan, schedule, round, reader);
        int64_t sent = BroadcastBytes(plan, exchange.broadcast_pieces());
        for (int32_t to = 0; to < plan.layout.num_nodes; ++to) {
          if (to == reader) continue;
          std::vector<Piece> pieces;
          exchange.AppendMessagePieces(to, &pieces);
          const int64_t bytes = MessageBytes(plan, pieces, RanksOfNode(plan.layout, to).first);
          sent += bytes;
          EXPECT_LE(bytes, needs[to].receiving);
        }
        EXPECT_LE(sent, needs[reader].sending);
        most_sent = std::max(most_sent, sent);
      }
    }
    exchanging += most_sent > 0 ? 1 : 0;
    int64_t stated = 0;
    for (const MemoryNeeds& node : needs) stated = std::max(stated, node.sending);
    EXPECT_LE(stated, 2 * (most_sent + 64 * plan.layout.num_nodes)) << "more than two rounds";
  }
  EXPECT_GT(exchanging, 50);
}

TEST(MemoryNeeds, ShardsAreCountedWhereTheyLie) {
  Random random(TestSeed());
  Layout layout = RandomLayout(&random);
  layout.device = LoadDevice::kCuda;
  for (const Placement placement : {Placement::kDevice, Placement::kHost}) {
    layout.placement = placement;
    const auto plan = ExchangePlan(std::make_shared<const Plan>(RandomPlan(&random, layout)));
    ZC_ASSERT_OK_AND_ASSIGN(const Schedule schedule, Schedule::Create(*plan));
    for (const MemoryNeeds& needs : MemoryOfNodes(*plan, schedule, layout, {}, 256 << 20)) {
      EXPECT_EQ(needs.arenas, plan->arena_bytes);
      EXPECT_EQ(needs.device_arenas, placement == Placement::kDevice ? plan->arena_bytes : 0);
    }
  }
}

TEST(MemoryNeeds, ChunksStayWithinTheirShare) {
  Layout layout;
  layout.num_nodes = 1;
  EXPECT_EQ(ChunkBytes(layout, 2, kDefaultBufferBytes), 1 << 20);
  for (const int nodes : {1, 4}) {
    layout.num_nodes = nodes;
    for (const int threads : {1, 2, 16}) {
      for (const int64_t budget : {int64_t{64} << 20, kDefaultBufferBytes}) {
        const int64_t chunk = ChunkBytes(layout, threads, budget);
        // As much as rounds that transpose read.
        EXPECT_LE(4 * chunk * threads * kChunksUnderWay, budget / (nodes > 1 ? 4 : 2));
        EXPECT_GE(chunk, 64 << 10);
      }
    }
  }
}

TEST(MemoryNeeds, MoreThanIsAllowedIsRefusedWithTheFigures) {
  MemoryNeeds needs;
  needs.reading = 10;
  needs.sending = 200;
  needs.receiving = 3000;
  Layout layout;
  layout.round_bytes = 77;
  EXPECT_THAT(CheckBuffers(needs, layout, 3210), IsOk());
  const absl::Status status = CheckBuffers(needs, layout, 3209);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted,
                               AllOf(HasSubstr("3210 bytes"), HasSubstr("3000 to receive"),
                                     HasSubstr("rounds of 77"), HasSubstr("more than the 3209"),
                                     HasSubstr("smaller rounds (--round-bytes"))));
  EXPECT_EQ(ReasonOf(status), "RESOURCE_EXHAUSTED");
}

}  // namespace
}  // namespace zerocast
