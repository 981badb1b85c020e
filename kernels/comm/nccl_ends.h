#ifndef ZEROCAST_KERNELS_COMM_NCCL_ENDS_H_
#define ZEROCAST_KERNELS_COMM_NCCL_ENDS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kernels/base/mutex.h"
#include "kernels/comm/communicator.h"

namespace zerocast {

// How the communicator of one participant ended.
struct NcclEnd {
  enum Kind {
    kLeft,    // Abort, destruction, an error of its own
    kFailed,  // because of others
    kLate,    // a call did not end before its deadline
  };
  Kind kind = kLeft;
  uint64_t completed = 0;  // calls that had ended well
  std::string reason;
};

// "left 3 aborted: because", and back; what cannot be read is kLeft after 0 calls.
std::string ToEntry(const NcclEnd& end);
NcclEnd EndFromEntry(absl::string_view entry);

// What the participants of an epoch say of their ends, by its rendezvous: NCCL itself names nobody.
// Thread-safe.
class NcclEnds {
 public:
  NcclEnds(std::shared_ptr<Rendezvous> rendezvous, int rank)
      : rendezvous_(std::move(rendezvous)), rank_(rank) {}

  // Says how the own communicator ended; only the first call does.  A rendezvous that fails is no
  // failure more: peers then go by NCCL or by their deadlines.
  void Say(const NcclEnd& end) ABSL_LOCKS_EXCLUDED(mutex_);

  // What `peer` has said so far.  Does not wait.
  std::optional<NcclEnd> Of(int peer) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  const std::shared_ptr<Rendezvous> rendezvous_;
  const int rank_;
  Mutex mutex_;
  bool said_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<int, NcclEnd> ends_ ABSL_GUARDED_BY(mutex_);
};

// The peers of call number `call` (from 1), by what they have said.
struct NcclPeers {
  std::vector<int> left;    // will not take part in the call any more, of themselves
  std::vector<int> failed;  // will not either, because of others
  std::vector<int> late;    // gave this very call up at their deadlines
  std::vector<int> silent;  // may still come, or have done their part

  // Those who are to blame for the end of the call: the first of left, silent, late and failed that
  // has any.
  const std::vector<int>& Culprits() const;
  // "participant 2: aborted: enough": the culprits, and in their words, or those of a victim, why.
  std::string Text() const;

  std::map<int, std::string> reasons;
};
NcclPeers SortPeers(NcclEnds* ends, absl::Span<const int> peers, uint64_t call);

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COMM_NCCL_ENDS_H_
