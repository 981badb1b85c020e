#include "client/formats/deepspeed/box_blocks.h"

#include <algorithm>

#include "kernels/base/status_macros.h"
#include "kernels/copy/algebra.h"

namespace zerocast {
namespace {

int64_t StrideOf(const BoxDim& dim, BoxSide side) {
  return side == BoxSide::kSource ? dim.source_stride : dim.target_stride;
}

// The loops of `box` from the smallest stride of a side to the largest; returns how many.
int OrderOf(const Box& box, BoxSide side, int (&order)[kMaxBoxDims]) {
  for (int k = 0; k < box.num_dims; ++k) order[k] = k;
  std::sort(order, order + box.num_dims, [&](int a, int b) {
    return StrideOf(box.dims[a], side) < StrideOf(box.dims[b], side);
  });
  return box.num_dims;
}

}  // namespace

BoxBlocks::BoxBlocks(const Box& box, int64_t max_elements) : box_(box) {
  int by_source[kMaxBoxDims], by_target[kMaxBoxDims];
  const int num_dims = OrderOf(box, BoxSide::kSource, by_source);
  OrderOf(box, BoxSide::kTarget, by_target);
  std::fill(extents_, extents_ + kMaxBoxDims, 1);
  int64_t elements = 1;
  // The innermost loops of both sides grow in turn.
  for (int s = 0, t = 0; s < num_dims || t < num_dims;) {
    if (s < num_dims && extents_[by_source[s]] == box.dims[by_source[s]].extent) {
      ++s;
      continue;
    }
    if (t < num_dims && extents_[by_target[t]] == box.dims[by_target[t]].extent) {
      ++t;
      continue;
    }
    // Neither is at its end: a loop that is whole is whole on both sides.
    const int a = by_source[s], b = by_target[t];
    const int grown = extents_[a] <= extents_[b] ? a : b;
    const int64_t others = elements / extents_[grown];
    const int64_t most =
        std::min(box.dims[grown].extent, std::max<int64_t>(1, max_elements / others));
    const int64_t wanted = a == b ? most : std::min(most, 2 * extents_[grown]);
    if (wanted <= extents_[grown]) break;
    extents_[grown] = wanted;
    elements = others * wanted;
  }
  for (int k = 0; k < num_dims; ++k) {
    count_ *= (box.dims[k].extent + extents_[k] - 1) / extents_[k];
  }
}

Box BoxBlocks::Get(int64_t index) const {
  Box block = box_;
  for (int k = box_.num_dims - 1; k >= 0; --k) {
    const BoxDim& dim = box_.dims[k];
    const int64_t blocks = (dim.extent + extents_[k] - 1) / extents_[k];
    const int64_t first = index % blocks * extents_[k];
    index /= blocks;
    block.dims[k].extent = std::min(extents_[k], dim.extent - first);
    block.source_offset += first * dim.source_stride;
    block.target_offset += first * dim.target_stride;
  }
  return block;
}

absl::Status ForEachStretch(const Box& box, BoxSide side,
                            const std::function<absl::Status(const BoxStretch&)>& body) {
  int order[kMaxBoxDims];
  const int num_dims = OrderOf(box, side, order);
  BoxStretch stretch;
  stretch.offset = side == BoxSide::kSource ? box.source_offset : box.target_offset;
  stretch.num_elements = 1;
  int outer[kMaxBoxDims];
  int num_outer = 0;
  for (int k = 0; k < num_dims; ++k) {
    const BoxDim& dim = box.dims[order[k]];
    if (dim.extent == 1) continue;
    if (num_outer == 0 && StrideOf(dim, side) == stretch.num_elements) {
      stretch.num_elements *= dim.extent;
    } else {
      outer[num_outer++] = order[k];
    }
  }
  int64_t at[kMaxBoxDims] = {};
  while (true) {
    ZC_RETURN_IF_ERROR(body(stretch));
    stretch.packed_offset += stretch.num_elements;
    int k = 0;
    for (; k < num_outer; ++k) {
      const BoxDim& dim = box.dims[outer[k]];
      stretch.offset += StrideOf(dim, side);
      if (++at[k] < dim.extent) break;
      stretch.offset -= dim.extent * StrideOf(dim, side);
      at[k] = 0;
    }
    if (k == num_outer) return absl::OkStatus();
  }
}

absl::StatusOr<Box> PackBothSides(const Box& box) {
  Box packed = box;
  packed.source = 0;
  packed.source_offset = packed.target_offset = 0;
  for (const BoxSide side : {BoxSide::kSource, BoxSide::kTarget}) {
    int order[kMaxBoxDims];
    const int num_dims = OrderOf(box, side, order);
    int64_t stride = 1;
    for (int k = 0; k < num_dims; ++k) {
      BoxDim& dim = packed.dims[order[k]];
      (side == BoxSide::kSource ? dim.source_stride : dim.target_stride) = stride;
      stride *= dim.extent;
    }
  }
  return MakeBox(0, 0, 0, {packed.dims, static_cast<size_t>(packed.num_dims)});
}

}  // namespace zerocast
