#include "client/agent/peer_transfer.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

// Pieces begin on pages: the kernel makes the taker's whole.
constexpr int64_t kPageBytes = 4096;
constexpr size_t kMaxNames = 64;  // in a message

absl::Status CheckTransfers(const std::vector<ShardTransfer>& transfers, int32_t num_participants,
                            int64_t arena_bytes, int64_t round_bytes) {
  std::set<int32_t> ranks;
  bool good = arena_bytes >= 0 && round_bytes > 0;
  for (const ShardTransfer& each : transfers) {
    good = good && each.donor >= 0 && each.donor < num_participants && each.taker >= 0 &&
           each.taker < num_participants && each.donor != each.taker &&
           ranks.insert(each.rank).second;
  }
  if (good) return absl::OkStatus();
  return WithReason(absl::InvalidArgumentError(absl::StrCat(
                        "move shards of ", arena_bytes, " bytes in rounds of ", round_bytes,
                        " among ", num_participants, " agents: the server's list of ",
                        transfers.size(), " transfers contradicts itself")),
                    "INTERNAL");
}

class Transfer {
 public:
  Transfer(const TransferOptions& options, TransferSchedule schedule, TransferProgress* progress)
      : options_(options), schedule_(std::move(schedule)), progress_(*progress) {}

  absl::Status Run() {
    progress_.num_rounds = schedule_.num_rounds();
    for (int64_t round = 0; round < schedule_.num_rounds(); ++round) {
      if (*options_.cancelled) return Cancelled();
      ZC_RETURN_IF_ERROR(RunRound(round));
      progress_.round = round + 1;
      if (options_.on_round != nullptr) options_.on_round(progress_);
    }
    return absl::OkStatus();
  }

 private:
  static absl::Status Cancelled() {
    return WithReason(absl::CancelledError("move shards: the load was cancelled"), "CANCELLED");
  }

  absl::Status RunRound(int64_t round) {
    std::vector<Message> sends, receives;
    for (const TransferPiece& piece : schedule_.Pieces(round)) {
      const bool gives = piece.donor == options_.peers.participant;
      if (!gives && piece.taker != options_.peers.participant) continue;
      const auto arena = options_.arenas.find(piece.rank);
      if (arena == options_.arenas.end()) {
        return WithReason(absl::InvalidArgumentError(absl::StrCat(
                              "move the shard of rank ", piece.rank, ": it has no place here")),
                          "INTERNAL");
      }
      const int64_t num_bytes = piece.end - piece.begin;
      char* const data = arena->second + piece.begin;
      (gives ? sends : receives).push_back({gives ? piece.taker : piece.donor, data, num_bytes});
      (gives ? progress_.bytes_sent : progress_.bytes_received) += num_bytes;
    }
    WaitToSend(sends);
    const absl::Status status =
        options_.communicator->Exchange(sends, receives, options_.round_timeout);
    return status.ok() ? status : Named(status);
  }

  void WaitToSend(const std::vector<Message>& sends) const {
    if (options_.send_limit == nullptr) return;
    int64_t num_bytes = 0;
    for (const Message& message : sends) num_bytes += message.num_bytes;
    options_.send_limit->Wait(num_bytes, [this] { return options_.cancelled->load(); });
  }

  absl::Status Named(const absl::Status& status) const {
    if (*options_.cancelled) return Cancelled();
    absl::Status named = Annotate(status, "move shards between agents");
    const std::vector<std::string>& names = options_.peers.participants;
    if (names.size() <= kMaxNames) {
      named = WithMessage(named, absl::StrCat(named.message(), " (participants from 0 on: ",
                                              absl::StrJoin(names, ", "), ")"));
    }
    return WithReason(named, "EXCHANGE_FAILED");
  }

  const TransferOptions& options_;
  const TransferSchedule schedule_;
  TransferProgress& progress_;
};

}  // namespace

absl::StatusOr<TransferSchedule> TransferSchedule::Create(
    const std::vector<ShardTransfer>& transfers, int32_t num_participants, int64_t arena_bytes,
    int64_t round_bytes) {
  ZC_RETURN_IF_ERROR(CheckTransfers(transfers, num_participants, arena_bytes, round_bytes));
  TransferSchedule schedule;
  schedule.arena_bytes_ = arena_bytes;
  if (transfers.empty() || arena_bytes == 0) return schedule;
  std::map<std::pair<int32_t, int32_t>, std::vector<int32_t>> by_pair;
  for (const ShardTransfer& each : transfers) {
    by_pair[{each.donor, each.taker}].push_back(each.rank);
  }
  std::map<int32_t, int64_t> gives_to, takes_from;
  int64_t busiest = 1;
  size_t most_ranks = 0;
  for (auto& [pair, ranks] : by_pair) {
    std::sort(ranks.begin(), ranks.end());
    busiest = std::max({busiest, ++gives_to[pair.first], ++takes_from[pair.second]});
    most_ranks = std::max(most_ranks, ranks.size());
    schedule.pairs_.push_back({pair.first, pair.second, std::move(ranks)});
  }
  schedule.piece_bytes_ = std::max(round_bytes / busiest / kPageBytes * kPageBytes, kPageBytes);
  schedule.pieces_of_shard_ = (arena_bytes + schedule.piece_bytes_ - 1) / schedule.piece_bytes_;
  schedule.num_rounds_ = static_cast<int64_t>(most_ranks) * schedule.pieces_of_shard_;
  return schedule;
}

std::vector<TransferPiece> TransferSchedule::Pieces(int64_t round) const {
  const size_t shard = static_cast<size_t>(round / pieces_of_shard_);
  const int64_t begin = round % pieces_of_shard_ * piece_bytes_;
  std::vector<TransferPiece> pieces;
  for (const Pair& pair : pairs_) {
    if (shard >= pair.ranks.size()) continue;
    pieces.push_back({pair.ranks[shard], pair.donor, pair.taker, begin,
                      std::min(begin + piece_bytes_, arena_bytes_)});
  }
  return pieces;
}

absl::Status TransferShards(const TransferOptions& options, TransferProgress* progress) {
  absl::StatusOr<TransferSchedule> schedule = TransferSchedule::Create(
      options.peers.transfers, static_cast<int32_t>(options.peers.participants.size()),
      options.arena_bytes, options.round_bytes);
  absl::Status status = schedule.status();
  if (status.ok()) status = Transfer(options, *std::move(schedule), progress).Run();
  if (!status.ok()) options.communicator->Abort(status.message());
  return status;
}

}  // namespace zerocast
