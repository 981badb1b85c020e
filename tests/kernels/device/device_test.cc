// The owners of kernels/device on a GPU.

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/device/buffer.h"
#include "kernels/device/cuda_status.h"
#include "kernels/device/device_scope.h"
#include "kernels/device/event.h"
#include "kernels/device/stream.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::HasSubstr;

class DeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const absl::StatusOr<int> count = DeviceCount();
    if (!count.ok()) GTEST_SKIP() << count.status();
    num_devices_ = *count;
  }
  int num_devices_ = 0;
};

TEST_F(DeviceTest, BytesGoThereAndBackInOrderOfEvents) {
  constexpr int64_t kBytes = 1 << 20;
  ZC_ASSERT_OK_AND_ASSIGN(const PinnedBuffer sent, PinnedBuffer::Create(0, kBytes));
  ZC_ASSERT_OK_AND_ASSIGN(const PinnedBuffer got, PinnedBuffer::Create(0, kBytes));
  ZC_ASSERT_OK_AND_ASSIGN(const DeviceBuffer there, DeviceBuffer::Create(0, kBytes));
  ZC_ASSERT_OK_AND_ASSIGN(const Stream up, Stream::Create(0));
  ZC_ASSERT_OK_AND_ASSIGN(const Stream down, Stream::Create(0));
  ZC_ASSERT_OK_AND_ASSIGN(const Event is_up, Event::Create(0));
  ZC_ASSERT_OK_AND_ASSIGN(const Event is_down, Event::Create(0));
  std::generate(sent.span().begin(), sent.span().end(),
                [i = 0]() mutable { return static_cast<std::byte>(i++ * 7); });

  ASSERT_EQ(cudaMemcpyAsync(there.data(), sent.data(), kBytes, cudaMemcpyHostToDevice, up.get()),
            cudaSuccess);
  ASSERT_THAT(is_up.Record(up.get()), IsOk());
  ASSERT_THAT(down.WaitFor(is_up.get()), IsOk());
  ASSERT_EQ(cudaMemcpyAsync(got.data(), there.data(), kBytes, cudaMemcpyDeviceToHost, down.get()),
            cudaSuccess);
  ASSERT_THAT(is_down.Record(down.get()), IsOk());
  ASSERT_THAT(is_down.Wait(absl::Seconds(30)), IsOk());
  EXPECT_EQ(std::memcmp(sent.data(), got.data(), kBytes), 0);
}

TEST_F(DeviceTest, MovedFromBuffersAreEmpty) {
  ZC_ASSERT_OK_AND_ASSIGN(DeviceBuffer first, DeviceBuffer::Create(0, 100));
  const DeviceBuffer second(std::move(first));
  EXPECT_EQ(first.num_bytes(), 0);  // NOLINT(bugprone-use-after-move): the state is promised
  EXPECT_EQ(first.data(), nullptr);
  EXPECT_EQ(second.num_bytes(), 100);
}

TEST_F(DeviceTest, TooMuchMemoryIsResourceExhausted) {
  EXPECT_THAT(DeviceBuffer::Create(0, int64_t{1} << 50),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       HasSubstr("allocate 1125899906842624 bytes of device memory for device 0")));
}

TEST_F(DeviceTest, AStatusClearsTheLastError) {
  const cudaError_t error = cudaSetDevice(num_devices_);
  ASSERT_EQ(cudaPeekAtLastError(), error);
  EXPECT_FALSE(ToStatus(error, "select a device").ok());
  EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess);
}

TEST_F(DeviceTest, ADeviceThatDoesNotExistIsNamed) {
  EXPECT_THAT(Stream::Create(num_devices_),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("select device " + std::to_string(num_devices_))));
}

TEST_F(DeviceTest, TheDeviceOfBeforeComesBack) {
  {
    ZC_ASSERT_OK_AND_ASSIGN(const DeviceScope scope, DeviceScope::Enter(num_devices_ - 1));
    int current = -1;
    ASSERT_EQ(cudaGetDevice(&current), cudaSuccess);
    EXPECT_EQ(current, num_devices_ - 1);
  }
  int current = -1;
  ASSERT_EQ(cudaGetDevice(&current), cudaSuccess);
  EXPECT_EQ(current, 0);
}

}  // namespace
}  // namespace zerocast
