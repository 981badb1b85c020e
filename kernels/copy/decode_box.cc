#include "kernels/copy/decode_box.h"

#include <algorithm>

#include "kernels/copy/copy.h"
#include "kernels/copy/for_each_step.h"

namespace zerocast {
namespace {

// Elements decoded at once: a multiple of the widest vector, in the first-level cache.
constexpr int64_t kRun = 256;
// Up to this stride what lies between is decoded, too, and dropped.
constexpr int64_t kMostSkipped = 4;
// The tiles in which a transposition goes: what is read in a row, and the rows.
constexpr int64_t kTileReads = 256;
constexpr int64_t kTileWrites = 128;
constexpr int64_t kWidest = 8;  // bytes of the widest target element

class BoxDecoder {
 public:
  BoxDecoder(const Decoder& decoder, const EncodedSource& source, DType target_dtype)
      : decoder_(decoder),
        source_(source),
        target_dtype_(target_dtype),
        target_size_(SizeOf(target_dtype)) {}

  // Element `element` alone.
  uint32_t One(int64_t element) const {
    return DecodeElement(decoder_, source_.stored, source_.stored_first, source_.scales,
                         source_.scales_first, element);
  }

  // `count` elements from `element` on, `stride` apart, densely to `target`.
  void Run(int64_t element, int64_t stride, int64_t count, char* target) const {
    uint32_t values[kRun];
    const int64_t most = stride <= kMostSkipped ? (kRun - 1) / stride + 1 : kRun;
    while (count > 0) {
      const int64_t num = std::min(count, most);
      ToFloat32(element, stride, num, values);
      CastElements(values, DType::kFloat32, target, target_dtype_, num);
      element += num * stride;
      target += num * target_size_;
      count -= num;
    }
  }

  // One loop of a box; strides in elements.
  void Line(int64_t element, const BoxDim& loop, char* target) const {
    if (loop.target_stride == 1) {
      Run(element, loop.source_stride, loop.extent, target);
      return;
    }
    char dense[kRun * kWidest];
    for (int64_t done = 0; done < loop.extent; done += kRun) {
      const int64_t num = std::min(kRun, loop.extent - done);
      Run(element + done * loop.source_stride, loop.source_stride, num, dense);
      Box box;
      box.num_dims = 1;
      box.dims[0] = {num, 1, loop.target_stride};
      CopyBox(box, dense, target_dtype_, target + done * loop.target_stride * target_size_,
              target_dtype_);
    }
  }

  // Two loops of which `reads` has the smaller source stride and `writes` the smaller target
  // stride: decoded along `reads` into a tile, which is copied to its place.
  void Transposed(int64_t element, const BoxDim& reads, const BoxDim& writes, char* target) const {
    char tile[kTileReads * kTileWrites * kWidest];
    for (int64_t r = 0; r < reads.extent; r += kTileReads) {
      const int64_t num_r = std::min(kTileReads, reads.extent - r);
      for (int64_t w = 0; w < writes.extent; w += kTileWrites) {
        const int64_t num_w = std::min(kTileWrites, writes.extent - w);
        for (int64_t i = 0; i < num_w; ++i) {
          Run(element + r * reads.source_stride + (w + i) * writes.source_stride,
              reads.source_stride, num_r, tile + i * num_r * target_size_);
        }
        Box box;
        box.num_dims = 2;
        box.dims[0] = {num_r, 1, reads.target_stride};
        box.dims[1] = {num_w, num_r, writes.target_stride};
        CopyBox(box, tile, target_dtype_,
                target + (r * reads.target_stride + w * writes.target_stride) * target_size_,
                target_dtype_);
      }
    }
  }

 private:
  // As many as Run asks for.
  void ToFloat32(int64_t element, int64_t stride, int64_t count, uint32_t* values) const {
    if (stride > kMostSkipped) {
      for (int64_t i = 0; i < count; ++i) values[i] = One(element + i * stride);
      return;
    }
    RunToFloat32(element, (count - 1) * stride + 1, values);
    if (stride == 1) return;
    for (int64_t i = 1; i < count; ++i) values[i] = values[i * stride];
  }

  // Contiguous elements, block by block.
  void RunToFloat32(int64_t element, int64_t count, uint32_t* values) const {
    while (count > 0) {
      const int64_t in_block = decoder_.block_cols - element % decoder_.cols % decoder_.block_cols;
      const int64_t num = std::min(count, in_block);
      const uint32_t scale = LoadScale(decoder_.scale, source_.scales,
                                       ScaleIndex(decoder_, element) - source_.scales_first);
      BlockToFloat32(element, num, scale, values);
      element += num;
      values += num;
      count -= num;
    }
  }

  void BlockToFloat32(int64_t element, int64_t count, uint32_t scale, uint32_t* values) const {
    const auto* const stored = reinterpret_cast<const uint8_t*>(source_.stored);
    const int64_t place = element - source_.stored_first;
    if (PackedElements(decoder_.kind) == 2) {
      uint32_t products[16];
      for (uint8_t i = 0; i < 16; ++i) {
        products[i] = ApplyScale(decoder_, Float4E2M1ToFloat32(i), scale);
      }
      for (int64_t i = 0; i < count; ++i) {
        const int64_t at = place + i;
        values[i] = products[at % 2 == 0 ? stored[at / 2] & 15 : stored[at / 2] >> 4];
      }
      return;
    }
    CastElements(stored + place, decoder_.stored, values, DType::kFloat32, count);
    const uint32_t magnitude = scale & 0x7fffffff;
    if (magnitude == 0 || magnitude >= 0x7f800000) {
      // Products that may be NaN: their bits must not depend on the compiler's order of operands.
      for (int64_t i = 0; i < count; ++i) values[i] = MultiplyFloat32(values[i], scale);
      return;
    }
    float factor;
    std::memcpy(&factor, &scale, sizeof(factor));
    for (int64_t i = 0; i < count; ++i) {
      float value;
      std::memcpy(&value, &values[i], sizeof(value));
      value *= factor;
      std::memcpy(&values[i], &value, sizeof(value));
    }
  }

  const Decoder& decoder_;
  const EncodedSource& source_;
  const DType target_dtype_;
  const int64_t target_size_;
};

bool Divides(int64_t part, int64_t whole) { return part >= 1 && whole >= 1 && whole % part == 0; }

}  // namespace

bool IsConsistent(const Decoder& decoder, int64_t num_stored, int64_t num_scales) {
  const bool is_fp8 = IsFloat8(decoder.stored);
  const bool is_byte = decoder.stored == DType::kUInt8 || decoder.stored == DType::kInt8;
  const bool stored_fits = decoder.kind == DecoderKind::kFp8Block ? is_fp8 : is_byte;
  const bool scale_fits = decoder.scale == DType::kUInt8 ||
                          (decoder.kind != DecoderKind::kMxfp4 &&
                           (IsFloating(decoder.scale) || decoder.scale == DType::kFloat8E8M0));
  if (decoder.kind == DecoderKind::kPlain || decoder.kind > DecoderKind::kMxfp4 || !stored_fits ||
      !scale_fits || num_stored < 1 || !Divides(decoder.block_rows, decoder.rows) ||
      !Divides(decoder.block_cols, decoder.cols)) {
    return false;
  }
  int64_t num_elements = 0, matrix = 0, grid = 0, total = 0;
  if (__builtin_mul_overflow(num_stored, PackedElements(decoder.kind), &num_elements) ||
      __builtin_mul_overflow(decoder.rows, decoder.cols, &matrix) ||
      __builtin_mul_overflow(decoder.rows / decoder.block_rows, decoder.cols / decoder.block_cols,
                             &grid) ||
      num_elements % matrix != 0 || __builtin_mul_overflow(grid, num_elements / matrix, &total)) {
    return false;
  }
  if (decoder.matrix_scales == 0) return num_scales == grid;
  return decoder.matrix_scales == grid && num_scales == total;
}

void DecodeBoxReference(const Box& box, const Decoder& decoder, const EncodedSource& source,
                        void* target, DType target_dtype) {
  ForEachStep(box.dims, box.num_dims, box.source_offset, box.target_offset,
              [&](int64_t from, int64_t to) {
                const uint32_t value = DecodeElement(decoder, source.stored, source.stored_first,
                                                     source.scales, source.scales_first, from);
                Box one;
                one.target_offset = to;
                CopyBoxReference(one, &value, DType::kFloat32, target, target_dtype);
              });
}

void DecodeBox(const Box& box, const Decoder& decoder, const EncodedSource& source, void* target,
               DType target_dtype) {
  const BoxDecoder run(decoder, source, target_dtype);
  const int64_t size = SizeOf(target_dtype);
  char* const to = static_cast<char*>(target);
  if (box.num_dims == 0) {
    run.Run(box.source_offset, 1, 1, to + box.target_offset * size);
    return;
  }
  const int writes = box.num_dims - 1;
  int reads = writes;
  for (int k = 0; k < writes; ++k) {
    if (box.dims[k].source_stride < box.dims[reads].source_stride) reads = k;
  }
  BoxDim outer[kMaxBoxDims];
  int num_outer = 0;
  for (int k = 0; k < writes; ++k) {
    if (k != reads) outer[num_outer++] = box.dims[k];
  }
  ForEachStep(outer, num_outer, box.source_offset, box.target_offset,
              [&](int64_t from, int64_t place) {
                if (reads == writes) {
                  run.Line(from, box.dims[writes], to + place * size);
                } else {
                  run.Transposed(from, box.dims[reads], box.dims[writes], to + place * size);
                }
              });
}

}  // namespace zerocast
