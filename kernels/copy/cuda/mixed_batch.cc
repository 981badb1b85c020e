#include "kernels/copy/cuda/mixed_batch.h"

#include <cstring>
#include <map>
#include <type_traits>
#include <utility>

#include "kernels/base/status_macros.h"

namespace zerocast {
namespace {

// Of all types of a size the one that stands for them where nothing is cast.
DType BitsOfType(DType dtype) {
  switch (SizeOf(dtype)) {
    case 1:
      return DType::kUInt8;
    case 2:
      return DType::kUInt16;
    case 4:
      return DType::kUInt32;
    case 8:
      return DType::kUInt64;
    default:
      return DType::kInvalid;
  }
}

template <typename T>
std::byte* Append(const std::vector<T>& items, std::byte* to) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) % 8 == 0);
  std::memcpy(to, items.data(), items.size() * sizeof(T));
  return to + items.size() * sizeof(T);
}

template <typename Batch>
int64_t NumBytes(const Batch& batch) {
  return static_cast<int64_t>(batch.pieces.size() * sizeof(batch.pieces[0]) +
                              batch.first_elements.size() * sizeof(int64_t));
}

}  // namespace

absl::StatusOr<MixedBatch> MixedBatch::Make(absl::Span<const MixedBox> boxes) {
  std::map<std::pair<DType, DType>, std::vector<PlacedBox>> plain;
  std::map<DType, std::vector<PlacedDecodeBox>> quantised;
  for (const MixedBox& box : boxes) {
    if (box.decoder.kind == DecoderKind::kPlain) {
      const bool is_cast = box.source_dtype != box.target_dtype;
      const DType from = is_cast ? box.source_dtype : BitsOfType(box.source_dtype);
      const DType to = is_cast ? box.target_dtype : from;
      plain[{from, to}].push_back({box.box, box.source, box.target});
    } else {
      const EncodedSource source = {static_cast<const char*>(box.source), box.stored_first,
                                    static_cast<const char*>(box.scales), box.scales_first};
      quantised[box.target_dtype].push_back({box.box, box.decoder, source, box.target});
    }
  }
  MixedBatch mixed;
  for (const auto& [types, group] : plain) {
    ZC_ASSIGN_OR_RETURN(CopyBatch batch, MakeCopyBatch(group, types.first, types.second));
    mixed.num_descriptor_bytes_ += NumBytes(batch);
    mixed.copies_.push_back(std::move(batch));
  }
  for (const auto& [target_dtype, group] : quantised) {
    ZC_ASSIGN_OR_RETURN(DecodeBatch batch, MakeDecodeBatch(group, target_dtype));
    mixed.num_descriptor_bytes_ += NumBytes(batch);
    mixed.decodes_.push_back(std::move(batch));
  }
  return mixed;
}

void MixedBatch::WriteDescriptors(std::byte* to) const {
  for (const CopyBatch& batch : copies_) {
    to = Append(batch.first_elements, Append(batch.pieces, to));
  }
  for (const DecodeBatch& batch : decodes_) {
    to = Append(batch.first_elements, Append(batch.pieces, to));
  }
}

}  // namespace zerocast
