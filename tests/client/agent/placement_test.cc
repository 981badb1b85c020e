// What a message holds, on random plans.

#include "client/agent/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/server/plan/random_plan.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

constexpr int kPlans = 250;

bool operator==(const Piece& a, const Piece& b) {
  return a.target == b.target && a.source == b.source && a.box == b.box &&
         a.target_base == b.target_base && a.rank == b.rank;
}

// The message of `pieces`, unpacked by the rule of placement.h, is `pieces` again.
void ExpectCarriesWhatEveryRankHoldsOnce(const Plan& plan, int32_t node,
                                         const std::vector<Piece>& pieces) {
  const auto [first_rank, end_rank] = RanksOfNode(plan.layout, node);
  std::vector<Piece> unpacked;
  int64_t num_bytes = 0;
  for (const Piece& piece : pieces) {
    if (!InMessage(plan, piece, first_rank)) continue;
    num_bytes += WireBytes(plan, piece);
    if (!IsReplicated(plan, piece)) {
      unpacked.push_back(piece);
      continue;
    }
    for (int32_t rank = first_rank; rank < end_rank; ++rank) {
      unpacked.push_back(piece);
      unpacked.back().rank = rank;
    }
  }
  EXPECT_EQ(num_bytes, MessageBytes(plan, pieces, first_rank));
  ASSERT_EQ(unpacked.size(), pieces.size());
  for (size_t i = 0; i < pieces.size(); ++i) EXPECT_TRUE(unpacked[i] == pieces[i]);
}

TEST(PlacementTest, AMessageCarriesWhatEveryRankHoldsOnce) {
  const uint64_t seed = TestSeed();
  int64_t replicated = 0;
  for (int i = 0; i < kPlans && !HasFailure(); ++i) {
    SCOPED_TRACE("plan " + std::to_string(i) + " of ZC_SEED=" + std::to_string(seed));
    Random random(seed + static_cast<uint64_t>(i));
    const Layout layout = RandomLayout(&random);
    const Plan plan = RandomPlan(&random, layout);
    ZC_ASSERT_OK_AND_ASSIGN(const Schedule schedule, Schedule::Create(plan));
    for (int64_t round = 0; round < std::min<int64_t>(schedule.num_rounds(), 8); ++round) {
      for (int32_t node = 0; node < plan.layout.num_nodes; ++node) {
        std::vector<Piece> pieces;
        schedule.Pieces(round, node, node, &pieces);
        ExpectCarriesWhatEveryRankHoldsOnce(plan, node, pieces);
        replicated += std::count_if(pieces.begin(), pieces.end(),
                                    [&](const Piece& piece) { return IsReplicated(plan, piece); });
      }
    }
  }
  EXPECT_GT(replicated, 100);
}

}  // namespace
}  // namespace zerocast
