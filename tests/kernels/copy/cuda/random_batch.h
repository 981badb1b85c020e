#ifndef ZEROCAST_TESTS_KERNELS_COPY_CUDA_RANDOM_BATCH_H_
#define ZEROCAST_TESTS_KERNELS_COPY_CUDA_RANDOM_BATCH_H_

// Batches of boxes to try on the copy kernel and on the functions it is made of.

#include <cstdint>
#include <vector>

#include "kernels/copy/box.h"
#include "kernels/copy/cuda/copy_batch.h"
#include "kernels/copy/dtype.h"
#include "tests/kernels/copy/naive.h"

namespace zerocast::copy_testing {

struct TypePair {
  DType from, to;
};

// All pairs that CanCast allows.
std::vector<TypePair> AllTypePairs();

// Boxes with a place of its own for each in one source and one target, both of random bytes. Begins
// are aligned to an element's size, and half of them to no more.
struct RandomBatch {
  TypePair types;
  std::vector<Box> boxes;
  std::vector<int64_t> source_begins, target_begins;  // in bytes
  std::vector<uint8_t> source, target;

  // The boxes in buffers that begin at these addresses.
  std::vector<PlacedBox> Placed(const void* source_address, void* target_address) const;
  // What `target` is after CopyBoxReference of all boxes.
  std::vector<uint8_t> Expected() const;
};

// Single elements, lines, rows with gaps, transpositions and anything else, from 1 element to tens
// of thousands.
RandomBatch MakeRandomBatch(Random* random, TypePair types, int num_boxes);

}  // namespace zerocast::copy_testing

#endif  // ZEROCAST_TESTS_KERNELS_COPY_CUDA_RANDOM_BATCH_H_
