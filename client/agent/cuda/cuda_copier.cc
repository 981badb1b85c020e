#include "client/agent/cuda/cuda_copier.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/device/cuda_status.h"
#include "kernels/device/device_scope.h"
#include "spdlog/spdlog.h"

namespace zerocast {
namespace {

// The longest that the end of a copier may take.
constexpr absl::Duration kEndTimeout = absl::Minutes(1);

// Beside the data there are at least 16 KiB (DescriptorRoom).
absl::Status NoRoomForAnElement(const StagingPlace& staging, int64_t num_bytes) {
  return absl::InternalError(absl::StrCat(
      "describe one element beside ", num_bytes, " bytes in a staging place of ",
      staging.device_bytes(),
      ": no room, although the plan of --max-buffer-memory counts it (this is a bug)"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<CudaCopier>> CudaCopier::Create(const CudaCopierOptions& options) {
  ZC_ASSIGN_OR_RETURN(Stream copy, Stream::Create(options.device));
  ZC_ASSIGN_OR_RETURN(Stream compute, Stream::Create(options.device));
  ZC_ASSIGN_OR_RETURN(Event started, Event::Create(options.device));
  return std::unique_ptr<CudaCopier>(
      new CudaCopier(options, std::move(copy), std::move(compute), std::move(started)));
}

absl::Status CudaCopier::Reserve() {
  static_assert(kUnpackingPlaces == kStagingPlacesToUnpack);
  const auto num_reading = static_cast<size_t>(options_.num_threads * kChunksUnderWay);
  const int64_t room = DescriptorRoom(options_.staging_bytes);
  for (size_t k = 0; k < num_reading + kUnpackingPlaces; ++k) {
    ZC_ASSIGN_OR_RETURN(StagingPlace place, StagingPlace::Create(options_.device));
    places_.push_back(std::move(place));
    ZC_RETURN_IF_ERROR(
        places_.back().Reserve(room + (k < num_reading ? options_.staging_bytes : 0)));
  }
  return absl::OkStatus();
}

CudaCopier::CudaCopier(const CudaCopierOptions& options, Stream copy, Stream compute, Event started)
    : options_(options),
      copy_stream_(std::move(copy)),
      compute_stream_(std::move(compute)),
      started_(std::move(started)),
      messages_(kMessageBuffers) {}

CudaCopier::~CudaCopier() {
  absl::Status status = started_.Record(compute_stream_.get());
  if (status.ok()) status = started_.Wait(kEndTimeout);
  if (!status.ok()) {
    spdlog::error("end the work of a load on device {}: {}", options_.device,
                  std::string(status.message()));
  }
}

absl::StatusOr<char*> CudaCopier::Acquire(size_t place, int64_t num_bytes, absl::Duration timeout) {
  StagingPlace& staging = places_[place];
  if (Waits(CudaWait::kStagingCopied)) ZC_RETURN_IF_ERROR(staging.copied().Wait(timeout));
  ZC_ASSIGN_OR_RETURN(std::byte* const data, staging.Data(num_bytes));
  return reinterpret_cast<char*>(data);
}

absl::Status CudaCopier::Start(size_t place, int64_t num_bytes, absl::Span<const BoxCopy> copies,
                               absl::Duration timeout) {
  if (copies.empty()) return absl::OkStatus();
  ZC_ASSIGN_OR_RETURN(const DeviceScope scope, DeviceScope::Enter(options_.device));
  bool is_data_there = false;
  return StartParts(&places_[place], num_bytes, copies, timeout, &is_data_there);
}

absl::Status CudaCopier::StartParts(StagingPlace* staging, int64_t num_bytes,
                                    absl::Span<const BoxCopy> copies, absl::Duration timeout,
                                    bool* is_data_there) {
  while (!copies.empty()) {
    if (*is_data_there && Waits(CudaWait::kStagingCopied)) {
      ZC_RETURN_IF_ERROR(staging->copied().Wait(timeout));
    }
    size_t count = copies.size();
    ZC_ASSIGN_OR_RETURN(bool has_room, staging->Describe(num_bytes, copies));
    while (!has_room && count > 1) {
      count = (count + 1) / 2;
      ZC_ASSIGN_OR_RETURN(has_room, staging->Describe(num_bytes, copies.subspan(0, count)));
    }
    if (has_room) {
      ZC_RETURN_IF_ERROR(StartDescribed(*staging, /*with_data=*/!*is_data_there));
      *is_data_there = true;
    } else {
      ZC_ASSIGN_OR_RETURN(const std::vector<BoxCopy> halves, HalvesOf(copies.front()));
      if (halves.empty()) return NoRoomForAnElement(*staging, num_bytes);
      ZC_RETURN_IF_ERROR(StartParts(staging, num_bytes, halves, timeout, is_data_there));
    }
    copies.remove_prefix(count);
  }
  return absl::OkStatus();
}

absl::Status CudaCopier::StartDescribed(const StagingPlace& staging, bool with_data) {
  if (Waits(CudaWait::kStagingUsed)) {
    ZC_RETURN_IF_ERROR(copy_stream_.WaitFor(staging.used().get()));
  }
  ZC_RETURN_IF_ERROR(staging.CopyToDevice(copy_stream_.get(), with_data));
  if (Waits(CudaWait::kStagingArrived)) {
    ZC_RETURN_IF_ERROR(compute_stream_.WaitFor(staging.copied().get()));
  }
  return staging.Launch(compute_stream_.get());
}

absl::StatusOr<char*> CudaCopier::ReserveMessages(size_t which, int64_t num_bytes) {
  MutexLock lock(&mutex_);
  std::optional<DeviceBuffer>& buffer = messages_[which];
  if (!buffer.has_value()) {
    ZC_ASSIGN_OR_RETURN(buffer,
                        DeviceBuffer::Create(options_.device, std::max<int64_t>(1, num_bytes)));
  }
  if (num_bytes <= buffer->num_bytes()) return reinterpret_cast<char*>(buffer->data());
  return absl::InternalError(absl::StrCat(
      "make a message of ", num_bytes, " bytes on device ", options_.device, ": there is room for ",
      buffer->num_bytes(), ", what the plan of --max-buffer-memory counted (this is a bug)"));
}

absl::Status CudaCopier::OrderExchange() {
  if (options_.exchange_stream == nullptr) {
    return absl::InternalError("order an exchange: the copier has no stream of a communicator");
  }
  if (!Waits(CudaWait::kExchange)) return absl::OkStatus();
  ZC_ASSIGN_OR_RETURN(const DeviceScope scope, DeviceScope::Enter(options_.device));
  ZC_RETURN_IF_ERROR(started_.Record(compute_stream_.get()));
  return ToStatus(cudaStreamWaitEvent(options_.exchange_stream, started_.get(), 0),
                  absl::StrCat("order an exchange behind the kernels of device ", options_.device));
}

absl::Status CudaCopier::Finish(absl::Duration timeout) {
  if (!Waits(CudaWait::kFinish)) return absl::OkStatus();
  ZC_RETURN_IF_ERROR(started_.Record(compute_stream_.get()));
  return started_.Wait(timeout);
}

int64_t CudaCopier::device_bytes() const {
  int64_t num_bytes = 0;
  for (const StagingPlace& place : places_) num_bytes += place.device_bytes();
  MutexLock lock(&mutex_);
  for (const std::optional<DeviceBuffer>& buffer : messages_) {
    if (buffer.has_value()) num_bytes += buffer->num_bytes();
  }
  return num_bytes;
}

}  // namespace zerocast
