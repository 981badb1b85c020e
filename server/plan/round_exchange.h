#ifndef ZEROCAST_SERVER_PLAN_ROUND_EXCHANGE_H_
#define ZEROCAST_SERVER_PLAN_ROUND_EXCHANGE_H_

#include <cstdint>
#include <vector>

#include "server/plan/plan.h"
#include "server/plan/schedule.h"

namespace zerocast {

// What `reader` sends in one round: a message to each other node with what only that one's ranks
// need, and a broadcast with what all need.  Little of what every rank holds whole goes along in
// the messages: a broadcast more costs more than its bytes.
//
// Derived from the plan alone, so that all nodes agree.  Immutable; keeps references to plan and
// schedule.
class RoundExchange {
 public:
  // Less than this of a reader's round goes along in the messages: a broadcast more is a call more
  // on each node.  Where both take as long (tests/bench/comm_bench: 4 and 8 nodes over loopback).
  static constexpr int64_t kLeastBroadcastBytes = int64_t{1} << 20;

  RoundExchange(const Plan& plan, const Schedule& schedule, int64_t round, int32_t reader,
                int64_t least_broadcast_bytes = kLeastBroadcastBytes);

  // Appends the pieces in the message for node `to`.  A target that every rank holds whole comes
  // once for each of that node's ranks, as in Schedule::Pieces.
  void AppendMessagePieces(int32_t to, std::vector<Piece>* out) const;

  // The pieces, not cut to ranks, of the broadcast; empty where there is none.
  const std::vector<Piece>& broadcast_pieces() const { return broadcast_; }

 private:
  const Plan& plan_;
  const Schedule& schedule_;
  const int64_t round_;
  const int32_t reader_;
  std::vector<Piece> broadcast_;
};

// True when a load of this layout sends bytes between nodes.
bool NeedsExchange(const Layout& layout);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_PLAN_ROUND_EXCHANGE_H_
