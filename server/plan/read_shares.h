#ifndef ZEROCAST_SERVER_PLAN_READ_SHARES_H_
#define ZEROCAST_SERVER_PLAN_READ_SHARES_H_

// Which node reads which bytes where all read together.  Internal to server/plan.

#include <cstdint>
#include <vector>

#include "server/plan/plan.h"
#include "server/plan/source_index.h"

namespace zerocast {

// A node gets pieces of files of at least this size for the sake of what its own ranks hold: what
// network file systems move in one request.  On two cores 2 GB by four nodes took 0.83 s with 4
// MiB, 0.59 s with 1 MiB (tests/bench/cluster_bench, llama).
inline constexpr int64_t kLeastShareBytes = int64_t{1} << 20;

// By node, sorted and disjoint: all needed bytes, each once, the same number for every node but for
// some of an element.  Where `least_bytes` and more of a source lie in partitions of one node's
// ranks that node has them, or as much of them as its share holds: what a node reads for itself is
// not sent.  All else lies one behind the other in file order, and each node has one range of that.
std::vector<std::vector<FileRange>> ShareReads(const Plan& plan, const SourceIndex& index,
                                               const std::vector<int32_t>& first_ranks,
                                               int64_t least_bytes = kLeastShareBytes);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_PLAN_READ_SHARES_H_
