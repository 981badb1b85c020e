// The witness's own decoding against torch's answers, recorded by tests/oracle/make_decodes.py.

#include "client/verify/dequantize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

#include "client/verify/cast.h"
#include "tests/recorded_decodes.h"
#include "tests/status_matchers.h"

namespace zerocast::verify {
namespace {

Tensor Scales(DType dtype) {
  const int64_t size = SizeOf(dtype);
  Tensor scales{dtype, {kNumScales, 1}, ""};
  const double special[] = {0.0, -0.0, INFINITY, -INFINITY, 1.0, -1.0, 0.5, 3.0};
  for (int64_t i = 0; i < kNumScales; ++i) {
    if (size > 1 && i < 8) {
      const std::string bytes(reinterpret_cast<const char*>(&special[i]), sizeof(double));
      scales.bytes += CastBytes(bytes, DType::kFloat64, dtype).value();
      continue;
    }
    const uint64_t bits = size == 1 ? i & 255 : Mix(i) >> (64 - 8 * size);
    scales.bytes.append(reinterpret_cast<const char*>(&bits), size);
  }
  return scales;
}

TEST(Dequantize, EveryByteWithManyScalesAsTorch) {
  std::ifstream file(std::string(std::getenv("ZC_TEST_DATA")) + "/decodes/checksums.txt");
  std::string kind, stored, scale, target, checksum, all;
  int lines = 0;
  for (int64_t i = 0; i < 256 * kNumScales; ++i) all.push_back(static_cast<char>(i));
  while (file >> kind >> stored >> scale >> target >> checksum) {
    const DType to = DTypeFromName(target.c_str());
    Tensor scales = Scales(DTypeFromName(scale.c_str()));
    absl::StatusOr<Tensor> decoded;
    if (kind == "mxfp4") {
      // One row for each scale, so that the swap of axes 1 and 2 changes nothing.
      scales.shape = {kNumScales, 1, 1};
      decoded = DequantizeMxfp4({DType::kUInt8, {kNumScales, 1, 1, 256}, all}, scales);
    } else {
      const DType dtype = kind == "fp4" ? DType::kInt8 : DTypeFromName(stored.c_str());
      decoded = DequantizeBlocks({dtype, {kNumScales, 256}, all}, scales);
    }
    ASSERT_THAT(decoded, IsOk());
    const std::string bytes = CastBytes(decoded->bytes, decoded->dtype, to).value();
    EXPECT_EQ(Checksum(bytes, SizeOf(to)), checksum)
        << kind << " " << stored << " " << scale << " " << target;
    ++lines;
  }
  EXPECT_EQ(lines, 8 * 3 * 6 + 3);
}

}  // namespace
}  // namespace zerocast::verify
