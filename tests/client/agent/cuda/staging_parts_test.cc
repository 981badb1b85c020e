// What a staging place has no room for beside its data goes to the device part by part, in the room
// that there is: sources that are not aligned, scales, boxes of any shape.  On the stand-ins late
// and in random order.

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "client/agent/cuda/cuda_copier.h"
#include "client/agent/cuda/staging_place.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/copy/algebra.h"
#include "kernels/device/buffer.h"
#include "kernels/device/copy_to_host.h"
#include "kernels/device/cuda_status.h"
#include "tests/cuda_emu/cuda_emu.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr absl::Duration kLong = absl::Seconds(20);
// The room beside it is the least, 16 KiB.
constexpr int64_t kDataBytes = 200 << 10;
constexpr int64_t kElements = 90000;

// A source in the data, `first` bytes behind its begin, and the whole of a target.
struct Work {
  std::string name;
  Box box;
  DType source_dtype = DType::kInvalid, target_dtype = DType::kInvalid;
  int64_t first = 1;
  int64_t num_target = 0;  // elements
  const Decoder* decoder = nullptr;
};

Box BoxOf(std::vector<BoxDim> dims) { return *MakeBox(0, 0, 0, dims); }

std::vector<Work> AllWork() {
  static constexpr Decoder kFp8 = {
      DecoderKind::kFp8Block, DType::kFloat8E4M3, DType::kFloat32, 300, 300, 1, 2, 0};
  static constexpr Decoder kFp4 = {
      DecoderKind::kMxfp4, DType::kUInt8, DType::kFloat8E8M0, 300, 300, 1, 2, 0};
  std::vector<Work> all;
  all.push_back(
      {"cast", WholeBox(0, kElements, 0), DType::kBFloat16, DType::kFloat32, 1, kElements});
  all.push_back(
      {"copy", WholeBox(0, kElements / 2, 0), DType::kFloat32, DType::kFloat32, 3, kElements / 2});
  all.push_back({"transpose", BoxOf({{300, 1, 300}, {300, 300, 1}}), DType::kBFloat16,
                 DType::kBFloat16, 1, kElements});
  // Columns of a wide matrix: a row of the source has no room, but what is read of it.
  all.push_back(
      {"columns", BoxOf({{5, 20000, 3}, {3, 1, 1}}), DType::kFloat16, DType::kFloat32, 1, 15});
  all.push_back({"wide steps", BoxOf({{9, 10000, 1}}), DType::kFloat16, DType::kFloat16, 1, 9});
  all.push_back(
      {"aligned", WholeBox(0, kElements, 0), DType::kBFloat16, DType::kFloat32, 2, kElements});
  all.push_back(
      {"fp8", WholeBox(0, kElements, 0), DType::kFloat8E4M3, DType::kFloat32, 1, kElements, &kFp8});
  all.push_back({"mxfp4", BoxOf({{300, 1, 300}, {300, 300, 1}}), DType::kUInt8, DType::kBFloat16, 1,
                 kElements, &kFp4});
  return all;
}

// The copy of `work` between that memory; `scales` are all there are.
BoxCopy CopyOf(const Work& work, const char* data, const char* scales, void* target) {
  BoxCopy copy;
  copy.box = work.box;
  copy.source = data + work.first;
  copy.source_dtype = work.source_dtype;
  copy.target = static_cast<char*>(target);
  copy.target_dtype = work.target_dtype;
  copy.decoder = work.decoder;
  if (work.decoder != nullptr) copy.encoded = {copy.source, 0, scales, 0};
  return copy;
}

// Random floats that are numbers, of whichever type.
std::string RandomBytes(int64_t num_bytes, std::mt19937_64* random) {
  std::string bytes(static_cast<size_t>(num_bytes), '\0');
  for (char& byte : bytes) byte = static_cast<char>((*random)() % 0x3c);
  return bytes;
}

class StagingParts : public ::testing::Test {
 protected:
  void SetUp() override {
    const absl::StatusOr<int> count = DeviceCount();
    if (!count.ok()) GTEST_SKIP() << count.status();
  }
};

// Gives `all` to one place in one call; the names of what is not as on the host then.
std::vector<std::string> Different(const std::vector<Work>& all,
                                   const std::function<bool(CudaWait)>& leaves_out = nullptr) {
  static std::mt19937_64 random(7);
  CudaCopierOptions options;
  options.staging_bytes = kDataBytes;
  options.leaves_out = leaves_out;
  const std::unique_ptr<CudaCopier> copier = *CudaCopier::Create(options);
  EXPECT_THAT(copier->Reserve(), IsOk());
  const int64_t made = copier->device_bytes();
  char* const data = *copier->Acquire(0, kDataBytes, kLong);
  RandomBytes(kDataBytes, &random).copy(data, kDataBytes);
  const std::string scales = RandomBytes(kElements / 2 * 4, &random);
  std::vector<BoxCopy> copies;
  std::vector<DeviceBuffer> targets;
  std::vector<std::string> expected;
  for (const Work& work : all) {
    const int64_t num_bytes = work.num_target * SizeOf(work.target_dtype);
    targets.push_back(*DeviceBuffer::Create(0, num_bytes));
    copies.push_back(CopyOf(work, data, scales.data(), targets.back().data()));
    expected.emplace_back(static_cast<size_t>(num_bytes), '\0');
    RunBoxCopy(CopyOf(work, data, scales.data(), expected.back().data()));
  }
  EXPECT_THAT(copier->Start(0, kDataBytes, copies, kLong), IsOk());
  EXPECT_THAT(copier->Finish(kLong), IsOk());
  EXPECT_EQ(copier->device_bytes(), made);
  std::vector<std::string> different;
  for (size_t k = 0; k < all.size(); ++k) {
    std::string got(expected[k].size(), '\0');
    EXPECT_THAT(CopyToHost(0, targets[k].data(), absl::MakeSpan(got.data(), got.size()), kLong),
                IsOk());
    if (got != expected[k]) different.push_back(all[k].name);
  }
  return different;
}

TEST_F(StagingParts, EachGoesInTheRoomThatThereIs) {
  for (const Work& work : AllWork()) {
    SCOPED_TRACE(work.name);
    const CudaEmu* const emu = cudaEmu();
    if (emu != nullptr) emu->resetStats(), emu->collectStats(1);
    EXPECT_THAT(Different({work}), IsEmpty());
    if (emu == nullptr) continue;
    emu->collectStats(0);
    CudaEmuStats stats = {};
    emu->kernelStats("Kernel", &stats);
    std::cout << work.name << ": " << stats.launches << " launches\n";
    EXPECT_EQ(stats.launches > 1, work.name != "aligned");
    // The copies fill at least a quarter of the room each.
    EXPECT_LE(stats.launches, 4u * kDataBytes / (16 << 10));
  }
}

TEST_F(StagingParts, AllGoTogether) {
  for (int k = 0; k < 6 && !HasFailure(); ++k) EXPECT_THAT(Different(AllWork()), IsEmpty());
}

TEST_F(StagingParts, HalvesDoTheSameAndEndWithOneElement) {
  std::mt19937_64 random(11);
  const std::string data = RandomBytes(kDataBytes, &random);
  const std::string scales = RandomBytes(kElements / 2 * 4, &random);
  for (const Work& work : AllWork()) {
    SCOPED_TRACE(work.name);
    std::string whole(static_cast<size_t>(work.num_target * SizeOf(work.target_dtype)), '\0');
    std::string parts = whole;
    RunBoxCopy(CopyOf(work, data.data(), scales.data(), whole.data()));
    std::vector<BoxCopy> left = {CopyOf(work, data.data(), scales.data(), parts.data())};
    int64_t elements = 0;
    while (!left.empty()) {
      const BoxCopy copy = left.back();
      left.pop_back();
      ZC_ASSERT_OK_AND_ASSIGN(const std::vector<BoxCopy> halves, HalvesOf(copy));
      left.insert(left.end(), halves.begin(), halves.end());
      if (!halves.empty()) continue;
      EXPECT_EQ(NumElements(copy.box), 1);
      ++elements;
      RunBoxCopy(copy);
    }
    EXPECT_EQ(elements, work.num_target);
    EXPECT_TRUE(whole == parts);
  }
}

TEST_F(StagingParts, MoreThanWasReservedIsRefused) {
  CudaCopierOptions options;
  options.staging_bytes = kDataBytes;
  ZC_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<CudaCopier> copier, CudaCopier::Create(options));
  ASSERT_THAT(copier->Reserve(), IsOk());
  EXPECT_THAT(copier->Acquire(0, 2 * kDataBytes, kLong),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("read 409600 bytes for device 0")));
  ZC_ASSERT_OK_AND_ASSIGN(const char* const message, copier->ReserveMessages(1, 1000));
  ZC_ASSERT_OK_AND_ASSIGN(const char* const again, copier->ReserveMessages(1, 500));
  EXPECT_EQ(again, message);
  EXPECT_THAT(copier->ReserveMessages(1, 1001),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("there is room for 1000")));
}

// Gives work to one place again and again without one wait until a part is spoilt.  Ends the
// process, whose device is of no more use then: 3 when that came about.
[[noreturn]] void StartWithout(CudaWait left_out) {
  const auto leaves_out = [left_out](CudaWait wait) { return wait == left_out; };
  for (int k = 0; k < 100; ++k) {
    if (!Different(AllWork(), leaves_out).empty() || ::testing::Test::HasFailure()) ::_exit(3);
  }
  ::_exit(0);
}

class StagingPartsWait : public StagingParts, public ::testing::WithParamInterface<CudaWait> {};

TEST_P(StagingPartsWait, CannotBeLeftOut) {
  if (cudaEmu() == nullptr) GTEST_SKIP() << "a GPU may be quick enough not to show it";
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto is_spoilt = [](int status) { return !WIFEXITED(status) || WEXITSTATUS(status) != 0; };
  EXPECT_EXIT(StartWithout(GetParam()), is_spoilt, "");
}

// Those of one call: the others are of what comes after it.
INSTANTIATE_TEST_SUITE_P(All, StagingPartsWait,
                         ::testing::Values(CudaWait::kStagingCopied, CudaWait::kStagingUsed,
                                           CudaWait::kStagingArrived));

}  // namespace
}  // namespace zerocast
