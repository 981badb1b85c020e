#ifndef ZEROCAST_TESTS_KERNELS_COPY_CUDA_RANDOM_DECODES_H_
#define ZEROCAST_TESTS_KERNELS_COPY_CUDA_RANDOM_DECODES_H_

// Batches of boxes of quantised sources to try on the copy kernel.

#include <cstdint>
#include <vector>

#include "kernels/copy/box.h"
#include "kernels/copy/cuda/decode_batch.h"
#include "kernels/copy/decode.h"
#include "kernels/copy/dtype.h"
#include "tests/kernels/copy/naive.h"

namespace zerocast::copy_testing {

// All types that quantised elements become.
std::vector<DType> DecodedTypes();

// A consistent decoder, and the elements and scales of a source of it.
struct RandomDecoder {
  Decoder decoder;
  int64_t num_elements = 0;
  int64_t num_scales = 0;
};
RandomDecoder MakeRandomDecoder(Random* random);

// Boxes each with a decoder and a source of its own, of random bytes.  In memory is what the boxes
// read and no more.
struct RandomDecodes {
  struct Entry {
    Box box;
    Decoder decoder;
    int64_t stored_first, scales_first;
    int64_t stored_begin, scales_begin, target_begin;  // in bytes
  };
  DType to;
  std::vector<Entry> entries;
  std::vector<uint8_t> source, target;

  // The boxes in buffers that begin at these addresses, which are aligned to 16.
  std::vector<PlacedDecodeBox> Placed(const void* source_address, void* target_address) const;
  // What `target` is after DecodeBoxReference of all boxes.
  std::vector<uint8_t> Expected() const;
};

// The whole of a source or a slice of it, straight or transposed.
RandomDecodes MakeRandomDecodes(Random* random, DType to, int num_boxes);

}  // namespace zerocast::copy_testing

#endif  // ZEROCAST_TESTS_KERNELS_COPY_CUDA_RANDOM_DECODES_H_
