#include "tests/kernels/copy/cuda/random_decodes.h"

#include <algorithm>

#include "kernels/copy/algebra.h"
#include "kernels/copy/decode_box.h"

namespace zerocast::copy_testing {
namespace {

int64_t RoundUp(int64_t number, int64_t to) { return (number + to - 1) / to * to; }

void Extend(Random* random, int64_t size, std::vector<uint8_t>* bytes) {
  while (static_cast<int64_t>(bytes->size()) < size) {
    bytes->push_back(static_cast<uint8_t>(random->Between(0, 255)));
  }
}

// The whole of a source of so many rows, or a part of it.
Box AnyBox(Random* random, int64_t rows, int64_t cols) {
  Box box = WholeBox(0, rows * cols, 0);
  if (random->Between(0, 1) == 0 && rows > 1) {
    const BoxDim dims[] = {{cols, 1, rows}, {rows, cols, 1}};
    box = MakeBox(0, 0, 0, dims).value();
  }
  if (random->Between(0, 1) == 0) return box;
  std::vector<Box> parts;
  const int64_t begin = random->Between(0, rows * cols - 1);
  SliceSource(box, begin, random->Between(begin + 1, rows * cols), &parts);
  return parts[random->Between(0, static_cast<int64_t>(parts.size()) - 1)];
}

}  // namespace

std::vector<DType> DecodedTypes() {
  return {DType::kFloat8E4M3, DType::kFloat8E5M2, DType::kFloat16,
          DType::kBFloat16,   DType::kFloat32,    DType::kFloat64};
}

RandomDecoder MakeRandomDecoder(Random* random) {
  RandomDecoder made;
  Decoder& decoder = made.decoder;
  decoder.kind = static_cast<DecoderKind>(random->Between(1, 3));
  decoder.stored = decoder.kind != DecoderKind::kFp8Block ? DType::kUInt8
                   : random->Between(0, 1) == 0           ? DType::kFloat8E4M3
                                                          : DType::kFloat8E5M2;
  const DType scales[] = {DType::kFloat32,    DType::kBFloat16,  DType::kFloat16,
                          DType::kFloat8E8M0, DType::kUInt8,     DType::kFloat64,
                          DType::kFloat8E4M3, DType::kFloat8E5M2};
  decoder.scale =
      decoder.kind == DecoderKind::kMxfp4 ? DType::kUInt8 : scales[random->Between(0, 7)];
  decoder.block_rows = random->Between(1, 5);
  // Blocks that vectors fit into, and others.
  decoder.block_cols =
      random->Between(0, 1) == 0 ? 16 * random->Between(1, 8) : random->Between(1, 80);
  decoder.rows = decoder.block_rows * random->Between(1, 20);
  decoder.cols = decoder.block_cols * random->Between(1, 4);
  int64_t matrices = random->Between(1, 3);
  // Two elements a byte fill whole bytes, though matrices may not.
  if (PackedElements(decoder.kind) == 2 && decoder.rows * decoder.cols % 2 != 0) matrices *= 2;
  const int64_t grid = decoder.rows / decoder.block_rows * GridCols(decoder);
  if (matrices == 1 || random->Between(0, 3) > 0) decoder.matrix_scales = grid;
  made.num_elements = decoder.rows * matrices * decoder.cols;
  made.num_scales = decoder.matrix_scales == 0 ? grid : grid * matrices;
  return made;
}

RandomDecodes MakeRandomDecodes(Random* random, DType to, int num_boxes) {
  RandomDecodes batch;
  batch.to = to;
  for (int i = 0; i < num_boxes; ++i) {
    const RandomDecoder made = MakeRandomDecoder(random);
    const Decoder& decoder = made.decoder;
    const int64_t packed = PackedElements(decoder.kind);
    RandomDecodes::Entry entry;
    entry.decoder = decoder;
    entry.box = AnyBox(random, made.num_elements / decoder.cols, decoder.cols);
    entry.box.target_offset += random->Between(0, 9);
    entry.stored_first = entry.box.source_offset / packed * packed;
    const ScaleRange range = ScalesOf(decoder, entry.box.source_offset, SourceEnd(entry.box));
    entry.scales_first = range.begin;

    auto source_end = static_cast<int64_t>(batch.source.size());
    entry.scales_begin = RoundUp(source_end, SizeOf(decoder.scale));
    source_end = entry.scales_begin + (range.end - range.begin) * SizeOf(decoder.scale);
    entry.stored_begin = random->Between(0, 1) == 0 ? RoundUp(source_end, 16) : source_end;
    source_end =
        entry.stored_begin + (SourceEnd(entry.box) - entry.stored_first + packed - 1) / packed;
    Extend(random, source_end, &batch.source);

    const auto target_end = static_cast<int64_t>(batch.target.size());
    entry.target_begin = RoundUp(target_end, random->Between(0, 1) == 0 ? 16 : SizeOf(to));
    Extend(random, entry.target_begin + TargetEnd(entry.box) * SizeOf(to), &batch.target);
    batch.entries.push_back(entry);
  }
  return batch;
}

std::vector<PlacedDecodeBox> RandomDecodes::Placed(const void* source_address,
                                                   void* target_address) const {
  const auto* const from = static_cast<const char*>(source_address);
  std::vector<PlacedDecodeBox> placed;
  for (const Entry& entry : entries) {
    PlacedDecodeBox one;
    one.box = entry.box;
    one.decoder = entry.decoder;
    one.source = {from + entry.stored_begin, entry.stored_first, from + entry.scales_begin,
                  entry.scales_first};
    one.target = static_cast<char*>(target_address) + entry.target_begin;
    placed.push_back(one);
  }
  return placed;
}

std::vector<uint8_t> RandomDecodes::Expected() const {
  std::vector<uint8_t> expected = target;
  for (const PlacedDecodeBox& placed : Placed(source.data(), expected.data())) {
    DecodeBoxReference(placed.box, placed.decoder, placed.source, placed.target, to);
  }
  return expected;
}

}  // namespace zerocast::copy_testing
