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

// What one node read in a round, extent behind extent.
std::string ReadRound(absl::Span<const Extent> extents, const std::vector<std::string>& files) {
  std::string data;
  for (const Extent& extent : extents) {
    data += files[extent.file].substr(extent.begin, extent.end - extent.begin);
  }
  return data;
}

// Runs a plan on all nodes, message by message.
class Nodes {
 public:
  Nodes(const Plan& plan, const Schedule& schedule, const std::vector<std::string>& files)
      : plan_(plan), schedule_(schedule), files_(files) {
    arenas_.assign(plan.layout.world_size, std::string(plan.arena_bytes, '\0'));
    for (std::string& arena : arenas_) pointers_.push_back(arena.data());
  }

  void Scatter() {
    for (int64_t round = 0; round < schedule_.num_rounds(); ++round) {
      for (int32_t reader = 0; reader < plan_.layout.num_nodes; ++reader) {
        const std::string data = ReadRound(schedule_.Reads(round, reader), files_);
        const LoadedRound loaded{schedule_.Reads(round, reader), data.data()};
        for (int32_t node = 0; node < plan_.layout.num_nodes; ++node) {
          std::vector<Piece> pieces;
          schedule_.Pieces(round, reader, node, &pieces);
          const NodeArenas arenas = ArenasOf(node);
          if (node == reader) {
            for (const Piece& piece : pieces) {
              ASSERT_THAT(CopyToArena(plan_, loaded, piece, arenas), IsOk());
            }
            continue;
          }
          std::string message(MessageBytes(plan_, pieces, arenas.first_rank), '\0');
          ASSERT_THAT(PackMessage(plan_, loaded, pieces, arenas.first_rank, message.data()),
                      IsOk());
          ASSERT_THAT(UnpackMessage(plan_, message.data(), pieces, arenas), IsOk());
        }
      }
    }
  }

  void Broadcast() {
    for (int64_t round = 0; round < schedule_.num_rounds(); ++round) {
      for (int32_t reader = 0; reader < plan_.layout.num_nodes; ++reader) {
        const std::string data = ReadRound(schedule_.Reads(round, reader), files_);
        const LoadedRound loaded{schedule_.Reads(round, reader), data.data()};
        std::vector<Piece> pieces;
        schedule_.WholePieces(round, reader, &pieces);
        std::string message(BroadcastBytes(plan_, pieces), '\0');
        ASSERT_THAT(PackBroadcast(plan_, loaded, pieces, message.data()), IsOk());
        for (int32_t node = 0; node < plan_.layout.num_nodes; ++node) {
          const absl::Status status =
              node == reader ? CutToArenas(plan_, loaded, pieces, ArenasOf(node))
                             : UnpackBroadcast(plan_, message.data(), pieces, ArenasOf(node));
          ASSERT_THAT(status, IsOk());
        }
      }
    }
  }

  // Every rank holds its part of each target, and zeros behind it.
  void ExpectArenas(const std::vector<std::string>& targets) const {
    for (int32_t rank = 0; rank < plan_.layout.world_size; ++rank) {
      for (size_t t = 0; t < targets.size(); ++t) {
        const Target& target = plan_.targets[t];
        const auto part = static_cast<size_t>(target.partition_elements * SizeOf(target.dtype));
        const size_t begin = target.partitioned ? part * static_cast<size_t>(rank) : 0;
        std::string expected =
            begin < targets[t].size() ? targets[t].substr(begin, part) : std::string();
        expected.resize(part, '\0');
        EXPECT_TRUE(arenas_[rank].substr(target.arena_offset, part) == expected)
            << target.name << " of rank " << rank;
      }
    }
  }

 private:
  NodeArenas ArenasOf(int32_t node) const {
    const auto [first, end] = RanksOfNode(plan_.layout, node);
    return {first, absl::MakeConstSpan(pointers_).subspan(first, end - first)};
  }

  const Plan& plan_;
  const Schedule& schedule_;
  const std::vector<std::string>& files_;
  std::vector<std::string> arenas_;
  std::vector<char*> pointers_;
};

TEST(PlacementTest, MessagesAndBroadcastsFillEveryPartition) {
  const uint64_t seed = TestSeed();
  int decoded = 0;
  for (int i = 0; i < kPlans && !HasFailure(); ++i) {
    SCOPED_TRACE("plan " + std::to_string(i) + " of ZC_SEED=" + std::to_string(seed));
    Random random(seed + static_cast<uint64_t>(i));
    const Plan plan = RandomPlan(&random, RandomLayout(&random));
    ZC_ASSERT_OK_AND_ASSIGN(const Schedule schedule, Schedule::Create(plan));
    const std::vector<std::string> files = RandomFiles(&random, *plan.manifest);
    const std::vector<std::string> targets = NaiveTargets(plan, files);
    Nodes scattered(plan, schedule, files);
    scattered.Scatter();
    scattered.ExpectArenas(targets);
    decoded += plan.decoders.empty() ? 0 : 1;
    if (plan.layout.read_mode == ReadMode::kLocal) continue;
    Nodes broadcast(plan, schedule, files);
    broadcast.Broadcast();
    broadcast.ExpectArenas(targets);
  }
  EXPECT_GT(decoded, 20) << "plans with quantised sources";
}

TEST(PlacementTest, BytesOrScalesThatWereNotReadAreAnError) {
  const uint64_t seed = TestSeed();
  for (uint64_t i = 0;; ++i) {
    Random random(seed + i);
    Layout layout = RandomLayout(&random);
    layout.round_bytes = 1 << 20;
    const Plan plan = RandomPlan(&random, layout);
    if (plan.decoders.empty()) continue;
    ZC_ASSERT_OK_AND_ASSIGN(const Schedule schedule, Schedule::Create(plan));
    const std::vector<std::string> files = RandomFiles(&random, *plan.manifest);
    std::vector<Piece> pieces;
    schedule.Pieces(0, 0, 0, &pieces);
    for (const Piece& piece : pieces) {
      if (FindDecoder(plan.decoders, piece.source) == nullptr) continue;
      std::vector<std::string> arenas(plan.layout.world_size, std::string(plan.arena_bytes, '\0'));
      std::vector<char*> pointers;
      for (std::string& arena : arenas) pointers.push_back(arena.data());
      const std::vector<Extent> extents(schedule.Reads(0, 0).begin(), schedule.Reads(0, 0).end());
      int refused = 0;
      for (size_t left_out = 0; left_out < extents.size(); ++left_out) {
        std::vector<Extent> rest = extents;
        rest.erase(rest.begin() + left_out);
        const std::string data = ReadRound(rest, files);
        const absl::Status status = CopyToArena(plan, {rest, data.data()}, piece, {0, pointers});
        if (status.ok()) continue;
        EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
        ++refused;
      }
      // The piece lies in one extent, its scales in another or in the same.
      EXPECT_GE(refused, 1);
      EXPECT_LE(refused, 2);
      return;
    }
  }
}

}  // namespace
}  // namespace zerocast
