// The moves against small results written out by hand, and against their inverses.

#include "client/verify/tensor.h"

#include <gtest/gtest.h>

#include <numeric>
#include <string>
#include <vector>

#include "client/verify/natural_order.h"
#include "tests/status_matchers.h"

namespace zerocast::verify {
namespace {

Tensor Of(Shape shape, const std::vector<int>& values, DType dtype = DType::kInt8) {
  Tensor tensor{dtype, std::move(shape), {}};
  for (int value : values) {
    tensor.bytes.append(reinterpret_cast<const char*>(&value), SizeOf(dtype));
  }
  return tensor;
}

Tensor Counting(Shape shape, int first = 0) {
  std::vector<int> values(NumElements(shape));
  std::iota(values.begin(), values.end(), first);
  return Of(std::move(shape), values);
}

MATCHER_P2(IsTensor, shape, values, "") {
  if (!arg.ok()) {
    *result_listener << arg.status().ToString();
    return false;
  }
  const Tensor want = Of(shape, values);
  *result_listener << "shape " << ShapeText(arg->shape);
  for (char byte : arg->bytes) *result_listener << ' ' << static_cast<int>(byte);
  return arg->shape == want.shape && arg->bytes == want.bytes;
}
using Values = std::vector<int>;

TEST(Tensor, Stack) {
  const std::vector<Tensor> two = {Counting({2, 2}), Counting({2, 2}, 10)};
  EXPECT_THAT(StackTensors(two, 0),
              IsTensor(Shape({2, 2, 2}), Values({0, 1, 2, 3, 10, 11, 12, 13})));
  EXPECT_THAT(StackTensors(two, 1),
              IsTensor(Shape({2, 2, 2}), Values({0, 1, 10, 11, 2, 3, 12, 13})));
  EXPECT_THAT(StackTensors(two, -1),
              IsTensor(Shape({2, 2, 2}), Values({0, 10, 1, 11, 2, 12, 3, 13})));
  EXPECT_THAT(StackTensors({}, 0),
              StatusIs(absl::StatusCode::kInvalidArgument, "stack expects a non-empty list"));
  const std::vector<Tensor> odd = {Counting({2}), Counting({3})};
  EXPECT_FALSE(StackTensors(odd, 0).ok());
}

TEST(Tensor, Cat) {
  const std::vector<Tensor> two = {Counting({2, 1}), Counting({2, 2}, 10)};
  EXPECT_THAT(CatTensors(two, 1), IsTensor(Shape({2, 3}), Values({0, 10, 11, 1, 12, 13})));
  EXPECT_FALSE(CatTensors(two, 0).ok());
  EXPECT_FALSE(CatTensors(two, 2).ok());
  const std::vector<Tensor> empty_first = {Counting({0, 2}), Counting({1, 2})};
  EXPECT_THAT(CatTensors(empty_first, 0), IsTensor(Shape({1, 2}), Values({0, 1})));
}

TEST(Tensor, JoinsPromote) {
  // 1 in bfloat16 and in float32.
  const std::vector<Tensor> two = {Of({1}, {0x3f80}, DType::kBFloat16),
                                   Of({1}, {0x3f800000}, DType::kFloat32)};
  ZC_ASSERT_OK_AND_ASSIGN(const Tensor joined, CatTensors(two, 0));
  EXPECT_EQ(joined.dtype, DType::kFloat32);
  EXPECT_EQ(joined.bytes, Of({2}, {0x3f800000, 0x3f800000}, DType::kFloat32).bytes);
  const std::vector<Tensor> mixed = {Counting({1}), two[0]};
  EXPECT_FALSE(CatTensors(mixed, 0).ok());
}

TEST(Tensor, ChunkAndSplit) {
  ZC_ASSERT_OK_AND_ASSIGN(const std::vector<Tensor> pieces, ChunkTensor(Counting({5, 1}), 2, 0));
  ASSERT_EQ(pieces.size(), 2u);
  EXPECT_EQ(pieces[0].shape, Shape({3, 1}));
  EXPECT_EQ(pieces[1].bytes, Of({2}, {3, 4}).bytes);
  // 4 rows do not fill 3 pieces of ceil(4/3).
  ZC_ASSERT_OK_AND_ASSIGN(const std::vector<Tensor> fewer, ChunkTensor(Counting({4}), 3, 0));
  EXPECT_EQ(fewer.size(), 2u);
  ZC_ASSERT_OK_AND_ASSIGN(const std::vector<Tensor> split,
                          SplitTensor(Counting({2, 3}), {1, 2}, 1));
  EXPECT_EQ(split[0].bytes, Of({2}, {0, 3}).bytes);
  EXPECT_EQ(split[1].bytes, Of({4}, {1, 2, 4, 5}).bytes);
  EXPECT_FALSE(SplitTensor(Counting({2, 3}), {1, 1}, 1).ok());
  EXPECT_FALSE(SplitTensor(Counting({2, 3}), {1, 3}, 1).ok());
}

TEST(Tensor, Unbind) {
  ZC_ASSERT_OK_AND_ASSIGN(const std::vector<Tensor> columns, UnbindTensor(Counting({2, 3}), 1));
  ASSERT_EQ(columns.size(), 3u);
  EXPECT_EQ(columns[1].shape, Shape({2}));
  EXPECT_EQ(columns[1].bytes, Of({2}, {1, 4}).bytes);
}

TEST(Tensor, Transpose) {
  EXPECT_THAT(TransposeTensor(Counting({2, 3}), 0, 1),
              IsTensor(Shape({3, 2}), Values({0, 3, 1, 4, 2, 5})));
  EXPECT_THAT(TransposeTensor(Counting({2, 2, 2}), 1, -1),
              IsTensor(Shape({2, 2, 2}), Values({0, 2, 1, 3, 4, 6, 5, 7})));
  EXPECT_THAT(TransposeTensor(Counting({2, 2, 2}), 0, 1),
              IsTensor(Shape({2, 2, 2}), Values({0, 1, 4, 5, 2, 3, 6, 7})));
}

TEST(Tensor, Interleave) {
  EXPECT_THAT(InterleaveTensor(Counting({6}), 0, false),
              IsTensor(Shape({6}), Values({0, 2, 4, 1, 3, 5})));
  EXPECT_THAT(InterleaveTensor(Of({6}, {0, 2, 4, 1, 3, 5}), 0, true),
              IsTensor(Shape({6}), Values({0, 1, 2, 3, 4, 5})));
  EXPECT_THAT(InterleaveTensor(Counting({2, 4}), 1, false),
              IsTensor(Shape({2, 4}), Values({0, 2, 1, 3, 4, 6, 5, 7})));
  EXPECT_FALSE(InterleaveTensor(Counting({3}), 0, false).ok());
}

TEST(Tensor, PermuteRope) {
  // Two heads of four: out[h*4 + c*2 + i] = in[h*4 + 2i + c].
  EXPECT_THAT(PermuteRopeTensor(Counting({8}), 2, false),
              IsTensor(Shape({8}), Values({0, 2, 1, 3, 4, 6, 5, 7})));
  EXPECT_THAT(PermuteRopeTensor(Counting({4, 2}), 1, false),
              IsTensor(Shape({4, 2}), Values({0, 1, 4, 5, 2, 3, 6, 7})));
  ZC_ASSERT_OK_AND_ASSIGN(const Tensor there, PermuteRopeTensor(Counting({12, 3}), 2, false));
  EXPECT_NE(there.bytes, Counting({12, 3}).bytes);
  ZC_ASSERT_OK_AND_ASSIGN(const Tensor back, PermuteRopeTensor(there, 2, true));
  EXPECT_EQ(back.bytes, Counting({12, 3}).bytes);
  EXPECT_FALSE(PermuteRopeTensor(Counting({6}), 2, false).ok());
}

TEST(NaturalOrder, NumbersByValueBeforeTexts) {
  bool numbers_in_texts = true;
  const auto sorted = [&](const std::vector<std::string>& keys) {
    std::vector<std::string> result;
    for (size_t i : NaturallySorted(keys, numbers_in_texts)) result.push_back(keys[i]);
    return result;
  };
  using Keys = std::vector<std::string>;
  EXPECT_EQ(sorted({"e.10.down", "e.2.up", "e.2.down"}), Keys({"e.2.down", "e.2.up", "e.10.down"}));
  EXPECT_EQ(sorted({"l.shard_11", "l.shard_2", "l.shard"}),
            Keys({"l.shard", "l.shard_2", "l.shard_11"}));
  EXPECT_EQ(sorted({"a.w.b", "a.0.b"}), Keys({"a.0.b", "a.w.b"}));
  EXPECT_EQ(sorted({"a.01", "a.1"}), Keys({"a.01", "a.1"}));
  EXPECT_EQ(sorted({"a.1", "a.01"}), Keys({"a.1", "a.01"}));
  EXPECT_EQ(sorted({"a.b", "a"}), Keys({"a", "a.b"}));
  numbers_in_texts = false;  // 5.1.0
  EXPECT_EQ(sorted({"l.shard_2", "l.shard_11", "l.shard"}),
            Keys({"l.shard", "l.shard_11", "l.shard_2"}));
  EXPECT_EQ(sorted({"e.10.down", "e.2.up"}), Keys({"e.2.up", "e.10.down"}));
}

}  // namespace
}  // namespace zerocast::verify
