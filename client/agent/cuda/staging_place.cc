#include "client/agent/cuda/staging_place.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
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
  if (num_bytes <= num_bytes_) return absl::OkStatus();
  ZC_ASSIGN_OR_RETURN(PinnedBuffer host, PinnedBuffer::Create(device, num_bytes + kHostAlignment));
  host_.push_back(std::move(host));
  ZC_ASSIGN_OR_RETURN(DeviceBuffer on_device, DeviceBuffer::Create(device, num_bytes));
  device_.push_back(std::move(on_device));
  const auto address = reinterpret_cast<uintptr_t>(host_.back().data());
  host_data_ =
      host_.back().data() + (Align(static_cast<int64_t>(address % kHostAlignment), kHostAlignment) -
                             static_cast<int64_t>(address % kHostAlignment));
  num_bytes_ = num_bytes;
  return absl::OkStatus();
}

int64_t StagingMemory::device_bytes() const {
  int64_t num_bytes = 0;
  for (const DeviceBuffer& buffer : device_) num_bytes += buffer.num_bytes();
  return num_bytes;
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
  ZC_RETURN_IF_ERROR(memory_.Reserve(device_, num_bytes));
  read_at_ = memory_.host();
  return memory_.host();
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
  const bool staged = data_bytes_ > 0 && bytes >= read_at_ && bytes < read_at_ + data_bytes_;
  placed.source = staged ? memory_.device() + (bytes - read_at_) : bytes;
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

absl::Status StagingPlace::MakeRoom() {
  // What was read stays where it was, too, until the place is used anew.
  ZC_RETURN_IF_ERROR(memory_.Reserve(device_, num_bytes_ + num_bytes_ / 2));
  if (data_bytes_ > 0) {
    std::memcpy(memory_.host(), read_at_, static_cast<size_t>(data_bytes_));
  }
  return absl::OkStatus();
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
