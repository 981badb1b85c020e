#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "kernels/base/status_macros.h"
#include "kernels/copy/algebra.h"
#include "kernels/copy/copy.h"
#include "kernels/copy/decode_box.h"
#include "server/base/errors.h"
#include "server/conversion/source_tensor.h"
#include "server/plan/check_layout.h"
#include "server/plan/loops.h"
#include "server/plan/plan.h"
#include "server/plan/shape.h"
#include "server/plan/source_index.h"

namespace zerocast {
namespace {

absl::Status Refuse(absl::string_view what) {
  return WithReason(absl::DataLossError(absl::StrCat("prove the plan: ", what)), "PLAN_REFUSED");
}

// True when the loops, nested by `stride`, never meet and the last place they reach from `offset`
// lies below `limit`.  Hostile values do not overflow.
bool LoopsFit(const Box& box, int64_t offset, int64_t BoxDim::*stride, int64_t limit) {
  const auto loops = LoopsFromInside(box, stride);
  int64_t inner_end = 1;
  int64_t last = offset;
  for (int k = 0; k < box.num_dims; ++k) {
    int64_t width = 0;
    if (loops[k].*stride < inner_end ||
        __builtin_mul_overflow(loops[k].extent, loops[k].*stride, &inner_end) ||
        __builtin_mul_overflow(loops[k].extent - 1, loops[k].*stride, &width) ||
        __builtin_add_overflow(last, width, &last)) {
      return false;
    }
  }
  return offset >= 0 && last < limit;
}

class Prover {
 public:
  explicit Prover(const Plan& plan) : plan_(plan), tensors_(plan.manifest->tensors) {}

  absl::Status Run() {
    if (absl::Status layout = CheckLayout(plan_.layout, /*has_spec=*/true); !layout.ok()) {
      return Refuse(layout.message());
    }
    ZC_RETURN_IF_ERROR(ProveSources());
    ZC_RETURN_IF_ERROR(ProveDecoders());
    for (const Target& target : plan_.targets) {
      ZC_RETURN_IF_ERROR(ProvePlace(target));
      if (!target.is_filled && target.boxes.empty()) continue;
      if (!target.is_filled) {
        return Refuse(absl::StrCat("target '", target.name, "' has boxes but is not to be filled"));
      }
      for (const Box& box : target.boxes) ZC_RETURN_IF_ERROR(ProveBox(target, box));
      if (absl::Status covered = ProveFilled(target); !covered.ok()) {
        return Refuse(absl::StrCat("target '", target.name, "': ", covered.message(),
                                   SourceNames(covered.message())));
      }
    }
    ZC_RETURN_IF_ERROR(ProveSourcesMovedOnce());
    return ProveArena();
  }

 private:
  absl::Status ProveSources() {
    num_elements_.reserve(tensors_.size());
    for (const ManifestTensor& tensor : tensors_) {
      int64_t elements = 0, bytes = 0;
      if (!CheckedBytes(tensor.tensor.shape, tensor.tensor.dtype, &bytes) ||
          !CheckedReach(tensor.tensor.shape, tensor.tensor.strides, &elements) ||
          __builtin_mul_overflow(elements, SizeOf(tensor.tensor.dtype), &bytes) ||
          tensor.file < 0 || tensor.file >= static_cast<int64_t>(plan_.manifest->files.size()) ||
          tensor.file_begin < 0 || tensor.file_end < tensor.file_begin ||
          tensor.file_end - tensor.file_begin != bytes) {
        return Refuse(absl::StrCat(
            "source '", tensor.tensor.name, "' of shape ", ShapeAsText(tensor.tensor.shape),
            tensor.tensor.strides.empty()
                ? ""
                : absl::StrCat(", strides ", ShapeAsText(tensor.tensor.strides)),
            " and dtype ", DTypeName(tensor.tensor.dtype), " is not bytes [", tensor.file_begin,
            ", ", tensor.file_end, ") of file ", tensor.file));
      }
      const ManifestFile& file = plan_.manifest->files[tensor.file];
      if (tensor.file_end > file.num_bytes) {
        return Refuse(absl::StrCat("source '", tensor.tensor.name, "' ends at byte ",
                                   tensor.file_end, " of '", file.path, "', which has ",
                                   file.num_bytes));
      }
      num_elements_.push_back(elements);
    }
    return absl::OkStatus();
  }

  absl::Status ProveDecoders() {
    const auto num_tensors = static_cast<int32_t>(tensors_.size());
    is_scale_.resize(tensors_.size(), false);
    for (size_t i = 0; i < plan_.decoders.size(); ++i) {
      const SourceDecoder& source = plan_.decoders[i];
      if (source.source < 0 || source.source >= num_tensors || source.scale < 0 ||
          source.scale >= num_tensors || source.source == source.scale ||
          (i > 0 && plan_.decoders[i - 1].source >= source.source)) {
        return Refuse(absl::StrCat("decoder ", i,
                                   " is not of one tensor of the manifest by the "
                                   "scales of another, or not in order"));
      }
      if (source.decoder.stored != tensors_[source.source].tensor.dtype ||
          source.decoder.scale != tensors_[source.scale].tensor.dtype ||
          !tensors_[source.source].tensor.strides.empty() ||
          !tensors_[source.scale].tensor.strides.empty() ||
          !IsConsistent(source.decoder, num_elements_[source.source],
                        num_elements_[source.scale])) {
        return Refuse(absl::StrCat(
            "source '", tensors_[source.source].tensor.name, "' cannot be decoded by scales '",
            tensors_[source.scale].tensor.name, "': blocks and types do not go together"));
      }
      is_scale_[source.scale] = true;
    }
    // Only now: the tensor of one's scales must not look larger than it is.
    for (const SourceDecoder& source : plan_.decoders) {
      if (is_scale_[source.source]) {
        return Refuse(absl::StrCat("source '", tensors_[source.source].tensor.name,
                                   "' is decoded, and holds scales"));
      }
      num_elements_[source.source] *= PackedElements(source.decoder.kind);
    }
    return absl::OkStatus();
  }

  // Every element once: by a box, or in a gap.
  static absl::Status ProveFilled(const Target& target) {
    if (target.gaps.empty()) return ProveCoverage(target.boxes, target.num_elements);
    std::vector<Box> boxes = target.boxes;
    for (const TargetGap& gap : target.gaps) {
      if (gap.offset < 0 || gap.num_elements < 1 ||
          gap.num_elements > target.num_elements - gap.offset) {
        return absl::DataLossError(absl::StrCat("a gap of ", gap.num_elements, " elements from ",
                                                gap.offset, " on leaves its ",
                                                target.num_elements));
      }
      const BoxDim dim = {gap.num_elements, 1, 1};
      ZC_ASSIGN_OR_RETURN(const Box box,
                          MakeBox(/*source=*/-1, 0, gap.offset, absl::MakeConstSpan(&dim, 1)));
      boxes.push_back(box);
    }
    return ProveCoverage(boxes, target.num_elements);
  }

  absl::Status ProvePlace(const Target& target) const {
    int64_t elements = 0, bytes = 0;
    const int64_t world = plan_.layout.world_size;
    if (!CheckedBytes(target.shape, target.dtype, &bytes) ||
        !CheckedElements(target.shape, &elements) || elements != target.num_elements) {
      return Refuse(absl::StrCat("target '", target.name, "' of shape ", ShapeAsText(target.shape),
                                 " does not have ", target.num_elements, " elements of ",
                                 DTypeName(target.dtype)));
    }
    const int64_t part =
        target.partitioned ? elements / world + (elements % world != 0 ? 1 : 0) : elements;
    if (target.partition_elements != part) {
      return Refuse(absl::StrCat("target '", target.name, "': a rank of ", world, " holds ", part,
                                 " of its ", elements, " elements, not ",
                                 target.partition_elements));
    }
    if (plan_.arena_bytes < 0 || plan_.arena_bytes >= kTooManyBytes) {
      return Refuse(absl::StrCat("an arena of ", plan_.arena_bytes, " bytes"));
    }
    const int64_t group = SecondaryGroupSize(plan_.layout);
    const int64_t block =
        target.partitioned && !target.is_state && group > 0 ? part * (world / group) : 0;
    if (target.secondary_elements != block) {
      return Refuse(absl::StrCat("target '", target.name, "': a rank of ", world, " in groups of ",
                                 group, " holds ", block, " of its ", elements,
                                 " elements in its secondary partition, not ",
                                 target.secondary_elements));
    }
    if (block > 0) ZC_RETURN_IF_ERROR(ProveOffset(target, target.secondary_offset, block));
    return ProveOffset(target, target.arena_offset, part);
  }

  // That `elements` of `target` may lie at byte `offset` of an arena.
  absl::Status ProveOffset(const Target& target, int64_t offset, int64_t elements) const {
    const int64_t num_bytes = elements * SizeOf(target.dtype);
    if (offset < 0 || offset % kPartitionAlignment != 0 || offset > plan_.arena_bytes - num_bytes) {
      return Refuse(absl::StrCat("target '", target.name, "': ", num_bytes, " bytes at ", offset,
                                 " are not aligned to ", kPartitionAlignment,
                                 " or leave the arena of ", plan_.arena_bytes, " bytes"));
    }
    return absl::OkStatus();
  }

  absl::Status ProveBox(const Target& target, const Box& box) const {
    const auto refuse = [&](absl::string_view what) {
      const bool known = box.source >= 0 && box.source < static_cast<int64_t>(tensors_.size());
      return Refuse(absl::StrCat(
          "target '", target.name, "': a box at element ", box.target_offset, " of source ",
          box.source, known ? absl::StrCat(" ('", tensors_[box.source].tensor.name, "')") : "", " ",
          what));
    };
    if (box.source < 0 || box.source >= static_cast<int64_t>(tensors_.size())) {
      return refuse("reads a tensor that the manifest does not have");
    }
    if (box.num_dims < 0 || box.num_dims > kMaxBoxDims) return refuse("has too many loops");
    for (int k = 0; k < box.num_dims; ++k) {
      if (box.dims[k].extent < 2 ||
          (k > 0 && box.dims[k].target_stride >= box.dims[k - 1].target_stride)) {
        return refuse("is not in canonical form");
      }
    }
    if (!LoopsFit(box, box.source_offset, &BoxDim::source_stride, num_elements_[box.source])) {
      return refuse(absl::StrCat("reads outside of its ", num_elements_[box.source],
                                 " elements, or one of them twice"));
    }
    if (!LoopsFit(box, box.target_offset, &BoxDim::target_stride, target.num_elements)) {
      return refuse(absl::StrCat("writes outside of elements [0, ", target.num_elements,
                                 "), or one of them twice"));
    }
    if (is_scale_[box.source]) return refuse("reads scales");
    const DType from = tensors_[box.source].tensor.dtype;
    const bool is_decoded = FindDecoder(plan_.decoders, box.source) != nullptr;
    if (is_decoded ? !CanDecodeTo(target.dtype) : !CanCast(from, target.dtype)) {
      return refuse(
          absl::StrCat("cannot turn ", DTypeName(from), " into ", DTypeName(target.dtype)));
    }
    return absl::OkStatus();
  }

  // Conversions only move elements.  Where two boxes read the same element, one of them reads what
  // is not its own.
  absl::Status ProveSourcesMovedOnce() const {
    const SourceIndex index(plan_);
    std::vector<SourceUse> uses;
    for (size_t slot = 0; slot < index.needed().size(); ++slot) {
      const NeededSource& source = index.needed()[slot];
      if (slot > 0) {
        const NeededSource& before = index.needed()[slot - 1];
        if (before.range.file == source.range.file && before.range.end > source.range.begin) {
          return Refuse(absl::StrCat("sources '", tensors_[before.source].tensor.name, "' and '",
                                     tensors_[source.source].tensor.name, "' share bytes of file ",
                                     source.range.file, " from ", source.range.begin, " on"));
        }
      }
      if (index.Boxes(slot).size() < 2) continue;
      // A master goes to its weight and, as it is, to the optimizer's state.
      for (const bool of_states : {false, true}) {
        uses.clear();
        for (const BoxRef& ref : index.Boxes(slot)) {
          const Target& target = plan_.targets[ref.target];
          if (target.is_state != of_states) continue;
          ZC_ASSIGN_OR_RETURN(Box mirrored, Mirror(target.boxes[ref.box]));
          uses.push_back({mirrored, ref.target});
        }
        ZC_RETURN_IF_ERROR(ProveApart(source.source, &uses));
      }
    }
    return absl::OkStatus();
  }

  // A box with source and target exchanged, and the target it belongs to.
  struct SourceUse {
    Box box;
    int32_t target;
  };

  static absl::StatusOr<Box> Mirror(const Box& box) {
    BoxDim dims[kMaxBoxDims];
    for (int k = 0; k < box.num_dims; ++k) {
      dims[k] = {box.dims[k].extent, box.dims[k].target_stride, box.dims[k].source_stride};
    }
    return MakeBox(box.source, box.target_offset, box.source_offset,
                   absl::MakeConstSpan(dims, box.num_dims));
  }

  absl::Status ProveApart(int32_t source, std::vector<SourceUse>* uses) const {
    std::sort(uses->begin(), uses->end(), [](const SourceUse& a, const SourceUse& b) {
      return a.box.target_offset < b.box.target_offset;
    });
    std::vector<const SourceUse*> open;  // those that may reach behind the current one's begin
    for (const SourceUse& use : *uses) {
      open.erase(std::remove_if(open.begin(), open.end(),
                                [&use](const SourceUse* earlier) {
                                  return TargetEnd(earlier->box) <= use.box.target_offset;
                                }),
                 open.end());
      for (const SourceUse* earlier : open) {
        if (!TargetsOverlap(earlier->box, use.box)) continue;
        return Refuse(absl::StrCat(
            "targets '", plan_.targets[earlier->target].name, "' and '",
            plan_.targets[use.target].name, "' both read elements of source ", source, " ('",
            tensors_[source].tensor.name, "') from ", use.box.target_offset, " on"));
      }
      open.push_back(&use);
    }
    return absl::OkStatus();
  }

  // A primary or secondary partition in the arena.
  struct Placed {
    const Target* target;
    int64_t offset;
    int64_t elements;
  };

  absl::Status ProveArena() const {
    std::vector<Placed> placed;
    for (const Target& target : plan_.targets) {
      if (target.partition_elements > 0) {
        placed.push_back({&target, target.arena_offset, target.partition_elements});
      }
    }
    for (const Target& target : plan_.targets) {
      if (target.secondary_elements > 0) {
        placed.push_back({&target, target.secondary_offset, target.secondary_elements});
      }
    }
    const auto before = [](const Placed& a, const Placed& b) { return a.offset < b.offset; };
    if (!std::is_sorted(placed.begin(), placed.end(), before)) {
      std::sort(placed.begin(), placed.end(), before);
    }
    for (size_t i = 1; i < placed.size(); ++i) {
      const Placed& last = placed[i - 1];
      if (last.offset + last.elements * SizeOf(last.target->dtype) > placed[i].offset) {
        return Refuse(absl::StrCat("targets '", last.target->name, "' and '",
                                   placed[i].target->name, "' share bytes of the arena at ",
                                   placed[i].offset));
      }
    }
    return absl::OkStatus();
  }

  // ProveCoverage knows sources by number; people know them by name.
  std::string SourceNames(absl::string_view message) const {
    const size_t at = message.rfind("source");
    if (at == absl::string_view::npos) return "";
    std::string names;
    for (absl::string_view word : absl::StrSplit(message.substr(at), ' ')) {
      int32_t source = 0;
      if (!absl::SimpleAtoi(word, &source) || source < 0 ||
          source >= static_cast<int64_t>(tensors_.size())) {
        continue;
      }
      absl::StrAppend(&names, names.empty() ? " (source " : ", source ", source, " is '",
                      tensors_[source].tensor.name, "'");
    }
    return names.empty() ? names : absl::StrCat(names, ")");
  }

  const Plan& plan_;
  const std::vector<ManifestTensor>& tensors_;
  std::vector<int64_t> num_elements_;  // of each source; logical ones
  std::vector<bool> is_scale_;         // by source
};

}  // namespace

absl::Status ProvePlan(const Plan& plan) { return Prover(plan).Run(); }

}  // namespace zerocast
