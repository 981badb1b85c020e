#include "client/agent/memory_needs.h"

#include <algorithm>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/agent/buffer.h"
#include "client/agent/chunks.h"
#include "client/agent/placement.h"
#include "server/base/errors.h"
#include "server/plan/round_exchange.h"

namespace zerocast {
namespace {

// More at once does not read faster, and leaves the caches before it is copied.
constexpr int64_t kMostChunkBytes = int64_t{4} << 20;
constexpr int64_t kLeastChunkBytes = int64_t{64} << 10;

bool Transposes(const Plan& plan) {
  for (const Target& target : plan.targets) {
    if (std::any_of(target.boxes.begin(), target.boxes.end(), IsTransposed)) return true;
  }
  return false;
}

// The bytes of one node's messages, round by round.
class Messages {
 public:
  Messages(const Plan& plan, const Schedule& schedule, int32_t node)
      : plan_(plan), schedule_(schedule), node_(node) {
    for (int32_t other = 0; other < plan.layout.num_nodes; ++other) {
      first_ranks_.push_back(RanksOfNode(plan.layout, other).first);
    }
  }

  void Add(int64_t round) {
    int64_t sends = 0, receives = 0;
    for (int32_t reader = 0; reader < plan_.layout.num_nodes; ++reader) {
      const RoundExchange exchange(plan_, schedule_, round, reader);
      const int64_t broadcast = BroadcastBytes(plan_, exchange.broadcast_pieces());
      if (reader != node_) {
        receives += AlignedMessage(BytesFor(exchange, node_));
        if (broadcast > 0) Raise(&broadcasts_[num_broadcasts_ % 2], broadcast);
      } else {
        for (int32_t to = 0; to < plan_.layout.num_nodes; ++to) {
          if (to != node_) sends += AlignedMessage(BytesFor(exchange, to));
        }
        sends += broadcast;
      }
      if (broadcast > 0) ++num_broadcasts_;
    }
    Raise(&sends_[round % 2], sends);
    Raise(&receives_[round % 2], receives);
  }

  int64_t sending() const { return sends_[0] + sends_[1]; }
  int64_t receiving() const {
    return receives_[0] + receives_[1] + broadcasts_[0] + broadcasts_[1];
  }

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
  std::vector<int32_t> first_ranks_;  // by node
  std::vector<Piece> pieces_;
  // As the executor's buffers: two of each, by turns.
  int64_t sends_[2] = {}, receives_[2] = {}, broadcasts_[2] = {};
  int64_t num_broadcasts_ = 0;
};

}  // namespace

int ReadingThreads(int wanted) {
  constexpr unsigned kMost = 16;
  if (wanted > 0) return wanted;
  return static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, kMost));
}

int64_t ChunkBytes(const Layout& layout, int num_threads, int64_t max_buffer_bytes) {
  // What is read in two rounds and what comes in them: three quarters; a load without exchange
  // leaves half of it unused.
  const int64_t share = max_buffer_bytes / (NeedsExchange(layout) ? 4 : 2);
  return std::clamp(share / (num_threads * kChunksUnderWay * kTransposedChunks), kLeastChunkBytes,
                    kMostChunkBytes);
}

MemoryNeeds ComputeMemoryNeeds(const Plan& plan, const Schedule& schedule, int32_t node,
                               int num_threads, int64_t chunk_bytes) {
  MemoryNeeds needs;
  const auto [first, last] = RanksOfNode(plan.layout, node);
  needs.arenas = plan.arena_bytes * (last - first);
  if (schedule.ReadBytes(node) > 0) {
    needs.reading =
        num_threads * kChunksUnderWay * chunk_bytes * (Transposes(plan) ? kTransposedChunks : 1);
  }
  if (!NeedsExchange(plan.layout)) return needs;
  Messages messages(plan, schedule, node);
  for (int64_t round = 0; round < schedule.num_rounds(); ++round) messages.Add(round);
  needs.sending = messages.sending();
  needs.receiving = messages.receiving();
  return needs;
}

absl::Status CheckBuffers(const MemoryNeeds& needs, const Layout& layout,
                          int64_t max_buffer_bytes) {
  if (needs.buffers() <= max_buffer_bytes) return absl::OkStatus();
  return WithReason(
      absl::ResourceExhaustedError(absl::StrCat(
          "plan the buffers: ", needs.buffers(), " bytes (", needs.reading, " to read, ",
          needs.sending, " to send, ", needs.receiving, " to receive, with rounds of ",
          layout.round_bytes, "), more than --max-buffer-memory ", max_buffer_bytes,
          "; allow more, or load with a smaller --max-buffer-memory, which makes smaller rounds")),
      "RESOURCE_EXHAUSTED");
}

}  // namespace zerocast
