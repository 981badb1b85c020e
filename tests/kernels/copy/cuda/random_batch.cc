#include "tests/kernels/copy/cuda/random_batch.h"

#include <random>

#include "kernels/copy/copy.h"

namespace zerocast::copy_testing {
namespace {

std::vector<uint8_t> RandomBytes(Random* random, int64_t size) {
  std::mt19937 engine(static_cast<uint32_t>(random->Between(0, 1 << 30)));
  std::vector<uint8_t> bytes(size);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(engine() >> 24);
  return bytes;
}

Box Loops(const std::vector<BoxDim>& dims) {
  Box box;
  box.num_dims = static_cast<int32_t>(dims.size());
  for (size_t k = 0; k < dims.size(); ++k) box.dims[k] = dims[k];
  return box;
}

Box AnyBox(Random* random) {
  switch (random->Between(0, 5)) {
    case 0:
      return Box();
    case 1:
      return Loops({{random->Between(2, 3000), 1, 1}});
    case 2:
      return Loops({{random->Between(8000, 40000), 1, 1}});
    case 3: {  // rows, as of a slice
      const int64_t row = random->Between(2, 1500);
      const int64_t source_gap = random->Between(0, 20);
      return Loops(
          {{random->Between(2, 12), row + source_gap, row + random->Between(1, 20)}, {row, 1, 1}});
    }
    case 4: {  // a transposition
      const int64_t rows = random->Between(2, 90);
      const int64_t columns = random->Between(2, 90);
      return Loops({{rows, 1, columns}, {columns, rows, 1}});
    }
    default:
      return RandomBox(random, kMaxBoxDims, 4);
  }
}

// Where the next box may begin behind `end` bytes.
int64_t Begin(Random* random, int64_t end, DType dtype) {
  const int64_t aligned = (end + 15) / 16 * 16;
  return random->Between(0, 1) == 0 ? aligned : aligned + SizeOf(dtype) * random->Between(0, 16);
}

}  // namespace

std::vector<TypePair> AllTypePairs() {
  std::vector<TypePair> pairs;
  for (int from = 1; from <= 15; ++from) {
    for (int to = 1; to <= 15; ++to) {
      const TypePair pair = {static_cast<DType>(from), static_cast<DType>(to)};
      if (CanCast(pair.from, pair.to)) pairs.push_back(pair);
    }
  }
  return pairs;
}

RandomBatch MakeRandomBatch(Random* random, TypePair types, int num_boxes) {
  RandomBatch batch;
  batch.types = types;
  int64_t source_end = 0;
  int64_t target_end = 0;
  for (int i = 0; i < num_boxes; ++i) {
    Box box = AnyBox(random);
    box.source_offset = random->Between(0, 9);
    box.target_offset = random->Between(0, 9);
    batch.source_begins.push_back(Begin(random, source_end, types.from));
    batch.target_begins.push_back(Begin(random, target_end, types.to));
    source_end = batch.source_begins.back() + SourceEnd(box) * SizeOf(types.from);
    target_end = batch.target_begins.back() + TargetEnd(box) * SizeOf(types.to);
    batch.boxes.push_back(box);
  }
  batch.source = RandomBytes(random, source_end);
  batch.target = RandomBytes(random, target_end + 16);
  return batch;
}

std::vector<PlacedBox> RandomBatch::Placed(const void* source_address, void* target_address) const {
  std::vector<PlacedBox> placed;
  for (size_t i = 0; i < boxes.size(); ++i) {
    placed.push_back({boxes[i], static_cast<const char*>(source_address) + source_begins[i],
                      static_cast<char*>(target_address) + target_begins[i]});
  }
  return placed;
}

std::vector<uint8_t> RandomBatch::Expected() const {
  std::vector<uint8_t> expected = target;
  for (size_t i = 0; i < boxes.size(); ++i) {
    CopyBoxReference(boxes[i], source.data() + source_begins[i], types.from,
                     expected.data() + target_begins[i], types.to);
  }
  return expected;
}

}  // namespace zerocast::copy_testing
