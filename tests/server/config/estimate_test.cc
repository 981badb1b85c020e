#include "server/config/estimate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/base/errors.h"
#include "server/config/json_reader.h"
#include "server/config/resolve.h"
#include "tests/server/config/data_file.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

ConfigValue Read(absl::string_view text) {
  const auto document = ReadJson(text, "test");
  EXPECT_THAT(document, IsOk()) << text.substr(0, 200);
  return document.ok() ? document->value : ConfigValue();
}

int64_t Int(const ConfigValue& object, absl::string_view key) {
  int64_t value = -1;
  const ConfigValue* member = object.Find(key);
  EXPECT_TRUE(member != nullptr && member->integer() != nullptr &&
              member->integer()->ToInt64(&value))
      << key;
  return value;
}

MemoryEstimate Estimate(const EstimateRequest& request) {
  auto estimate = EstimateMemory(request);
  EXPECT_THAT(estimate, IsOk());
  return estimate.ok() ? *std::move(estimate) : MemoryEstimate();
}

// 1000 parameters, 4 ranks.
EstimateRequest Request(absl::string_view config) {
  EstimateRequest request;
  request.config = Read(config);
  request.model.num_parameters = 1000;
  request.world_size = 4;
  return request;
}

std::vector<std::string> Lines(const EstimateRequest& request) {
  std::vector<std::string> lines;
  for (const MemoryLine& line : Estimate(request).lines) {
    lines.push_back(absl::StrCat(line.what, " ", Name(line.place), " ", line.num_bytes));
  }
  return lines;
}

std::vector<std::string> Lines(absl::string_view config) { return Lines(Request(config)); }

TEST(EstimateMemory, WithoutZeroEachRankHoldsEverything) {
  EXPECT_THAT(Lines("{}"), ElementsAre("parameters accelerator 4000", "gradients accelerator 4000",
                                       "optimizer states accelerator 8000"));
  EXPECT_THAT(
      Lines(R"({"bf16": {"enabled": true}, "optimizer": {"type": "Lion"}})"),
      ElementsAre("parameters accelerator 2000", "gradients accelerator 2000",
                  "fp32 masters accelerator 4000", "fp32 gradients of the step accelerator 4000",
                  "optimizer states accelerator 4000"));
}

TEST(EstimateMemory, Stage1SplitsWhatTheOptimizerHolds) {
  EXPECT_THAT(
      Lines(R"({"fp16": {"enabled": true}, "zero_optimization": {"stage": 1,
                        "reduce_bucket_size": 10}})"),
      ElementsAre("parameters accelerator 2000", "gradients accelerator 2000",
                  "reduce buckets accelerator 20", "fp32 masters accelerator 1000",
                  "gradients of the step accelerator 1000", "optimizer states accelerator 2000"));
}

TEST(EstimateMemory, Stage1InBf16WithFp32GradientsIsAnotherOptimizer) {
  const char kConfig[] = R"({"bf16": {"enabled": true}, "data_types": {"grad_accum_dtype": "fp32"},
                             "zero_optimization": {"stage": 1}})";
  EXPECT_THAT(Lines(kConfig),
              ElementsAre("parameters accelerator 2000", "gradients accelerator 2000",
                          "accumulated gradients accelerator 4000", "fp32 masters accelerator 1000",
                          "optimizer states accelerator 2000"));
  EstimateRequest request = Request(kConfig);
  request.config.Find("bf16")->Set("immediate_grad_update", ConfigValue(true));
  request.model.largest_parameter = 100;
  EXPECT_THAT(Lines(request),
              ElementsAre("parameters accelerator 2000",
                          "gradient that is added to the fp32 ones accelerator 200",
                          "accumulated gradients accelerator 4000", "fp32 masters accelerator 1000",
                          "optimizer states accelerator 2000"));
}

TEST(EstimateMemory, Stage2SplitsTheGradientsTooAndPadsToTwiceTheWorldSize) {
  EstimateRequest request = Request(R"({"bf16": {"enabled": true}, "zero_optimization":
      {"stage": 2, "reduce_bucket_size": 10, "overlap_comm": true}})");
  request.model.num_parameters = 1001;
  EXPECT_THAT(
      Lines(request),
      ElementsAre("parameters accelerator 2016", "gradients accelerator 504",
                  "reduce buckets accelerator 40", "fp32 masters accelerator 1008",
                  "gradients of the step accelerator 1008", "optimizer states accelerator 2016"));
  request.config.Set("data_types", Read(R"({"grad_accum_dtype": "fp32"})"));
  EXPECT_THAT(Lines(request)[2], "accumulated gradients accelerator 1008");
}

TEST(EstimateMemory, Stage2OffloadsToTheHost) {
  EstimateRequest request = Request(R"({"bf16": {"enabled": true}, "zero_optimization":
      {"stage": 2, "contiguous_gradients": false, "offload_optimizer": {"device": "cpu"}},
      "gradient_accumulation_steps": 2})");
  request.model.largest_parameter = 100;
  EXPECT_THAT(
      Lines(request),
      ElementsAre("parameters accelerator 2000", "gradient on its way to the host accelerator 200",
                  "gradient on its way from the accelerator host 200",
                  "accumulated gradients host 500", "fp32 masters host 1000",
                  "gradients of the step host 1000",
                  "updated parameters on their way back host 500", "optimizer states host 2000"));
  // Its optimizer has no swapper.
  request.config.Find("zero_optimization")->Set("offload_optimizer", Read(R"({"device": "nvme"})"));
  EXPECT_EQ(Estimate(request).nvme_bytes, 0);
}

TEST(EstimateMemory, Stage3PadsEachParameterAndKeepsSmallOnesWhole) {
  EstimateRequest request = Request(R"({"bf16": {"enabled": true}, "zero_optimization":
      {"stage": 3, "reduce_bucket_size": 10, "stage3_param_persistence_threshold": 10}})");
  request.model.parameters = {900, 89, 10, 1};
  request.model.largest_layer = 900;
  // 225 + 23 + 3 + 1 = 252 elements a rank; 11 are persistent.
  EXPECT_THAT(
      Lines(request),
      ElementsAre("parameters accelerator 504", "persistent parameters accelerator 22",
                  "gathered parameters, at most accelerator 1978", "gradients accelerator 504",
                  "reduce buckets accelerator 20", "fp32 masters accelerator 1008",
                  "gradients of the step accelerator 1008", "optimizer states accelerator 2016"));
  request.config.Find("zero_optimization")->Set("stage3_max_live_parameters", ConfigValue(100));
  request.config.Find("zero_optimization")->Set("sub_group_size", ConfigValue(226));
  request.config.Find("zero_optimization")
      ->Set("stage3_model_persistence_threshold", ConfigValue(10));
  EXPECT_EQ(Lines(request)[1], "persistent parameters accelerator 20");
  EXPECT_EQ(Lines(request)[2], "gathered parameters, at most accelerator 1800");
  EXPECT_EQ(Lines(request)[6], "gradients of the step accelerator 992");
}

TEST(EstimateMemory, Stage3InFp32HasNoMasters) {
  EXPECT_THAT(
      Lines(R"({"zero_optimization": {"stage": 3, "contiguous_gradients": false,
                        "stage3_max_live_parameters": 0}})"),
      ElementsAre("parameters accelerator 1000", "gradients accelerator 1000",
                  "gradients of the step accelerator 1000", "optimizer states accelerator 2000"));
}

TEST(EstimateMemory, Stage3OffloadsOptimizerAndParametersToTheHost) {
  const char kConfig[] = R"({"fp16": {"enabled": true}, "zero_optimization": {"stage": 3,
      "contiguous_gradients": false, "stage3_max_live_parameters": 300, "sub_group_size": 50,
      "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}})";
  EXPECT_THAT(Lines(kConfig),
              ElementsAre("parameters host 500", "gathered parameters, at most accelerator 600",
                          "gradients host 500", "fp32 masters host 1000",
                          "gradients of the step host 1000", "optimizer states host 2000"));
  // 5 sub-groups, of which int(0.4 * 5) stay.
  EstimateRequest request = Request(kConfig);
  request.config.Find("zero_optimization")
      ->Find("offload_optimizer")
      ->Set("ratio", ConfigValue(0.6));
  EXPECT_THAT(Lines(request),
              ElementsAre("parameters host 500", "gathered parameters, at most accelerator 600",
                          "gradients host 500", "fp32 masters accelerator 400",
                          "gradients of the step accelerator 400",
                          "optimizer states accelerator 800", "fp32 masters host 600",
                          "gradients of the step host 600", "optimizer states host 1200"));
}

TEST(EstimateMemory, Stage3OffloadsToNvmeThroughBuffersInTheHost) {
  EXPECT_THAT(Lines(R"({"bf16": {"enabled": true}, "zero_optimization": {"stage": 3,
      "contiguous_gradients": false, "stage3_max_live_parameters": 0, "sub_group_size": 100,
      "offload_optimizer": {"device": "nvme", "buffer_count": 5},
      "offload_param": {"device": "nvme", "buffer_size": 70, "buffer_count": 3,
                        "max_in_cpu": 40}}})"),
              ElementsAre("parameters nvme 500", "parameter swap buffers host 420",
                          "parameters kept in host memory host 80", "gradients host 500",
                          "fp32 masters nvme 1000", "optimizer states nvme 2000",
                          "gradients of the step host 400", "optimizer swap buffers host 2000"));
}

TEST(EstimateMemory, CountsSecondaryPartitions) {
  EXPECT_THAT(Lines(R"({"bf16": {"enabled": true}, "zero_optimization": {"stage": 3,
      "zero_hpz_partition_size": 2}})")[1],
              "secondary partitions (hpZ) accelerator 1000");
}

TEST(EstimateMemory, InferenceNeedsNoOptimizer) {
  EstimateRequest request = Request(R"({"bf16": {"enabled": true}, "zero_optimization":
      {"stage": 3, "stage3_max_live_parameters": 100}})");
  request.inference = true;
  request.model.num_buffers = 7;
  EXPECT_THAT(Lines(request), ElementsAre("parameters accelerator 500",
                                          "gathered parameters, at most accelerator 200",
                                          "buffers accelerator 28"));
}

TEST(EstimateMemory, FrozenParametersHaveNoGradients) {
  EstimateRequest request = Request(R"({"zero_optimization": {"stage": 2,
      "contiguous_gradients": false}})");
  request.model.num_trainable = 80;
  EXPECT_THAT(Lines(request),
              ElementsAre("parameters accelerator 4000", "gradients accelerator 80",
                          "fp32 masters accelerator 80", "gradients of the step accelerator 80",
                          "optimizer states accelerator 160"));
}

TEST(EstimateMemory, KnowsWhatOptimizersKeep) {
  const auto states = [](const std::string& optimizer) {
    const MemoryEstimate estimate =
        Estimate(Request(absl::StrCat("{\"optimizer\": ", optimizer, "}")));
    const MemoryLine& last = estimate.lines.back();
    return last.what == "optimizer states" ? last.num_bytes / 4000 : 0;
  };
  EXPECT_EQ(states(R"({"type": "AdamW"})"), 2);
  EXPECT_EQ(states(R"({"type": "Adam", "params": {"amsgrad": true}})"), 3);
  EXPECT_EQ(states(R"({"type": "Lamb"})"), 2);
  EXPECT_EQ(states(R"({"type": "Lion"})"), 1);
  EXPECT_EQ(states(R"({"type": "Adagrad"})"), 1);
  EXPECT_EQ(states(R"({"type": "SGD"})"), 0);
  EXPECT_EQ(states(R"({"type": "SGD", "params": {"momentum": 0.9}})"), 1);
  EXPECT_EQ(states(R"({"type": "RMSprop", "params": {"momentum": 0.9, "centered": true}})"), 3);
  EXPECT_THAT(Estimate(Request(R"({"optimizer": {"type": "Sophia"}})")).assumptions,
              ElementsAre("the optimizer Sophia keeps two values for each element, as Adam does"));
}

TEST(EstimateMemory, KnowsMastersAndStatesIn16Bits) {
  EXPECT_THAT(
      Lines(R"({"bf16": {"enabled": true, "bf16_master_weights_and_grads": true,
      "bf16_optimizer_states": true}, "zero_optimization": {"stage": 3,
      "contiguous_gradients": false, "stage3_max_live_parameters": 0,
      "offload_optimizer": {"device": "cpu"}}})"),
      ElementsAre("parameters accelerator 500", "gradients host 500", "bf16 masters host 500",
                  "gradients of the step host 500", "optimizer states host 1000"));
}

TEST(EstimateMemory, SaysHowItCounts) {
  EstimateRequest request = Request(R"({"bf16": {"enabled": true}, "optimizer": {"type": "AdamW"},
      "zero_optimization": {"stage": 3, "reduce_bucket_size": "auto"}})");
  const MemoryEstimate estimate = Estimate(request);
  EXPECT_EQ(estimate.lines[0].formula, "2 bytes * ceil(1000 parameters / 4)");
  EXPECT_EQ(estimate.lines.back().formula,
            "4 bytes * 2 of adamw * ceil(1000 trained parameters / 4)");
  EXPECT_THAT(estimate.assumptions[0], HasSubstr("zero_optimization.reduce_bucket_size"));
  EXPECT_THAT(estimate.assumptions[1], HasSubstr("padding"));
  request.model.parameters = {999, 1};
  EXPECT_EQ(Estimate(request).lines[0].formula,
            "2 bytes * the sum of ceil(n / 4) over 2 parameters = 251");
}

TEST(EstimateMemory, SumsItsLinesByPlace) {
  const MemoryEstimate estimate = Estimate(Request(R"({"bf16": {"enabled": true},
      "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme"},
                            "offload_param": {"device": "cpu"}}})"));
  std::map<MemoryPlace, int64_t> sums;
  for (const MemoryLine& line : estimate.lines) sums[line.place] += line.num_bytes;
  EXPECT_EQ(estimate.accelerator_bytes, sums[MemoryPlace::kAccelerator]);
  EXPECT_EQ(estimate.host_bytes, sums[MemoryPlace::kHost]);
  EXPECT_EQ(estimate.nvme_bytes, sums[MemoryPlace::kNvme]);
  EXPECT_GT(estimate.accelerator_bytes, 0);
  EXPECT_GT(estimate.host_bytes, 0);
  EXPECT_GT(estimate.nvme_bytes, 0);
}

std::vector<std::string> Fields(const EstimateRequest& request) {
  const auto estimate = EstimateMemory(request);
  EXPECT_THAT(estimate, StatusIs(absl::StatusCode::kInvalidArgument, ::testing::_));
  std::vector<std::string> fields;
  for (const FieldViolation& violation : ViolationsOf(estimate.status())) {
    fields.push_back(violation.field);
  }
  return fields;
}

TEST(EstimateMemory, NamesEveryPathThatItCannotRead) {
  EXPECT_THAT(
      Fields(Request(R"({"zero_optimization": {"stage": 7, "reduce_bucket_size": 0.5,
          "sub_group_size": [], "overlap_comm": "maybe", "zero_hpz_partition_size": 3,
          "offload_optimizer": {"device": "disk", "ratio": 2}, "offload_param": true},
          "fp16": {"enabled": true}, "bf16": {"enabled": 1}, "optimizer": {}})")),
      ElementsAre("zero_optimization.stage", "bf16.enabled", "zero_optimization.overlap_comm",
                  "zero_optimization.reduce_bucket_size", "zero_optimization.sub_group_size",
                  "zero_optimization.offload_optimizer.device",
                  "zero_optimization.offload_optimizer.ratio", "zero_optimization.offload_param",
                  "optimizer.type"));
  EXPECT_THAT(
      Fields(Request(R"({"zero_optimization": {"stage": 3, "zero_hpz_partition_size": 3}})")),
      ElementsAre("zero_optimization.zero_hpz_partition_size"));
  EXPECT_THAT(Fields(Request(R"({"data_types": {"grad_accum_dtype": "fp16"}})")),
              ElementsAre("data_types.grad_accum_dtype"));
  EXPECT_THAT(Fields(Request("[]")), ElementsAre("config"));
}

TEST(EstimateMemory, NamesEverySizeThatItCannotUse) {
  EstimateRequest request = Request("{}");
  request.world_size = 0;
  request.model.num_parameters = 0;
  request.model.num_trainable = 5;
  request.model.largest_layer = -1;
  EXPECT_THAT(Fields(request), ElementsAre("world_size", "model_size.num_parameters",
                                           "model_size.num_trainable", "model_size.largest_layer"));
}

TEST(EstimateMemory, ReadsNumbersAsDeepSpeedDoes) {
  const MemoryEstimate estimate = Estimate(Request(R"({"bf16": {"enabled": "yes"},
      "zero_optimization": {"stage": "3", "reduce_bucket_size": "10", "sub_group_size": 1e9}})"));
  EXPECT_EQ(estimate.lines[0].num_bytes, 500);
  EXPECT_EQ(Lines(R"({"zero_optimization": true})")[2], "reduce buckets accelerator 2000000000");
}

TEST(EstimateMemory, SizesOfAnyMagnitudeDoNotOverflow) {
  EstimateRequest request = Request(R"({"zero_optimization": {"stage": 3,
      "reduce_bucket_size": 9000000000000000000, "stage3_max_live_parameters": 1e18,
      "offload_param": {"device": "nvme", "buffer_count": 9e18, "buffer_size": 9e18}}})");
  const MemoryEstimate estimate = Estimate(request);
  EXPECT_EQ(estimate.accelerator_bytes, std::numeric_limits<int64_t>::max());
  EXPECT_EQ(estimate.host_bytes, std::numeric_limits<int64_t>::max());
}

// ---- Against DeepSpeed ----

// estimate_zero{2,3}_model_states_mem_needs count 2 bytes a parameter, and 16 a trained one: fp32
// masters, two states and an fp32 gradient; stage 2 also the 16-bit gradient.  They know neither
// buckets nor padding nor, at stage 3, the 16-bit gradients' partition; of what is gathered they
// count the largest layer in fp32.
TEST(EstimateMemory, AgreesWithDeepSpeedsOwnEstimates) {
  int checked = 0;
  const std::string recorded = ReadDataFile("config/memory-needs.json");
  for (const absl::string_view text : absl::StrSplit(recorded, '\n', absl::SkipEmpty())) {
    const ConfigValue line = Read(text);
    const bool offload = *line.Find("cpu_offload")->boolean();
    const int64_t ranks_a_node = Int(line, "num_gpus_per_node");
    const bool stage3 = Int(line, "stage") == 3;
    const bool offload_params = stage3 && *line.Find("cpu_offload_params")->boolean();
    EstimateRequest request;
    request.config = Read(absl::StrCat(
        R"({"bf16": {"enabled": true}, "zero_optimization": {"stage": )", stage3 ? 3 : 2,
        R"(, "sub_group_size": 1e15, "offload_optimizer": {"device": ")", offload ? "cpu" : "none",
        R"("}, "offload_param": {"device": ")", offload_params ? "cpu" : "none", "\"}}}"));
    request.world_size = ranks_a_node * Int(line, "num_nodes");
    request.model.num_parameters = Int(line, "total_params");
    const MemoryEstimate estimate = Estimate(request);
    std::map<MemoryPlace, int64_t> sums;
    for (const MemoryLine& part : estimate.lines) {
      const bool counted = part.what == "parameters" || part.what == "fp32 masters" ||
                           part.what == "optimizer states" ||
                           part.what == "gradients of the step" ||
                           (part.what == "gradients" && !stage3);
      if (counted) sums[part.place] += part.num_bytes;
    }
    const int64_t largest = stage3 ? Int(line, "largest_layer_memory") : 0;
    EXPECT_EQ(sums[MemoryPlace::kAccelerator], Int(line, "gpu_mem") - largest) << text;
    if (offload && (stage3 || Int(line, "num_nodes") == 1)) {
      // Stage 2's takes 4 bytes for each rank where that is more: a model that each rank loads.
      const int64_t states = Int(line, "cpu_mem");
      const int64_t ours = sums[MemoryPlace::kHost] * ranks_a_node;
      if (!stage3 && 4 * ranks_a_node > 16) {
        EXPECT_EQ(states, 4 * ranks_a_node * request.model.num_parameters) << text;
      } else {
        EXPECT_EQ(ours, states) << text;
      }
    }
    ++checked;
  }
  EXPECT_EQ(checked, 40);
}

// What ZeRO-3 really allocated for the same shapes.
TEST(EstimateMemory, PadsPartitionsExactlyAsZero3Does) {
  for (const char* name : {"mixtral.bf16.w3", "deepseek_v3.bf16.w3", "mixtral.fp32.w3",
                           "qwen2_moe.bf16.w3", "mixtral.fp16.w3"}) {
    const auto document = ReadJson(ReadDataFile(absl::StrCat("zero3/", name, ".json.gz")), "test",
                                   JsonLimits{size_t{64} << 20, 200});
    ASSERT_THAT(document, IsOk());
    const ConfigValue& file = document->value;
    const bool fp32 = file.Find("dtype")->IsText("fp32");
    EstimateRequest request =
        Request(absl::StrCat(R"({"bf16": {"enabled": )", fp32 ? "false" : "true",
                             R"(}, "zero_optimization": {"stage": 3}})"));
    request.world_size = Int(file, "world_size");
    ConfigValue shapes{ConfigValue::Object()};
    int64_t owned = 0;
    for (const ConfigValue& parameter : *(*file.Find("ranks")->array())[0].array()) {
      shapes.Set(*parameter.Find("name")->text(), *parameter.Find("ds_shape"));
      owned += Int(parameter, "partition_numel");
    }
    ConfigValue spec{ConfigValue::Object()};
    spec.Set("params", shapes);
    const auto size = ReadModelSize(spec);
    ASSERT_THAT(size, IsOk());
    request.model = *size;
    const MemoryEstimate estimate = Estimate(request);
    const int64_t bytes = fp32 ? 4 : 2;
    EXPECT_EQ(estimate.lines[0].num_bytes, owned * bytes) << name;
    EXPECT_GT(owned * request.world_size, size->num_parameters) << "no padding: proves nothing";
  }
}

// ---- ReadModelSize ----

TEST(ReadModelSize, AddsUpShapes) {
  const auto size = ReadModelSize(R"({"params": [
      {"name": "model.embed.weight", "shape": [10, 4], "dtype": "bfloat16"},
      {"name": "model.layers.0.q.weight", "shape": [4, 4]},
      {"name": "model.layers.0.k.weight", "shape": [4, 3]},
      {"name": "model.layers.1.q.weight", "shape": [4, 5]},
      {"name": "scale", "shape": []}, {"name": "lm_head.weight", "shape": [10, 4]}],
      "tied": {"lm_head.weight": "model.embed.weight"},
      "buffers": [{"name": "b", "shape": [7]}], "other": 1})");
  ASSERT_THAT(size, IsOk());
  EXPECT_EQ(size->num_parameters, 89);
  EXPECT_EQ(size->largest_parameter, 40);
  EXPECT_EQ(size->largest_layer, 40);
  EXPECT_EQ(size->num_buffers, 7);
  EXPECT_THAT(size->parameters, ElementsAre(40, 16, 12, 20, 1));
  EXPECT_THAT(size->scalar_parameters, ElementsAre("scale"));
  EXPECT_FALSE(size->num_trainable.has_value());
}

TEST(ReadModelSize, TakesALayerFromItsNumber) {
  const auto size = ReadModelSize(R"({"params": {"h.0.a": [2], "h.0.b.1.c": [3],
      "h.1.a": {"shape": [4]}, "e.w": [1], "e.b": [1]}})");
  ASSERT_THAT(size, IsOk());
  EXPECT_EQ(size->num_parameters, 11);
  EXPECT_EQ(size->largest_layer, 5);
}

TEST(ReadModelSize, ReadsTheSpecsOfCheckpoints) {
  const auto size = ReadModelSize(ReadDataFile("checkpoints/qwen2_moe/expected.json"));
  ASSERT_THAT(size, IsOk());
  EXPECT_GT(size->num_parameters, 1000);
  EXPECT_GT(size->largest_layer, size->largest_parameter);
}

std::vector<std::string> SpecFields(absl::string_view json) {
  const auto size = ReadModelSize(json);
  EXPECT_THAT(size, StatusIs(absl::StatusCode::kInvalidArgument, ::testing::_)) << json;
  std::vector<std::string> fields;
  for (const FieldViolation& violation : ViolationsOf(size.status())) {
    fields.push_back(violation.field);
  }
  return fields;
}

TEST(ReadModelSize, NamesWhatIsWrong) {
  EXPECT_THAT(SpecFields("[]"), ElementsAre("model_spec"));
  EXPECT_THAT(SpecFields("{"), ElementsAre("model_spec"));
  EXPECT_THAT(SpecFields("{}"), ElementsAre("model_spec.params"));
  EXPECT_THAT(SpecFields(R"({"params": []})"), ElementsAre("model_spec.params"));
  EXPECT_THAT(SpecFields(R"({"params": "x"})"), ElementsAre("model_spec.params"));
  EXPECT_THAT(SpecFields(R"({"params": {"a": [1], "b": 5, "c": [1, -1], "d": [1.0], "e": {}},
                             "buffers": [5]})"),
              ElementsAre("model_spec.params.b", "model_spec.params.c", "model_spec.params.d",
                          "model_spec.params.e", "model_spec.buffers[0]"));
  EXPECT_THAT(SpecFields(R"({"params": {"a": [4294967296, 4294967296]}})"),
              ElementsAre("model_spec.params.a"));
  EXPECT_THAT(SpecFields(R"({"params": {"a": [9223372036854775807], "b": [1]}})"),
              ElementsAre("model_spec.params.b"));
}

}  // namespace
}  // namespace zerocast
