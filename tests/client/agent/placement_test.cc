// What a message holds, on random plans.

#include "client/agent/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "client/agent/chunks.h"
#include "kernels/copy/algebra.h"
#include "server/plan/round_exchange.h"
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

  // What every rank holds whole is broadcast where a round has `least_broadcast_bytes` of it.
  void Load(int64_t least_broadcast_bytes) {
    for (int64_t round = 0; round < schedule_.num_rounds(); ++round) {
      for (int32_t reader = 0; reader < plan_.layout.num_nodes; ++reader) {
        const RoundExchange exchange(plan_, schedule_, round, reader, least_broadcast_bytes);
        std::vector<Move> moves = OwnMoves(round, reader);
        std::vector<std::string> messages(plan_.layout.num_nodes);
        for (int32_t node = 0; node < plan_.layout.num_nodes; ++node) {
          if (node == reader) continue;
          const std::vector<Piece> pieces = MessagePieces(exchange, node);
          const int32_t first_rank = ArenasOf(node).first_rank;
          messages[node].resize(MessageBytes(plan_, pieces, first_rank));
          message_bytes_ += static_cast<int64_t>(messages[node].size());
          AppendMessageMoves(plan_, pieces, first_rank, messages[node].data(), &moves);
        }
        const std::vector<Piece>& for_all = exchange.broadcast_pieces();
        std::string broadcast(BroadcastBytes(plan_, for_all), '\0');
        broadcast_bytes_ += static_cast<int64_t>(broadcast.size());
        AppendBroadcastMoves(plan_, for_all, broadcast.data(), &moves);
        Run(round, reader, std::move(moves));
        for (int32_t node = 0; node < plan_.layout.num_nodes; ++node) {
          if (node == reader) continue;
          Unpack(messages[node], MessagePieces(exchange, node), ArenasOf(node));
          Unpack(broadcast, for_all, ArenasOf(node));
        }
      }
    }
  }

  int64_t message_bytes() const { return message_bytes_; }
  int64_t broadcast_bytes() const { return broadcast_bytes_; }
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

  static std::vector<Piece> MessagePieces(const RoundExchange& exchange, int32_t to) {
    std::vector<Piece> pieces;
    exchange.AppendMessagePieces(to, &pieces);
    return pieces;
  }

  // Part by part, the last one first: they do not depend on each other.
  void Unpack(const std::string& message, const std::vector<Piece>& pieces,
              const NodeArenas& arenas) const {
    std::vector<MessagePart> parts =
        CutMessage(plan_, pieces, arenas.first_rank, 1 + chunk_bytes_ / 3);
    std::reverse(parts.begin(), parts.end());
    for (const MessagePart& part : parts) {
      UnpackPart(plan_, message.data(), pieces, part, arenas, [&arenas, this](const BoxCopy& copy) {
        const int64_t size = SizeOf(copy.target_dtype);
        const char* const begin = copy.target + copy.box.target_offset * size;
        const char* const end = copy.target + TargetEnd(copy.box) * size;
        for (const char* const arena : arenas.data) {
          if (begin < arena || end > arena + plan_.arena_bytes) continue;
          RunBoxCopy(copy);
          return;
        }
        ADD_FAILURE() << "writes outside of the arenas";
      });
    }
  }

  std::vector<Move> OwnMoves(int64_t round, int32_t node) const {
    std::vector<Move> moves;
    AppendArenaMoves(plan_, Pieces(round, node, node), ArenasOf(node), &moves);
    return moves;
  }

  // Each chunk is in one group, and those that one rank alone needs are in that rank's.
  static void CheckGroups(const RoundMoves& moves) {
    size_t grouped = 0;  // chunks
    std::map<int32_t, size_t> group_of_rank;
    std::map<size_t, int32_t> rank_of_group;
    for (size_t group = 0; group < moves.groups().size(); ++group) {
      const auto [first, end] = moves.groups()[group];
      ASSERT_EQ(first, grouped);
      ASSERT_GT(end, first);
      grouped = end;
      for (size_t k = first; k < end; ++k) {
        const Extent& chunk = moves.chunks()[k];
        std::set<int32_t> ranks;
        for (const PlacedMove& placed : moves.moves()) {
          if (placed.file == chunk.file && placed.begin < chunk.end && chunk.begin < placed.end) {
            ranks.insert(placed.move.rank);
          }
        }
        if (ranks.size() != 1) continue;
        EXPECT_EQ(group_of_rank.emplace(*ranks.begin(), group).first->second, group);
        EXPECT_EQ(rank_of_group.emplace(group, *ranks.begin()).first->second, *ranks.begin());
      }
    }
    ASSERT_EQ(grouped, moves.chunks().size());
  }

  // Reads what `reader` reads in `round`, chunk by chunk, and lets it go its ways.
  void Run(int64_t round, int32_t reader, std::vector<Move> moves) {
    ZC_ASSERT_OK_AND_ASSIGN(const RoundMoves round_moves,
                            RoundMoves::Create(plan_, schedule_.Reads(round, reader), moves,
                                               chunk_bytes_, 1 + chunk_bytes_ / 4));
    CheckGroups(round_moves);
    const std::string scales = ReadExtents(round_moves.scales(), files_);
    int64_t chunk_bytes = 0;
    ChunkWork work;
    for (const Extent& chunk : round_moves.chunks()) {
      std::string buffer(round_moves.buffer_bytes(), '\x55');
      work.Plan(round_moves, chunk, buffer.data(), [](const char*, int64_t) { return true; });
      int64_t at = chunk.begin;
      for (const struct iovec& piece : work.pieces()) {
        std::memcpy(piece.iov_base, files_[chunk.file].data() + at, piece.iov_len);
        at += static_cast<int64_t>(piece.iov_len);
        const bool buffered =
            piece.iov_base >= buffer.data() && piece.iov_base < buffer.data() + buffer.size();
        (buffered ? copied_bytes_ : direct_bytes_) += static_cast<int64_t>(piece.iov_len);
      }
      ASSERT_EQ(at, chunk.end);
      for (const BoxCopy& copy : work.Copies(scales.data())) RunBoxCopy(copy);
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
  int64_t message_bytes_ = 0, broadcast_bytes_ = 0;
  std::vector<std::string> arenas_;
  std::vector<char*> pointers_;
};

TEST(PlacementTest, MessagesAndBroadcastsFillEveryPartition) {
  const uint64_t seed = TestSeed();
  int decoded = 0, with_both = 0;
  int64_t direct_bytes = 0, copied_bytes = 0;
  for (int i = 0; i < kPlans && !HasFailure(); ++i) {
    SCOPED_TRACE("plan " + std::to_string(i) + " of ZC_SEED=" + std::to_string(seed));
    Random random(seed + static_cast<uint64_t>(i));
    Plan plan = RandomPlan(&random, RandomLayout(&random));
    const std::vector<std::string> files = RandomFiles(&random, *plan.manifest);
    const std::vector<std::string> targets = NaiveTargets(plan, files);
    // As large as a round, and so small that they cut whatever can be cut.
    const int64_t chunk_bytes = i % 2 == 0 ? plan.layout.round_bytes : random.Between(1, 64);
    for (const MoveMode mode : {MoveMode::kScatter, MoveMode::kBroadcast}) {
      plan.layout.move_mode = mode;
      ZC_ASSERT_OK_AND_ASSIGN(const Schedule schedule, Schedule::Create(plan));
      Nodes nodes(plan, schedule, files, chunk_bytes);
      nodes.Load(random.OneIn(2) ? 1 : random.Between(1, 1000));
      nodes.ExpectArenas(targets);
      if (mode == MoveMode::kBroadcast) {
        EXPECT_EQ(nodes.message_bytes(), 0);
        continue;
      }
      direct_bytes += nodes.direct_bytes();
      copied_bytes += nodes.copied_bytes();
      with_both += nodes.message_bytes() > 0 && nodes.broadcast_bytes() > 0 ? 1 : 0;
    }
    decoded += plan.decoders.empty() ? 0 : 1;
  }
  EXPECT_GT(with_both, 5) << "plans that send messages and broadcasts";
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
