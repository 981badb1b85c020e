#include "client/agent/incoming.h"

namespace zerocast {
namespace {

// What one thread unpacks at a time.
constexpr int64_t kPartBytes = int64_t{2} << 20;

}  // namespace

std::vector<Piece>* Incoming::Reset(const Destination& destination) {
  Wait(destination);
  pieces_.clear();
  parts_.clear();
  num_bytes_ = 0;
  return &pieces_;
}

int64_t Incoming::Expect(const Destination& destination) {
  const int32_t first_rank = destination.arenas.first_rank;
  for (const Piece& piece : pieces_) {
    if (piece.rank < 0 || InMessage(*destination.plan, piece, first_rank)) {
      num_bytes_ += WireBytes(*destination.plan, piece);
    }
  }
  return num_bytes_;
}

void Incoming::StartUnpack(const Destination& destination) {
  parts_ = CutMessage(*destination.plan, pieces_, destination.arenas.first_rank, kPartBytes);
  destination.pool->Start(&unpacking_, parts_.size(), [this, &destination](size_t k) {
    UnpackPart(*destination.plan, memory_, pieces_, parts_[k], destination.arenas,
               [&destination](const char* begin, int64_t num_bytes) {
                 destination.fresh->Make(begin, num_bytes);
               });
  });
}

void Incoming::Wait(const Destination& destination) { destination.pool->Wait(&unpacking_); }

}  // namespace zerocast
