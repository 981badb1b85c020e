#ifndef ZEROCAST_KERNELS_COPY_CUDA_MIXED_BATCH_H_
#define ZEROCAST_KERNELS_COPY_CUDA_MIXED_BATCH_H_

// The boxes of a round, of any kinds, as few batches for the copy kernel whose descriptors go to
// the device in one block of bytes.  Pure, and built without CUDA too; launch.h has the launch.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/copy/cuda/copy_batch.h"
#include "kernels/copy/cuda/decode_batch.h"
#include "kernels/copy/dtype.h"

namespace zerocast {

// A box and what it reads and writes.
struct MixedBox {
  Box box;
  // Element 0 of the source; of a quantised one, stored element number `stored_first`.
  const void* source = nullptr;
  DType source_dtype = DType::kInvalid;  // not used for a quantised source
  void* target = nullptr;                // element 0
  DType target_dtype = DType::kInvalid;
  // Of kind kPlain: no quantised source, and the rest is not used.
  Decoder decoder;
  int64_t stored_first = 0;      // logical element, as in EncodedSource
  const void* scales = nullptr;  // scale number `scales_first`
  int64_t scales_first = 0;
};

// One group for each pair of source and target type and for each target type of quantised sources:
// a launch each.  Equal types are copied as bits, so all types of a size are one group.
class MixedBatch {
 public:
  // INVALID_ARGUMENT as MakeCopyBatch and MakeDecodeBatch, which count boxes within their group.
  static absl::StatusOr<MixedBatch> Make(absl::Span<const MixedBox> boxes);

  // How many bytes Write writes: a multiple of 8, 0 without boxes.
  int64_t num_descriptor_bytes() const { return num_descriptor_bytes_; }
  // Writes the descriptors of all groups to `to`, host memory of at least that many bytes, aligned
  // to 8.  The caller copies them to the device, to an address aligned to 8.
  void WriteDescriptors(std::byte* to) const;

  const std::vector<CopyBatch>& copies() const { return copies_; }
  const std::vector<DecodeBatch>& decodes() const { return decodes_; }
  int num_launches() const { return static_cast<int>(copies_.size() + decodes_.size()); }

 private:
  std::vector<CopyBatch> copies_;
  std::vector<DecodeBatch> decodes_;
  int64_t num_descriptor_bytes_ = 0;
};

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_CUDA_MIXED_BATCH_H_
