#ifndef ZEROCAST_KERNELS_COPY_DECODE_BOX_H_
#define ZEROCAST_KERNELS_COPY_DECODE_BOX_H_

// Running boxes that read a quantised source, on the CPU.  Thread-safe: functions of their
// arguments.

#include <cstdint>

#include "kernels/copy/box.h"
#include "kernels/copy/decode.h"
#include "kernels/copy/dtype.h"

namespace zerocast {

// What of a quantised source is in memory.
struct EncodedSource {
  const char* stored = nullptr;  // the stored element that holds logical element `stored_first`,
  int64_t stored_first = 0;      // a multiple of PackedElements(decoder.kind)
  const char* scales = nullptr;  // scale number `scales_first`
  int64_t scales_first = 0;
};

// True when `decoder` describes `num_stored` stored elements and `num_scales` scales: a kind and
// types that go together, blocks that divide the matrix, a scale for each block.  Hostile values do
// not overflow.
bool IsConsistent(const Decoder& decoder, int64_t num_stored, int64_t num_scales);

// True when decoding can give elements of `to`.
inline bool CanDecodeTo(DType to) { return IsFloating(to); }

// Executes `box`, whose source places count logical elements of the whole source, from 0, and whose
// target places count from `target` (element type `target_dtype`).  The caller guarantees that all
// elements that the box reads, and their scales, are in memory, and that the decoder is consistent.
// Requires CanDecodeTo(target_dtype); nothing needs alignment.
//
// DecodeBoxReference is the specification: DecodeElement and a cast, one element at a time.
// DecodeBox is what the product runs; it uses up to 600 KiB of the caller's stack.
void DecodeBoxReference(const Box& box, const Decoder& decoder, const EncodedSource& source,
                        void* target, DType target_dtype);
void DecodeBox(const Box& box, const Decoder& decoder, const EncodedSource& source, void* target,
               DType target_dtype);

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_DECODE_BOX_H_
