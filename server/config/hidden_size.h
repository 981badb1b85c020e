#ifndef ZEROCAST_SERVER_CONFIG_HIDDEN_SIZE_H_
#define ZEROCAST_SERVER_CONFIG_HIDDEN_SIZE_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/config/value.h"

namespace zerocast {

struct HiddenSize {
  ConfigValue value;   // null where the model config has none; else what the model config holds
  std::string source;  // "hidden_size", "max(text_config.hidden_sizes)", ...
};

// Reads a model's config.json: an object of at most 4 MiB (label tables are long). INVALID_ARGUMENT
// naming "model_config" where it is none.
absl::StatusOr<ConfigValue> ReadModelConfig(absl::string_view json);

// The hidden size of a model's config.json, as trainer_config_finalize looks for it: hidden_size
// where there is one (even null), else the largest of hidden_sizes, else the same two in
// text_config. PythonError where hidden_sizes has no largest element.
absl::StatusOr<HiddenSize> FindHiddenSize(const ConfigValue& model_config);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONFIG_HIDDEN_SIZE_H_
