#include "kernels/comm/nccl_ends.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/comm/checks.h"

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
  for (const int peer : peers) {
    const std::optional<NcclEnd> end = ends->Of(peer);
    if (!end.has_value() || end->completed >= call) {
      sorted.silent.push_back(peer);
      continue;
    }
    sorted.reasons[peer] = end->reason;
    if (end->kind == NcclEnd::kFailed) {
      sorted.failed.push_back(peer);
    } else if (end->kind == NcclEnd::kLate && end->completed + 1 == call) {
      sorted.late.push_back(peer);
    } else {
      sorted.left.push_back(peer);
    }
  }
  return sorted;
}

const std::vector<int>& NcclPeers::Culprits() const {
  for (const std::vector<int>* peers : {&left, &silent, &late}) {
    if (!peers->empty()) return *peers;
  }
  return failed;
}

std::string NcclPeers::Text() const {
  const std::vector<int>& culprits = Culprits();
  for (const int peer : culprits) {
    const auto reason = reasons.find(peer);
    if (reason != reasons.end()) {
      return absl::StrCat(NamePeers(culprits), ": ", reason->second);
    }
  }
  // Who says nothing is dead, or hangs: a victim knows what was seen of it.
  const std::string& seen = reasons.empty() ? "no word of it" : reasons.begin()->second;
  return absl::StrCat(NamePeers(culprits), ": ", seen);
}

}  // namespace zerocast
