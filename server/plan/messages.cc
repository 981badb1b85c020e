#include "server/plan/messages.h"

#include <algorithm>
#include <vector>

#include "server/plan/reads.h"
#include "server/plan/round_exchange.h"

namespace zerocast {
namespace {

// The bytes of one node's messages, round by round.
class Messages {
 public:
  Messages(const Plan& plan, const Schedule& schedule, int32_t node)
      : plan_(plan), schedule_(schedule), node_(node), first_ranks_(FirstRanks(plan.layout)) {}

  void Add(int64_t round) {
    int64_t sends = 0, receives = 0;
    for (int32_t reader = 0; reader < plan_.layout.num_nodes; ++reader) {
      const RoundExchange exchange(plan_, schedule_, round, reader);
      const int64_t broadcast = BroadcastBytes(plan_, exchange.broadcast_pieces());
      if (reader != node_) {
        receives += AlignedMessage(BytesFor(exchange, node_));
        if (broadcast > 0) Raise(&buffers_.broadcasts[num_broadcasts_ % 2], broadcast);
      } else {
        for (int32_t to = 0; to < plan_.layout.num_nodes; ++to) {
          if (to != node_) sends += AlignedMessage(BytesFor(exchange, to));
        }
        sends += broadcast;
      }
      if (broadcast > 0) ++num_broadcasts_;
    }
    Raise(&buffers_.outgoing[round % 2], sends);
    Raise(&buffers_.incoming[round % 2], receives);
  }

  const ExchangeBuffers& buffers() const { return buffers_; }

 private:
  static void Raise(int64_t* most, int64_t value) { *most = std::max(*most, value); }

  int64_t BytesFor(const RoundExchange& exchange, int32_t to) {
    pieces_.clear();
    exchange.AppendMessagePieces(to, &pieces_);
    return MessageBytes(plan_, pieces_, first_ranks_[static_cast<size_t>(to)]);
  }

  const Plan& plan_;
  const Schedule& schedule_;
  const int32_t node_;
  const std::vector<int32_t> first_ranks_;  // by node
  std::vector<Piece> pieces_;
  ExchangeBuffers buffers_;
  int64_t num_broadcasts_ = 0;
};

}  // namespace

bool InMessage(const Plan& plan, const Piece& piece, int32_t first_rank) {
  const Target& target = plan.targets[static_cast<size_t>(piece.target)];
  if (!target.partitioned) return piece.rank == first_rank;
  if (target.secondary_elements == 0) return true;
  const int32_t group_size = SecondaryGroupSize(plan.layout);
  if (piece.secondary) return piece.rank < first_rank + group_size;
  // A block is made of whole primary partitions.
  const int64_t block = int64_t{piece.rank} * target.partition_elements / target.secondary_elements;
  const int64_t holder = FirstRankOfBlock(block, group_size, first_rank);
  const std::vector<int32_t>& nodes = plan.layout.node_of_rank;
  return holder >= plan.layout.world_size ||
         nodes[static_cast<size_t>(holder)] != nodes[static_cast<size_t>(piece.rank)];
}

int64_t MessageBytes(const Plan& plan, absl::Span<const Piece> pieces, int32_t first_rank) {
  int64_t num_bytes = 0;
  for (const Piece& piece : pieces) {
    if (InMessage(plan, piece, first_rank)) num_bytes += WireBytes(plan, piece);
  }
  return num_bytes;
}

int64_t BroadcastBytes(const Plan& plan, absl::Span<const Piece> pieces) {
  int64_t num_bytes = 0;
  for (const Piece& piece : pieces) num_bytes += WireBytes(plan, piece);
  return num_bytes;
}

ExchangeBuffers ComputeExchangeBuffers(const Plan& plan, const Schedule& schedule, int32_t node) {
  if (!NeedsExchange(plan.layout)) return {};
  Messages messages(plan, schedule, node);
  for (int64_t round = 0; round < schedule.num_rounds(); ++round) messages.Add(round);
  return messages.buffers();
}

}  // namespace zerocast
