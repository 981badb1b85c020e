#ifndef ZEROCAST_SERVER_PLAN_READS_H_
#define ZEROCAST_SERVER_PLAN_READS_H_

// Which node reads which bytes in which round.  Internal to server/plan.

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "server/plan/plan.h"
#include "server/plan/schedule.h"
#include "server/plan/source_index.h"

namespace zerocast {

// What one node reads, cut into rounds.
class NodeReads {
 public:
  NodeReads() = default;
  // `ranges` are sorted, disjoint and cut no stored element; `round_bytes` holds any of them with
  // its scales.  A round reads the scales of what it reads: beside the ranges.
  NodeReads(const std::vector<FileRange>& ranges, const SourceIndex& index, int64_t round_bytes);

  int64_t num_rounds() const { return static_cast<int64_t>(first_.size()) - 1; }
  int64_t num_bytes() const { return num_bytes_; }
  // Empty for rounds beyond num_rounds().
  absl::Span<const Extent> Round(int64_t round) const;

 private:
  std::vector<Extent> extents_;
  std::vector<size_t> first_ = {0};  // round -> its first extent; one more than rounds
  int64_t num_bytes_ = 0;
};

// The ranks of each node: node n has [first[n], first[n + 1]).
std::vector<int32_t> FirstRanks(const Layout& layout);

// By node; nodes that read the same share one entry.  Never null.
std::vector<std::shared_ptr<const NodeReads>> AssignReads(const Plan& plan,
                                                          const SourceIndex& index,
                                                          const std::vector<int32_t>& first_ranks);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_PLAN_READS_H_
