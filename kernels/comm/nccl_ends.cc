#include "kernels/comm/nccl_ends.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace zerocast {
namespace {

constexpr absl::string_view kNames[] = {"left", "failed", "late"};  // by NcclEnd::Kind

std::string Key(int rank) { return absl::StrCat("nccl/end/", rank); }

}  // namespace

std::string ToEntry(const NcclEnd& end) {
  return absl::StrCat(kNames[end.kind], " ", end.completed, " ", end.reason);
}

NcclEnd EndFromEntry(absl::string_view entry) {
  const std::vector<absl::string_view> words = absl::StrSplit(entry, absl::MaxSplits(' ', 2));
  NcclEnd end;
  if (words.size() < 3 || !absl::SimpleAtoi(words[1], &end.completed)) {
    return {NcclEnd::kLeft, 0, std::string(entry)};
  }
  for (const NcclEnd::Kind kind : {NcclEnd::kFailed, NcclEnd::kLate}) {
    if (words[0] == kNames[kind]) end.kind = kind;
  }
  end.reason = std::string(words[2]);
  return end;
}

void NcclEnds::Say(const NcclEnd& end) {
  {
    MutexLock lock(&mutex_);
    if (said_ || rendezvous_ == nullptr) return;
    said_ = true;
  }
  static_cast<void>(rendezvous_->Put(Key(rank_), ToEntry(end)));
}

std::optional<NcclEnd> NcclEnds::Of(int peer) {
  {
    MutexLock lock(&mutex_);
    const auto known = ends_.find(peer);
    if (known != ends_.end()) return known->second;
  }
  if (rendezvous_ == nullptr) return std::nullopt;
  const absl::StatusOr<std::string> entry = rendezvous_->Get(Key(peer), absl::ZeroDuration());
  if (!entry.ok()) return std::nullopt;
  MutexLock lock(&mutex_);
  return ends_.emplace(peer, EndFromEntry(*entry)).first->second;
}

NcclPeers SortPeers(NcclEnds* ends, absl::Span<const int> peers, uint64_t call) {
  NcclPeers sorted;
  std::vector<int> left;
  std::vector<int> failed;
  std::map<int, std::string> reasons;
  for (const int peer : peers) {
    const std::optional<NcclEnd> end = ends->Of(peer);
    if (!end.has_value() || end->completed >= call) {
      sorted.silent.push_back(peer);
      continue;
    }
    reasons[peer] = end->reason;
    if (end->kind == NcclEnd::kLate && end->completed + 1 == call) {
      sorted.late.push_back(peer);
    } else {
      (end->kind == NcclEnd::kFailed ? failed : left).push_back(peer);
    }
  }
  sorted.gone = left.empty() ? failed : left;
  for (const int peer : sorted.gone.empty() ? sorted.late : sorted.gone) {
    absl::StrAppend(&sorted.reasons, sorted.reasons.empty() ? "" : "; ", reasons[peer]);
  }
  return sorted;
}

}  // namespace zerocast
