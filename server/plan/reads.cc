#include "server/plan/reads.h"

#include <algorithm>
#include <utility>

#include "kernels/copy/algebra.h"
#include "server/plan/loops.h"
#include "server/plan/read_shares.h"

namespace zerocast {
namespace {

using SharedReads = std::shared_ptr<const NodeReads>;

// A file system reads whole pages: a gap below a page costs nothing and saves a request.
constexpr int64_t kPageBytes = 4096;

std::vector<FileRange> AllRanges(const SourceIndex& index) {
  std::vector<FileRange> ranges;
  ranges.reserve(index.needed().size());
  for (const NeededSource& source : index.needed()) ranges.push_back(source.range);
  JoinRanges(&ranges);
  return ranges;
}

// Appends the bytes that `box` reads of `source`: its rows, or all between them where the gaps are
// small.
void AppendSpans(const Box& box, const NeededSource& source, std::vector<FileRange>* out) {
  const auto dims = LoopsFromInside(box, &BoxDim::source_stride);
  const int64_t size = source.element_bytes, packed = source.packed();
  int64_t length = 1;  // elements of a run, small gaps included
  int inner = 0;       // dims[0, inner) lie within a run
  while (inner < box.num_dims &&
         (dims[inner].source_stride - length) * size < kPageBytes * packed) {
    length += (dims[inner].extent - 1) * dims[inner].source_stride;
    ++inner;
  }
  int64_t step[kMaxBoxDims] = {};
  int64_t offset = box.source_offset;
  for (;;) {
    out->push_back(source.BytesOf(offset, offset + length));
    int k = inner;
    for (; k < box.num_dims; ++k) {
      offset += dims[k].source_stride;
      if (++step[k] < dims[k].extent) break;
      offset -= dims[k].extent * dims[k].source_stride;
      step[k] = 0;
    }
    if (k == box.num_dims) return;
  }
}

// The scales that the ranges of one round need.
class RoundScales {
 public:
  explicit RoundScales(const SourceIndex& index) : index_(index) {}

  // The most bytes of `range` that, with the scales they need beside those added, take `room`.
  int64_t Fit(const FileRange& range, int64_t room) {
    const int64_t all = range.end - range.begin;
    if (!index_.has_decoders()) return all;
    const auto fits = [&](int64_t num_bytes) {
      return num_bytes + Growth({range.file, range.begin, range.begin + num_bytes}) <= room;
    };
    if (fits(all)) return all;
    int64_t low = 0, high = all;  // low fits, high does not
    while (high - low > 1) {
      const int64_t middle = low + (high - low) / 2;
      (fits(middle) ? low : high) = middle;
    }
    return low;
  }

  // Adds those of `range`; returns the bytes that they take.
  int64_t Add(const FileRange& range) {
    if (!index_.has_decoders()) return 0;
    const int64_t growth = Growth(range);
    scales_.insert(scales_.end(), added_.begin(), added_.end());
    return growth;
  }

  // Moves all of them to their places among `ranges`.
  void TakeAll(std::vector<FileRange>* ranges) {
    if (scales_.empty()) return;
    JoinRanges(&scales_);
    ranges->insert(ranges->end(), scales_.begin(), scales_.end());
    std::sort(ranges->begin(), ranges->end());
    scales_.clear();
  }

 private:
  // Puts the scales of `range` into added_; returns the bytes that they take where what follows in
  // one tensor counts once.
  int64_t Growth(const FileRange& range) {
    added_.clear();
    if (range.begin == range.end) return 0;
    index_.AppendScales(range.file, range.begin, range.end, &added_);
    int64_t growth = 0;
    FileRange last = scales_.empty() ? FileRange{-1, 0, 0} : scales_.back();
    for (const FileRange& next : added_) {
      const bool follows =
          last.file == next.file && last.begin <= next.begin && next.begin <= last.end;
      growth += std::max<int64_t>(0, next.end - (follows ? last.end : next.begin));
      last = {next.file, follows ? last.begin : next.begin,
              follows ? std::max(last.end, next.end) : next.end};
    }
    return growth;
  }

  const SourceIndex& index_;
  std::vector<FileRange> scales_;  // of this round
  std::vector<FileRange> added_;   // scratch
};

// Each node reads what its own ranks hold.
class LocalReads {
 public:
  LocalReads(const Plan& plan, const SourceIndex& index, const std::vector<int32_t>& first_ranks)
      : plan_(plan), index_(index), first_ranks_(first_ranks), own_(plan.layout.num_nodes) {}

  std::vector<SharedReads> Run() {
    const bool nodes_hold_all = AllHoldAllBlocks();
    for (size_t slot = 0; slot < index_.needed().size(); ++slot) {
      for (const BoxRef& ref : index_.Boxes(slot)) {
        const Target& target = plan_.targets[ref.target];
        if (target.partitioned && !(target.secondary_elements > 0 && nodes_hold_all)) {
          AddToOwners(target, target.boxes[ref.box], index_.needed()[slot]);
        } else {
          AppendSpans(target.boxes[ref.box], index_.needed()[slot], &common_);
        }
      }
    }
    JoinRanges(&common_);
    const int64_t round_bytes = plan_.layout.round_bytes;
    const auto none = std::make_shared<const NodeReads>();
    SharedReads common;
    std::vector<SharedReads> reads;
    for (size_t node = 0; node < own_.size(); ++node) {
      if (first_ranks_[node] == first_ranks_[node + 1]) {
        reads.push_back(none);
      } else if (own_[node].empty()) {
        if (common == nullptr) {
          common = std::make_shared<const NodeReads>(common_, index_, round_bytes);
        }
        reads.push_back(common);
      } else {
        own_[node].insert(own_[node].end(), common_.begin(), common_.end());
        JoinRanges(&own_[node]);
        reads.push_back(std::make_shared<const NodeReads>(own_[node], index_, round_bytes));
      }
    }
    return reads;
  }

 private:
  void AddToOwners(const Target& target, const Box& box, const NeededSource& source) {
    const int64_t part = target.partition_elements;
    const auto& node_of_rank = plan_.layout.node_of_rank;
    const int32_t first = node_of_rank[box.target_offset / part];
    const int32_t last = node_of_rank[(TargetEnd(box) - 1) / part];
    for (int32_t node = first; node <= last; ++node) {
      AddSlice(box, first_ranks_[node] * part, first_ranks_[node + 1] * part, source, node);
    }
    if (target.secondary_elements > 0) AddBlocks(target.secondary_elements, box, source);
  }

  void AddSlice(const Box& box, int64_t begin, int64_t end, const NeededSource& source,
                size_t node) {
    slices_.clear();
    SliceTarget(box, begin, end, &slices_);
    for (const Box& slice : slices_) AppendSpans(slice, source, &own_[node]);
  }

  // To each node the blocks of `size` elements that its ranks hold as secondary partitions.
  void AddBlocks(int64_t size, const Box& box, const NeededSource& source) {
    const int64_t last = (TargetEnd(box) - 1) / size;
    for (size_t node = 0; node < own_.size(); ++node) {
      for (int64_t block = box.target_offset / size; block <= last; ++block) {
        if (FirstRankOfBlock(block, group_size_, first_ranks_[node]) < first_ranks_[node + 1]) {
          AddSlice(box, block * size, (block + 1) * size, source, node);
        }
      }
    }
  }

  // True when every node with ranks has so many that they hold all blocks.
  bool AllHoldAllBlocks() const {
    for (size_t node = 0; node < own_.size(); ++node) {
      const int32_t ranks = first_ranks_[node + 1] - first_ranks_[node];
      if (ranks > 0 && ranks < group_size_) return false;
    }
    return true;
  }

  const Plan& plan_;
  const SourceIndex& index_;
  const std::vector<int32_t>& first_ranks_;
  const int32_t group_size_ = SecondaryGroupSize(plan_.layout);
  std::vector<FileRange> common_;            // of targets that every rank holds whole
  std::vector<std::vector<FileRange>> own_;  // by node
  std::vector<Box> slices_;
};

}  // namespace

NodeReads::NodeReads(const std::vector<FileRange>& ranges, const SourceIndex& index,
                     int64_t round_bytes) {
  RoundScales scales(index);
  std::vector<FileRange> round;
  int64_t room = round_bytes;
  const auto close_round = [&] {
    if (round.empty()) return;
    scales.TakeAll(&round);
    for (const FileRange& range : round) {
      extents_.push_back({range.file, range.begin, range.end});
      num_bytes_ += range.end - range.begin;
    }
    first_.push_back(extents_.size());
    round.clear();
    room = round_bytes;
  };
  for (const FileRange& range : ranges) {
    for (int64_t begin = range.begin; begin < range.end;) {
      int64_t end = std::min(range.end, begin + room);
      end = begin + scales.Fit({range.file, begin, end}, room);
      if (end < range.end) end = index.ElementBoundary(range.file, end);
      if (end > begin) {
        round.push_back({range.file, begin, end});
        room -= end - begin + scales.Add(round.back());
        begin = end;
      }
      if (begin < range.end) close_round();
    }
  }
  close_round();
}

absl::Span<const Extent> NodeReads::Round(int64_t round) const {
  if (round < 0 || round >= num_rounds()) return {};
  const size_t first = first_[round];
  return absl::MakeConstSpan(extents_).subspan(first, first_[round + 1] - first);
}

std::vector<int32_t> FirstRanks(const Layout& layout) {
  std::vector<int32_t> first(layout.num_nodes + 1, 0);
  for (const int32_t node : layout.node_of_rank) ++first[node + 1];
  for (int32_t node = 0; node < layout.num_nodes; ++node) first[node + 1] += first[node];
  return first;
}

std::vector<SharedReads> AssignReads(const Plan& plan, const SourceIndex& index,
                                     const std::vector<int32_t>& first_ranks) {
  switch (plan.layout.read_mode) {
    case ReadMode::kParallel:
      break;
    case ReadMode::kLocal:
      return LocalReads(plan, index, first_ranks).Run();
    case ReadMode::kRank0: {
      std::vector<SharedReads> reads(plan.layout.num_nodes, std::make_shared<const NodeReads>());
      reads[plan.layout.node_of_rank[0]] =
          std::make_shared<const NodeReads>(AllRanges(index), index, plan.layout.round_bytes);
      return reads;
    }
  }
  std::vector<SharedReads> reads;
  for (const std::vector<FileRange>& share : ShareReads(plan, index, first_ranks)) {
    reads.push_back(std::make_shared<const NodeReads>(share, index, plan.layout.round_bytes));
  }
  return reads;
}

}  // namespace zerocast
