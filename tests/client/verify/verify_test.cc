// Whole verifications of checkpoints written here: what is accepted, and each way of being wrong.

#include "client/verify/verify.h"

#include <gtest/gtest.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "server/base/errors.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// A tensor of the checkpoint: a name, a shape and float32 values.
struct Stored {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<float> values;
};

std::string Floats(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

uint64_t Hash(const std::string& bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

class VerifyTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string path = ::testing::TempDir() + "/zc_verify_XXXXXX";
    ASSERT_NE(::mkdtemp(path.data()), nullptr);
    folder_ = path;
    options_.checkpoint_path = folder_;
    options_.dtype = "stored";
    options_.world_size = 2;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void WriteText(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ + "/" + name, std::ios::binary) << text;
  }

  void Write(const std::string& name, const std::vector<Stored>& tensors) const {
    nlohmann::json header = nlohmann::json::object();
    std::string data;
    for (const Stored& tensor : tensors) {
      const size_t begin = data.size();
      data += Floats(tensor.values);
      header[tensor.name] = {
          {"dtype", "F32"}, {"shape", tensor.shape}, {"data_offsets", {begin, data.size()}}};
    }
    const std::string text = header.dump();
    const uint64_t size = text.size();
    WriteText(name, std::string(reinterpret_cast<const char*>(&size), sizeof(size)) + text + data);
  }

  void Digest(int32_t rank, const std::string& target, const std::string& bytes) {
    digests_.push_back({rank, target, Hash(bytes)});
  }

  absl::StatusOr<VerifyResult> Verify() const { return VerifyPartitions(options_, digests_); }

  // Five elements on two ranks: the second holds one of padding.
  void MakeOdd() {
    Write("model.safetensors", {{"w", {5}, {1, 2, 3, 4, 5}}});
    Digest(0, "w", Floats({1, 2, 3}));
    Digest(1, "w", Floats({4, 5, 0}));
  }

  std::string folder_;
  VerifyOptions options_;
  std::vector<DigestToVerify> digests_;
};

auto Refused(const std::string& part) {
  return StatusIs(absl::StatusCode::kDataLoss, HasSubstr(part));
}

TEST_F(VerifyTest, ReadsTheVariantThatWasLoaded) {
  MakeOdd();
  Write("model.fp16.safetensors", {{"w", {5}, {6, 7, 8, 9, 10}}});
  options_.variant = "fp16";
  EXPECT_THAT(Verify(), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("w")));
  options_.variant = "";
  EXPECT_THAT(Verify(), IsOk());
}

TEST_F(VerifyTest, AcceptsPaddedPartitions) {
  MakeOdd();
  ZC_ASSERT_OK_AND_ASSIGN(const VerifyResult result, Verify());
  EXPECT_EQ(result.partitions, 2);
  EXPECT_EQ(result.bytes, 24);
}

TEST_F(VerifyTest, MoreRanksThanElements) {
  options_.world_size = 4;
  Write("model.safetensors", {{"w", {2}, {1, 2}}, {"empty", {0, 3}, {}}});
  for (int rank = 0; rank < 4; ++rank) {
    Digest(rank, "w", Floats({rank == 0 ? 1.0F : rank == 1 ? 2.0F : 0.0F}));
    Digest(rank, "empty", "");
  }
  ZC_ASSERT_OK_AND_ASSIGN(const VerifyResult result, Verify());
  EXPECT_EQ(result.partitions, 8);
  EXPECT_EQ(result.bytes, 16);
}

TEST_F(VerifyTest, RefusesOneFlippedBitAndNamesTargetAndRank) {
  MakeOdd();
  std::string wrong = Floats({4, 5, 0});
  wrong[5] ^= 0x10;
  digests_[1].xxh3 = Hash(wrong);
  const auto result = Verify();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kDataLoss,
                               AllOf(HasSubstr("target w"), HasSubstr("rank 1"))));
  EXPECT_EQ(ReasonOf(result.status()), "DIGEST_MISMATCH");
}

TEST_F(VerifyTest, RefusesPaddingThatIsNotZero) {
  MakeOdd();
  digests_[1].xxh3 = Hash(Floats({4, 5, 6}));
  EXPECT_THAT(Verify(), Refused("target w of rank 1"));
}

TEST_F(VerifyTest, RefusesABitFlippedInTheFile) {
  MakeOdd();
  std::fstream file(folder_ + "/model.safetensors",
                    std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(-1, std::ios::end);
  file.put('\x41');
  file.close();
  EXPECT_THAT(Verify(), Refused("target w of rank 1"));
}

TEST_F(VerifyTest, RefusesMissingExtraAndRepeatedDigests) {
  MakeOdd();
  const std::vector<DigestToVerify> good = digests_;
  digests_.pop_back();
  EXPECT_THAT(Verify(), Refused("w of rank 1: its digest is missing"));
  digests_ = good;
  digests_.push_back(good[0]);
  EXPECT_THAT(Verify(), Refused("w of rank 0: its digest is there twice"));
  digests_ = good;
  digests_.push_back({0, "other", 7});
  EXPECT_THAT(Verify(), Refused("other of rank 0"));
  digests_ = good;
  digests_.push_back({2, "w", 7});
  EXPECT_THAT(Verify(), Refused("a digest of rank 2"));
  digests_.clear();
  EXPECT_THAT(Verify(), Refused("w of rank 0: its digest is missing"));
}

TEST_F(VerifyTest, SwappedPartitionsAreRefused) {
  MakeOdd();
  std::swap(digests_[0].rank, digests_[1].rank);
  EXPECT_THAT(Verify(), Refused("target w of rank 0"));
}

constexpr char kSpec[] = R"({
  "architecture": "T", "model_type": "t", "base_model_prefix": "model",
  "tied": {"head.weight": "model.embed.weight"},
  "transforms": [
    {"kind": "convert", "from": ["experts.*.gate", "experts.*.up"], "to": ["experts.both"],
     "ops": [{"op": "stack", "dim": 0}, {"op": "cat", "dim": 1}]}],
  "params": [
    {"name": "model.embed.weight", "shape": [2, 1], "dtype": "float32"},
    {"name": "model.experts.both", "shape": [3, 2, 1], "dtype": "bfloat16"}],
  "buffers": [{"name": "model.scale", "shape": [2], "dtype": "float32"}]})";

// Experts 2, 10 and 0: by value 0, 2, 10.
std::vector<Stored> SpecTensors(const std::string& embedding) {
  return {{embedding, {2, 1}, {1, 2}},           {"model.experts.10.gate", {1, 1}, {10}},
          {"model.experts.2.gate", {1, 1}, {2}}, {"model.experts.0.gate", {1, 1}, {0.5}},
          {"model.experts.10.up", {1, 1}, {11}}, {"model.experts.2.up", {1, 1}, {3}},
          {"model.experts.0.up", {1, 1}, {1.5}}, {"model.scale", {2}, {7, 8}}};
}

TEST_F(VerifyTest, FusesByNumberAndTiesAndKeepsBuffersWhole) {
  for (const char* embedding : {"head.weight", "model.embed.weight"}) {
    digests_.clear();
    Write("model.safetensors", SpecTensors(embedding));
    options_.model_spec_json = kSpec;
    Digest(0, "model.embed.weight", Floats({1}));
    Digest(1, "model.embed.weight", Floats({2}));
    Digest(0, "model.experts.both", Floats({0.5, 1.5, 2}));
    Digest(1, "model.experts.both", Floats({3, 10, 11}));
    for (int rank : {0, 1}) Digest(rank, "model.scale", Floats({7, 8}));
    EXPECT_THAT(Verify(), IsOk());
    // The alias is no target of its own.
    Digest(0, "head.weight", Floats({1}));
    EXPECT_THAT(Verify(), Refused("head.weight of rank 0"));
  }
}

TEST_F(VerifyTest, HoldersWeightWinsOverItsAlias) {
  std::vector<Stored> tensors = SpecTensors("model.embed.weight");
  tensors.push_back({"head.weight", {2, 1}, {8, 9}});
  Write("model.safetensors", tensors);
  options_.model_spec_json = kSpec;
  options_.world_size = 1;
  Digest(0, "model.embed.weight", Floats({1, 2}));
  Digest(0, "model.experts.both", Floats({0.5, 1.5, 2, 3, 10, 11}));
  Digest(0, "model.scale", Floats({7, 8}));
  EXPECT_THAT(Verify(), IsOk());
}

TEST_F(VerifyTest, AliasFillsWhereTheHolderHasAnotherShape) {
  std::vector<Stored> tensors = SpecTensors("model.embed.weight");
  tensors[0] = {"model.embed.weight", {3, 1}, {1, 2, 3}};
  tensors.push_back({"head.weight", {2, 1}, {8, 9}});
  Write("model.safetensors", tensors);
  options_.model_spec_json = kSpec;
  options_.world_size = 1;
  options_.absent = {"model.embed.weight"};  // reported as mismatched
  Digest(0, "model.embed.weight", Floats({8, 9}));
  Digest(0, "model.experts.both", Floats({0.5, 1.5, 2, 3, 10, 11}));
  Digest(0, "model.scale", Floats({7, 8}));
  EXPECT_THAT(Verify(), IsOk());
}

TEST_F(VerifyTest, CastsByTheDTypeRule) {
  Write("model.safetensors", SpecTensors("model.embed.weight"));
  options_.model_spec_json = kSpec;
  const std::string one("\x80\x3f", 2), two("\x00\x40", 2);
  const std::string both_0("\x00\x3f\xc0\x3f\x00\x40", 6), both_1("\x40\x40\x20\x41\x30\x41", 6);
  options_.dtype = "bf16";
  Digest(0, "model.embed.weight", one);
  Digest(1, "model.embed.weight", two);
  Digest(0, "model.experts.both", both_0);
  Digest(1, "model.experts.both", both_1);
  for (int rank : {0, 1}) Digest(rank, "model.scale", Floats({7, 8}));  // buffers keep their own
  EXPECT_THAT(Verify(), IsOk());
  options_.dtype = "spec";
  EXPECT_THAT(Verify(), Refused("model.embed.weight"));
  digests_[0].xxh3 = Hash(Floats({1}));
  digests_[1].xxh3 = Hash(Floats({2}));
  EXPECT_THAT(Verify(), IsOk());
}

TEST_F(VerifyTest, BelowStageThreeEveryRankHoldsAll) {
  Write("model.safetensors", {{"w", {3}, {1, 2, 3}}});
  options_.zero_stage = 1;
  for (int rank : {0, 1}) Digest(rank, "w", Floats({1, 2, 3}));
  ZC_ASSERT_OK_AND_ASSIGN(const VerifyResult result, Verify());
  EXPECT_EQ(result.bytes, 24);
}

TEST_F(VerifyTest, HierarchicalPartitionsAreBlocksOfTheirGroups) {
  Write("model.safetensors", {{"w", {5}, {1, 2, 3, 4, 5}}});
  options_.world_size = 4;
  options_.hpz_partition_size = 2;
  const std::string parts[] = {Floats({1, 2}), Floats({3, 4}), Floats({5, 0}), Floats({0, 0})};
  const std::string blocks[] = {Floats({1, 2, 3, 4}), Floats({5, 0, 0, 0})};
  for (int rank = 0; rank < 4; ++rank) Digest(rank, "w", parts[rank]);
  EXPECT_THAT(Verify(), Refused("target w (secondary) of rank 0: its digest is missing"));
  for (int rank = 0; rank < 4; ++rank) {
    Digest(rank, "w", blocks[rank % 2]);
    digests_.back().secondary = true;
  }
  ZC_ASSERT_OK_AND_ASSIGN(const VerifyResult result, Verify());
  EXPECT_EQ(result.partitions, 8);
  EXPECT_EQ(result.bytes, 4 * (8 + 16));
  digests_.back().xxh3 = Hash(blocks[0]);
  EXPECT_THAT(Verify(), Refused("target w (secondary) of rank 3: XXH3 of its 16 bytes"));
  digests_.back().xxh3 = Hash(blocks[1]);
  options_.hpz_partition_size = 1;
  EXPECT_THAT(Verify(), Refused("no such secondary partition"));
  options_.hpz_partition_size = 3;
  EXPECT_THAT(Verify(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("must divide")));
}

constexpr char kTwo[] = R"({"architecture": "T", "model_type": "t", "tied": {}, "transforms": [],
  "params": [{"name": "a", "shape": [2], "dtype": "float32"},
             {"name": "b", "shape": [3], "dtype": "float32"}],
  "buffers": [], "keys_to_ignore_on_load_missing": ["^ignored"]})";

TEST_F(VerifyTest, AbsentTargetsAreZero) {
  Write("model.safetensors", {{"a", {2}, {1, 2}}});
  options_.model_spec_json = kTwo;
  Digest(0, "a", Floats({1}));
  Digest(1, "a", Floats({2}));
  for (int rank : {0, 1}) Digest(rank, "b", Floats({0, 0}));
  EXPECT_THAT(Verify(), Refused("target b: nothing in the checkpoint fills it"));
  options_.absent = {"b"};
  EXPECT_THAT(Verify(), IsOk());
  digests_.back().xxh3 = Hash(Floats({0, 1}));
  EXPECT_THAT(Verify(), Refused("target b of rank 1"));
}

TEST_F(VerifyTest, MismatchedTargetsAreZeroAndMustBeReported) {
  Write("model.safetensors", {{"a", {2}, {1, 2}}, {"b", {4}, {1, 2, 3, 4}}});
  options_.model_spec_json = kTwo;
  Digest(0, "a", Floats({1}));
  Digest(1, "a", Floats({2}));
  for (int rank : {0, 1}) Digest(rank, "b", Floats({0, 0}));
  EXPECT_THAT(Verify(), Refused("shape [4], the model [3]"));
  options_.absent = {"b"};
  EXPECT_THAT(Verify(), IsOk());
}

TEST_F(VerifyTest, NoExcuseForAWeightThatIsThere) {
  Write("model.safetensors", {{"a", {2}, {1, 2}}, {"b", {3}, {1, 2, 3}}});
  options_.model_spec_json = kTwo;
  options_.absent = {"b"};
  Digest(0, "a", Floats({1}));
  Digest(1, "a", Floats({2}));
  for (int rank : {0, 1}) Digest(rank, "b", Floats({0, 0}));
  EXPECT_THAT(Verify(), Refused("reports it absent, but the checkpoint has it"));
}

TEST_F(VerifyTest, NoExcuseForAMergedWeightThatIsThere) {
  Write("model.safetensors", SpecTensors("model.embed.weight"));
  options_.model_spec_json = kSpec;
  options_.world_size = 1;
  options_.absent = {"model.experts.both"};
  Digest(0, "model.embed.weight", Floats({1, 2}));
  Digest(0, "model.scale", Floats({7, 8}));
  Digest(0, "model.experts.both", Floats({0, 0, 0, 0, 0, 0}));
  EXPECT_THAT(Verify(), Refused("model.experts.both: the load reports it absent"));
  // Nor where its bytes are right: the trainer would not take them for a weight.
  digests_.back().xxh3 = Hash(Floats({0.5, 1.5, 2, 3, 10, 11}));
  EXPECT_THAT(Verify(), Refused("model.experts.both: the load reports it absent"));
  options_.absent.clear();
  EXPECT_THAT(Verify(), IsOk());
}

TEST_F(VerifyTest, AMergedWeightThatDoesNotConvertIsAbsent) {
  std::vector<Stored> tensors = SpecTensors("model.embed.weight");
  tensors.erase(tensors.begin() + 2);  // one expert's gate
  Write("model.safetensors", tensors);
  options_.model_spec_json = kSpec;
  options_.world_size = 1;
  options_.absent = {"model.experts.both"};
  Digest(0, "model.embed.weight", Floats({1, 2}));
  Digest(0, "model.scale", Floats({7, 8}));
  Digest(0, "model.experts.both", std::string(12, '\0'));  // in the spec's dtype
  EXPECT_THAT(Verify(), IsOk());
}

TEST_F(VerifyTest, RefusesExpertsThatChangedPlaces) {
  Write("model.safetensors", SpecTensors("model.embed.weight"));
  options_.model_spec_json = kSpec;
  options_.world_size = 1;
  Digest(0, "model.embed.weight", Floats({1, 2}));
  Digest(0, "model.scale", Floats({7, 8}));
  Digest(0, "model.experts.both", Floats({0.5, 1.5, 2, 3, 10, 11}));
  ASSERT_THAT(Verify(), IsOk());
  // By the names' letters 0, 10, 2; then up before gate.
  for (const std::vector<float>& swapped :
       {std::vector<float>{0.5, 1.5, 10, 11, 2, 3}, std::vector<float>{1.5, 0.5, 3, 2, 11, 10}}) {
    digests_.back().xxh3 = Hash(Floats(swapped));
    EXPECT_THAT(Verify(), Refused("target model.experts.both of rank 0"));
  }
}

TEST_F(VerifyTest, KeyMappingRunsFirst) {
  Write("model.safetensors", {{"x.a", {2}, {1, 2}}, {"x.b", {3}, {1, 2, 3}}});
  options_.model_spec_json = kTwo;
  options_.key_mapping_json = R"({"^x\\.": ""})";
  options_.world_size = 1;
  Digest(0, "a", Floats({1, 2}));
  Digest(0, "b", Floats({1, 2, 3}));
  EXPECT_THAT(Verify(), IsOk());
}

TEST_F(VerifyTest, ReadsTheFilesOfAnIndex) {
  Write("one.safetensors", {{"a", {1}, {1}}});
  Write("two.safetensors", {{"b", {1}, {2}}, {"not_in_the_index", {1}, {3}}});
  WriteText("model.safetensors.index.json",
            R"({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}})");
  options_.world_size = 1;
  Digest(0, "a", Floats({1}));
  Digest(0, "b", Floats({2}));
  Digest(0, "not_in_the_index", Floats({3}));
  EXPECT_THAT(Verify(), IsOk());
  std::filesystem::remove(folder_ + "/two.safetensors");
  EXPECT_THAT(Verify(), StatusIs(absl::StatusCode::kNotFound, HasSubstr("two.safetensors")));
  Write("two.safetensors", {{"c", {1}, {2}}});
  EXPECT_THAT(Verify(), Refused("tensor b is not in two.safetensors"));
}

TEST_F(VerifyTest, RefusesHeadersThatContradictTheFile) {
  const auto header = [this](const std::string& text, size_t num_bytes) {
    const uint64_t size = text.size();
    WriteText("model.safetensors", std::string(reinterpret_cast<const char*>(&size), 8) + text +
                                       std::string(num_bytes, 'x'));
    return Verify();
  };
  const std::string good = R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})";
  EXPECT_THAT(header(good, 2), Refused("its digest is missing"));
  EXPECT_THAT(header(good, 1), Refused("do not hold 2 bytes of 1"));
  EXPECT_THAT(header(good, 3), Refused("the data ends at byte"));
  EXPECT_THAT(header(R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,2]}})", 2),
              Refused("do not hold 3 bytes"));
  EXPECT_THAT(header(R"({"a":{"dtype":"U9","shape":[2],"data_offsets":[0,2]}})", 2),
              Refused("dtype U9"));
  EXPECT_THAT(header(R"({"a":{"dtype":"U8","shape":[4294967296,4294967296,2],)"
                     R"("data_offsets":[0,2]}})",
                     2),
              Refused("overflows"));
  EXPECT_THAT(header(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                     R"("b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
                     3),
              Refused("tensor b begins at byte"));
  EXPECT_THAT(header(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                     R"("a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})",
                     2),
              Refused("'a' is there twice"));
  EXPECT_THAT(header("[1]", 0), Refused("not a JSON object"));
  EXPECT_THAT(header("{\"\xff\": 1}", 0), Refused("not a JSON object"));
  EXPECT_THAT(header(std::string(100000, '['), 0), Refused("nested deeper"));
  WriteText("model.safetensors", "abc");
  EXPECT_THAT(Verify(), Refused("it ends at byte 3"));
  WriteText("model.safetensors", std::string(8, '\x7f') + "abc");
  EXPECT_THAT(Verify(), Refused("a header of"));
  std::filesystem::remove(folder_ + "/model.safetensors");
  EXPECT_THAT(Verify(), StatusIs(absl::StatusCode::kNotFound, HasSubstr("has neither")));
}

TEST_F(VerifyTest, RefusesOptionsThatContradictThemselves) {
  MakeOdd();
  options_.world_size = 0;
  options_.dtype = "fp64";
  EXPECT_THAT(Verify(), StatusIs(absl::StatusCode::kInvalidArgument,
                                 AllOf(HasSubstr("world_size"), HasSubstr("fp64"))));
  options_.world_size = 2;
  options_.dtype = "spec";
  EXPECT_THAT(Verify(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("model spec")));
}

}  // namespace
}  // namespace zerocast
