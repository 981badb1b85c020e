// Bytes through everything that reads a config: nothing crashes, and what is promised of all
// configs holds for what is read.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "server/config/content_hash.h"
#include "server/config/diff.h"
#include "server/config/estimate.h"
#include "server/config/hidden_size.h"
#include "server/config/json_reader.h"
#include "server/config/lint.h"
#include "server/config/resolve.h"
#include "server/config/training_arguments.h"

namespace zerocast {
namespace {

void Check(bool holds, absl::string_view promise, absl::string_view what) {
  if (holds) return;
  std::fprintf(stderr, "%s: %.*s\n", std::string(promise).c_str(),
               static_cast<int>(what.size() < 2000 ? what.size() : 2000), what.data());
  std::abort();
}

// What is true of every value that was read.
void CheckValue(const ConfigValue& value) {
  const std::string text = WriteJson(value);
  JsonLimits limits;
  limits.max_bytes = text.size();
  const auto again = ReadJson(text, "again", limits);
  Check(again.ok() && again->value == value, "what is written reads back", text);
  Check(DiffConfigs(value, value).empty(), "nothing differs from itself", text);
  Check(ContentHash(again->value) == ContentHash(value), "the hash is of the value", text);
}

void LintAndEstimate(const ConfigValue& config, bool resolved, uint8_t options) {
  LintRequest lint;
  lint.config = &config;
  lint.deepspeed_version = std::string(kDeepSpeedVersions[options % 9]);
  lint.resolved = resolved;
  if ((options & 16) != 0) lint.world_size = 8;
  Check(LintConfig(lint).ok(), "lint reads every config", "");
  EstimateRequest estimate;
  estimate.config = config;
  estimate.model.num_parameters = 12345;
  if ((options & 32) != 0) estimate.model.parameters = {12000, 300, 45};
  estimate.world_size = 3;
  (void)EstimateMemory(estimate);
}

void Resolve(const std::string& config, const std::string& arguments, const std::string& model,
             uint8_t options) {
  ResolveRequest request;
  request.config = config;
  const auto read = ReadTrainingArguments(arguments);
  if (read.ok()) request.arguments = *read;
  const auto model_config = ReadModelConfig(model, "model_config");
  if (model_config.ok()) {
    CheckValue(*model_config);
    request.model_config = *model_config;
  }
  if ((options & 1) != 0) request.num_training_steps = 1000;
  request.inference = (options & 2) != 0;
  request.auto_find_batch_size = (options & 4) != 0;
  request.allow_extensions = (options & 8) != 0;
  if ((options & 16) != 0) request.dialect = "5.1.0";
  if ((options & 32) != 0) request.deepspeed_version = "0.19.8";
  const auto resolution = ResolveConfig(request);
  if (!resolution.ok()) return;
  const ConfigValue& root = resolution->config.root();
  CheckValue(root);
  LintAndEstimate(root, true, options);
  if (resolution->error.has_value()) {
    Check(!resolution->error->type.empty() && !resolution->status().ok(), "an error is whole",
          config);
    return;
  }
  ResolveRequest second = request;
  second.config = root;
  const auto again = ResolveConfig(second);
  Check(again.ok() && again->status().ok() && again->config.root() == root,
        "resolving a resolved config changes nothing", config);
}

}  // namespace
}  // namespace zerocast

// A byte of options, then up to three texts with a byte 0xFF between: config, arguments, model.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const uint8_t options = data[0];
  const absl::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  std::string parts[3];
  size_t begin = 0;
  for (std::string& part : parts) {
    const size_t end = text.find('\xff', begin);
    part = std::string(text.substr(begin, end - begin));
    if (end == absl::string_view::npos) break;
    begin = end + 1;
  }
  const auto document = zerocast::ReadJson(parts[0], "config");
  if (document.ok()) {
    zerocast::CheckValue(document->value);
    zerocast::LintAndEstimate(document->value, false, options);
    (void)zerocast::ReadModelSize(document->value);
  }
  zerocast::Resolve(parts[0], parts[1], parts[2], options);
  return 0;
}
