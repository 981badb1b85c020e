// Expected bits are those of torch 2.15's Tensor.to(dtype).

#include "client/verify/cast.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <map>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "tests/status_matchers.h"

namespace zerocast::verify {
namespace {

std::string Bytes(const std::vector<uint64_t>& bits, DType dtype) {
  std::string bytes;
  for (uint64_t value : bits) {
    bytes.append(reinterpret_cast<const char*>(&value), SizeOf(dtype));
  }
  return bytes;
}

std::vector<uint64_t> Bits(const std::string& bytes, DType dtype) {
  std::vector<uint64_t> bits;
  for (size_t at = 0; at < bytes.size(); at += SizeOf(dtype)) {
    uint64_t value = 0;
    std::memcpy(&value, bytes.data() + at, SizeOf(dtype));
    bits.push_back(value);
  }
  return bits;
}

std::vector<uint64_t> Cast(const std::vector<uint64_t>& bits, DType from, DType to) {
  const absl::StatusOr<std::string> cast = CastBytes(Bytes(bits, from), from, to);
  EXPECT_THAT(cast, IsOk());
  return cast.ok() ? Bits(*cast, to) : std::vector<uint64_t>();
}

std::vector<uint64_t> FromFloats(const std::vector<float>& values, DType to) {
  std::vector<uint64_t> bits;
  for (float value : values) {
    uint32_t one;
    std::memcpy(&one, &value, sizeof(one));
    bits.push_back(one);
  }
  return Cast(bits, DType::kFloat32, to);
}

std::vector<uint64_t> FromDoubles(const std::vector<double>& values, DType to) {
  std::vector<uint64_t> bits;
  for (double value : values) {
    uint64_t one;
    std::memcpy(&one, &value, sizeof(one));
    bits.push_back(one);
  }
  return Cast(bits, DType::kFloat64, to);
}

constexpr float kInf = std::numeric_limits<float>::infinity();
using Expected = std::vector<uint64_t>;

TEST(Cast, E4M3Saturates) {
  EXPECT_EQ(FromFloats({449, 464, 465, 480, 1e30F, kInf, -kInf}, DType::kFloat8E4M3),
            Expected({0x7e, 0x7e, 0x7e, 0x7e, 0x7e, 0x7e, 0xfe}));
  // Half of the smallest subnormal is a tie and becomes 0.
  EXPECT_EQ(FromFloats({0x1p-10F, 0x1.01p-10F, 0x1.8p-9F, -0.0F}, DType::kFloat8E4M3),
            Expected({0, 1, 2, 0x80}));
}

TEST(Cast, E5M2OverflowsToInfinity) {
  EXPECT_EQ(FromFloats({57344, 61439, 61440, 65536, kInf}, DType::kFloat8E5M2),
            Expected({0x7b, 0x7b, 0x7c, 0x7c, 0x7c}));
  EXPECT_EQ(FromFloats({0x1p-17F, 0x1.01p-17F, 0x1.8p-16F}, DType::kFloat8E5M2),
            Expected({0, 1, 2}));
}

TEST(Cast, Float16) {
  EXPECT_EQ(FromFloats({65519, 65520, 0x1p-25F, 0x1.01p-25F, 0x1.8p-24F, -0.0F}, DType::kFloat16),
            Expected({0x7bff, 0x7c00, 0, 1, 2, 0x8000}));
}

TEST(Cast, BFloat16) {
  EXPECT_EQ(Cast({0x7f7f0000, 0x7f7fffff, 0x116c2, 0x3f808000, 0x3f80834a, 0x3f818000, 0x10000,
                  0x8000, 0xc000},
                 DType::kFloat32, DType::kBFloat16),
            Expected({0x7f7f, 0x7f80, 1, 0x3f80, 0x3f81, 0x3f82, 1, 0, 1}));
}

TEST(Cast, DoubleToFloat) {
  EXPECT_EQ(
      FromDoubles({1e-46, 1e-45, 0x1.ffffffp+127, 1e39, 1 + 0x1p-24, 1 + 0x3p-24}, DType::kFloat32),
      Expected({0, 1, 0x7f800000, 0x7f800000, 0x3f800000, 0x3f800002}));
}

TEST(Cast, DoubleGoesToNarrowTypesByFloat) {
  // Just above a tie; as a float it is the tie, which rounds down.
  EXPECT_EQ(FromDoubles({1 + 0x1p-8 + 0x1p-40}, DType::kBFloat16), Expected({0x3f80}));
  EXPECT_EQ(FromDoubles({1 + 0x1p-11 + 0x1p-40}, DType::kFloat16), Expected({0x3c00}));
  EXPECT_EQ(FromDoubles({1 + 0x1p-4 + 0x1p-40}, DType::kFloat8E4M3), Expected({0x38}));
  EXPECT_EQ(FromDoubles({1 + 0x1p-3 + 0x1p-40}, DType::kFloat8E5M2), Expected({0x3c}));
}

TEST(Cast, Nans) {
  EXPECT_EQ(Cast({0x7f800001, 0xffc12345}, DType::kFloat32, DType::kFloat8E4M3),
            Expected({0x7f, 0xff}));
  EXPECT_EQ(Cast({0x7f800001, 0xffc12345}, DType::kFloat32, DType::kFloat8E5M2),
            Expected({0x7f, 0xff}));
  EXPECT_EQ(
      Cast({0x7f800001, 0x7fc12345, 0x7fb12345, 0xffc12345}, DType::kFloat32, DType::kFloat16),
      Expected({0x7e00, 0x7e09, 0x7f89, 0xfe09}));
  EXPECT_EQ(Cast({0x7fc12345, 0xff800001}, DType::kFloat32, DType::kFloat64),
            Expected({0x7ff82468a0000000, 0xfff8000020000000}));
  EXPECT_EQ(Cast({0x7f81, 0xffff}, DType::kBFloat16, DType::kFloat32),
            Expected({0x7f810000, 0xffff0000}));
  EXPECT_EQ(Cast({0x7f, 0xff}, DType::kFloat8E4M3, DType::kFloat32),
            Expected({0x7ff00000, 0xfff00000}));
  EXPECT_EQ(Cast({0x7d, 0xfe}, DType::kFloat8E5M2, DType::kFloat16), Expected({0x7f00, 0xfe00}));
}

// Every value of a narrow type goes into a wider one and back unchanged, and means the same number
// as by ldexp.
TEST(Cast, NarrowTypesWidenExactly) {
  const struct {
    DType dtype;
    int exponent_bits, mantissa_bits;
    bool infinity;
  } kTypes[] = {{DType::kFloat8E4M3, 4, 3, false},
                {DType::kFloat8E5M2, 5, 2, true},
                {DType::kFloat16, 5, 10, true},
                {DType::kBFloat16, 8, 7, true}};
  for (const auto& type : kTypes) {
    std::vector<uint64_t> all, finite;
    for (uint64_t i = 0; i < uint64_t{1} << (8 * SizeOf(type.dtype)); ++i) all.push_back(i);
    const std::vector<uint64_t> wide = Cast(all, type.dtype, DType::kFloat32);
    const std::vector<uint64_t> wider = Cast(all, type.dtype, DType::kFloat64);
    ASSERT_EQ(wide.size(), all.size());
    const int bias = (1 << (type.exponent_bits - 1)) - 1;
    std::vector<uint64_t> numbers, widened;
    for (uint64_t i : all) {
      const int exponent = i >> type.mantissa_bits & ((1 << type.exponent_bits) - 1);
      const int mantissa = i & ((1 << type.mantissa_bits) - 1);
      const bool top = exponent == (1 << type.exponent_bits) - 1;
      const bool nan =
          top && (type.infinity ? mantissa != 0 : mantissa == (1 << type.mantissa_bits) - 1);
      if (nan) continue;
      double value = exponent == 0 ? std::ldexp(mantissa, 1 - bias - type.mantissa_bits)
                                   : std::ldexp(mantissa + (1 << type.mantissa_bits),
                                                exponent - bias - type.mantissa_bits);
      if (top && type.infinity) value = std::numeric_limits<double>::infinity();
      if (i >> (8 * SizeOf(type.dtype) - 1) != 0) value = -value;
      const auto as_float = static_cast<float>(value);
      uint32_t bits;
      std::memcpy(&bits, &as_float, sizeof(bits));
      ASSERT_EQ(wide[i], bits) << "of " << i;
      uint64_t bits64;
      std::memcpy(&bits64, &value, sizeof(bits64));
      ASSERT_EQ(wider[i], bits64) << "of " << i;
      numbers.push_back(i);
      widened.push_back(bits);
    }
    std::vector<uint64_t> back = Cast(widened, DType::kFloat32, type.dtype);
    EXPECT_EQ(back, numbers);
  }
}

// By the table of all values, which only large tensors use, and one by one.
TEST(Cast, TableAndSingleElementsAgree) {
  std::vector<uint64_t> all;
  for (uint64_t i = 0; i < 65536; ++i) all.push_back(i);
  for (DType from : {DType::kFloat16, DType::kBFloat16}) {
    for (DType to : {DType::kFloat8E4M3, DType::kFloat8E5M2, DType::kFloat32, DType::kFloat16}) {
      const std::vector<uint64_t> table = Cast(all, from, to);
      for (uint64_t i : {0x0u, 0x1u, 0x3c01u, 0x7c00u, 0x7f80u, 0xffffu, 0x8001u, 0x5f3fu}) {
        EXPECT_EQ(Cast({i}, from, to), Expected({table[i]})) << i;
      }
    }
  }
}

// splitmix64.
uint64_t Mix(uint64_t index) {
  uint64_t z = (index + 1) * 0x9e3779b97f4a7c15;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return z ^ z >> 31;
}

// The inputs that tests/oracle/make_casts.py gave to torch.
std::vector<uint64_t> OracleInputs(DType dtype) {
  const int width = 8 * static_cast<int>(SizeOf(dtype)), low_width = width - 16;
  std::vector<uint64_t> inputs;
  const uint64_t count = width < 16 ? 256 : 65536;
  for (uint64_t i = 0; i < count; ++i) inputs.push_back(width <= 16 ? i : i << low_width);
  if (width <= 16) return inputs;
  const uint64_t tie = uint64_t{1} << (low_width - 1);
  for (uint64_t low : {tie, tie - 1, tie | 1}) {
    for (uint64_t i = 0; i < count; ++i) inputs.push_back(i << low_width | low);
  }
  for (uint64_t i = 0; i < count; ++i)
    inputs.push_back(i << low_width | Mix(i) >> (64 - low_width));
  for (uint64_t i = 0; i < count; ++i) inputs.push_back(Mix(i) >> (64 - width));
  for (int precision : {8, 11, 24, 53}) {
    if (!IsInteger(dtype)) break;
    for (int step : {-1, 0, 1}) {
      for (uint64_t i = 0; i < count; ++i) {
        const uint64_t leading = uint64_t{1} << i % width;
        const uint64_t number = leading + Mix(i) % leading;
        const uint64_t half = std::max(leading >> precision, uint64_t{1});
        const uint64_t value = number / half / 2 * half * 2 + half + step;
        inputs.push_back(i % 128 < 64 ? value : 0 - value);
      }
    }
  }
  if (width == 32 || IsInteger(dtype)) return inputs;
  for (uint64_t low : {0x0, 0x0fffffff, 0x10000000, 0x10000001}) {
    for (uint64_t i = 0; i < count; ++i) {
      inputs.push_back((i & 1) << 63 | (1023 - 160 + i % 300) << 52 |
                       (Mix(i) & 0x000fffffe0000000) | low);
    }
  }
  return inputs;
}

// 64-bit FNV-1a.
uint64_t Fnv1a(const std::string& bytes) {
  uint64_t hash = 0xcbf29ce484222325;
  for (unsigned char byte : bytes) hash = (hash ^ byte) * 0x100000001b3;
  return hash;
}

// All pairs of types, against what torch was seen to do.
TEST(Cast, EqualsTheOracle) {
  const std::map<std::string, DType> names = {{"bool", DType::kBool},
                                              {"uint8", DType::kUInt8},
                                              {"int8", DType::kInt8},
                                              {"uint16", DType::kUInt16},
                                              {"int16", DType::kInt16},
                                              {"uint32", DType::kUInt32},
                                              {"int32", DType::kInt32},
                                              {"uint64", DType::kUInt64},
                                              {"int64", DType::kInt64},
                                              {"float8_e4m3fn", DType::kFloat8E4M3},
                                              {"float8_e5m2", DType::kFloat8E5M2},
                                              {"float16", DType::kFloat16},
                                              {"bfloat16", DType::kBFloat16},
                                              {"float32", DType::kFloat32},
                                              {"float64", DType::kFloat64}};
  const char* const data = std::getenv("ZC_TEST_DATA");
  ASSERT_NE(data, nullptr);
  std::ifstream file(std::string(data) + "/casts/hashes.txt");
  int pairs = 0;
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream words(line);
    std::string from_name, to_name, hash;
    size_t block = 0;
    words >> from_name >> to_name >> block;
    const DType from = names.at(from_name), to = names.at(to_name);
    ZC_ASSERT_OK_AND_ASSIGN(const std::string cast,
                            CastBytes(Bytes(OracleInputs(from), from), from, to));
    block *= SizeOf(to);
    for (size_t at = 0; at < cast.size(); at += block) {
      ASSERT_TRUE(words >> hash);
      ASSERT_EQ(Fnv1a(cast.substr(at, block)), std::stoull(hash, nullptr, 16))
          << from_name << " to " << to_name << ", block from byte " << at;
    }
    EXPECT_FALSE(words >> hash);
    ++pairs;
  }
  EXPECT_EQ(pairs, 6 * 5 + 9 * 6);
}

TEST(Cast, IntegersAreRoundedAsFloat32First) {
  constexpr uint64_t kTie = (uint64_t{1} << 40) + (uint64_t{1} << 32);  // of bfloat16
  EXPECT_EQ(Cast({kTie, kTie + 1, kTie + (1 << 17)}, DType::kInt64, DType::kBFloat16),
            Expected({0x5380, 0x5380, 0x5381}));
  EXPECT_EQ(Cast({(1 << 24) + 1, (1 << 24) + 3, uint64_t{0} - 257, uint64_t{1} << 63},
                 DType::kInt64, DType::kFloat32),
            Expected({0x4b800000, 0x4b800002, 0xc3808000, 0xdf000000}));
  EXPECT_EQ(
      Cast({(uint64_t{1} << 53) + 1, (uint64_t{1} << 53) + 3}, DType::kInt64, DType::kFloat64),
      Expected({0x4340000000000000, 0x4340000000000002}));
  EXPECT_EQ(Cast({0, 1, 2, 255}, DType::kBool, DType::kFloat16),
            Expected({0, 0x3c00, 0x3c00, 0x3c00}));
}

TEST(Cast, RefusesOtherThanToFloating) {
  EXPECT_THAT(CastBytes("ab", DType::kFloat16, DType::kInt8),
              StatusIs(absl::StatusCode::kUnimplemented, ::testing::HasSubstr("floating")));
  EXPECT_THAT(CastBytes("ab", DType::kFloat8E8M0, DType::kFloat32),
              StatusIs(absl::StatusCode::kUnimplemented, ::testing::HasSubstr("floating")));
  EXPECT_THAT(CastBytes("ab", DType::kInt8, DType::kInt8), IsOk());
}

TEST(Cast, Promotion) {
  EXPECT_EQ(PromotedDType(DType::kFloat16, DType::kBFloat16), DType::kFloat32);
  EXPECT_EQ(PromotedDType(DType::kFloat32, DType::kBFloat16), DType::kFloat32);
  EXPECT_EQ(PromotedDType(DType::kFloat16, DType::kFloat64), DType::kFloat64);
  EXPECT_EQ(PromotedDType(DType::kInt8, DType::kInt8), DType::kInt8);
  EXPECT_EQ(PromotedDType(DType::kInt8, DType::kFloat32), DType::kInvalid);
}

}  // namespace
}  // namespace zerocast::verify
