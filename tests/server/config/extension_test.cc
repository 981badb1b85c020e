// The hidden size under the names that the integration does not know.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "server/base/errors.h"
#include "server/config/hidden_size.h"
#include "server/config/hidden_size_table.h"
#include "server/config/json_reader.h"
#include "server/config/resolve.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;

ConfigValue Read(absl::string_view text) {
  const auto document = ReadJson(text, "test");
  EXPECT_THAT(document, IsOk()) << text;
  return document.ok() ? document->value : ConfigValue();
}

std::string ByType(absl::string_view model_config) {
  const HiddenSize size = FindHiddenSizeByType(Read(model_config));
  return absl::StrCat(WriteJson(size.value), " ", size.source);
}

constexpr char kRefusal[] =
    "The model's config file has neither `hidden_size` nor `hidden_sizes` entry, therefore it's "
    "not possible to automatically fill out the following `auto` entries in the DeepSpeed config "
    "file: ['zero_optimization.reduce_bucket_size', "
    "'zero_optimization.stage3_param_persistence_threshold']. You can fix that by replacing "
    "`auto` values for these keys with an integer value of your choice.";

ResolveRequest Request(absl::string_view model_config) {
  ResolveRequest request;
  request.config = R"({"optimizer": {}, "zero_optimization": {"stage": 3,
      "reduce_bucket_size": "auto", "stage3_param_persistence_threshold": "auto"}})";
  request.model_config = Read(model_config);
  request.num_training_steps = 10;
  request.all_origins = false;
  return request;
}

TEST(HiddenSizeExtension, FindsTheNamesOfEachModelType) {
  EXPECT_EQ(ByType(R"({"model_type": "bart", "d_model": 512})"), "512 d_model (model_type bart)");
  EXPECT_EQ(ByType(R"({"model_type": "gpt2", "n_embd": 9, "d_model": 8})"),
            "9 n_embd (model_type gpt2)");
  EXPECT_EQ(ByType(R"({"model_type": "distilbert", "dim": 5})"), "5 dim (model_type distilbert)");
  EXPECT_EQ(ByType(R"({"model_type": "xlm", "emb_dim": 5})"), "5 emb_dim (model_type xlm)");
  EXPECT_EQ(ByType(R"({"model_type": "swin2sr", "embed_dim": 5})"),
            "5 embed_dim (model_type swin2sr)");
  EXPECT_EQ(ByType(R"({"model_type": "maskformer", "mask_feature_size": 5})"),
            "5 mask_feature_size (model_type maskformer)");
}

TEST(HiddenSizeExtension, TakesTheDefaultOfTheClassWhereTheConfigLeavesItOut) {
  EXPECT_EQ(ByType(R"({"model_type": "bart"})"), "1024 default of model_type bart");
  EXPECT_EQ(ByType(R"({"model_type": "bert", "vocab_size": 7})"), "768 default of model_type bert");
  EXPECT_EQ(ByType(R"({"model_type": "resnet"})"), "2048 default of model_type resnet");
  EXPECT_EQ(ByType(R"({"model_type": "aimv2", "text_config": {}})"),
            "768 default of model_type aimv2");
  EXPECT_EQ(ByType(R"({"model_type": "aimv2"})"), "768 default of model_type aimv2");
}

TEST(HiddenSizeExtension, GuessesNothing) {
  for (const char* config :
       {R"({})", R"({"d_model": 8})", R"({"model_type": "nobody-knows", "d_model": 8})",
        R"({"model_type": 5, "d_model": 8})", R"({"model_type": "bart", "d_model": "8"})",
        R"({"model_type": "bart", "d_model": 8.0})", R"({"model_type": "bart", "d_model": 0})",
        R"({"model_type": "bart", "d_model": -8})", R"({"model_type": "bart", "d_model": null})",
        R"({"model_type": "bert", "hidden_size": null})", R"({"model_type": "sam"})", "null"}) {
    EXPECT_EQ(ByType(config), "null ") << config;
  }
}

TEST(HiddenSizeExtension, IsUsedWhereTheRequestAllowsItAndSaysWhatTheIntegrationWouldRefuse) {
  ResolveRequest request = Request(R"({"model_type": "bart", "d_model": 8})");
  request.allow_extensions = true;
  const auto resolution = ResolveConfig(request);
  ASSERT_THAT(resolution, IsOk());
  ASSERT_THAT(resolution->status(), IsOk());
  EXPECT_EQ(WriteJson(*resolution->config.root().Find("zero_optimization")),
            R"({"stage": 3, "reduce_bucket_size": 64, "stage3_param_persistence_threshold": 80})");
  ASSERT_THAT(resolution->extensions, SizeIs(2));
  EXPECT_EQ(resolution->extensions[0].path, "zero_optimization.reduce_bucket_size");
  EXPECT_EQ(resolution->extensions[0].what, "hidden size 8 from d_model (model_type bart)");
  EXPECT_EQ(resolution->extensions[0].integration_error, kRefusal);
  EXPECT_EQ(resolution->extensions[1].path, "zero_optimization.stage3_param_persistence_threshold");
  ASSERT_THAT(resolution->origins, SizeIs(2));
  EXPECT_EQ(resolution->origins[1].origin, "auto filled from d_model (model_type bart): 10 * h");
}

TEST(HiddenSizeExtension, WithoutItTheIntegrationsRefusalStands) {
  const auto resolution = ResolveConfig(Request(R"({"model_type": "bart", "d_model": 8})"));
  ASSERT_THAT(resolution, IsOk());
  ASSERT_TRUE(resolution->error.has_value());
  EXPECT_EQ(resolution->error->message, kRefusal);
  EXPECT_EQ(resolution->error->stage, "init");
  EXPECT_THAT(resolution->extensions, IsEmpty());
  EXPECT_EQ(ViolationsOf(resolution->status()).size(), 2u);
}

TEST(HiddenSizeExtension, RefusesTooWhereItFindsNothing) {
  ResolveRequest request = Request(R"({"d_model": 8})");
  request.allow_extensions = true;
  const auto resolution = ResolveConfig(request);
  ASSERT_THAT(resolution, IsOk());
  ASSERT_TRUE(resolution->error.has_value());
  EXPECT_EQ(resolution->error->message, kRefusal);
}

TEST(HiddenSizeExtension, IsNotAskedWhereTheIntegrationFindsASize) {
  ResolveRequest request = Request(R"({"model_type": "bart", "d_model": 8, "hidden_size": 4})");
  request.allow_extensions = true;
  const auto resolution = ResolveConfig(request);
  ASSERT_THAT(resolution, IsOk());
  EXPECT_THAT(resolution->extensions, IsEmpty());
  EXPECT_EQ(WriteJson(*resolution->config.root().Find("zero_optimization")),
            R"({"stage": 3, "reduce_bucket_size": 16, "stage3_param_persistence_threshold": 40})");
}

TEST(HiddenSizeTable, IsSortedAndWhole) {
  for (const char* type : {"afmoe", "bart", "bit", "llama", "t5", "zamba2"}) {
    ASSERT_NE(FindHiddenSizeEntry(type), nullptr) << type;
    EXPECT_EQ(FindHiddenSizeEntry(type)->model_type, type);
  }
  EXPECT_EQ(FindHiddenSizeEntry(""), nullptr);
  EXPECT_EQ(FindHiddenSizeEntry("zzz"), nullptr);
}

}  // namespace
}  // namespace zerocast
