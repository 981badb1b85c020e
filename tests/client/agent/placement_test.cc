// What a message holds, on random plans.

#include "client/agent/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "client/agent/chunks.h"
#include "kernels/copy/algebra.h"
#include "tests/server/plan/random_plan.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

constexpr int kPlans = 250;

bool operator==(const Piece& a, const Piece& b) {
  return a.target == b.target && a.source == b.source && a.box == b.box &&
         a.target_base == b.target_base && a.rank == b.rank && a.secondary == b.secondary;
}

// No element of a target with secondary partitions is in the message twice.
void ExpectCarriesBlocksOnce(const Plan& plan, const std::vector<Piece>& pieces, int32_t first_rank,
                             int64_t* left_out) {
  std::vector<const Piece*> carried;
  for (const Piece& piece : pieces) {
    if (plan.targets[piece.target].secondary_elements == 0) continue;
    if (!InMessage(plan, piece, first_rank)) {
      ++*left_out;
      continue;
    }
    for (const Piece* other : carried) {
      EXPECT_FALSE(other->target == piece.target && TargetsOverlap(other->box, piece.box));
    }
    carried.push_back(&piece);
  }
}

// The message of `pieces`, unpacked by the rule of placement.h, is `pieces` again; those of targets
// with secondary partitions are left out.
void ExpectCarriesWhatEveryRankHoldsOnce(const Plan& plan, int32_t node,
                                         std::vector<Piece> pieces) {
  pieces.erase(std::remove_if(pieces.begin(), pieces.end(),
                              [&plan](const Piece& piece) {
                                return plan.targets[piece.target].secondary_elements > 0;
                              }),
               pieces.end());
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
  int64_t replicated = 0, left_out = 0;
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
        ExpectCarriesBlocksOnce(plan, pieces, RanksOfNode(plan.layout, node).first, &left_out);
        replicated += std::count_if(pieces.begin(), pieces.end(),
                                    [&](const Piece& piece) { return IsReplicated(plan, piece); });
      }
    }
  }
  EXPECT_GT(replicated, 100);
  EXPECT_GT(left_out, 100) << "partitions within blocks that the node gets anyway";
}

// The bytes of `extents`, extent behind extent.
std::string ReadExtents(absl::Span<const Extent> extents, const std::vector<std::string>& files) {
  std::string data;
  for (const Extent& extent : extents) {
    data += files[extent.file].substr(extent.begin, extent.end - extent.begin);
  }
  return data;
}

// Runs a plan on all nodes, message by message.
class Nodes {
 public:
  Nodes(const Plan& plan, const Schedule& schedule, const std::vector<std::string>& files,
        int64_t chunk_bytes)
      : plan_(plan), schedule_(schedule), files_(files), chunk_bytes_(chunk_bytes) {
    arenas_.assign(plan.layout.world_size, std::string(plan.arena_bytes, '\0'));
    for (std::string& arena : arenas_) pointers_.push_back(arena.data());
  }

  void Scatter() {
    for (int64_t round = 0; round < schedule_.num_rounds(); ++round) {
      for (int32_t reader = 0; reader < plan_.layout.num_nodes; ++reader) {
        std::vector<Move> moves = OwnMoves(round, reader);
        std::vector<std::string> messages(plan_.layout.num_nodes);
        for (int32_t node = 0; node < plan_.layout.num_nodes; ++node) {
          if (node == reader) continue;
          const std::vector<Piece> pieces = Pieces(round, reader, node);
          const int32_t first_rank = ArenasOf(node).first_rank;
          messages[node].resize(MessageBytes(plan_, pieces, first_rank));
          AppendMessageMoves(plan_, pieces, first_rank, messages[node].data(), &moves);
        }
        Run(round, reader, std::move(moves));
        for (int32_t node = 0; node < plan_.layout.num_nodes; ++node) {
          if (node == reader) continue;
          UnpackMessage(plan_, messages[node].data(), Pieces(round, reader, node), ArenasOf(node));
        }
      }
    }
  }

  void Broadcast() {
    for (int64_t round = 0; round < schedule_.num_rounds(); ++round) {
      for (int32_t reader = 0; reader < plan_.layout.num_nodes; ++reader) {
        std::vector<Move> moves = OwnMoves(round, reader);
        std::vector<Piece> pieces;
        schedule_.WholePieces(round, reader, &pieces);
        std::string message(BroadcastBytes(plan_, pieces), '\0');
        AppendBroadcastMoves(plan_, pieces, message.data(), &moves);
        Run(round, reader, std::move(moves));
        for (int32_t node = 0; node < plan_.layout.num_nodes; ++node) {
          if (node != reader) UnpackBroadcast(plan_, message.data(), pieces, ArenasOf(node));
        }
      }
    }
  }

  int64_t direct_bytes() const { return direct_bytes_; }
  int64_t copied_bytes() const { return copied_bytes_; }

  // Every rank holds its part of each target, and zeros behind it.
  void ExpectArenas(const std::vector<std::string>& targets) const {
    for (int32_t rank = 0; rank < plan_.layout.world_size; ++rank) {
      for (size_t t = 0; t < targets.size(); ++t) {
        const Target& target = plan_.targets[t];
        for (const bool secondary : {false, true}) {
          if (secondary && target.secondary_elements == 0) continue;
          const std::string expected = NaivePartition(plan_, target, targets[t], rank, secondary);
          const int64_t offset = secondary ? target.secondary_offset : target.arena_offset;
          EXPECT_TRUE(arenas_[rank].substr(offset, expected.size()) == expected)
              << target.name << " of rank " << rank << (secondary ? ", secondary" : "");
        }
      }
    }
  }

 private:
  NodeArenas ArenasOf(int32_t node) const {
    const auto [first, end] = RanksOfNode(plan_.layout, node);
    return {first, absl::MakeConstSpan(pointers_).subspan(first, end - first)};
  }

  std::vector<Piece> Pieces(int64_t round, int32_t reader, int32_t node) const {
    std::vector<Piece> pieces;
    schedule_.Pieces(round, reader, node, &pieces);
    return pieces;
  }

  std::vector<Move> OwnMoves(int64_t round, int32_t node) const {
    std::vector<Move> moves;
    AppendArenaMoves(plan_, Pieces(round, node, node), ArenasOf(node), &moves);
    return moves;
  }

  // Reads what `reader` reads in `round`, chunk by chunk, and lets it go its ways.
  void Run(int64_t round, int32_t reader, std::vector<Move> moves) {
    ZC_ASSERT_OK_AND_ASSIGN(const RoundMoves round_moves,
                            RoundMoves::Create(plan_, schedule_.Reads(round, reader), moves,
                                               chunk_bytes_, 1 + chunk_bytes_ / 4));
    const std::string scales = ReadExtents(round_moves.scales(), files_);
    int64_t chunk_bytes = 0;
    ChunkWork work;
    for (const Extent& chunk : round_moves.chunks()) {
      std::string buffer(round_moves.buffer_bytes(), '\x55');
      work.Plan(round_moves, chunk, buffer.data());
      int64_t at = chunk.begin;
      for (const struct iovec& piece : work.pieces()) {
        std::memcpy(piece.iov_base, files_[chunk.file].data() + at, piece.iov_len);
        at += static_cast<int64_t>(piece.iov_len);
        const bool buffered =
            piece.iov_base >= buffer.data() && piece.iov_base < buffer.data() + buffer.size();
        (buffered ? copied_bytes_ : direct_bytes_) += static_cast<int64_t>(piece.iov_len);
      }
      ASSERT_EQ(at, chunk.end);
      work.Copy(scales.data());
      chunk_bytes += chunk.end - chunk.begin;
    }
    // Together they are what is read.
    ASSERT_EQ(chunk_bytes + TotalBytes(round_moves.scales()),
              TotalBytes(schedule_.Reads(round, reader)));
  }

  const Plan& plan_;
  const Schedule& schedule_;
  const std::vector<std::string>& files_;
  const int64_t chunk_bytes_;
  int64_t direct_bytes_ = 0, copied_bytes_ = 0;
  std::vector<std::string> arenas_;
  std::vector<char*> pointers_;
};

TEST(PlacementTest, MessagesAndBroadcastsFillEveryPartition) {
  const uint64_t seed = TestSeed();
  int decoded = 0;
  int64_t direct_bytes = 0, copied_bytes = 0;
  for (int i = 0; i < kPlans && !HasFailure(); ++i) {
    SCOPED_TRACE("plan " + std::to_string(i) + " of ZC_SEED=" + std::to_string(seed));
    Random random(seed + static_cast<uint64_t>(i));
    const Plan plan = RandomPlan(&random, RandomLayout(&random));
    ZC_ASSERT_OK_AND_ASSIGN(const Schedule schedule, Schedule::Create(plan));
    const std::vector<std::string> files = RandomFiles(&random, *plan.manifest);
    const std::vector<std::string> targets = NaiveTargets(plan, files);
    // As large as a round, and so small that they cut whatever can be cut.
    const int64_t chunk_bytes = i % 2 == 0 ? plan.layout.round_bytes : random.Between(1, 64);
    Nodes scattered(plan, schedule, files, chunk_bytes);
    scattered.Scatter();
    scattered.ExpectArenas(targets);
    direct_bytes += scattered.direct_bytes();
    copied_bytes += scattered.copied_bytes();
    decoded += plan.decoders.empty() ? 0 : 1;
    if (plan.layout.read_mode == ReadMode::kLocal) continue;
    Nodes broadcast(plan, schedule, files, chunk_bytes);
    broadcast.Broadcast();
    broadcast.ExpectArenas(targets);
  }
  EXPECT_GT(direct_bytes, 10'000);
  EXPECT_GT(copied_bytes, 10'000);
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
        std::vector<Move> moves;
        AppendArenaMoves(plan, {piece}, {0, pointers}, &moves);
        const absl::Status status = RoundMoves::Create(plan, rest, moves, 1 << 20).status();
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
