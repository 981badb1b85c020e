// Chains of operations: boxes composed along a chain must move elements as running one operation
// after the other does.  (What each operation does alone is proved by ops_test.)

#include "server/conversion/lower.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/conversion/permute.h"
#include "server/conversion/tensor_algebra.h"
#include "tests/each_element.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::HasSubstr;
using Data = std::vector<int64_t>;

Data RunBoxes(const Value& value, const std::vector<Data>& sources) {
  Data data(Product(value.shape), -1);
  for (const Box& box : value.boxes) {
    ForEachElement(
        box, [&](int64_t from, int64_t to) { data.at(to) = sources.at(box.source).at(from); });
  }
  return data;
}

// A tensor twice: as boxes composed from the sources, and as data.
struct Both {
  Value value;
  Data data;
};

class ChainTest : public ::testing::Test {
 protected:
  ChainTest() {
    const char* const seed = std::getenv("ZC_SEED");
    seed_ = seed != nullptr ? std::strtoul(seed, nullptr, 10) : std::random_device()();
    random_.seed(seed_);
  }

  int64_t Pick(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random_);
  }

  Both Source(const std::vector<int64_t>& shape) {
    const auto number = static_cast<int32_t>(sources_.size());
    Data data(Product(shape));
    for (size_t i = 0; i < data.size(); ++i) data[i] = number * 100000 + static_cast<int64_t>(i);
    if (Pick(0, 2) == 0) return StridedSource(number, shape, data);
    sources_.push_back(data);
    return {WholeValue(number, shape), data};
  }

  // Its axes in another order, with gaps.
  Both StridedSource(int32_t number, const std::vector<int64_t>& shape, const Data& data) {
    SourceTensor tensor = {"w", DType::kFloat32, shape, std::vector<int64_t>(shape.size())};
    std::vector<size_t> order(shape.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::shuffle(order.begin(), order.end(), random_);
    int64_t stride = Pick(1, 2), reach = 0;
    for (const size_t axis : order) {
      tensor.strides[axis] = stride;
      stride *= shape[axis] + Pick(0, 1);
    }
    EXPECT_TRUE(CheckedReach(shape, tensor.strides, &reach));
    Data stored(static_cast<size_t>(reach), -1);
    for (size_t i = 0; i < data.size(); ++i) {
      int64_t place = 0, rest = static_cast<int64_t>(i);
      for (size_t axis = shape.size(); axis > 0; --axis) {
        place += rest % shape[axis - 1] * tensor.strides[axis - 1];
        rest /= shape[axis - 1];
      }
      stored[static_cast<size_t>(place)] = data[i];
    }
    sources_.push_back(stored);
    const absl::StatusOr<Value> value = StoredValue(number, tensor);
    EXPECT_THAT(value, IsOk());
    return {value.ok() ? *value : Value(), data};
  }

  // Runs `operation` on the composed values and on fresh whole tensors, whose boxes move the data.
  template <typename Operation>
  absl::Status Step(std::vector<Both> inputs, const Operation& operation, Both* result) {
    std::vector<Value> composed, fresh;
    std::vector<Data> data;
    for (const Both& input : inputs) {
      composed.push_back(input.value);
      fresh.push_back(WholeValue(static_cast<int32_t>(fresh.size()), input.value.shape));
      data.push_back(input.data);
    }
    const absl::StatusOr<Value> value = operation(composed);
    if (!value.ok()) return value.status();
    const absl::StatusOr<Value> one = operation(fresh);
    if (!one.ok()) return one.status();
    EXPECT_EQ(value->shape, one->shape);
    *result = {*value, RunBoxes(*one, data)};
    return absl::OkStatus();
  }

  // One random operation on `tensor`; several inputs come from new sources of the same shape.
  absl::Status RandomStep(Both* tensor, std::string* story) {
    const auto rank = static_cast<int64_t>(tensor->value.shape.size());
    const int64_t dim = Pick(0, rank - 1), other = Pick(0, rank - 1);
    const bool flag = Pick(0, 1) == 1;
    const int64_t count = Pick(2, 3);
    std::vector<Both> inputs = {*tensor};
    switch (Pick(0, 5)) {
      case 0:
      case 1: {
        const bool stack = Pick(0, 1) == 1;
        for (int64_t i = 1; i < count; ++i) inputs.push_back(Source(tensor->value.shape));
        absl::StrAppend(story, stack ? " stack " : " cat ", dim);
        return Step(
            inputs,
            [&](const std::vector<Value>& in) { return stack ? Stack(in, dim) : Cat(in, dim); },
            tensor);
      }
      case 2:
        absl::StrAppend(story, " transpose ", dim, " ", other);
        return Step(
            inputs, [&](const std::vector<Value>& in) { return Transpose(in[0], dim, other); },
            tensor);
      case 3:
        absl::StrAppend(story, " interleave ", dim, flag ? " inverse" : "");
        return Step(
            inputs, [&](const std::vector<Value>& in) { return Interleave(in[0], dim, flag); },
            tensor);
      case 4:
        absl::StrAppend(story, " permute_rope ", count, flag ? " inverse" : "");
        return Step(
            inputs, [&](const std::vector<Value>& in) { return PermuteRope(in[0], count, flag); },
            tensor);
      default:
        absl::StrAppend(story, " chunk ", dim, " of ", count);
        return Step(
            inputs,
            [&](const std::vector<Value>& in) -> absl::StatusOr<Value> {
              const absl::StatusOr<std::vector<Value>> pieces = Chunk(in[0], count, dim);
              if (!pieces.ok()) return pieces.status();
              return pieces->back();
            },
            tensor);
    }
  }

  uint64_t seed_;
  std::mt19937_64 random_;
  std::vector<Data> sources_;
};

TEST_F(ChainTest, ComposedBoxesEqualOneOperationAfterTheOther) {
  int whole = 0;
  for (int chain = 0; chain < 2000; ++chain) {
    sources_.clear();
    std::vector<int64_t> shape;
    for (int64_t rank = Pick(1, 3); rank > 0; --rank) shape.push_back(Pick(1, 7));
    Both tensor = Source(shape);
    std::string story = ShapeText(shape);
    absl::Status status;
    for (int64_t steps = Pick(1, 4); steps > 0 && status.ok(); --steps) {
      const Both before = tensor;
      status = RandomStep(&tensor, &story);
      // A step that does not fit the shape is left out; one that a box cannot hold ends the chain.
      if (status.code() == absl::StatusCode::kInvalidArgument) {
        tensor = before;
        status = absl::OkStatus();
      }
    }
    if (!status.ok()) {
      ASSERT_EQ(status.code(), absl::StatusCode::kUnimplemented) << status << story;
      continue;
    }
    ++whole;
    ASSERT_EQ(RunBoxes(tensor.value, sources_), tensor.data)
        << story << "; repeat with ZC_SEED=" << seed_;
  }
  EXPECT_GE(whole, 1500) << "ZC_SEED=" << seed_;
}

TEST(LowerTest, ErrorsCarryTheLibrarysWords) {
  const Value a = WholeValue(0, {2, 3}), b = WholeValue(1, {2, 4});
  EXPECT_THAT(Stack({}, 0), StatusIs(absl::StatusCode::kInvalidArgument,
                                     HasSubstr("stack expects a non-empty TensorList")));
  EXPECT_THAT(Stack({a, b}, 0),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("stack expects each tensor to be equal size, but got [2, 3] at "
                                 "entry 0 and [2, 4] at entry 1")));
  EXPECT_THAT(Cat({a, b}, 0),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("Sizes of tensors must match except in dimension 0. Expected size "
                                 "3 but got size 4 for tensor number 1 in the list.")));
  EXPECT_THAT(Cat({}, 0), StatusIs(absl::StatusCode::kInvalidArgument,
                                   HasSubstr("torch.cat(): expected a non-empty list of Tensors")));
  EXPECT_THAT(PermuteRope(a, 4, false),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("shape '[4, 0, 2, 3]'")));
}

TEST(LowerTest, ChunkMayGiveFewerPiecesThanAsked) {
  const absl::StatusOr<std::vector<Value>> pieces = Chunk(WholeValue(0, {4}), 3, 0);
  ASSERT_THAT(pieces, IsOk());
  ASSERT_EQ(pieces->size(), 2u);
  EXPECT_EQ((*pieces)[1].shape, std::vector<int64_t>{2});
}

TEST(LowerTest, TooManyBoxesAreRefused) {
  std::vector<Value> values;
  for (int32_t i = 0; i <= kMaxBoxesPerTarget; ++i) values.push_back(WholeValue(i, {2}));
  EXPECT_THAT(Stack(values, 0), StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("4096")));
}

TEST(LowerTest, RopeNeedsAConfig) {
  Op op;
  op.kind = OpKind::kPermuteRope;
  op.subconfig = "vision_config";
  const auto no_model = [](absl::string_view) { return nullptr; };
  OpContext context{{}, {}, "", no_model, true, nullptr, 2};
  EXPECT_THAT(AttentionHeads(op, context),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("config.json")));
  nlohmann::json config = {{"num_attention_heads", 2}, {"vision_config", {{"num_heads", 8}}}};
  context.config = &config;
  EXPECT_EQ(AttentionHeads(op, context).value(), 8);
  config["vision_config"] = {{"num_attention_heads", 0}};
  EXPECT_THAT(AttentionHeads(op, context),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("> 0")));
}

}  // namespace
}  // namespace zerocast
