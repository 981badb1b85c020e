// Every operation, and random chains of up to four: the boxes do what running the operations on
// real elements does, and fail where that fails.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/conversion/lower.h"
#include "server/conversion/rule_json.h"
#include "tests/each_element.h"
#include "tests/server/conversion/naive_ops.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

constexpr OpKind kKinds[] = {OpKind::kStack,
                             OpKind::kUnstack,
                             OpKind::kCat,
                             OpKind::kChunk,
                             OpKind::kSplitByTarget,
                             OpKind::kTranspose,
                             OpKind::kInterleave,
                             OpKind::kPermuteRope,
                             OpKind::kErnieFuseSplit,
                             OpKind::kErnieSplitDecouple,
                             OpKind::kConv3dToLinear,
                             OpKind::kLinearToConv3d,
                             OpKind::kAlign16};

class ChainsTest : public ::testing::Test {
 protected:
  ChainsTest() {
    const char* const seed = std::getenv("ZC_SEED");
    seed_ = seed != nullptr ? std::strtoull(seed, nullptr, 10) : std::random_device()();
    std::printf("ZC_SEED=%llu\n", static_cast<unsigned long long>(seed_));
    random_.seed(seed_);
  }

  int64_t Pick(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random_() % static_cast<uint64_t>(high - low + 1));
  }
  bool OneIn(int64_t n) { return Pick(1, n) == 1; }

  // Starts a chain: patterns, and lists of tensors of mostly one shape.
  void Start() {
    elements_.clear();
    naive_.clear();
    boxes_.clear();
    context_ = NaiveContext();
    const int64_t num_sources = OneIn(2) ? 1 : Pick(2, 3);
    const int64_t num_targets = OneIn(2) ? 1 : Pick(2, 3);
    for (int64_t i = 0; i < num_sources; ++i)
      context_.sources.push_back(absl::StrCat("s", i, ".*"));
    for (int64_t i = 0; i < num_targets; ++i)
      context_.targets.push_back(absl::StrCat("t", i, ".*"));
    context_.full_name = "m.t0.*";
    context_.heads = Pick(1, 3);
    context_.count = Pick(1, 4);
    std::vector<int64_t> shape;
    for (int64_t rank = OneIn(4) ? 5 : Pick(1, 3); rank > 0; --rank) {
      shape.push_back(OneIn(3) ? 2 * context_.heads : Pick(1, 6));
    }
    if (shape.size() == 5) {
      for (int64_t& size : shape) size = Pick(1, 3);
    }
    const int64_t length = OneIn(2) ? 1 : Pick(2, 5);
    for (const std::string& source : context_.sources) {
      if (OneIn(25)) continue;  // nothing collected
      NaiveEntry naive{source, true, {}};
      Entry entry;
      entry.name = source;
      entry.is_list = true;
      for (int64_t i = 0; i < length; ++i) {
        std::vector<int64_t> own = shape;
        if (OneIn(40)) ++own[Pick(0, static_cast<int64_t>(own.size()) - 1)];
        naive.tensors.push_back(Source(own));
        entry.values.push_back(WholeValue(static_cast<int32_t>(elements_.size()) - 1, own));
      }
      naive_.push_back(std::move(naive));
      boxes_.push_back(std::move(entry));
    }
  }

  NaiveTensor Source(const std::vector<int64_t>& shape) {
    NaiveTensor tensor;
    tensor.shape = shape;
    const auto number = static_cast<int64_t>(elements_.size());
    for (int64_t i = 0; i < Product(shape); ++i) tensor.data.push_back(number * 1000000 + i);
    elements_.push_back(tensor.data);
    return tensor;
  }

  // A random operation, its arguments such that it mostly fits what there is.
  Op RandomOp(OpKind kind) {
    Op op;
    op.kind = kind;
    const std::vector<int64_t>& shape = naive_[0].tensors[0].shape;
    const auto rank = static_cast<int64_t>(shape.size());
    const int64_t top = std::max<int64_t>(rank - 1, 0);
    op.dim = OneIn(20) ? rank + 1 : Pick(0, top);
    op.concat_dim = Pick(0, top);
    op.a = Pick(0, top);
    op.b = OneIn(5) ? -1 : Pick(0, top);
    op.inverse = OneIn(2);
    context_.model.clear();
    switch (kind) {
      case OpKind::kChunk:
        if (OneIn(3)) op.count_attr = "parts";
        break;
      case OpKind::kTranspose:
        op.check_dims = OneIn(2);
        if (!OneIn(20)) context_.model[context_.full_name] = shape;
        if (OneIn(2)) context_.model[context_.full_name].push_back(7);
        break;
      case OpKind::kSplitByTarget: {
        int64_t left = op.dim < rank ? shape[op.dim] : 1;
        for (size_t i = 0; i < context_.targets.size(); ++i) {
          const auto others = static_cast<int64_t>(context_.targets.size() - i) - 1;
          const int64_t size = others == 0 ? left : Pick(1, std::max<int64_t>(1, left - others));
          left -= size;
          std::vector<int64_t> part = shape;
          if (op.dim < rank) part[op.dim] = std::max<int64_t>(1, size);
          if (!OneIn(30)) context_.model["m." + context_.targets[i]] = part;
        }
        break;
      }
      case OpKind::kPermuteRope:
        if (OneIn(4)) op.only = {OneIn(2) ? "0" : "1"};
        break;
      case OpKind::kErnieFuseSplit:
        op.concat_dim = Pick(0, rank);
        op.dim = Pick(0, rank);
        break;
      case OpKind::kLinearToConv3d: {
        int64_t left = rank == 0 ? 1 : Product(shape) / shape[0];
        for (int64_t i = 0; i < 4; ++i) {
          int64_t size = i == 3 ? left : Pick(1, 3);
          if (left % size != 0) size = 1;
          left /= size;
          if (i == 0) {
            op.in_channels = size;
          } else {
            op.kernel.push_back(size);
          }
        }
        break;
      }
      default:
        break;
    }
    return op;
  }

  absl::StatusOr<Entries> Lower(const Op& op) {
    const auto model_shape = [this](absl::string_view name) -> const std::vector<int64_t>* {
      const auto found = context_.model.find(std::string(name));
      return found == context_.model.end() ? nullptr : &found->second;
    };
    const nlohmann::json config = {{"num_attention_heads", context_.heads},
                                   {"parts", context_.count}};
    return ApplyOp(op, boxes_,
                   {context_.sources, context_.targets, context_.full_name, model_shape,
                    /*model_known=*/true, &config, /*generation=*/2});
  }

  std::vector<int64_t> Run(const Value& value) const {
    std::vector<int64_t> data(static_cast<size_t>(Product(value.shape)), -1);
    for (const Box& box : value.boxes) {
      ForEachElement(
          box, [&](int64_t from, int64_t to) { data.at(to) = elements_.at(box.source).at(from); });
    }
    return data;
  }

  // "" where both hold the same.
  std::string Difference() const {
    if (naive_.size() != boxes_.size()) return "another number of results";
    for (const NaiveEntry& naive : naive_) {
      const Entry* entry = nullptr;
      for (const Entry& one : boxes_) {
        if (one.name == naive.name) entry = &one;
      }
      if (entry == nullptr) return "nothing under " + naive.name;
      if (entry->is_list != naive.is_list || entry->values.size() != naive.tensors.size()) {
        return naive.name + ": another length";
      }
      for (size_t i = 0; i < naive.tensors.size(); ++i) {
        if (entry->values[i].shape != naive.tensors[i].shape) return naive.name + ": another shape";
        if (Run(entry->values[i]) != naive.tensors[i].data) return naive.name + ": other elements";
      }
    }
    return "";
  }

  uint64_t seed_;
  std::mt19937_64 random_;
  std::vector<std::vector<int64_t>> elements_;  // by source
  NaiveContext context_;
  NaiveEntries naive_;
  Entries boxes_;
};

TEST_F(ChainsTest, EqualRunningTheOperationsElementByElement) {
  std::map<std::string, int> done, refused;
  int chains_of[5] = {};
  int too_complex = 0;
  for (int chain = 0; chain < 8000; ++chain) {
    Start();
    if (naive_.empty()) continue;
    std::string story;
    int steps = 0;
    for (int64_t attempt = 0; attempt < 6 && steps < 4 && !naive_.empty(); ++attempt) {
      const OpKind kind = kKinds[Pick(0, std::size(kKinds) - 1)];
      // These two begin a chain: they work on lists.
      const bool ernie = kind == OpKind::kErnieFuseSplit || kind == OpKind::kErnieSplitDecouple;
      if (ernie && steps > 0) continue;
      const Op op = RandomOp(kind);
      const std::string name(OpName(kind));
      absl::StrAppend(&story, " ", name, " dim ", op.dim);
      const absl::StatusOr<Entries> lowered = Lower(op);
      std::optional<NaiveEntries> expected = RunNaive(op, naive_, context_);
      if (absl::IsUnimplemented(lowered.status()) && expected.has_value()) {
        ++too_complex;
        break;
      }
      ASSERT_EQ(lowered.ok(), expected.has_value()) << lowered.status() << "\n"
                                                    << story << "; repeat with ZC_SEED=" << seed_;
      if (!lowered.ok()) {
        ++refused[name];
        continue;
      }
      boxes_ = *lowered;
      naive_ = *std::move(expected);
      ASSERT_EQ(Difference(), "") << story << "; repeat with ZC_SEED=" << seed_;
      ++done[name];
      ++steps;
    }
    ++chains_of[steps];
  }
  for (const OpKind kind : kKinds) {
    const std::string name(OpName(kind));
    std::printf("%-20s %5d done %5d refused\n", name.c_str(), done[name], refused[name]);
    EXPECT_GE(done[name], 200) << name << ", ZC_SEED=" << seed_;
  }
  std::printf("chains of 1, 2, 3, 4 operations: %d, %d, %d, %d; too complex for boxes: %d\n",
              chains_of[1], chains_of[2], chains_of[3], chains_of[4], too_complex);
  EXPECT_GE(chains_of[2] + chains_of[3] + chains_of[4], 1000) << "ZC_SEED=" << seed_;
  EXPECT_GE(chains_of[4], 100) << "ZC_SEED=" << seed_;
}

}  // namespace
}  // namespace zerocast
