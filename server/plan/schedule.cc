#include "server/plan/schedule.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/copy/algebra.h"
#include "server/base/errors.h"
#include "server/plan/reads.h"
#include "server/plan/source_index.h"

namespace zerocast {

struct Schedule::Rep {
  explicit Rep(const Plan& p)
      : plan(p),
        index(p),
        first_ranks(FirstRanks(p.layout)),
        reads(AssignReads(p, index, first_ranks)) {
    for (const auto& node : reads) num_rounds = std::max(num_rounds, node->num_rounds());
  }

  // Calls `visit(target number, source number, box)` for what of each box lies in `extent`, in the
  // order of sources, boxes and target places.
  template <typename Visit>
  void ForEachCut(const Extent& extent, std::vector<Box>* scratch, Visit visit) const {
    for (size_t slot = index.FirstSlotBehind(extent.file, extent.begin);
         slot < index.needed().size(); ++slot) {
      const NeededSource& source = index.needed()[slot];
      if (source.range.file != extent.file || source.range.begin >= extent.end) return;
      const int64_t begin = (std::max(extent.begin, source.range.begin) - source.range.begin) /
                            source.element_bytes * source.packed();
      const int64_t end = (std::min(extent.end, source.range.end) - source.range.begin) /
                          source.element_bytes * source.packed();
      for (const BoxRef& ref : index.Boxes(slot)) {
        scratch->clear();
        SliceSource(plan.targets[ref.target].boxes[ref.box], begin, end, scratch);
        for (const Box& box : *scratch) visit(ref.target, source.source, box);
      }
    }
  }

  // Appends what of `box` the ranks [first_rank, end_rank) hold.
  void CutToRanks(int32_t target_number, int32_t source, const Box& box, int32_t first_rank,
                  int32_t end_rank, std::vector<Box>* scratch, std::vector<Piece>* out) const {
    const Target& target = plan.targets[target_number];
    if (!target.partitioned) {
      for (int32_t rank = first_rank; rank < end_rank; ++rank) {
        out->push_back({target_number, source, box, 0, rank});
      }
      return;
    }
    const int64_t part = target.partition_elements;
    const int64_t first = std::max<int64_t>(first_rank, box.target_offset / part);
    const int64_t last = std::min<int64_t>(end_rank - 1, (TargetEnd(box) - 1) / part);
    for (int64_t rank = first; rank <= last; ++rank) {
      scratch->clear();
      SliceTarget(box, rank * part, (rank + 1) * part, scratch);
      for (const Box& slice : *scratch) {
        out->push_back({target_number, source, slice, rank * part, static_cast<int32_t>(rank)});
      }
    }
    if (target.secondary_elements > 0) {
      CutToBlocks(target_number, source, box, first_rank, end_rank, scratch, out);
    }
  }

  // The same for secondary partitions.
  void CutToBlocks(int32_t target_number, int32_t source, const Box& box, int32_t first_rank,
                   int32_t end_rank, std::vector<Box>* scratch, std::vector<Piece>* out) const {
    const int64_t size = plan.targets[target_number].secondary_elements;
    const int64_t last = (TargetEnd(box) - 1) / size;
    for (int64_t block = box.target_offset / size; block <= last; ++block) {
      int64_t rank = FirstRankOfBlock(block, group_size, first_rank);
      if (rank >= end_rank) continue;
      scratch->clear();
      SliceTarget(box, block * size, (block + 1) * size, scratch);
      for (; rank < end_rank; rank += group_size) {
        for (const Box& slice : *scratch) {
          out->push_back({target_number, source, slice, block * size, static_cast<int32_t>(rank),
                          /*secondary=*/true});
        }
      }
    }
  }

  const Plan& plan;
  const int32_t group_size = SecondaryGroupSize(plan.layout);
  const SourceIndex index;
  const std::vector<int32_t> first_ranks;  // node -> its first rank; one more than nodes
  const std::vector<std::shared_ptr<const NodeReads>> reads;  // by node
  int64_t num_rounds = 0;
};

absl::StatusOr<Schedule> Schedule::Create(const Plan& plan) {
  int64_t widest = 1;
  for (const Target& target : plan.targets) {
    for (const Box& box : target.boxes) {
      widest = std::max(widest, SizeOf(plan.manifest->tensors[box.source].tensor.dtype));
    }
  }
  for (const SourceDecoder& source : plan.decoders) {
    widest = std::max(widest, SizeOf(source.decoder.stored) + PackedElements(source.decoder.kind) *
                                                                  SizeOf(source.decoder.scale));
  }
  if (plan.layout.round_bytes < widest) {
    return InvalidFields(
        {{"layout.round_bytes", absl::StrCat("must hold an element of ", widest, " bytes, was ",
                                             plan.layout.round_bytes)}});
  }
  return Schedule(std::make_shared<const Rep>(plan));
}

int64_t Schedule::num_rounds() const { return rep_->num_rounds; }

absl::Span<const Extent> Schedule::Reads(int64_t round, int32_t node) const {
  return rep_->reads[node]->Round(round);
}

void Schedule::Pieces(int64_t round, int32_t reader, int32_t node, std::vector<Piece>* out) const {
  // Who reads for itself sends nothing.
  if (rep_->plan.layout.read_mode == ReadMode::kLocal && reader != node) return;
  const int32_t first_rank = rep_->first_ranks[node];
  const int32_t end_rank = rep_->first_ranks[node + 1];
  if (first_rank == end_rank) return;
  std::vector<Box> cuts, slices;
  for (const Extent& extent : Reads(round, reader)) {
    rep_->ForEachCut(extent, &cuts, [&](int32_t target, int32_t source, const Box& box) {
      rep_->CutToRanks(target, source, box, first_rank, end_rank, &slices, out);
    });
  }
}

void Schedule::WholePieces(int64_t round, int32_t reader, std::vector<Piece>* out) const {
  std::vector<Box> cuts;
  for (const Extent& extent : Reads(round, reader)) {
    rep_->ForEachCut(extent, &cuts, [out](int32_t target, int32_t source, const Box& box) {
      out->push_back({target, source, box, 0, -1});
    });
  }
}

int64_t Schedule::ReadBytes(int32_t node) const { return rep_->reads[node]->num_bytes(); }

DType WireDType(const Plan& plan, const Piece& piece) {
  return FindDecoder(plan.decoders, piece.source) != nullptr
             ? plan.targets[piece.target].dtype
             : plan.manifest->tensors[piece.source].tensor.dtype;
}

int64_t WireBytes(const Plan& plan, const Piece& piece) {
  const int64_t num_bytes = NumElements(piece.box) * SizeOf(WireDType(plan, piece));
  return (num_bytes + kPieceAlignment - 1) / kPieceAlignment * kPieceAlignment;
}

bool IsReplicated(const Plan& plan, const Piece& piece) {
  return !plan.targets[piece.target].partitioned;
}

}  // namespace zerocast
