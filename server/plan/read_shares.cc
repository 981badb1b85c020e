#include "server/plan/read_shares.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "kernels/copy/algebra.h"

namespace zerocast {
namespace {

constexpr int32_t kAnyNode = -1;

int64_t NumBytes(const FileRange& range) { return range.end - range.begin; }

// A range that one node had better read.
struct Wish {
  FileRange range;
  int32_t node = kAnyNode;
  int64_t own = 0;  // bytes of it that lie in the node's partitions
};

// Finds out who holds what of the sources, in pieces of some size.
class Wishes {
 public:
  Wishes(const Plan& plan, const SourceIndex& index, const std::vector<int32_t>& first_ranks,
         int64_t least_bytes)
      : plan_(plan), index_(index), first_ranks_(first_ranks), least_bytes_(least_bytes) {}

  std::vector<Wish> Run() {
    for (size_t slot = 0; slot < index_.needed().size(); ++slot) AddSource(slot);
    return std::move(wishes_);
  }

 private:
  void AddSource(size_t slot) {
    const NeededSource& source = index_.needed()[slot];
    const absl::Span<const BoxRef> boxes = index_.Boxes(slot);
    // Who is sent everything anyway wishes for nothing.
    if (plan_.layout.num_nodes == 1 || plan_.layout.move_mode == MoveMode::kBroadcast) {
      Add(source.range, kAnyNode);
    } else if (boxes.size() == 1 && IsContiguous(BoxOf(boxes[0]))) {
      AddContiguous(source, plan_.targets[boxes[0].target], BoxOf(boxes[0]));
    } else if (NumBytes(source.range) < least_bytes_) {
      Add(source.range, kAnyNode);
    } else if (boxes.size() <= kMostBoxes) {
      AddInSteps(source, boxes);
    } else if (source.decoder == nullptr &&
               std::all_of(boxes.begin(), boxes.end(),
                           [this](const BoxRef& ref) { return IsContiguous(BoxOf(ref)); })) {
      AddFlat(source, boxes);
    } else {
      Add(source.range, kAnyNode);
    }
  }

  // Cut where the parts of the nodes meet.
  void AddContiguous(const NeededSource& source, const Target& target, const Box& box) {
    const int64_t packed = source.packed();
    const int64_t part = target.partition_elements;
    const int64_t of_node =
        part * plan_.layout.world_size / plan_.layout.num_nodes / packed * source.element_bytes;
    if (!target.partitioned || of_node < least_bytes_) return Add(source.range, kAnyNode);
    const int64_t num_elements = NumBytes(source.range) / source.element_bytes * packed;
    for (int64_t begin = 0; begin < num_elements;) {
      const int64_t place = std::clamp(begin - box.source_offset + box.target_offset,
                                       box.target_offset, TargetEnd(box) - 1);
      const int32_t node = NodeOf(target, place);
      const int64_t part_end = first_ranks_[static_cast<size_t>(node) + 1] * part;
      int64_t end = num_elements;
      if (part_end < TargetEnd(box)) {
        end = (part_end - box.target_offset + box.source_offset) / packed * packed;
      }
      // A stored element that two parts share goes with the first.
      end = std::max(end, begin + packed);
      Add(source.BytesOf(begin, end), node);
      begin = end;
    }
  }

  // Wherever the elements go: a step is a node's where its first, middle and last element are.
  void AddInSteps(const NeededSource& source, absl::Span<const BoxRef> boxes) {
    const int64_t packed = source.packed();
    const int64_t num_elements = NumBytes(source.range) / source.element_bytes * packed;
    const int64_t step = std::max<int64_t>(1, least_bytes_ / source.element_bytes) * packed;
    for (int64_t begin = 0; begin < num_elements; begin += step) {
      const int64_t end = std::min(num_elements, begin + step);
      const int32_t node = NodeOfElement(begin, boxes);
      const bool all = node != kAnyNode &&
                       NodeOfElement(begin + (end - begin) / 2, boxes) == node &&
                       NodeOfElement(end - 1, boxes) == node;
      Add(source.BytesOf(begin, end), all ? node : kAnyNode);
    }
  }

  // An engine's flat tensor: stretches of many targets. Cut where the parts of the nodes meet.
  void AddFlat(const NeededSource& source, absl::Span<const BoxRef> boxes) {
    stretches_.clear();
    for (const BoxRef& ref : boxes) {
      const Target& target = plan_.targets[ref.target];
      const Box& box = BoxOf(ref);
      if (target.partitioned)
        stretches_.push_back({box.source_offset, SourceEnd(box), &target, &box});
    }
    // Of a weight and its state the state, which is never smaller.
    std::sort(stretches_.begin(), stretches_.end(), [](const Stretch& a, const Stretch& b) {
      return std::make_tuple(a.begin, !a.target->is_state) <
             std::make_tuple(b.begin, !b.target->is_state);
    });
    int64_t at = 0;
    for (const Stretch& stretch : stretches_) {
      if (stretch.begin > at) Add(source.BytesOf(at, stretch.begin), kAnyNode);
      at = std::max(at, stretch.begin);
      while (at < stretch.end) {
        const int64_t moved = stretch.box->target_offset - stretch.box->source_offset;
        const int32_t node = NodeOf(*stretch.target, at + moved);
        const int64_t part_end =
            first_ranks_[static_cast<size_t>(node) + 1] * stretch.target->partition_elements -
            moved;
        const int64_t end = std::min(stretch.end, part_end);
        Add(source.BytesOf(at, end), node);
        at = end;
      }
    }
    const int64_t num_elements = NumBytes(source.range) / source.element_bytes;
    if (at < num_elements) Add(source.BytesOf(at, num_elements), kAnyNode);
  }

  // Joins small ranges with what follows them: who has the most of both has both.
  void Add(const FileRange& range, int32_t node) {
    if (!wishes_.empty()) {
      Wish& last = wishes_.back();
      if (last.range.file == range.file && last.range.end == range.begin &&
          (last.node == node || NumBytes(last.range) < least_bytes_)) {
        last.range.end = range.end;
        if (last.node == node) {
          last.own += NumBytes(range);
        } else if (NumBytes(range) > last.own) {
          last.node = node;
          last.own = NumBytes(range);
        }
        return;
      }
    }
    wishes_.push_back({range, node, NumBytes(range)});
  }

  int32_t NodeOfElement(int64_t element, absl::Span<const BoxRef> boxes) {
    for (const BoxRef& ref : boxes) {
      const Box& box = BoxOf(ref);
      if (element < box.source_offset || element >= SourceEnd(box)) continue;
      slices_.clear();
      SliceSource(box, element, element + 1, &slices_);
      if (slices_.empty()) continue;
      const Target& target = plan_.targets[ref.target];
      return target.partitioned ? NodeOf(target, slices_[0].target_offset) : kAnyNode;
    }
    return kAnyNode;
  }

  int32_t NodeOf(const Target& target, int64_t place) const {
    return plan_.layout.node_of_rank[static_cast<size_t>(place / target.partition_elements)];
  }

  const Box& BoxOf(const BoxRef& ref) const { return plan_.targets[ref.target].boxes[ref.box]; }

  // Elements of a source that one box takes to a partitioned target.
  struct Stretch {
    int64_t begin = 0, end = 0;
    const Target* target = nullptr;
    const Box* box = nullptr;
  };

  // A source that is cut finer goes all over its targets, unless all its boxes are stretches.
  static constexpr size_t kMostBoxes = 16;

  const Plan& plan_;
  const SourceIndex& index_;
  const std::vector<int32_t>& first_ranks_;
  const int64_t least_bytes_;
  std::vector<Wish> wishes_;        // in file order
  std::vector<Box> slices_;         // scratch
  std::vector<Stretch> stretches_;  // scratch
};

// Gives ranges to nodes until each has its share.
class Shares {
 public:
  Shares(const Plan& plan, const SourceIndex& index, int64_t least_bytes)
      : index_(index), least_bytes_(least_bytes), shares_(plan.layout.num_nodes) {
    int64_t total = 0, begin = 0;
    for (const NeededSource& source : index.needed()) total += NumBytes(source.range);
    for (int64_t node = 0; node < plan.layout.num_nodes; ++node) {
      const auto end =
          static_cast<int64_t>(static_cast<__int128>(total) * (node + 1) / plan.layout.num_nodes);
      accounts_.push_back({end - begin});
      begin = end;
    }
  }

  std::vector<std::vector<FileRange>> Run(const std::vector<Wish>& wishes) {
    for (const Wish& wish : wishes) {
      if (wish.node == kAnyNode) continue;
      accounts_[static_cast<size_t>(wish.node)].wished += NumBytes(wish.range);
    }
    for (const Wish& wish : wishes) Grant(wish);
    JoinRanges(&rest_);
    Distribute();
    for (std::vector<FileRange>& share : shares_) JoinRanges(&share);
    return std::move(shares_);
  }

 private:
  // Bytes of one node.
  struct Account {
    int64_t share = 0;
    int64_t wished = 0;
    int64_t seen = 0;  // of those wished for, the ones that were considered
    int64_t granted = 0;
  };

  // Of a node that wishes for more than its share, the same part of it everywhere in the files: in
  // no round do all others read for that node.
  void Grant(const Wish& wish) {
    const FileRange& range = wish.range;
    if (wish.node == kAnyNode) return rest_.push_back(range);
    Account& account = accounts_[static_cast<size_t>(wish.node)];
    account.seen += NumBytes(range);
    int64_t end = range.end;
    if (account.wished > account.share) {
      const auto allowed = static_cast<int64_t>(static_cast<__int128>(account.seen) *
                                                account.share / account.wished);
      const int64_t more = allowed - account.granted;
      if (more < least_bytes_) {
        end = range.begin;
      } else if (more < NumBytes(range)) {
        end = index_.ElementBoundary(range.file, range.begin + more);
      }
    }
    if (end > range.begin) {
      shares_[static_cast<size_t>(wish.node)].push_back({range.file, range.begin, end});
      account.granted += end - range.begin;
    }
    if (end < range.end) rest_.push_back({range.file, end, range.end});
  }

  // Each node has as much of what is left as its share still holds, each end moved down to an
  // element.
  void Distribute() {
    size_t at = 0;            // the range that the node's part begins in ...
    int64_t range_start = 0;  // ... and its place in the concatenation of rest_
    int64_t begin = 0;        // the part's place there
    int64_t wanted = 0;
    for (size_t node = 0; node < shares_.size(); ++node) {
      wanted += accounts_[node].share - accounts_[node].granted;
      while (at < rest_.size() && begin < wanted) {
        const FileRange& range = rest_[at];
        const int64_t range_end = range_start + NumBytes(range);
        int64_t end = std::min(wanted, range_end);
        if (end < range_end) {
          end =
              range_start +
              (index_.ElementBoundary(range.file, range.begin + (end - range_start)) - range.begin);
        }
        if (end > begin) {
          shares_[node].push_back(
              {range.file, range.begin + (begin - range_start), range.begin + (end - range_start)});
          begin = end;
        }
        if (end < range_end) break;
        range_start = range_end;
        ++at;
      }
    }
  }

  const SourceIndex& index_;
  const int64_t least_bytes_;
  std::vector<std::vector<FileRange>> shares_;
  std::vector<Account> accounts_;  // by node
  std::vector<FileRange> rest_;
};

}  // namespace

std::vector<std::vector<FileRange>> ShareReads(const Plan& plan, const SourceIndex& index,
                                               const std::vector<int32_t>& first_ranks,
                                               int64_t least_bytes) {
  return Shares(plan, index, least_bytes).Run(Wishes(plan, index, first_ranks, least_bytes).Run());
}

}  // namespace zerocast
