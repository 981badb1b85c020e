// Input that is wrong on purpose: refused with the path, without much memory, without a crash.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "server/base/errors.h"
#include "server/config/estimate.h"
#include "server/config/hidden_size.h"
#include "server/config/json_reader.h"
#include "server/config/resolve.h"
#include "tests/server/config/paths.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// What the caller of a resolution sees: the call's error or the integration's.
absl::Status Resolve(std::string config) {
  ResolveRequest request;
  request.config = std::move(config);
  request.num_training_steps = 100;
  const auto resolution = ResolveConfig(request);
  return resolution.ok() ? resolution->status() : resolution.status();
}

void ExpectRefused(const absl::Status& status, const char* path) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReasonOf(status), "INVALID_FIELDS");
  EXPECT_THAT(Paths(status), ElementsAre(path));
}

// A line of /proc/self/status, in KiB.
int64_t MemoryLine(absl::string_view name) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    absl::string_view rest = line;
    if (!absl::ConsumePrefix(&rest, name)) continue;
    int64_t kib = 0;
    rest = absl::StripAsciiWhitespace(absl::StripSuffix(rest, "kB"));
    EXPECT_TRUE(absl::SimpleAtoi(rest, &kib)) << line;
    return kib;
  }
  ADD_FAILURE() << name << " is not in /proc/self/status";
  return 0;
}

// By how much `work` raises the most memory that this process ever held, in KiB.
int64_t PeakGrowth(const std::function<void()>& work) {
  std::ofstream("/proc/self/clear_refs") << "5";  // the peak starts anew from what is held
  const int64_t before = MemoryLine("VmRSS:");
  work();
  return MemoryLine("VmHWM:") - before;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int64_t kMiB = 8 * 1024;  // shadow memory and quarantine
#else
constexpr int64_t kMiB = 1024;
#endif

TEST(BadInput, DeepNestingIsRefusedWithoutMemory) {
  for (const char* unit : {"[", "{\"a\":", "[{\"a\":[", "[1,"}) {
    std::string text;
    while (text.size() < 200'000) text += unit;
    EXPECT_LT(PeakGrowth([&] { ExpectRefused(Resolve(text), "config"); }), 4 * kMiB) << unit;
    ExpectRefused(Resolve("{\"zero_optimization\": " + text), "config");
  }
  // 200,000 brackets that would close, too.
  ExpectRefused(Resolve(std::string(200'000, '[') + std::string(200'000, ']')), "config");
  const std::string coded = absl::WebSafeBase64Escape(std::string(200'000, '['));
  ExpectRefused(Resolve(coded), "config");
}

TEST(BadInput, SixtyFourMebibytesOfJsonAreRefusedUnread) {
  std::string text = "{\"zero_optimization\": {\"stage\": 3}, \"list\": [0";
  while (text.size() < (size_t{64} << 20)) text += ", 12345678901234567890, \"auto\", {\"a\": {}}";
  text += "]}";
  EXPECT_LT(
      PeakGrowth([&] {
        const auto document = ReadJson(text, "config");
        EXPECT_THAT(document,
                    StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("1048576 allowed")));
        EXPECT_THAT(Paths(document.status()), ElementsAre("config"));
        EXPECT_THAT(Paths(ReadModelConfig(text, "model_config").status()),
                    ElementsAre("model_config"));
        EXPECT_THAT(Paths(ReadTrainingArguments(text).status()), ElementsAre("training_arguments"));
      }),
      kMiB);
  ExpectRefused(Resolve(std::move(text)), "config");
}

// The most that a config of the largest size can make of memory.
TEST(BadInput, AMebibyteOfJsonTakesABoundedAmountOfMemory) {
  std::string numbers = "{\"x\": [0",
              duplicates = "{\"" + std::string(400'000, 'k') + "\": {\"a\":0";
  while (numbers.size() < (size_t{1} << 20) - 10) numbers += ",0";
  while (duplicates.size() < (size_t{1} << 20) - 20) duplicates += ",\"a\":0";
  numbers += "]}";
  duplicates += "}}";
  for (const std::string& text : {numbers, duplicates}) {
    EXPECT_LT(PeakGrowth([&] { EXPECT_THAT(Resolve(text), IsOk()); }), 64 * kMiB);
  }
}

TEST(BadInput, InvalidUtf8IsRefused) {
  for (const char* text : {"{\"a\": \"\xff\"}", "{\"\xc3\": 1}", "\xed\xa0\x80",
                           "{\"a\": \"\xc0\x80\"}", "\xf8\x88\x80\x80\x80", "{}\x80"}) {
    ExpectRefused(Resolve(text), "config");
  }
}

// Python reads it as an infinity, which is a value like others; where a number of it is needed it
// is refused.
TEST(BadInput, NumbersBeyondADoubleAreInfinite) {
  EXPECT_THAT(Resolve(R"({"optimizer": {}, "zero_optimization": {"sub_group_size": 1e400}})"),
              IsOk());
  ResolveRequest request;
  request.config = R"({"zero_optimization": {"stage": 3, "reduce_bucket_size": "auto",
                       "stage3_prefetch_bucket_size": "auto"}})";
  ZC_ASSERT_OK_AND_ASSIGN(request.model_config,
                          ReadModelConfig(R"({"hidden_size": 1e400})", "model_config"));
  request.num_training_steps = 1;
  ZC_ASSERT_OK_AND_ASSIGN(const Resolution resolution, ResolveConfig(request));
  EXPECT_THAT(resolution.status(), StatusIs(absl::StatusCode::kInvalidArgument,
                                            "cannot convert float infinity to integer"));
  EXPECT_THAT(Paths(resolution.status()),
              ElementsAre("zero_optimization.reduce_bucket_size",
                          "zero_optimization.stage3_prefetch_bucket_size"));
  EXPECT_THAT(Paths(ReadTrainingArguments(absl::string_view(R"({"world_size": 1e400})")).status()),
              ElementsAre("training_arguments.world_size"));
  EXPECT_THAT(Resolve(R"({"gradient_clipping": -1e999})"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("gradient_clipping=-inf")));
}

TEST(BadInput, AListAtTheTopIsRefused) {
  for (const char* text : {"[]", "[1, 2]", "5", "null", "true", "1e400", "\"auto\"", "NaN"}) {
    ExpectRefused(Resolve(text), "config");
  }
}

TEST(BadInput, AScalarForASectionIsRefusedByItsPath) {
  ExpectRefused(Resolve(R"({"fp16": true})"), "fp16");
  ExpectRefused(Resolve(R"({"bf16": "auto"})"), "bf16");
  ExpectRefused(Resolve(R"({"zero_optimization": true})"), "zero_optimization");
  ExpectRefused(Resolve(R"({"optimizer": {"params": []}})"), "optimizer.params");
  ExpectRefused(Resolve(R"({"zero_optimization": {"stage": 3, "offload_param": 1}})"),
                "zero_optimization.offload_param");
}

// A null section is an absent one, but for one that the integration asks for its members.
TEST(BadInput, ANullSectionIsRefusedWhereTheIntegrationReadsIt) {
  ExpectRefused(Resolve(R"({"tensor_parallel": null})"), "tensor_parallel");
  EXPECT_THAT(Resolve(R"({"fp16": null, "bf16": null, "optimizer": null, "scheduler": null,
                          "zero_optimization": null})"),
              IsOk());
}

TEST(BadInput, TextThatIsNeitherJsonNorBase64IsRefused) {
  for (const char* text :
       {"", " ", "{", "}", "ds_config.json", "====", "\xEF\xBB\xBF{}", "{\"a\": 1}}"}) {
    ExpectRefused(Resolve(text), "config");
  }
  ExpectRefused(Resolve(std::string("{}\0", 3)), "config");
  ExpectRefused(Resolve("{\"a\": {\"b\": }}"), "config.a.b");
}

TEST(BadInput, AModelSpecOfAnyKindIsRefusedByItsPath) {
  EXPECT_THAT(Paths(ReadModelSize(std::string(200'000, '[')).status()), ElementsAre("model_spec"));
  EXPECT_THAT(Paths(ReadModelSize("\xff").status()), ElementsAre("model_spec"));
  EXPECT_THAT(Paths(ReadModelSize(R"({"params": {"a": [1e400]}})").status()),
              ElementsAre("model_spec.params.a"));
}

}  // namespace
}  // namespace zerocast
