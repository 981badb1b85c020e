// What the copy kernel's compiled code moves, as the stand-ins for CUDA count it: sectors of 32
// bytes, bytes, and conflicts over the banks of shared memory.

#include <cstdint>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/base/status_macros.h"
#include "kernels/copy/cuda/copy_batch.h"
#include "kernels/copy/cuda/decode_batch.h"
#include "kernels/device/buffer.h"
#include "kernels/device/stream.h"
#include "tests/cuda_emu/cuda_emu.h"
#include "tests/kernels/copy/cuda/on_device.h"
#include "tests/kernels/copy/cuda/random_batch.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using copy_testing::RunBatch;
using copy_testing::TypePair;
using ::testing::Test;

// Useful bytes by bytes of the sectors that hold them.
double Efficiency(const CudaEmuTraffic& traffic) {
  return static_cast<double>(traffic.usefulBytes) / (32.0 * static_cast<double>(traffic.sectors));
}

class KernelTraffic : public Test {
 protected:
  void SetUp() override {
    if (cudaEmu() == nullptr) GTEST_SKIP() << "only the stand-ins count sectors";
  }

  // What a batch moves whose boxes have sides of these sizes, `make` being given their addresses.
  template <typename Make>
  absl::StatusOr<CudaEmuStats> Measure(int64_t source_bytes, int64_t target_bytes,
                                       const Make& make) {
    ZC_ASSIGN_OR_RETURN(const Stream stream, Stream::Create(0));
    ZC_ASSIGN_OR_RETURN(const DeviceBuffer source, DeviceBuffer::Create(0, source_bytes + 64));
    ZC_ASSIGN_OR_RETURN(const DeviceBuffer target, DeviceBuffer::Create(0, target_bytes + 64));
    ZC_ASSIGN_OR_RETURN(const auto batch, make(source.data(), target.data()));
    cudaEmu()->resetStats();
    cudaEmu()->collectStats(1);
    const absl::Status status = RunBatch(batch, stream);
    cudaEmu()->collectStats(0);
    ZC_RETURN_IF_ERROR(status);
    CudaEmuStats stats = {};
    if (cudaEmu()->kernelStats("Kernel", &stats) != 1) {
      return absl::InternalError("not one kernel ran");
    }
    return stats;
  }

  absl::StatusOr<CudaEmuStats> MeasureCopy(const std::vector<Box>& boxes, TypePair types,
                                           int64_t source_shift = 0) {
    int64_t source_end = 0, target_end = 0;
    for (const Box& box : boxes) {
      source_end = std::max(source_end, SourceEnd(box));
      target_end = std::max(target_end, TargetEnd(box));
    }
    return Measure(source_end * SizeOf(types.from), target_end * SizeOf(types.to),
                   [&](const std::byte* source, std::byte* target) {
                     std::vector<PlacedBox> placed;
                     for (const Box& box : boxes) {
                       placed.push_back({box, source + source_shift, target});
                     }
                     return MakeCopyBatch(placed, types.from, types.to);
                   });
  }
};

Box Loops(const std::vector<BoxDim>& dims) {
  Box box;
  box.num_dims = static_cast<int32_t>(dims.size());
  for (size_t k = 0; k < dims.size(); ++k) box.dims[k] = dims[k];
  return box;
}

// What a box of `count` elements moves: its bytes once on each side, descriptors beside it.
void ExpectPayloadOnce(const CudaEmuStats& stats, int64_t count, TypePair types) {
  const int64_t read = count * SizeOf(types.from), written = count * SizeOf(types.to);
  EXPECT_GE(stats.load.usefulBytes, read);
  EXPECT_LT(stats.load.usefulBytes - read, 0.01 * (read + written)) << "descriptors";
  EXPECT_EQ(stats.store.usefulBytes, written);
  EXPECT_EQ(stats.atomic.instructions, 0u);
  EXPECT_EQ(stats.localBytes, 0u);
}

TEST_F(KernelTraffic, AnAlignedCopyIsCoalesced) {
  constexpr int64_t kCount = 1 << 21;
  for (const DType dtype : {DType::kUInt8, DType::kBFloat16, DType::kFloat32, DType::kFloat64}) {
    SCOPED_TRACE(DTypeName(dtype));
    ZC_ASSERT_OK_AND_ASSIGN(const CudaEmuStats stats,
                            MeasureCopy({Loops({{kCount, 1, 1}})}, {dtype, dtype}));
    EXPECT_GE(Efficiency(stats.load), 0.95);
    EXPECT_GE(Efficiency(stats.store), 0.99);
    EXPECT_EQ(stats.store.instructions * 512, kCount * SizeOf(dtype)) << "128 bits a lane";
    ExpectPayloadOnce(stats, kCount, {dtype, dtype});
  }
}

TEST_F(KernelTraffic, AStackOfExpertsIsCoalesced) {
  // Of 16 sources, each a matrix, one tensor whose rows are those of two matrices side by side.
  constexpr int64_t kRows = 64, kColumns = 1024;
  std::vector<Box> boxes;
  for (int64_t i = 0; i < 16; ++i) {
    Box box = Loops({{kRows, kColumns, 2 * kColumns}, {kColumns, 1, 1}});
    box.source_offset = i * kRows * kColumns;
    box.target_offset = i / 2 * 2 * kRows * kColumns + i % 2 * kColumns;
    boxes.push_back(box);
  }
  const TypePair types = {DType::kBFloat16, DType::kBFloat16};
  ZC_ASSERT_OK_AND_ASSIGN(const CudaEmuStats stats, MeasureCopy(boxes, types));
  EXPECT_GE(Efficiency(stats.load), 0.95);
  EXPECT_GE(Efficiency(stats.store), 0.99);
  ExpectPayloadOnce(stats, 16 * kRows * kColumns, types);
}

TEST_F(KernelTraffic, CastsAreCoalesced) {
  constexpr int64_t kCount = 1 << 21;
  for (const TypePair& types :
       {TypePair{DType::kFloat32, DType::kBFloat16}, TypePair{DType::kBFloat16, DType::kFloat32},
        TypePair{DType::kFloat16, DType::kBFloat16},
        TypePair{DType::kBFloat16, DType::kFloat8E4M3}}) {
    SCOPED_TRACE(DTypeName(types.to));
    ZC_ASSERT_OK_AND_ASSIGN(const CudaEmuStats stats,
                            MeasureCopy({Loops({{kCount, 1, 1}})}, types));
    EXPECT_GE(Efficiency(stats.load), 0.95);
    EXPECT_GE(Efficiency(stats.store), 0.99);
    ExpectPayloadOnce(stats, kCount, types);
  }
}

TEST_F(KernelTraffic, ACopyBetweenDifferentAlignmentsIsNearlyCoalesced) {
  constexpr int64_t kCount = 1 << 21;
  const TypePair types = {DType::kBFloat16, DType::kBFloat16};
  ZC_ASSERT_OK_AND_ASSIGN(const CudaEmuStats stats,
                          MeasureCopy({Loops({{kCount, 1, 1}})}, types, 6));
  EXPECT_GE(Efficiency(stats.load), 0.9);
  EXPECT_GE(Efficiency(stats.store), 0.95);
  EXPECT_LT(stats.load.usefulBytes, 1.05 * 2 * kCount);
  EXPECT_EQ(stats.store.usefulBytes, 2 * kCount);
  EXPECT_EQ(stats.bankConflicts, 0u);
}

TEST_F(KernelTraffic, ATranspositionIsCoalescedAndWithoutBankConflicts) {
  for (const TypePair& types :
       {TypePair{DType::kUInt8, DType::kUInt8}, TypePair{DType::kBFloat16, DType::kBFloat16},
        TypePair{DType::kFloat32, DType::kFloat32}, TypePair{DType::kFloat64, DType::kFloat64},
        TypePair{DType::kFloat32, DType::kBFloat16}, TypePair{DType::kBFloat16, DType::kFloat32},
        TypePair{DType::kFloat8E4M3, DType::kFloat32},
        TypePair{DType::kFloat32, DType::kFloat8E4M3},
        TypePair{DType::kFloat8E5M2, DType::kBFloat16}}) {
    SCOPED_TRACE(std::string(DTypeName(types.from)) + " to " + DTypeName(types.to));
    constexpr int64_t kRows = 1024, kColumns = 768;
    ZC_ASSERT_OK_AND_ASSIGN(
        const CudaEmuStats stats,
        MeasureCopy({Loops({{kColumns, 1, kRows}, {kRows, kColumns, 1}})}, types));
    EXPECT_GE(Efficiency(stats.load), 0.9);
    EXPECT_GE(Efficiency(stats.store), 0.99);
    EXPECT_EQ(stats.bankConflicts, 0u);
    ExpectPayloadOnce(stats, kRows * kColumns, types);
  }
}

TEST_F(KernelTraffic, ATranspositionOfOddRowsHasNoBankConflicts) {
  for (const DType dtype : {DType::kUInt8, DType::kBFloat16, DType::kFloat32, DType::kFloat64}) {
    SCOPED_TRACE(DTypeName(dtype));
    constexpr int64_t kRows = 515, kColumns = 413;
    ZC_ASSERT_OK_AND_ASSIGN(
        const CudaEmuStats stats,
        MeasureCopy({Loops({{kColumns, 1, kRows}, {kRows, kColumns, 1}})}, {dtype, dtype}));
    EXPECT_EQ(stats.bankConflicts, 0u);
    EXPECT_EQ(stats.store.usefulBytes, kRows * kColumns * SizeOf(dtype));
  }
}

TEST_F(KernelTraffic, DecodingIsCoalesced) {
  constexpr int64_t kRows = 512, kColumns = 2048;
  const Decoder decoders[] = {
      {DecoderKind::kFp8Block, DType::kFloat8E4M3, DType::kFloat32, kRows, kColumns, 128, 128, 0},
      {DecoderKind::kMxfp4, DType::kUInt8, DType::kUInt8, kRows, kColumns, 1, 32, 0}};
  for (const Decoder& decoder : decoders) {
    const int64_t packed = PackedElements(decoder.kind);
    ZC_ASSERT_OK_AND_ASSIGN(
        const DeviceBuffer scales,
        DeviceBuffer::Create(0, kRows * kColumns / decoder.block_rows / decoder.block_cols * 4));
    ZC_ASSERT_OK_AND_ASSIGN(const CudaEmuStats stats,
                            Measure(kRows * kColumns / packed, kRows * kColumns * 2,
                                    [&](const std::byte* source, std::byte* target) {
                                      PlacedDecodeBox placed;
                                      placed.box = Loops({{kRows * kColumns, 1, 1}});
                                      placed.decoder = decoder;
                                      placed.source = {reinterpret_cast<const char*>(source), 0,
                                                       reinterpret_cast<const char*>(scales.data()),
                                                       0};
                                      placed.target = target;
                                      return MakeDecodeBatch({placed}, DType::kBFloat16);
                                    }));
    EXPECT_GE(Efficiency(stats.store), 0.99);
    EXPECT_EQ(stats.store.usefulBytes, kRows * kColumns * 2);
    EXPECT_EQ(stats.localBytes, 0u);
  }
}

}  // namespace
}  // namespace zerocast
