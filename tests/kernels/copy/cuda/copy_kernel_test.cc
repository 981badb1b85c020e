// The copy kernel on a GPU.

#include <cuda_runtime_api.h>

#include <cstring>
#include <vector>

#include "absl/types/span.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/base/status_macros.h"
#include "kernels/copy/cuda/copy_batch.h"
#include "kernels/copy/cuda/launch.h"
#include "kernels/device/buffer.h"
#include "kernels/device/cuda_status.h"
#include "kernels/device/event.h"
#include "kernels/device/stream.h"
#include "tests/kernels/copy/cuda/random_batch.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using copy_testing::AllTypePairs;
using copy_testing::MakeRandomBatch;
using copy_testing::Random;
using copy_testing::RandomBatch;
using copy_testing::Seed;
using copy_testing::TypePair;

// `bytes` in new device memory, once `stream` has got there.
template <typename T>
absl::StatusOr<DeviceBuffer> Upload(const std::vector<T>& items, const Stream& stream) {
  const auto num_bytes = static_cast<int64_t>(items.size() * sizeof(T));
  ZC_ASSIGN_OR_RETURN(DeviceBuffer buffer, DeviceBuffer::Create(stream.device(), num_bytes));
  ZC_RETURN_IF_ERROR(ToStatus(
      cudaMemcpyAsync(buffer.data(), items.data(), num_bytes, cudaMemcpyHostToDevice, stream.get()),
      "copy to the device"));
  return buffer;
}

// The target of `random_batch` after the kernel.
absl::StatusOr<std::vector<uint8_t>> RunOnDevice(const RandomBatch& random_batch) {
  ZC_ASSIGN_OR_RETURN(const Stream stream, Stream::Create(0));
  ZC_ASSIGN_OR_RETURN(const Event done, Event::Create(0));
  ZC_ASSIGN_OR_RETURN(const DeviceBuffer source, Upload(random_batch.source, stream));
  ZC_ASSIGN_OR_RETURN(const DeviceBuffer target, Upload(random_batch.target, stream));
  ZC_ASSIGN_OR_RETURN(const CopyBatch batch,
                      MakeCopyBatch(random_batch.Placed(source.data(), target.data()),
                                    random_batch.types.from, random_batch.types.to));
  ZC_ASSIGN_OR_RETURN(const DeviceBuffer pieces, Upload(batch.pieces, stream));
  ZC_ASSIGN_OR_RETURN(const DeviceBuffer firsts, Upload(batch.first_elements, stream));
  ZC_RETURN_IF_ERROR(LaunchCopyBoxes(
      absl::MakeConstSpan(reinterpret_cast<const CopyPiece*>(pieces.data()), batch.pieces.size()),
      absl::MakeConstSpan(reinterpret_cast<const int64_t*>(firsts.data()),
                          batch.first_elements.size()),
      batch.num_elements(), batch.source_dtype, batch.target_dtype, stream.get()));
  std::vector<uint8_t> result(random_batch.target.size());
  ZC_RETURN_IF_ERROR(ToStatus(cudaMemcpyAsync(result.data(), target.data(), result.size(),
                                              cudaMemcpyDeviceToHost, stream.get()),
                              "copy from the device"));
  ZC_RETURN_IF_ERROR(done.Record(stream.get()));
  ZC_RETURN_IF_ERROR(done.Wait(absl::Seconds(60)));
  return result;
}

TEST(LaunchCopyBoxes, EqualsTheReferenceForAllTypes) {
  const absl::StatusOr<int> devices = DeviceCount();
  if (!devices.ok()) GTEST_SKIP() << devices.status();
  Random random(Seed());
  for (const TypePair& types : AllTypePairs()) {
    for (int round = 0; round < 10; ++round) {
      const RandomBatch batch =
          MakeRandomBatch(&random, types, static_cast<int>(random.Between(1, 40)));
      ZC_ASSERT_OK_AND_ASSIGN(const std::vector<uint8_t> result, RunOnDevice(batch));
      const std::vector<uint8_t> expected = batch.Expected();
      ASSERT_EQ(std::memcmp(result.data(), expected.data(), expected.size()), 0)
          << DTypeName(types.from) << " to " << DTypeName(types.to) << ", round " << round;
    }
  }
}

}  // namespace
}  // namespace zerocast
