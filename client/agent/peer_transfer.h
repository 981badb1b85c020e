#ifndef ZEROCAST_CLIENT_AGENT_PEER_TRANSFER_H_
#define ZEROCAST_CLIENT_AGENT_PEER_TRANSFER_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "client/agent/messages.h"
#include "client/agent/rate_limit.h"
#include "kernels/comm/communicator.h"

namespace zerocast {

// A part of one shard that moves in one round.
struct TransferPiece {
  int32_t rank = 0;
  int32_t donor = 0;
  int32_t taker = 0;
  int64_t begin = 0;  // bytes of the arena
  int64_t end = 0;
};

// Which part of which shard moves when.  All participants derive the same from the same transfers.
// In a round a pair of donor and taker moves one piece of one shard, and a participant sends at
// most round_bytes (a page a taker at least), and receives no more.  Pure.
class TransferSchedule {
 public:
  // Errors: INVALID_ARGUMENT for a participant out of range, one that gives to itself, a rank that
  // comes twice, or a size that is not positive (arena_bytes may be 0).
  static absl::StatusOr<TransferSchedule> Create(const std::vector<ShardTransfer>& transfers,
                                                 int32_t num_participants, int64_t arena_bytes,
                                                 int64_t round_bytes);

  int64_t num_rounds() const { return num_rounds_; }
  std::vector<TransferPiece> Pieces(int64_t round) const;

 private:
  TransferSchedule() = default;
  struct Pair {
    int32_t donor = 0;
    int32_t taker = 0;
    std::vector<int32_t> ranks;  // ascending; one after the other
  };
  std::vector<Pair> pairs_;  // by donor and taker
  int64_t arena_bytes_ = 0;
  int64_t piece_bytes_ = 0;
  int64_t pieces_of_shard_ = 0;
  int64_t num_rounds_ = 0;
};

struct TransferProgress {
  int64_t round = 0;  // rounds done
  int64_t num_rounds = 0;
  int64_t bytes_sent = 0;
  int64_t bytes_received = 0;
};

struct TransferOptions {
  PeerTransfers peers;
  int64_t arena_bytes = 0;  // of one rank
  int64_t round_bytes = 0;
  // By rank: the arenas that this participant gives or takes.  Given ones are only read.
  std::map<int32_t, char*> arenas;
  Communicator* communicator = nullptr;   // of the participants
  absl::Duration round_timeout;           // the longest that one round may last
  std::shared_ptr<RateLimit> send_limit;  // null: none
  const std::atomic<bool>* cancelled = nullptr;
  // Called after every round on the calling thread; may be null.
  std::function<void(const TransferProgress&)> on_round;
};

// Moves the shards: sent from the donor's arena, received into the taker's, nothing between. Blocks
// until the end; after an error the taken arenas hold anything and the communicator is aborted.
// Errors:
//   CANCELLED         the flag was set; reason CANCELLED.
//   INVALID_ARGUMENT  as TransferSchedule::Create, or an arena is not there.
//   others            those of Communicator::Exchange, with the participants' names; reason
//                     EXCHANGE_FAILED.
absl::Status TransferShards(const TransferOptions& options, TransferProgress* progress);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_PEER_TRANSFER_H_
