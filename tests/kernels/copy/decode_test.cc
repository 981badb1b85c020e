// Decoding quantised sources against the answers of torch, recorded by
// tests/oracle/make_decodes.py, and the fast path against the specification.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/copy/algebra.h"
#include "kernels/copy/copy.h"
#include "kernels/copy/decode_box.h"
#include "tests/recorded_decodes.h"

namespace zerocast {
namespace {

using DecodeFunction = void (*)(const Box&, const Decoder&, const EncodedSource&, void*, DType);

// The scales of make_decodes.py, little-endian.
std::vector<char> Scales(DType dtype) {
  const int64_t size = SizeOf(dtype);
  std::vector<uint64_t> bits(kNumScales);
  for (int64_t i = 0; i < kNumScales; ++i) {
    bits[i] = size == 1 ? i & 255 : Mix(i) >> (64 - 8 * size);
  }
  if (size > 1) {
    const double special[] = {0.0, -0.0, INFINITY, -INFINITY, 1.0, -1.0, 0.5, 3.0};
    for (int i = 0; i < 8; ++i) {
      CastElements(&special[i], DType::kFloat64, &bits[i], dtype, 1);
      if (size < 8) bits[i] &= (uint64_t{1} << (8 * size)) - 1;
    }
  }
  std::vector<char> bytes(kNumScales * size);
  for (int64_t i = 0; i < kNumScales; ++i) std::memcpy(&bytes[i * size], &bits[i], size);
  return bytes;
}

class Decodes : public ::testing::TestWithParam<DecodeFunction> {};

TEST_P(Decodes, EveryByteWithManyScalesAsTorch) {
  std::ifstream file(std::string(std::getenv("ZC_TEST_DATA")) + "/decodes/checksums.txt");
  std::string kind, stored, scale, target, checksum;
  int lines = 0;
  std::vector<char> bytes(256 * kNumScales);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i);
  while (file >> kind >> stored >> scale >> target >> checksum) {
    Decoder decoder;
    decoder.kind = kind == "fp8"   ? DecoderKind::kFp8Block
                   : kind == "fp4" ? DecoderKind::kFp4Block
                                   : DecoderKind::kMxfp4;
    decoder.stored = DTypeFromName(stored.c_str());
    decoder.scale = DTypeFromName(scale.c_str());
    decoder.rows = kNumScales;
    decoder.cols = decoder.block_cols = 256 * PackedElements(decoder.kind);
    decoder.matrix_scales = kNumScales;
    ASSERT_TRUE(IsConsistent(decoder, 256 * kNumScales, kNumScales));
    const std::vector<char> scales = Scales(decoder.scale);
    const DType to = DTypeFromName(target.c_str());
    const int64_t count = decoder.rows * decoder.cols;
    std::vector<char> decoded(count * SizeOf(to));
    GetParam()(WholeBox(0, count, 0), decoder, {bytes.data(), 0, scales.data(), 0}, decoded.data(),
               to);
    EXPECT_EQ(Checksum(decoded, SizeOf(to)), checksum)
        << kind << " " << stored << " " << scale << " " << target;
    ++lines;
  }
  EXPECT_EQ(lines, 8 * 3 * 6 + 3);
}

INSTANTIATE_TEST_SUITE_P(Reference, Decodes, ::testing::Values(&DecodeBoxReference));
INSTANTIATE_TEST_SUITE_P(Fast, Decodes, ::testing::Values(&DecodeBox));

class RandomDecoders : public ::testing::Test {
 protected:
  RandomDecoders() {
    const char* const seed = std::getenv("ZC_SEED");
    seed_ = seed != nullptr ? std::strtoul(seed, nullptr, 10) : std::random_device()();
    random_.seed(seed_);
    RecordProperty("ZC_SEED", std::to_string(seed_));
    std::printf("ZC_SEED=%llu\n", static_cast<unsigned long long>(seed_));
  }

  int64_t Pick(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random_);
  }
  std::vector<char> Bytes(int64_t count) {
    std::vector<char> bytes(count);
    for (char& byte : bytes) byte = static_cast<char>(Pick(0, 255));
    return bytes;
  }

  // Of `matrices` matrices.
  Decoder Random(int64_t* matrices) {
    Decoder decoder;
    decoder.kind = static_cast<DecoderKind>(Pick(1, 3));
    decoder.stored = decoder.kind != DecoderKind::kFp8Block ? DType::kUInt8
                     : Pick(0, 1) == 0                      ? DType::kFloat8E4M3
                                                            : DType::kFloat8E5M2;
    const DType scales[] = {DType::kFloat32, DType::kBFloat16, DType::kFloat8E8M0, DType::kUInt8};
    decoder.scale = decoder.kind == DecoderKind::kMxfp4 ? DType::kUInt8 : scales[Pick(0, 3)];
    decoder.block_rows = Pick(1, 5);
    decoder.block_cols = Pick(1, 40) * 2;
    decoder.rows = decoder.block_rows * Pick(1, 4);
    decoder.cols = decoder.block_cols * Pick(1, 4);
    *matrices = Pick(1, 3);
    if (*matrices == 1 || Pick(0, 3) > 0) {
      decoder.matrix_scales =
          decoder.rows / decoder.block_rows * (decoder.cols / decoder.block_cols);
    }
    return decoder;
  }

  uint64_t seed_;
  std::mt19937_64 random_;
};

TEST_F(RandomDecoders, TheFastPathEqualsTheSpecification) {
  const DType targets[] = {DType::kBFloat16, DType::kFloat16, DType::kFloat32, DType::kFloat64,
                           DType::kFloat8E4M3};
  for (int round = 0; round < 300; ++round) {
    int64_t matrices = 0;
    const Decoder decoder = Random(&matrices);
    const int64_t rows = decoder.rows * matrices, count = rows * decoder.cols;
    const int64_t packed = PackedElements(decoder.kind);
    const std::vector<char> stored = Bytes(count / packed);
    const int64_t num_scales = decoder.matrix_scales == 0
                                   ? decoder.rows / decoder.block_rows * GridCols(decoder)
                                   : decoder.matrix_scales * matrices;
    const std::vector<char> scales = Bytes(num_scales * SizeOf(decoder.scale));
    ASSERT_TRUE(IsConsistent(decoder, count / packed, num_scales));
    // The whole, straight or transposed, and a slice of it that is read from a part of the source.
    Box box = WholeBox(0, count, 0);
    if (Pick(0, 1) == 0 && rows > 1) {
      const BoxDim dims[] = {{rows, decoder.cols, 1}, {decoder.cols, 1, rows}};
      box = MakeBox(0, 0, 0, dims).value();
    }
    std::vector<Box> boxes;
    const int64_t begin = Pick(0, count - 1), end = Pick(begin + 1, count);
    SliceSource(box, begin, end, &boxes);
    boxes.push_back(box);
    const DType target = targets[Pick(0, 4)];
    for (const Box& one : boxes) {
      const int64_t first = one.source_offset / packed * packed;
      const ScaleRange range = ScalesOf(decoder, one.source_offset, SourceEnd(one));
      ASSERT_LE(range.end, num_scales);
      // Only what belongs to the box is in memory: a sanitizer sees what reaches beyond it.
      const std::vector<char> part(stored.begin() + first / packed,
                                   stored.begin() + (SourceEnd(one) + packed - 1) / packed);
      const std::vector<char> own(scales.begin() + range.begin * SizeOf(decoder.scale),
                                  scales.begin() + range.end * SizeOf(decoder.scale));
      const EncodedSource source = {part.data(), first, own.data(), range.begin};
      std::vector<char> expected(count * SizeOf(target), 17), found = expected;
      DecodeBoxReference(one, decoder, source, expected.data(), target);
      DecodeBox(one, decoder, source, found.data(), target);
      ASSERT_EQ(found, expected) << "round " << round << ", ZC_SEED=" << seed_;
    }
  }
}

TEST_F(RandomDecoders, ScalesOfARangeHoldThoseOfItsElementsAndOfItsParts) {
  for (int round = 0; round < 300; ++round) {
    int64_t matrices = 0;
    const Decoder decoder = Random(&matrices);
    const int64_t count = decoder.rows * matrices * decoder.cols;
    const int64_t begin = Pick(0, count - 1), end = Pick(begin + 1, count);
    const ScaleRange range = ScalesOf(decoder, begin, end);
    for (int64_t element = begin; element < end; ++element) {
      ASSERT_GE(ScaleIndex(decoder, element), range.begin) << "ZC_SEED=" << seed_;
      ASSERT_LT(ScaleIndex(decoder, element), range.end) << "ZC_SEED=" << seed_;
    }
    const int64_t from = Pick(begin, end - 1), to = Pick(from + 1, end);
    const ScaleRange part = ScalesOf(decoder, from, to);
    ASSERT_GE(part.begin, range.begin) << "ZC_SEED=" << seed_;
    ASSERT_LE(part.end, range.end) << "ZC_SEED=" << seed_;
  }
}

TEST(Decoder, InconsistentOnesAreRefused) {
  Decoder good;
  good.kind = DecoderKind::kFp8Block;
  good.stored = DType::kFloat8E4M3;
  good.scale = DType::kFloat32;
  good.rows = 4, good.cols = 6, good.block_rows = 2, good.block_cols = 3;
  good.matrix_scales = 4;
  EXPECT_TRUE(IsConsistent(good, 48, 8));
  EXPECT_FALSE(IsConsistent(good, 48, 4));  // a scale for each block of each matrix
  EXPECT_FALSE(IsConsistent(good, 47, 8));
  EXPECT_FALSE(IsConsistent(good, 0, 0));
  const auto refused = [&](auto change) {
    Decoder bad = good;
    change(&bad);
    return !IsConsistent(bad, 48, 8);
  };
  EXPECT_TRUE(refused([](Decoder* d) { d->kind = DecoderKind::kPlain; }));
  EXPECT_TRUE(refused([](Decoder* d) { d->kind = static_cast<DecoderKind>(9); }));
  EXPECT_TRUE(refused([](Decoder* d) { d->stored = DType::kInt8; }));
  EXPECT_TRUE(refused([](Decoder* d) { d->scale = DType::kInt32; }));
  EXPECT_TRUE(refused([](Decoder* d) { d->block_rows = 3; }));
  EXPECT_TRUE(refused([](Decoder* d) { d->block_cols = 0; }));
  EXPECT_TRUE(refused([](Decoder* d) { d->rows = -4; }));
  EXPECT_TRUE(refused([](Decoder* d) { d->matrix_scales = 3; }));
  EXPECT_TRUE(refused([](Decoder* d) { d->rows = int64_t{1} << 62, d->cols = 6; }));
  good.matrix_scales = 0;  // shared
  EXPECT_TRUE(IsConsistent(good, 48, 4));
  good.kind = DecoderKind::kMxfp4;
  good.stored = DType::kUInt8;
  EXPECT_FALSE(IsConsistent(good, 24, 4)) << "the scale of mxfp4 is a byte";
}

}  // namespace
}  // namespace zerocast
