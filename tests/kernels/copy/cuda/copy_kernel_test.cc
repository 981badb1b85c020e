// The copy kernel's compiled code against the specification, on a GPU or on the stand-ins.

#include <cstring>
#include <numeric>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/base/status_macros.h"
#include "kernels/copy/copy.h"
#include "kernels/copy/cuda/copy_batch.h"
#include "kernels/copy/cuda/decode_batch.h"
#include "kernels/copy/cuda/launch.h"
#include "kernels/copy/cuda/mixed_batch.h"
#include "kernels/device/buffer.h"
#include "kernels/device/cuda_status.h"
#include "kernels/device/stream.h"
#include "tests/kernels/copy/cuda/on_device.h"
#include "tests/kernels/copy/cuda/random_batch.h"
#include "tests/kernels/copy/cuda/random_decodes.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using copy_testing::AllTypePairs;
using copy_testing::DecodedTypes;
using copy_testing::Download;
using copy_testing::MakeRandomBatch;
using copy_testing::MakeRandomDecodes;
using copy_testing::Random;
using copy_testing::RandomBatch;
using copy_testing::RandomDecodes;
using copy_testing::RunBatch;
using copy_testing::Seed;
using copy_testing::TypePair;
using copy_testing::Upload;
using copy_testing::WaitFor;
using ::testing::Test;

// At least a thousand random batches in all.
constexpr int kRoundsOfAPair = 9;
constexpr int kRoundsOfADecodedType = 30;

class CopyKernel : public Test {
 protected:
  void SetUp() override {
    const absl::StatusOr<int> devices = DeviceCount();
    if (!devices.ok()) GTEST_SKIP() << devices.status();
  }
};

// The target of the batch after the kernel.
absl::StatusOr<std::vector<uint8_t>> OnDevice(const RandomBatch& random_batch) {
  ZC_ASSIGN_OR_RETURN(const Stream stream, Stream::Create(0));
  ZC_ASSIGN_OR_RETURN(const DeviceBuffer source, Upload(random_batch.source, stream));
  ZC_ASSIGN_OR_RETURN(const DeviceBuffer target, Upload(random_batch.target, stream));
  ZC_ASSIGN_OR_RETURN(const CopyBatch batch,
                      MakeCopyBatch(random_batch.Placed(source.data(), target.data()),
                                    random_batch.types.from, random_batch.types.to));
  ZC_RETURN_IF_ERROR(RunBatch(batch, stream));
  return Download(target, stream);
}

absl::StatusOr<std::vector<uint8_t>> OnDevice(const RandomDecodes& decodes) {
  ZC_ASSIGN_OR_RETURN(const Stream stream, Stream::Create(0));
  ZC_ASSIGN_OR_RETURN(const DeviceBuffer source, Upload(decodes.source, stream));
  ZC_ASSIGN_OR_RETURN(const DeviceBuffer target, Upload(decodes.target, stream));
  ZC_ASSIGN_OR_RETURN(const DecodeBatch batch,
                      MakeDecodeBatch(decodes.Placed(source.data(), target.data()), decodes.to));
  ZC_RETURN_IF_ERROR(RunBatch(batch, stream));
  return Download(target, stream);
}

TEST_F(CopyKernel, EqualsTheReferenceForAllTypes) {
  Random random(Seed());
  for (const TypePair& types : AllTypePairs()) {
    for (int round = 0; round < kRoundsOfAPair; ++round) {
      const RandomBatch batch =
          MakeRandomBatch(&random, types, static_cast<int>(random.Between(1, 6)));
      ZC_ASSERT_OK_AND_ASSIGN(const std::vector<uint8_t> result, OnDevice(batch));
      ASSERT_TRUE(result == batch.Expected())
          << DTypeName(types.from) << " to " << DTypeName(types.to) << ", round " << round;
    }
  }
}

TEST_F(CopyKernel, DecodesAsTheReferenceToAllTypes) {
  Random random(Seed());
  for (const DType to : DecodedTypes()) {
    for (int round = 0; round < kRoundsOfADecodedType; ++round) {
      const RandomDecodes decodes =
          MakeRandomDecodes(&random, to, static_cast<int>(random.Between(1, 6)));
      ZC_ASSERT_OK_AND_ASSIGN(const std::vector<uint8_t> result, OnDevice(decodes));
      ASSERT_TRUE(result == decodes.Expected()) << DTypeName(to) << ", round " << round;
    }
  }
}

// All patterns of a type of 1 or 2 bytes, in order.
std::vector<uint8_t> AllPatterns(DType dtype) {
  std::vector<uint8_t> bytes;
  const int64_t count = int64_t{1} << (8 * SizeOf(dtype));
  for (int64_t i = 0; i < count; ++i) {
    bytes.push_back(static_cast<uint8_t>(i & 255));
    if (SizeOf(dtype) == 2) bytes.push_back(static_cast<uint8_t>(i >> 8));
  }
  return bytes;
}

TEST_F(CopyKernel, CastsEveryPatternOfOneAndTwoBytes) {
  ZC_ASSERT_OK_AND_ASSIGN(const Stream stream, Stream::Create(0));
  for (const TypePair& types : AllTypePairs()) {
    if (SizeOf(types.from) > 2 || types.from == types.to) continue;
    const std::vector<uint8_t> patterns = AllPatterns(types.from);
    const auto count = static_cast<int64_t>(patterns.size()) / SizeOf(types.from);
    ZC_ASSERT_OK_AND_ASSIGN(const DeviceBuffer source, Upload(patterns, stream));
    ZC_ASSERT_OK_AND_ASSIGN(const DeviceBuffer target,
                            DeviceBuffer::Create(0, count * SizeOf(types.to)));
    PlacedBox line;
    line.box.num_dims = 1;
    line.box.dims[0] = {count, 1, 1};
    line.source = source.data();
    line.target = target.data();
    ZC_ASSERT_OK_AND_ASSIGN(const CopyBatch batch, MakeCopyBatch({line}, types.from, types.to));
    ASSERT_THAT(RunBatch(batch, stream), IsOk());
    ZC_ASSERT_OK_AND_ASSIGN(const std::vector<uint8_t> result, Download(target, stream));
    std::vector<uint8_t> expected(result.size());
    CopyBoxReference(line.box, patterns.data(), types.from, expected.data(), types.to);
    ASSERT_TRUE(result == expected) << DTypeName(types.from) << " to " << DTypeName(types.to);
  }
}

TEST_F(CopyKernel, DecodesEveryByteWithEveryExponent) {
  ZC_ASSERT_OK_AND_ASSIGN(const Stream stream, Stream::Create(0));
  std::vector<uint8_t> scales(256);
  std::iota(scales.begin(), scales.end(), 0);
  std::vector<uint8_t> stored(256 * 256);
  for (size_t i = 0; i < stored.size(); ++i) stored[i] = static_cast<uint8_t>(i);
  ZC_ASSERT_OK_AND_ASSIGN(const DeviceBuffer scale_buffer, Upload(scales, stream));
  ZC_ASSERT_OK_AND_ASSIGN(const DeviceBuffer stored_buffer, Upload(stored, stream));
  struct Kind {
    DecoderKind kind;
    DType stored, scale;
  };
  for (const Kind& kind : {Kind{DecoderKind::kFp8Block, DType::kFloat8E4M3, DType::kFloat8E8M0},
                           Kind{DecoderKind::kFp8Block, DType::kFloat8E5M2, DType::kFloat8E8M0},
                           Kind{DecoderKind::kFp4Block, DType::kUInt8, DType::kFloat8E4M3},
                           Kind{DecoderKind::kMxfp4, DType::kUInt8, DType::kUInt8}}) {
    for (const DType to : DecodedTypes()) {
      PlacedDecodeBox placed;
      const int64_t cols = 256 * PackedElements(kind.kind);
      placed.decoder = {kind.kind, kind.stored, kind.scale, 256, cols, 1, cols, 256};
      placed.box.num_dims = 1;
      placed.box.dims[0] = {256 * cols, 1, 1};
      placed.source = {reinterpret_cast<const char*>(stored_buffer.data()), 0,
                       reinterpret_cast<const char*>(scale_buffer.data()), 0};
      ZC_ASSERT_OK_AND_ASSIGN(const DeviceBuffer target,
                              DeviceBuffer::Create(0, 256 * cols * SizeOf(to)));
      placed.target = target.data();
      ZC_ASSERT_OK_AND_ASSIGN(const DecodeBatch batch, MakeDecodeBatch({placed}, to));
      ASSERT_THAT(RunBatch(batch, stream), IsOk());
      ZC_ASSERT_OK_AND_ASSIGN(const std::vector<uint8_t> result, Download(target, stream));
      std::vector<uint8_t> expected(result.size());
      DecodeBoxReference(placed.box, placed.decoder,
                         {reinterpret_cast<const char*>(stored.data()), 0,
                          reinterpret_cast<const char*>(scales.data()), 0},
                         expected.data(), to);
      ASSERT_TRUE(result == expected) << static_cast<int>(kind.kind) << " of "
                                      << DTypeName(kind.stored) << " to " << DTypeName(to);
    }
  }
}

// Boxes of several kinds, described in one block of bytes.
TEST_F(CopyKernel, RunsBoxesOfAllKinds) {
  Random random(Seed());
  ZC_ASSERT_OK_AND_ASSIGN(const Stream stream, Stream::Create(0));
  const RandomBatch casts = MakeRandomBatch(&random, {DType::kFloat32, DType::kBFloat16}, 5);
  const RandomBatch halves = MakeRandomBatch(&random, {DType::kFloat16, DType::kFloat16}, 5);
  const RandomDecodes decodes = MakeRandomDecodes(&random, DType::kBFloat16, 5);
  std::vector<DeviceBuffer> sources, targets;
  std::vector<MixedBox> boxes;
  for (const RandomBatch* plain : {&casts, &halves}) {
    ZC_ASSERT_OK_AND_ASSIGN(DeviceBuffer source, Upload(plain->source, stream));
    ZC_ASSERT_OK_AND_ASSIGN(DeviceBuffer target, Upload(plain->target, stream));
    for (const PlacedBox& placed : plain->Placed(source.data(), target.data())) {
      MixedBox box;
      box.box = placed.box;
      box.source = placed.source;
      box.source_dtype = plain->types.from;
      box.target = placed.target;
      box.target_dtype = plain->types.to;
      boxes.push_back(box);
    }
    sources.push_back(std::move(source));
    targets.push_back(std::move(target));
  }
  ZC_ASSERT_OK_AND_ASSIGN(const DeviceBuffer encoded, Upload(decodes.source, stream));
  ZC_ASSERT_OK_AND_ASSIGN(DeviceBuffer decoded, Upload(decodes.target, stream));
  for (const PlacedDecodeBox& placed : decodes.Placed(encoded.data(), decoded.data())) {
    MixedBox box;
    box.box = placed.box;
    box.source = placed.source.stored;
    box.target = placed.target;
    box.target_dtype = decodes.to;
    box.decoder = placed.decoder;
    box.stored_first = placed.source.stored_first;
    box.scales = placed.source.scales;
    box.scales_first = placed.source.scales_first;
    boxes.push_back(box);
  }
  random.Shuffle(&boxes);
  ZC_ASSERT_OK_AND_ASSIGN(const MixedBatch batch, MixedBatch::Make(boxes));
  ASSERT_EQ(batch.num_launches(), 3);
  std::vector<int64_t> words(batch.num_descriptor_bytes() / 8);
  batch.WriteDescriptors(reinterpret_cast<std::byte*>(words.data()));
  std::vector<uint8_t> bytes(words.size() * 8);
  std::memcpy(bytes.data(), words.data(), bytes.size());
  ZC_ASSERT_OK_AND_ASSIGN(const DeviceBuffer descriptors, Upload(bytes, stream));
  ASSERT_THAT(LaunchMixedBatch(batch, descriptors.data(), stream.get()), IsOk());
  ASSERT_THAT(WaitFor(stream), IsOk());
  EXPECT_TRUE(Download(targets[0], stream).value() == casts.Expected());
  EXPECT_TRUE(Download(targets[1], stream).value() == halves.Expected());
  EXPECT_TRUE(Download(decoded, stream).value() == decodes.Expected());
}

}  // namespace
}  // namespace zerocast
