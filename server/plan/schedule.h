#ifndef ZEROCAST_SERVER_PLAN_SCHEDULE_H_
#define ZEROCAST_SERVER_PLAN_SCHEDULE_H_

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/copy/box.h"
#include "server/plan/plan.h"

namespace zerocast {

// Part of every plan's digest: processes that would derive another schedule, or pack another
// message, from the same plan must not load together.  Raise it when extents, the order of pieces
// or the form of messages change.
inline constexpr int64_t kScheduleVersion = 8;

// A file range that one node reads in one round: part of exactly one file, made of one or more
// whole or partial source tensors; it never cuts a stored element.  Or the scales of such an extent
// of the same round.
struct Extent {
  int32_t file = 0;
  int64_t begin = 0;  // absolute, bytes
  int64_t end = 0;
};

// One box cut to an extent and to the elements that one rank owns, in its primary or secondary
// partition.
struct Piece {
  int32_t target = 0;  // index in Plan::targets
  int32_t source = 0;  // index in Manifest::tensors
  // Element offsets of the whole source and of the whole flattened target.
  Box box;
  // Where the target's flat element 0 would lie in this rank's part of the target: subtract from
  // target places to get places in the partition (rank * partition_elements, or 0 when whole; in a
  // secondary partition (rank mod s) * secondary_elements).
  int64_t target_base = 0;
  int32_t rank = 0;
  bool secondary = false;  // of the rank's secondary partition
};

// Which node reads what, when, and who needs it.  Derived from a plan alone: every node computes
// the same schedule, so that exchanges match without further talk.  Thread-compatible; keeps a
// reference to the plan, which must outlive it.
class Schedule {
 public:
  // Pure.  Errors: INVALID_ARGUMENT when plan.layout.round_bytes is smaller than an element.
  static absl::StatusOr<Schedule> Create(const Plan& plan);

  int64_t num_rounds() const;

  // What `node` reads in `round`; may be empty.  Sorted by (file, begin), no two overlap, together
  // at most layout.round_bytes.  In mode kParallel the extents of all nodes and rounds cover every
  // needed byte exactly once; in kRank0 node 0 (the node of rank 0) has all; in kLocal each node
  // has what its own ranks need.  The scales of decoded sources are read by whoever reads their
  // elements, in the same round: a scale again where an extent ends within its block.
  absl::Span<const Extent> Reads(int64_t round, int32_t node) const;

  // Appends the pieces that `reader`'s extents of `round` give to the ranks of `node`, in an
  // order all nodes agree on.  A target that every rank holds whole comes once for each rank of the
  // node, and so does a block of secondary partitions for each that holds it.
  void Pieces(int64_t round, int32_t reader, int32_t node, std::vector<Piece>* out) const;

  // Appends the pieces that `reader`'s extents of `round` fill in any target, not cut to ranks
  // (Piece::rank is -1, target_base 0): what --move broadcast sends to every node.
  void WholePieces(int64_t round, int32_t reader, std::vector<Piece>* out) const;

  // Bytes that `node` reads over all rounds.
  int64_t ReadBytes(int32_t node) const;

 private:
  struct Rep;
  explicit Schedule(std::shared_ptr<const Rep> rep) : rep_(std::move(rep)) {}
  std::shared_ptr<const Rep> rep_;
};

// Elements travel in the source's dtype and are cast by the receiver; those of a decoded source are
// decoded by their reader, which has the scales, and travel in the target's.
DType WireDType(const Plan& plan, const Piece& piece);

// Pieces on the wire begin at multiples of this, so that each element is aligned to its size and a
// device reads 128 bits at once.
inline constexpr int64_t kPieceAlignment = 16;

// Bytes of a piece on the wire, with what it takes to the next one.
int64_t WireBytes(const Plan& plan, const Piece& piece);

// True when the target of `piece` is held whole by every rank: a node's message carries such a
// piece once, for the first of its ranks, and the receiver unpacks it for each.
bool IsReplicated(const Plan& plan, const Piece& piece);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_PLAN_SCHEDULE_H_
