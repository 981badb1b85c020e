#include "client/agent/donation.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "client/agent/connect.h"
#include "client/agent/peer_transfer.h"
#include "kernels/base/status_macros.h"
#include "kernels/comm/deadline.h"
#include "server/base/errors.h"

namespace zerocast {

Donation::Donation(std::shared_ptr<LoadEnvironment> environment, LoadKey key)
    : environment_(std::move(environment)), key_(std::move(key)) {}

absl::Status Donation::Accept(DonateCommand command) {
  command_ = std::move(command);
  std::map<int32_t, ShardLease> held;
  for (ShardLease& shard : environment_->cache->Find(command_.plan_digest)) {
    if (shard.content().content_key != command_.content_key) continue;
    const int32_t rank = shard.rank();
    held[rank] = std::move(shard);
  }
  for (const ShardTransfer& transfer : command_.peers.transfers) {
    if (transfer.donor != command_.peers.participant) continue;
    const auto found = held.find(transfer.rank);
    if (found == held.end() || found->second.arena().num_bytes() != command_.arena_bytes) {
      return WithReason(absl::FailedPreconditionError(absl::StrCat(
                            "give the shard of rank ", transfer.rank, " to ", key_.load,
                            ": it is not here any more; it was handed over or freed")),
                        "WRONG_STATE");
    }
    shards_[transfer.rank] = std::move(found->second);
  }
  return absl::OkStatus();
}

absl::Status Donation::Run() {
  ConnectRequest request;
  request.key = key_;
  request.kind = LinkKind::kPeers;
  request.participant = command_.peers.participant;
  request.num_participants = static_cast<int>(command_.peers.participants.size());
  request.nonce = command_.nonce;
  request.entries = &rendezvous_;
  request.timeout = command_.stage_timeout;
  request.cancelled = [this] { return cancelled_.load(); };
  ZC_ASSIGN_OR_RETURN(std::unique_ptr<Communicator> connected,
                      ConnectThroughServer(*environment_, request));
  TransferOptions options;
  {
    MutexLock lock(&mutex_);
    if (cancelled_) return absl::CancelledError("give shards: the load was cancelled");
    communicator_ = std::move(connected);
    options.communicator = communicator_.get();
  }
  options.peers = command_.peers;
  options.arena_bytes = command_.arena_bytes;
  options.round_bytes = command_.round_bytes;
  for (const auto& [rank, shard] : shards_) options.arenas[rank] = shard.arena().data();
  options.round_timeout = command_.stage_timeout;
  options.send_limit = environment_->send_limit;
  options.cancelled = &cancelled_;
  TransferProgress progress;
  const absl::Status status = TransferShards(options, &progress);
  environment_->bytes_sent += progress.bytes_sent;
  std::unique_ptr<Communicator> dropped;  // destroyed after the lock is released
  {
    MutexLock lock(&mutex_);
    dropped = std::move(communicator_);
  }
  return status;
}

void Donation::AddRendezvous(const std::string& name, const std::string& value) {
  // Fails only once it is cancelled; then nobody waits for the entry.
  rendezvous_.Put(name, value).IgnoreError();
}

void Donation::Cancel(const std::string& why) {
  cancelled_ = true;
  rendezvous_.Cancel(why);
  MutexLock lock(&mutex_);
  if (communicator_ != nullptr) communicator_->Abort(why);
  cancel_changed_.SignalAll();
}

bool Donation::WaitForCancel(absl::Duration timeout) {
  const Deadline deadline(timeout);
  MutexLock lock(&mutex_);
  while (!cancelled_ && !deadline.Passed()) {
    cancel_changed_.WaitWithTimeout(&mutex_, deadline.Remaining());
  }
  return cancelled_;
}

void Donations::Add(const std::shared_ptr<Donation>& donation) {
  std::shared_ptr<Donation> older;
  {
    MutexLock lock(&mutex_);
    std::shared_ptr<Donation>& place = donations_[donation->key().load];
    older = std::exchange(place, donation);
  }
  if (older != nullptr) older->Cancel("another donation to this load began");
}

void Donations::Remove(const std::shared_ptr<Donation>& donation) {
  MutexLock lock(&mutex_);
  const auto found = donations_.find(donation->key().load);
  if (found != donations_.end() && found->second == donation) donations_.erase(found);
}

void Donations::AddRendezvous(const LoadKey& key, const std::string& name,
                              const std::string& value) {
  std::shared_ptr<Donation> donation;
  {
    MutexLock lock(&mutex_);
    const auto found = donations_.find(key.load);
    if (found == donations_.end() || found->second->key().epoch != key.epoch) return;
    donation = found->second;
  }
  donation->AddRendezvous(name, value);
}

void Donations::Cancel(const LoadKey& key, const std::string& why) {
  std::shared_ptr<Donation> donation;
  {
    MutexLock lock(&mutex_);
    const auto found = donations_.find(key.load);
    if (found == donations_.end() || found->second->key().epoch > key.epoch) return;
    donation = std::move(found->second);
    donations_.erase(found);
  }
  donation->Cancel(why);
}

void Donations::CancelAll(const std::string& why) {
  std::map<std::string, std::shared_ptr<Donation>> donations;
  {
    MutexLock lock(&mutex_);
    donations.swap(donations_);
  }
  for (const auto& [load, donation] : donations) donation->Cancel(why);
}

}  // namespace zerocast
