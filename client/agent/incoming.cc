#include "client/agent/incoming.h"

#include "kernels/base/status_macros.h"

namespace zerocast {
namespace {

// What one thread unpacks at a time.
constexpr int64_t kPartBytes = int64_t{2} << 20;

}  // namespace

absl::StatusOr<std::vector<Piece>*> Incoming::Reset(const Destination& destination) {
  ZC_RETURN_IF_ERROR(Wait(destination));
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

absl::Status Incoming::StartUnpack(const Destination& destination, int64_t number) {
  if (destination.device != nullptr) return StartOnDevice(destination, number);
  parts_ = CutMessage(*destination.plan, pieces_, destination.arenas.first_rank, kPartBytes);
  destination.pool->Start(&unpacking_, parts_.size(), [this, &destination](size_t k) {
    absl::Status status;
    UnpackPart(*destination.plan, memory_, pieces_, parts_[k], destination.arenas,
               [&destination, &status](const BoxCopy& copy) {
                 if (status.ok()) status = destination.fresh->Run(copy).status();
               });
    return status;
  });
  return absl::OkStatus();
}

absl::Status Incoming::StartOnDevice(const Destination& destination, int64_t number) {
  std::vector<BoxCopy> copies;
  for (const MessagePart& part :
       CutMessage(*destination.plan, pieces_, destination.arenas.first_rank, num_bytes_)) {
    UnpackPart(*destination.plan, memory_, pieces_, part, destination.arenas,
               [&copies](const BoxCopy& copy) { copies.push_back(copy); });
  }
  const size_t place = destination.first_place + static_cast<size_t>(number) % kUnpackingPlaces;
  ZC_RETURN_IF_ERROR(destination.device->Acquire(place, 0, destination.timeout).status());
  return destination.device->Start(place, 0, copies, destination.timeout);
}

absl::Status Incoming::Wait(const Destination& destination) {
  return destination.pool == nullptr ? absl::OkStatus() : destination.pool->Wait(&unpacking_);
}

}  // namespace zerocast
