#include "client/agent/cuda/staging_place.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/copy/algebra.h"
#include "kernels/copy/cuda/launch.h"
#include "kernels/device/cuda_status.h"

namespace zerocast {
namespace {

constexpr int64_t kHostAlignment = 4096;  // O_DIRECT's
// Of what lies behind the data: every element, scale and descriptor is aligned to less.
constexpr int64_t kMoreAlignment = 16;

int64_t Align(int64_t value, int64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

}  // namespace

absl::Status StagingMemory::Reserve(int device, int64_t num_bytes) {
  if (host_.has_value()) {
    return absl::InternalError(absl::StrCat("make a staging place of ", num_bytes,
                                            " bytes: it was made already, of ", num_bytes_));
  }
  ZC_ASSIGN_OR_RETURN(host_, PinnedBuffer::Create(device, num_bytes + kHostAlignment));
  ZC_ASSIGN_OR_RETURN(device_, DeviceBuffer::Create(device, num_bytes));
  const auto address = reinterpret_cast<uintptr_t>(host_->data());
  host_data_ =
      host_->data() + (Align(static_cast<int64_t>(address % kHostAlignment), kHostAlignment) -
                       static_cast<int64_t>(address % kHostAlignment));
  num_bytes_ = num_bytes;
  return absl::OkStatus();
}

absl::StatusOr<std::vector<BoxCopy>> HalvesOf(const BoxCopy& copy) {
  // Along the loop that goes farthest in the source, which what lies beside the data follows.
  int longest = -1;
  int64_t farthest = -1;
  for (int k = 0; k < copy.box.num_dims; ++k) {
    const BoxDim& dim = copy.box.dims[k];
    const int64_t far = (dim.extent - 1) * dim.source_stride;
    if (dim.extent > 1 && far > farthest) {
      longest = k;
      farthest = far;
    }
  }
  if (longest < 0) return std::vector<BoxCopy>();
  std::vector<BoxCopy> halves(2, copy);
  const int64_t extent = copy.box.dims[longest].extent;
  const int64_t first = extent / 2;
  Box& begin = halves[0].box;
  Box& end = halves[1].box;
  begin.dims[longest].extent = first;
  end.dims[longest].extent = extent - first;
  end.source_offset += first * end.dims[longest].source_stride;
  end.target_offset += first * end.dims[longest].target_stride;
  for (BoxCopy& half : halves) {
    ZC_ASSIGN_OR_RETURN(
        half.box,
        MakeBox(half.box.source, half.box.source_offset, half.box.target_offset,
                absl::MakeConstSpan(half.box.dims, static_cast<size_t>(half.box.num_dims))));
    if (copy.decoder == nullptr) continue;
    const ScaleRange range = ScalesOf(*copy.decoder, half.box.source_offset, SourceEnd(half.box));
    half.encoded.scales += (range.begin - half.encoded.scales_first) * SizeOf(copy.decoder->scale);
    half.encoded.scales_first = range.begin;
  }
  return halves;
}

absl::StatusOr<StagingPlace> StagingPlace::Create(int device) {
  ZC_ASSIGN_OR_RETURN(Event copied, Event::Create(device));
  ZC_ASSIGN_OR_RETURN(Event used, Event::Create(device));
  return StagingPlace(device, std::move(copied), std::move(used));
}

absl::Status StagingPlace::Reserve(int64_t num_bytes) {
  return memory_.Reserve(device_, num_bytes);
}

absl::StatusOr<std::byte*> StagingPlace::Data(int64_t num_bytes) {
  if (num_bytes <= memory_.num_bytes()) return memory_.host();
  return absl::InternalError(absl::StrCat(
      "read ", num_bytes, " bytes for device ", device_, ": the staging place was made for ",
      memory_.num_bytes(), ", what the plan of --max-buffer-memory counted (this is a bug)"));
}

// Puts `bytes` behind what is there, where there is room for them.
const std::byte* StagingPlace::PlaceMore(const char* bytes, int64_t num_bytes) {
  const int64_t at = num_bytes_;
  num_bytes_ = Align(at + num_bytes, kMoreAlignment);
  if (num_bytes_ > memory_.num_bytes()) return nullptr;
  std::memcpy(memory_.host() + at, bytes, static_cast<size_t>(num_bytes));
  return memory_.device() + at;
}

MixedBox StagingPlace::Placed(const BoxCopy& copy) {
  MixedBox placed;
  placed.box = copy.box;
  placed.source_dtype = copy.source_dtype;
  placed.target = copy.target;
  placed.target_dtype = copy.target_dtype;
  const auto* const bytes = reinterpret_cast<const std::byte*>(copy.source);
  const bool staged =
      data_bytes_ > 0 && bytes >= memory_.host() && bytes < memory_.host() + data_bytes_;
  placed.source = staged ? memory_.device() + (bytes - memory_.host()) : bytes;
  if (copy.decoder != nullptr) {
    placed.decoder = *copy.decoder;
    placed.stored_first = copy.encoded.stored_first;
    placed.scales_first = copy.encoded.scales_first;
    const ScaleRange range = ScalesOf(*copy.decoder, copy.box.source_offset, SourceEnd(copy.box));
    placed.scales =
        PlaceMore(copy.encoded.scales, (range.end - range.begin) * SizeOf(copy.decoder->scale));
    return placed;
  }
  const int64_t size = SizeOf(copy.source_dtype);
  if (staged && reinterpret_cast<uintptr_t>(placed.source) % static_cast<uintptr_t>(size) != 0) {
    // A file need not align its tensors; a device does not read what is not aligned.
    const int64_t begin = copy.box.source_offset, end = SourceEnd(copy.box);
    placed.source = PlaceMore(copy.source + begin * size, (end - begin) * size);
    placed.box.source_offset = 0;
  }
  return placed;
}

absl::StatusOr<bool> StagingPlace::Describe(int64_t num_bytes, absl::Span<const BoxCopy> copies) {
  data_bytes_ = num_bytes;
  num_bytes_ = Align(num_bytes, kMoreAlignment);
  boxes_.clear();
  batch_.reset();
  for (const BoxCopy& copy : copies) boxes_.push_back(Placed(copy));
  if (num_bytes_ > memory_.num_bytes()) return false;
  ZC_ASSIGN_OR_RETURN(batch_, MixedBatch::Make(boxes_));
  descriptors_at_ = num_bytes_;
  num_bytes_ += batch_->num_descriptor_bytes();
  if (num_bytes_ > memory_.num_bytes()) return false;
  if (batch_->num_descriptor_bytes() > 0) {
    batch_->WriteDescriptors(memory_.host() + descriptors_at_);
  }
  return true;
}

absl::Status StagingPlace::CopyToDevice(cudaStream_t copy, bool with_data) const {
  const int64_t begin = with_data ? 0 : std::min(Align(data_bytes_, kMoreAlignment), num_bytes_);
  ZC_RETURN_IF_ERROR(ToStatus(
      cudaMemcpyAsync(memory_.device() + begin, memory_.host() + begin,
                      static_cast<size_t>(num_bytes_ - begin), cudaMemcpyHostToDevice, copy),
      absl::StrCat("copy ", num_bytes_ - begin, " bytes to device ", device_)));
  return copied_.Record(copy);
}

absl::Status StagingPlace::Launch(cudaStream_t compute) const {
  ZC_RETURN_IF_ERROR(LaunchMixedBatch(*batch_, memory_.device() + descriptors_at_, compute));
  return used_.Record(compute);
}

}  // namespace zerocast
