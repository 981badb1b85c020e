// Casts against the answers of torch, recorded by tests/oracle/make_casts.py.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/copy/cast.h"
#include "kernels/copy/copy.h"
#include "tests/recorded_decodes.h"

namespace zerocast {
namespace {

// An integer of any magnitude and sign, `step` beyond a tie of that many bits' precision.
uint64_t NearTie(uint64_t index, int width, int precision, int step) {
  const int top = static_cast<int>(index % width);
  const uint64_t number = uint64_t{1} << top | (Mix(index) & ((uint64_t{1} << top) - 1));
  const uint64_t tie = uint64_t{1} << std::max(top - precision, 0);
  const uint64_t value = ((number & ~(2 * tie - 1)) | tie) + step;
  return (index & 64) != 0 ? ~value + 1 : value;
}

// The inputs of make_casts.py, in its order.
std::vector<uint64_t> Inputs(DType dtype) {
  const int width = static_cast<int>(SizeOf(dtype)) * 8;
  std::vector<uint64_t> inputs;
  if (width <= 16) {
    for (uint64_t bits = 0; bits < uint64_t{1} << width; ++bits) inputs.push_back(bits);
    return inputs;
  }
  const uint64_t count = 1 << 16;
  const uint64_t tie = uint64_t{1} << (width - 17);
  for (const uint64_t low : {uint64_t{0}, tie, tie - 1, tie | 1}) {
    for (uint64_t i = 0; i < count; ++i) inputs.push_back(i << (width - 16) | low);
  }
  for (uint64_t i = 0; i < count; ++i) {
    inputs.push_back(i << (width - 16) | Mix(i) >> (64 - (width - 16)));
  }
  for (uint64_t i = 0; i < count; ++i) inputs.push_back(Mix(i) >> (64 - width));
  if (IsInteger(dtype)) {
    for (const int precision : {8, 11, 24, 53}) {
      for (const int step : {-1, 0, 1}) {
        for (uint64_t i = 0; i < count; ++i) inputs.push_back(NearTie(i, width, precision, step));
      }
    }
  } else if (width == 64) {
    for (const uint64_t low : {0x0, 0x0fffffff, 0x10000000, 0x10000001}) {
      for (uint64_t i = 0; i < count; ++i) {
        inputs.push_back((i & 1) << 63 | (1023 - 160 + i % 300) << 52 |
                         (Mix(i) & 0x000fffffe0000000) | low);
      }
    }
  }
  return inputs;
}

uint64_t Fnv1a(const uint8_t* bytes, int64_t size) {
  uint64_t hash = 0xcbf29ce484222325;
  for (int64_t i = 0; i < size; ++i) hash = (hash ^ bytes[i]) * 0x100000001b3;
  return hash;
}

// Little-endian elements of `dtype`.
std::vector<uint8_t> Encode(const std::vector<uint64_t>& values, DType dtype) {
  std::vector<uint8_t> bytes(values.size() * SizeOf(dtype));
  for (size_t i = 0; i < values.size(); ++i) {
    std::memcpy(bytes.data() + i * SizeOf(dtype), &values[i], SizeOf(dtype));
  }
  return bytes;
}

std::vector<std::vector<std::string>> Lines(const std::string& name) {
  const char* data = std::getenv("ZC_TEST_DATA");
  std::ifstream file(std::string(data == nullptr ? "tests/data" : data) + "/casts/" + name);
  EXPECT_TRUE(file.good()) << name;
  std::vector<std::vector<std::string>> lines;
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream words(line);
    std::vector<std::string> split;
    for (std::string word; words >> word;) split.push_back(word);
    lines.push_back(split);
  }
  return lines;
}

using Caster = void (*)(const void*, DType, void*, DType, int64_t);

void CastByReference(const void* source, DType from, void* target, DType to, int64_t count) {
  Box box;
  box.num_dims = 1;
  box.dims[0] = {count, 1, 1};
  CopyBoxReference(box, source, from, target, to);
}

class Casts : public ::testing::TestWithParam<Caster> {};

TEST_P(Casts, EveryPatternIsWhatTorchMakesOfIt) {
  int pairs = 0;
  for (const std::vector<std::string>& line : Lines("hashes.txt")) {
    const DType from = DTypeFromName(line[0].c_str());
    const DType to = DTypeFromName(line[1].c_str());
    ASSERT_TRUE(CanCast(from, to) && from != to);
    const int64_t block = std::stoll(line[2]);
    const std::vector<uint64_t> inputs = Inputs(from);
    ASSERT_EQ(inputs.size(), block * (line.size() - 3));
    const std::vector<uint8_t> source = Encode(inputs, from);
    std::vector<uint8_t> target(inputs.size() * SizeOf(to));
    GetParam()(source.data(), from, target.data(), to, static_cast<int64_t>(inputs.size()));
    for (size_t k = 3; k < line.size(); ++k) {
      const int64_t first = static_cast<int64_t>(k - 3) * block;
      ASSERT_EQ(Fnv1a(target.data() + first * SizeOf(to), block * SizeOf(to)),
                std::stoull(line[k], nullptr, 16))
          << line[0] << " to " << line[1] << ", inputs " << first << " to " << first + block;
    }
    ++pairs;
  }
  EXPECT_EQ(pairs, 6 * 5 + 9 * 6);
}

TEST_P(Casts, EdgesAreWhatTorchMakesOfThem) {
  int edges = 0;
  for (const std::vector<std::string>& line : Lines("edges.txt")) {
    const DType from = DTypeFromName(line[0].c_str());
    const DType to = DTypeFromName(line[1].c_str());
    const std::vector<uint8_t> source = Encode({std::stoull(line[2], nullptr, 16)}, from);
    uint64_t result = 0;
    GetParam()(source.data(), from, &result, to, 1);
    EXPECT_EQ(result, std::stoull(line[3], nullptr, 16))
        << line[0] << " to " << line[1] << " of " << line[2];
    ++edges;
  }
  EXPECT_GT(edges, 700);
}

INSTANTIATE_TEST_SUITE_P(Reference, Casts, ::testing::Values(&CastByReference));
INSTANTIATE_TEST_SUITE_P(Fast, Casts, ::testing::Values(&CastElements));

TEST(CanCast, ToFloatingTypesAndToTheSame) {
  for (int from = 1; from <= static_cast<int>(DType::kFloat8E8M0); ++from) {
    for (int to = 1; to <= static_cast<int>(DType::kFloat8E8M0); ++to) {
      const bool castable = from != static_cast<int>(DType::kFloat8E8M0);
      EXPECT_EQ(CanCast(static_cast<DType>(from), static_cast<DType>(to)),
                from == to || (castable && IsFloating(static_cast<DType>(to))));
    }
  }
  EXPECT_FALSE(CanCast(DType::kInvalid, DType::kInvalid));
}

TEST(DTypes, NamesComeBack) {
  for (int i = 1; i <= static_cast<int>(DType::kFloat8E8M0); ++i) {
    const DType dtype = static_cast<DType>(i);
    EXPECT_EQ(DTypeFromName(DTypeName(dtype)), dtype);
    EXPECT_EQ(DTypeFromSafetensors(SafetensorsName(dtype)), dtype);
  }
  EXPECT_EQ(DTypeFromName("int4"), DType::kInvalid);
  EXPECT_EQ(DTypeFromName("invalid"), DType::kInvalid);
  EXPECT_EQ(DTypeFromSafetensors(""), DType::kInvalid);
  EXPECT_STREQ(SafetensorsName(DType::kFloat8E4M3), "F8_E4M3");
  EXPECT_STREQ(DTypeName(DType::kBFloat16), "bfloat16");
}

}  // namespace
}  // namespace zerocast
