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

// Reads a model's config.json: an object of at most 16 MiB (those with a tokenizer's or a
// quantizer's lists in them reach megabytes); null for "" and null.  Errors: INVALID_ARGUMENT
// naming `field`.
absl::StatusOr<ConfigValue> ReadModelConfig(absl::string_view json, absl::string_view field);

// The hidden size of a model's config.json, as trainer_config_finalize looks for it: hidden_size
// where there is one (even null), else the largest of hidden_sizes, else the same two in
// text_config. PythonError where hidden_sizes has no largest element.
absl::StatusOr<HiddenSize> FindHiddenSize(const ConfigValue& model_config);

// Our own addition, where FindHiddenSize finds none: the name that the model's config.json has for
// it ("d_model", by model_type, also in text_config), else the default of the model type's class,
// which config.json may leave out.  The sources are "d_model (model_type bart)" and "default of
// model_type bart".  Null where the type is unknown, has no hidden size, or names one that is no
// integer above 0.
HiddenSize FindHiddenSizeByType(const ConfigValue& model_config);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONFIG_HIDDEN_SIZE_H_
