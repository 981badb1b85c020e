#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "server/base/errors.h"
#include "server/config/hidden_size.h"
#include "server/config/training_arguments.h"
#include "tests/server/config/paths.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(ModelConfig, IsAnObjectOfAtMost16MiBOrNull) {
  EXPECT_THAT(ReadModelConfig(R"({"hidden_size": 8})", "model_config"), IsOk());
  for (const char* text : {"", "null"}) {
    ZC_ASSERT_OK_AND_ASSIGN(const ConfigValue none, ReadModelConfig(text, "model_config"));
    EXPECT_TRUE(none.is_null());
  }
  EXPECT_THAT(Paths(ReadModelConfig("[]", "model_config").status()), ElementsAre("model_config"));
  EXPECT_THAT(ReadModelConfig("{\"a\": \"" + std::string(size_t{16} << 20, 'x') + "\"}", "c"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("16777216 allowed")));
}

TEST(TrainingArguments, TakesItsFieldsAndDefaults) {
  ZC_ASSERT_OK_AND_ASSIGN(
      const TrainingArguments arguments,
      ReadTrainingArguments(
          absl::string_view(R"({"learning_rate": 1, "output_dir": "x", "max_grad_norm": null})")));
  EXPECT_EQ(arguments.learning_rate, ConfigValue(1));
  EXPECT_EQ(arguments.per_device_train_batch_size, ConfigValue(8));
  EXPECT_TRUE(arguments.max_grad_norm.is_null());
}

TEST(TrainingArguments, NamesEveryWrongField) {
  const auto arguments = ReadTrainingArguments(absl::string_view(
      R"({"world_size": 0, "learning_rate": "5e-5", "bf16": "yes", "adam_beta1": null, "weight_decay": true})"));
  EXPECT_THAT(Paths(arguments.status()),
              ElementsAre("training_arguments.world_size", "training_arguments.learning_rate",
                          "training_arguments.adam_beta1", "training_arguments.bf16"));
  EXPECT_THAT(ReadTrainingArguments(absl::string_view("[]")),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("list")));
}

}  // namespace
}  // namespace zerocast
