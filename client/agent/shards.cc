#include "client/agent/shards.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

// Copied at once, between two looks whether it shall stop.
constexpr int64_t kCopyBytes = int64_t{64} << 20;

// Takes the same time wherever the two differ.
bool SameToken(absl::string_view a, absl::string_view b) {
  unsigned char difference = a.size() == b.size() ? 0 : 1;
  for (size_t k = 0; k < a.size() && k < b.size(); ++k) {
    difference |= static_cast<unsigned char>(a[k] ^ b[k]);
  }
  return difference == 0;
}

}  // namespace

ShardIndex MakeShardIndex(const std::string& load, const Plan& plan) {
  ShardIndex index;
  index.load = load;
  index.world_size = plan.layout.world_size;
  index.plan_digest = plan.digest;
  index.secondary_group_size = SecondaryGroupSize(plan.layout);
  index.for_devices = LieOnDevices(plan.layout);
  for (const Target& target : plan.targets) {
    ShardIndex::Entry entry;
    entry.name = target.name;
    entry.shape = target.shape;
    entry.dtype = target.dtype;
    entry.offset = target.arena_offset;
    entry.elements = target.partition_elements;
    entry.num_elements = target.num_elements;
    entry.partitioned = target.partitioned;
    entry.secondary_elements = target.secondary_elements;
    entry.secondary_offset = target.secondary_offset;
    entry.is_buffer = target.is_buffer;
    entry.is_state = target.is_state;
    entry.is_filled = target.is_filled;
    entry.aliases = target.aliases;
    index.targets.push_back(std::move(entry));
  }
  return index;
}

ShardBook::ShardBook(ShardIndex index, std::string token, int32_t first_rank,
                     std::vector<ShardLease> shards)
    : index_(std::make_shared<const ShardIndex>(std::move(index))),
      token_(std::move(token)),
      first_rank_(first_rank) {
  for (ShardLease& shard : shards) {
    Slot slot;
    slot.num_bytes = shard.arena().num_bytes();
    slot.shard = std::move(shard);
    slots_.push_back(std::move(slot));
  }
}

absl::Status ShardBook::WrongState(int32_t rank, absl::string_view what) const {
  return WithReason(absl::FailedPreconditionError(
                        absl::StrCat("attach to rank ", rank, " of ", index_->load, ": ", what)),
                    "WRONG_STATE");
}

absl::Status ShardBook::Reserve(Slot* slot, int32_t rank, AttachMode wanted, AttachMode* mode) {
  *mode = AttachMode::kPrivate;
  if (slot->state == State::kOffered) {
    return WrongState(rank, "it is being handed over to another process");
  }
  const bool on_device = slot->shard.arena().device() != nullptr;
  if (wanted == AttachMode::kPrivate && on_device) {
    return WrongState(rank,
                      "it lies on a device, whose memory cannot be mapped privately; attach with "
                      "mode shared");
  }
  if (wanted == AttachMode::kPrivate) return absl::OkStatus();
  absl::Status status;
  if (slot->state == State::kPrivate) {
    status = WrongState(rank, "other processes hold it privately; attach with mode private");
  } else if (slot->private_offers > 0) {
    status = WrongState(rank, "it is being handed over to another process");
  } else {
    status = slot->shard.TakeOut();
    if (!status.ok()) status = WrongState(rank, status.message());
  }
  if (status.ok()) {
    *mode = AttachMode::kShared;
  } else if (wanted == AttachMode::kAuto && !on_device) {
    return absl::OkStatus();
  }
  return status;
}

absl::Status ShardBook::FillFromDevice(const DeviceMemory& device, ShardOffer* offer) const {
  const DeviceTicket& ticket = device.ticket();
  offer->way = ticket.way;
  offer->because = device.because();
  offer->device_uuid = device.device_uuid();
  if (ticket.way == "host_copy") return absl::OkStatus();
  offer->allocation_bytes = ticket.allocation_bytes;
  offer->handle = ticket.handle;
  offer->trial = device.trial();
  if (ticket.way == "cuda_ipc") offer->lent = std::make_shared<ShardLease>();
  if (offer->trial.ticket.fd < 0) return absl::OkStatus();
  offer->trial_fd = UniqueFd(::fcntl(offer->trial.ticket.fd, F_DUPFD_CLOEXEC, 0));
  if (offer->trial_fd.valid()) return absl::OkStatus();
  return ErrnoStatus(
      errno, absl::StrCat("attach to rank ", offer->rank, " of ", index_->load, " for trial"));
}

absl::StatusOr<ShardOffer> ShardBook::Offer(int32_t rank, absl::string_view token, AttachMode mode,
                                            const std::function<bool()>& stopped) {
  if (token_.empty() || !SameToken(token_, token)) {
    return WithReason(absl::PermissionDeniedError(
                          absl::StrCat("attach to ", index_->load, ": the token is not the job's")),
                      "PERMISSION_DENIED");
  }
  ShardOffer offer;
  offer.index = index_;
  offer.rank = rank;
  const Arena* on_device = nullptr;  // to be copied; nobody else gets at it while it is offered
  {
    MutexLock lock(&mutex_);
    ZC_ASSIGN_OR_RETURN(Slot* const slot, FindLocked(rank));
    const Arena& arena = slot->shard.arena();
    const DeviceMemory* const device = arena.device();
    if (arena.fd() >= 0) {
      offer.fd = UniqueFd(::fcntl(arena.fd(), F_DUPFD_CLOEXEC, 0));
      if (!offer.fd.valid()) {
        return ErrnoStatus(errno, absl::StrCat("attach to rank ", rank, " of ", index_->load));
      }
    }
    if (device != nullptr) {
      ZC_RETURN_IF_ERROR(FillFromDevice(*device, &offer));
    } else if (index_->for_devices) {
      offer.way = "host_copy";
      offer.because = kNoGpuWay;
    }
    offer.arena_bytes = slot->num_bytes;
    ZC_RETURN_IF_ERROR(Reserve(slot, rank, mode, &offer.mode));
    if (offer.mode == AttachMode::kShared) {
      slot->state = State::kOffered;
    } else {
      ++slot->private_offers;
    }
    if (device != nullptr && offer.way == "host_copy") on_device = &arena;
  }
  if (on_device == nullptr) return offer;
  const absl::Status copied = CopyToHost(*on_device, stopped, &offer);
  if (copied.ok()) return offer;
  ZC_RETURN_IF_ERROR(Settle(rank, offer.mode, /*acknowledged=*/false));
  return copied;
}

absl::StatusOr<ShardBook::Slot*> ShardBook::FindLocked(int32_t rank) {
  const int64_t k = int64_t{rank} - first_rank_;
  if (k < 0 || k >= static_cast<int64_t>(slots_.size())) {
    return WithReason(
        absl::NotFoundError(absl::StrCat("attach to rank ", rank, " of ", index_->load,
                                         ": this node holds ranks ", first_rank_, " to ",
                                         first_rank_ + static_cast<int64_t>(slots_.size()) - 1)),
        "NOT_FOUND");
  }
  Slot* const slot = &slots_[static_cast<size_t>(k)];
  if (slot->state == State::kGone) {
    return WrongState(rank, "it was handed over to another process");
  }
  if (slot->state == State::kExpired) return WrongState(rank, why_expired_);
  return slot;
}

absl::Status ShardBook::CopyToHost(const Arena& arena, const std::function<bool()>& stopped,
                                   ShardOffer* offer) const {
  const std::string what =
      absl::StrCat("copy the shard of rank ", offer->rank, " of ", index_->load, " to host memory");
  absl::StatusOr<Arena> copy = Arena::Create(
      absl::StrCat("zerocast-", index_->load, "-rank-", offer->rank, "-copy"), offer->arena_bytes);
  if (!copy.ok()) return Annotate(copy.status(), what);
  for (int64_t at = 0; at < offer->arena_bytes; at += kCopyBytes) {
    if (stopped != nullptr && stopped()) {
      return absl::CancelledError(absl::StrCat(what, ": the agent stops"));
    }
    const auto size = static_cast<size_t>(std::min(kCopyBytes, offer->arena_bytes - at));
    const absl::Status copied =
        arena.device()->CopyToHost(at, absl::MakeSpan(copy->data() + at, size));
    if (!copied.ok()) return Annotate(copied, what);
  }
  ZC_RETURN_IF_ERROR(copy->Seal());
  offer->fd = UniqueFd(::fcntl(copy->fd(), F_DUPFD_CLOEXEC, 0));
  if (!offer->fd.valid()) return ErrnoStatus(errno, what);
  offer->copy = std::make_shared<const Arena>(*std::move(copy));
  return absl::OkStatus();
}

absl::StatusOr<ShardOffer> ShardBook::OfferCopy(const ShardOffer& offer, const std::string& why,
                                                const std::function<bool()>& stopped) {
  ShardOffer other;
  other.index = offer.index;
  other.rank = offer.rank;
  other.mode = offer.mode;
  other.arena_bytes = offer.arena_bytes;
  other.because = absl::StrCat(offer.because, offer.because.empty() ? "" : "; ", "not ", offer.way,
                               ": the process cannot: ", why);
  const Arena* arena = nullptr;
  {
    MutexLock lock(&mutex_);
    const Slot& slot = slots_[static_cast<size_t>(offer.rank - first_rank_)];
    // While it is offered nobody else gets at it.
    if (slot.state == State::kOffered && slot.shard.arena().device() != nullptr) {
      arena = &slot.shard.arena();
    }
  }
  if (arena == nullptr) return WrongState(offer.rank, "there is no other way than " + offer.way);
  if (offer.way == "cuda_vmm") {
    const absl::Status copied = CopyOnDevice(*arena->device(), &other);
    if (copied.ok()) return other;
    absl::StrAppend(&other.because, "; not cuda_ipc: ", copied.message());
  }
  other.way = "host_copy";
  other.device_uuid = offer.device_uuid;
  ZC_RETURN_IF_ERROR(CopyToHost(*arena, stopped, &other));
  return other;
}

absl::Status ShardBook::CopyOnDevice(const DeviceMemory& device, ShardOffer* offer) const {
  ZC_ASSIGN_OR_RETURN(std::unique_ptr<DeviceMemory> copy, device.CopyWithHandle());
  const std::string because = offer->because;
  ZC_RETURN_IF_ERROR(FillFromDevice(*copy, offer));
  offer->because = because;
  offer->lent = nullptr;  // the copy is, not the shard
  offer->copy = std::make_shared<const Arena>(Arena::OnDevice(std::move(copy)));
  return absl::OkStatus();
}

absl::Status ShardBook::Settle(int32_t rank, AttachMode mode, bool acknowledged, ShardLease* lent) {
  ShardLease freed;  // its memory is unmapped after the lock is released
  MutexLock lock(&mutex_);
  Slot& slot = slots_[static_cast<size_t>(rank - first_rank_)];
  if (mode == AttachMode::kPrivate) {
    --slot.private_offers;
    if (!acknowledged) return absl::OkStatus();
    ZC_RETURN_IF_ERROR(slot.shard.SealForSharing());
    slot.state = State::kPrivate;
  } else if (acknowledged) {
    slot.state = State::kGone;
    (lent != nullptr ? *lent : freed) = std::move(slot.shard);
  } else {
    slot.state = State::kHeld;
    slot.shard.PutBack();
  }
  return absl::OkStatus();
}

std::vector<int32_t> ShardBook::Expire(const std::string& why) {
  std::vector<int32_t> ranks;
  std::vector<ShardLease> freed;  // unmapped after the lock is released
  MutexLock lock(&mutex_);
  for (size_t k = 0; k < slots_.size(); ++k) {
    Slot& slot = slots_[k];
    if (slot.state != State::kHeld || slot.private_offers > 0) continue;
    slot.state = State::kExpired;
    freed.push_back(std::move(slot.shard));
    ranks.push_back(first_rank_ + static_cast<int32_t>(k));
  }
  if (!freed.empty()) why_expired_ = why;
  return ranks;
}

bool ShardBook::empty() const {
  MutexLock lock(&mutex_);
  for (const Slot& slot : slots_) {
    if (slot.state != State::kGone && slot.state != State::kExpired) return false;
  }
  return true;
}

int64_t ShardBook::arena_bytes() const {
  MutexLock lock(&mutex_);
  int64_t num_bytes = 0;
  for (const Slot& slot : slots_) {
    if (slot.state != State::kGone && slot.state != State::kExpired) num_bytes += slot.num_bytes;
  }
  return num_bytes;
}

}  // namespace zerocast
