// What holds for every config.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "server/base/errors.h"
#include "server/config/content_hash.h"
#include "server/config/diff.h"
#include "server/config/json_reader.h"
#include "server/config/resolve.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::UnorderedElementsAreArray;

constexpr int kRounds = 2000;

uint64_t Seed() {
  static const uint64_t seed = [] {
    const char* given = std::getenv("ZC_SEED");
    const uint64_t value =
        given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
    std::printf("ZC_SEED=%llu\n", static_cast<unsigned long long>(value));
    return value;
  }();
  return seed;
}

// Paths that are filled and compared, with the values of Make()'s arguments.
struct Path {
  const char* path;
  const char* matching;
};
constexpr Path kPaths[] = {
    {"train_micro_batch_size_per_gpu", "4"},
    {"gradient_accumulation_steps", "2"},
    {"train_batch_size", "16"},
    {"gradient_clipping", "0.5"},
    {"optimizer.params.lr", "1e-4"},
    {"optimizer.params.betas", "[0.8, 0.99]"},
    {"optimizer.params.eps", "1e-07"},
    {"optimizer.params.weight_decay", "0.01"},
    {"scheduler.params.warmup_max_lr", "0.0001"},
    {"scheduler.params.warmup_num_steps", "10"},
    {"scheduler.params.total_num_steps", "100"},
    {"fp16.enabled", "false"},
    {"bf16.enabled", "true"},
};
// Filled, but compared with nothing.
constexpr const char* kFilled[] = {"scheduler.params.warmup_min_lr",
                                   "zero_optimization.reduce_bucket_size",
                                   "zero_optimization.stage3_prefetch_bucket_size",
                                   "zero_optimization.stage3_param_persistence_threshold"};
constexpr const char* kUnread[] = {"steps_per_print", "zero_optimization.overlap_comm",
                                   "optimizer.type",  "x.y.z",
                                   "fp16.loss_scale", "comment"};

ConfigValue Read(absl::string_view text) {
  const auto document = ReadJson(text, "test");
  EXPECT_THAT(document, IsOk()) << text;
  return document.ok() ? document->value : ConfigValue();
}

void SetPath(absl::string_view path, ConfigValue value, ConfigValue* root) {
  ConfigValue* node = root;
  const std::vector<absl::string_view> names = absl::StrSplit(path, '.');
  for (size_t i = 0; i + 1 < names.size(); ++i) {
    ConfigValue* next = node->Find(names[i]);
    node = next != nullptr ? next : node->Set(names[i], ConfigValue(ConfigValue::Object()));
  }
  node->Set(names.back(), std::move(value));
}

ResolveRequest Request() {
  ResolveRequest request;
  request.arguments.world_size = ConfigValue(2);
  request.arguments.per_device_train_batch_size = ConfigValue(4);
  request.arguments.gradient_accumulation_steps = ConfigValue(2);
  request.arguments.max_grad_norm = ConfigValue(0.5);
  request.arguments.learning_rate = ConfigValue(1e-4);
  request.arguments.adam_beta1 = ConfigValue(0.8);
  request.arguments.adam_beta2 = ConfigValue(0.99);
  request.arguments.adam_epsilon = ConfigValue(1e-7);
  request.arguments.weight_decay = ConfigValue(0.01);
  request.arguments.warmup_steps = ConfigValue(0.1);
  request.arguments.bf16 = ConfigValue(true);
  request.model_config = Read(R"({"hidden_size": 96})");
  request.num_training_steps = 100;
  return request;
}

Resolution Resolve(ResolveRequest request, const ConfigValue& config) {
  request.config = config;
  auto resolution = ResolveConfig(request);
  EXPECT_THAT(resolution, IsOk());
  return resolution.ok() ? *std::move(resolution) : Resolution();
}

class ConfigProperty : public ::testing::Test {
 protected:
  int Pick(int n) { return static_cast<int>(random_() % static_cast<uint64_t>(n)); }

  // A random config that the integration takes; "auto" only where asked for.
  ConfigValue Make(bool autos) {
    std::vector<std::pair<std::string, ConfigValue>> members;
    const auto maybe_auto = [&](ConfigValue value) {
      return autos && Pick(2) == 0 ? ConfigValue("auto") : value;
    };
    for (const Path& path : kPaths) {
      const int kind = Pick(4);
      if (kind == 0) continue;
      members.emplace_back(path.path, kind == 1 ? ConfigValue() : maybe_auto(Read(path.matching)));
    }
    for (const char* path : kFilled) {
      if (Pick(2) == 0) members.emplace_back(path, maybe_auto(ConfigValue(Pick(1000))));
    }
    for (const char* path : kUnread) {
      if (Pick(2) == 0)
        members.emplace_back(path, Read(Pick(2) == 0 ? "[1, {\"a\": 5e8}]" : "1.0"));
    }
    members.emplace_back("zero_optimization.stage", ConfigValue(Pick(4)));
    std::shuffle(members.begin(), members.end(), random_);
    ConfigValue config{ConfigValue::Object()};
    for (auto& [path, value] : members) SetPath(path, std::move(value), &config);
    return config;
  }

  std::mt19937_64 random_{Seed()};
};

TEST_F(ConfigProperty, ResolvingAResolvedConfigChangesNothing) {
  for (int round = 0; round < kRounds; ++round) {
    const ConfigValue config = Make(true);
    const Resolution first = Resolve(Request(), config);
    ASSERT_THAT(first.status(), IsOk()) << WriteJson(config);
    const Resolution second = Resolve(Request(), first.config.root());
    ASSERT_THAT(second.status(), IsOk());
    EXPECT_EQ(WriteJson(second.config.root()), WriteJson(first.config.root()));
    EXPECT_EQ(second.config.root(), first.config.root());
    for (const ValueOrigin& origin : second.origins) {
      EXPECT_FALSE(absl::StartsWith(origin.origin, "auto filled")) << origin.path;
    }
  }
}

TEST_F(ConfigProperty, AConfigWithoutAutoAndMismatchComesBackEqual) {
  for (int round = 0; round < kRounds; ++round) {
    ConfigValue config = Make(false);
    if (config.Find("optimizer") == nullptr) {
      config.Set("zero_allow_untested_optimizer", ConfigValue(true));
    }
    const Resolution resolution = Resolve(Request(), config);
    ASSERT_THAT(resolution.status(), IsOk()) << WriteJson(config);
    EXPECT_EQ(WriteJson(resolution.config.root()), WriteJson(config));
    EXPECT_EQ(resolution.config.root(), config);
    EXPECT_EQ(ContentHash(resolution.config.root()), ContentHash(config));
    EXPECT_TRUE(DiffConfigs(resolution.config.root(), config).empty());
  }
}

TEST_F(ConfigProperty, OnlyAutoValuesChange) {
  for (int round = 0; round < kRounds; ++round) {
    const ConfigValue config = Make(true);
    const Resolution resolution = Resolve(Request(), config);
    for (const ConfigDifference& difference : DiffConfigs(config, resolution.config.root())) {
      if (difference.path == "zero_allow_untested_optimizer") continue;
      EXPECT_EQ(difference.before, "\"auto\"") << difference.path;
    }
  }
}

// k fields that are wrong give k violations, whatever the integration raises first.
TEST_F(ConfigProperty, AsManyViolationsAsBrokenFields) {
  int sections = 0, fields = 0;
  for (int round = 0; round < kRounds; ++round) {
    ResolveRequest request = Request();
    ConfigValue config = Make(true);
    std::vector<std::string> broken;
    const auto under_broken = [&](absl::string_view path) {
      return std::any_of(broken.begin(), broken.end(), [&](const std::string& section) {
        return absl::StartsWith(path, section + ".");
      });
    };
    // Sections that are no objects.
    for (const char* section : {"zero_optimization", "optimizer", "optimizer.params", "scheduler",
                                "scheduler.params", "fp16", "bf16", "tensor_parallel"}) {
      if (Pick(8) != 0 || under_broken(section)) continue;
      SetPath(section, Read(Pick(2) == 0 ? "true" : "\"auto\""), &config);
      broken.emplace_back(section);
      ++sections;
    }
    // Values that differ from the arguments.
    for (const Path& path : kPaths) {
      if (Pick(4) != 0 || under_broken(path.path)) continue;
      SetPath(path.path, ConfigValue("wrong"), &config);
      broken.emplace_back(path.path);
      ++fields;
    }
    // Sizes that need a hidden size.
    if (Pick(4) == 0 && !under_broken("zero_optimization.stage")) {
      request.model_config = ConfigValue();
      for (int i : {1, 2, 3}) {
        const ConfigValue* value = FindPath(config, kFilled[i]);
        if (value != nullptr && value->IsText("auto")) broken.emplace_back(kFilled[i]);
      }
    }
    if (Pick(4) == 0 && !under_broken("zero_optimization.stage")) {
      const char* device = Pick(2) == 0 ? "zero_optimization.offload_param"
                                        : "zero_optimization.offload_optimizer.device";
      SetPath("zero_optimization.stage", ConfigValue(3), &config);
      SetPath(device, Read("[]"), &config);
      broken.emplace_back(device);
    }
    const Resolution resolution = Resolve(request, config);
    ASSERT_EQ(resolution.status().ok(), broken.empty()) << WriteJson(config);
    std::vector<std::string> named;
    for (const FieldViolation& violation : ViolationsOf(resolution.status())) {
      named.push_back(violation.field);
      EXPECT_NE(FindPath(config, violation.field), nullptr) << violation.field;
    }
    EXPECT_THAT(named, UnorderedElementsAreArray(broken)) << WriteJson(config) << "\n"
                                                          << resolution.status();
  }
  EXPECT_GT(sections, kRounds / 4);
  EXPECT_GT(fields, kRounds / 4);
}

}  // namespace
}  // namespace zerocast
