#include "kernels/copy/copy.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "kernels/copy/element_ops.h"
#include "kernels/copy/for_each_step.h"

namespace zerocast {
namespace {

// The loops of one pair of types.
struct Kernels {
  void (*one)(const char* source, char* target);
  void (*line)(const char* source, char* target, const Loop& loop);
  void (*transposed)(const char* source, char* target, const Loop& reads, const Loop& writes);
};

template <typename Op>
constexpr Kernels KernelsOf() {
  return {&CopyOne<Op>, &CopyLine<Op>, &CopyTransposed<Op>};
}

constexpr DType kFloating[] = {DType::kFloat8E4M3, DType::kFloat8E5M2, DType::kFloat16,
                               DType::kBFloat16,   DType::kFloat32,    DType::kFloat64};
constexpr DType kCastable[] = {
    DType::kBool,       DType::kUInt8,   DType::kInt8,     DType::kUInt16,  DType::kInt16,
    DType::kUInt32,     DType::kInt32,   DType::kUInt64,   DType::kInt64,   DType::kFloat8E4M3,
    DType::kFloat8E5M2, DType::kFloat16, DType::kBFloat16, DType::kFloat32, DType::kFloat64};
constexpr int kNumFloating = sizeof(kFloating) / sizeof(kFloating[0]);
constexpr int kNumCastable = sizeof(kCastable) / sizeof(kCastable[0]);

template <DType kFrom, DType kTo>
constexpr Kernels CastKernels() {
  if constexpr (kFrom == kTo) {
    return KernelsOf<CopyOp<Bits<kFrom>>>();
  } else {
    return KernelsOf<CastOp<kFrom, kTo>>();
  }
}

using KernelsTo = std::array<Kernels, kNumFloating>;

template <DType kFrom, size_t... kTo>
constexpr KernelsTo CastsFrom(std::index_sequence<kTo...>) {
  return {CastKernels<kFrom, kFloating[kTo]>()...};
}

template <size_t... kFrom>
constexpr std::array<KernelsTo, kNumCastable> AllCasts(std::index_sequence<kFrom...>) {
  return {CastsFrom<kCastable[kFrom]>(std::make_index_sequence<kNumFloating>())...};
}

constexpr std::array<KernelsTo, kNumCastable> kCasts =
    AllCasts(std::make_index_sequence<kNumCastable>());

constexpr Kernels kCopy1 = KernelsOf<CopyOp<uint8_t>>();
constexpr Kernels kCopy2 = KernelsOf<CopyOp<uint16_t>>();
constexpr Kernels kCopy4 = KernelsOf<CopyOp<uint32_t>>();
constexpr Kernels kCopy8 = KernelsOf<CopyOp<uint64_t>>();

const Kernels& KernelsFor(DType from, DType to) {
  if (from != to) {
    // Both lists are in the order of the types, without a gap.
    return kCasts[static_cast<int>(from) - static_cast<int>(kCastable[0])]
                 [static_cast<int>(to) - static_cast<int>(kFloating[0])];
  }
  switch (SizeOf(from)) {
    case 1:
      return kCopy1;
    case 2:
      return kCopy2;
    case 4:
      return kCopy4;
    default:
      return kCopy8;
  }
}

Loop LoopOf(const BoxDim& dim) { return {dim.extent, dim.source_stride, dim.target_stride}; }

}  // namespace

bool CanCast(DType from, DType to) {
  if (from == DType::kInvalid) return false;
  return from == to || ((IsFloating(from) || IsInteger(from)) && IsFloating(to));
}

void CopyBoxReference(const Box& box, const void* source, DType source_dtype, void* target,
                      DType target_dtype) {
  const int64_t source_size = SizeOf(source_dtype);
  const int64_t target_size = SizeOf(target_dtype);
  const auto copy_one = KernelsFor(source_dtype, target_dtype).one;
  int64_t steps[kMaxBoxDims] = {};
  for (;;) {
    int64_t source_place = box.source_offset;
    int64_t target_place = box.target_offset;
    for (int k = 0; k < box.num_dims; ++k) {
      source_place += steps[k] * box.dims[k].source_stride;
      target_place += steps[k] * box.dims[k].target_stride;
    }
    copy_one(static_cast<const char*>(source) + source_place * source_size,
             static_cast<char*>(target) + target_place * target_size);
    int k = box.num_dims - 1;
    for (; k >= 0 && ++steps[k] == box.dims[k].extent; --k) steps[k] = 0;
    if (k < 0) return;
  }
}

void CopyBox(const Box& box, const void* source, DType source_dtype, void* target,
             DType target_dtype) {
  const int64_t source_size = SizeOf(source_dtype);
  const int64_t target_size = SizeOf(target_dtype);
  const Kernels& kernels = KernelsFor(source_dtype, target_dtype);
  const char* from = static_cast<const char*>(source) + box.source_offset * source_size;
  char* to = static_cast<char*>(target) + box.target_offset * target_size;
  if (box.num_dims == 0) {
    kernels.one(from, to);
    return;
  }
  const int writes = box.num_dims - 1;
  if (box.num_dims == 1) {
    kernels.line(from, to, LoopOf(box.dims[writes]));
    return;
  }
  int reads = writes;
  for (int k = 0; k < writes; ++k) {
    if (box.dims[k].source_stride < box.dims[reads].source_stride) reads = k;
  }
  Loop outer[kMaxBoxDims];
  int num_outer = 0;
  for (int k = 0; k < writes; ++k) {
    if (k == reads) continue;
    outer[num_outer++] = {box.dims[k].extent, box.dims[k].source_stride * source_size,
                          box.dims[k].target_stride * target_size};
  }
  const Loop write_loop = LoopOf(box.dims[writes]);
  if (reads == writes) {
    ForEachStep(outer, num_outer, from, to, [&](const char* line_source, char* line_target) {
      kernels.line(line_source, line_target, write_loop);
    });
    return;
  }
  const Loop read_loop = LoopOf(box.dims[reads]);
  ForEachStep(outer, num_outer, from, to, [&](const char* plane_source, char* plane_target) {
    kernels.transposed(plane_source, plane_target, read_loop, write_loop);
  });
}

void CastElements(const void* source, DType source_dtype, void* target, DType target_dtype,
                  int64_t count) {
  if (count <= 0) return;
  KernelsFor(source_dtype, target_dtype)
      .line(static_cast<const char*>(source), static_cast<char*>(target), {count, 1, 1});
}

}  // namespace zerocast
