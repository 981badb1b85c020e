#include "server/config/hidden_size.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/config/json_reader.h"
#include "server/config/python_error.h"
#include "server/config/python_format.h"
#include "server/config/python_number.h"

namespace zerocast {
namespace {

// max(values).
absl::StatusOr<ConfigValue> Largest(const ConfigValue& values) {
  const ConfigValue::Array* array = values.array();
  if (array == nullptr) {
    return PythonError("TypeError",
                       absl::StrCat("'", PythonTypeName(values), "' object is not iterable"));
  }
  if (array->empty()) return PythonError("ValueError", "max() iterable argument is empty");
  const ConfigValue* largest = &array->front();
  for (const ConfigValue& value : *array) {
    if (&value == largest) continue;
    ZC_ASSIGN_OR_RETURN(const bool greater, PythonGreater(value, *largest));
    if (greater) largest = &value;
  }
  return *largest;
}

}  // namespace

absl::StatusOr<ConfigValue> ReadModelConfig(absl::string_view json) {
  JsonLimits limits;
  limits.max_bytes = size_t{4} << 20;
  ZC_ASSIGN_OR_RETURN(JsonDocument document, ReadJson(json, "model_config", limits));
  if (document.value.object() == nullptr) {
    return InvalidFields({{"model_config", absl::StrCat("must be an object, was of type ",
                                                        PythonTypeName(document.value))}});
  }
  return std::move(document.value);
}

absl::StatusOr<HiddenSize> FindHiddenSize(const ConfigValue& model_config) {
  const ConfigValue* text_config = model_config.Find("text_config");
  struct Place {
    const ConfigValue* node;
    absl::string_view prefix;
  };
  for (const Place& place : {Place{&model_config, ""}, Place{text_config, "text_config."}}) {
    if (place.node == nullptr) continue;
    if (const ConfigValue* size = place.node->Find("hidden_size")) {
      return HiddenSize{*size, absl::StrCat(place.prefix, "hidden_size")};
    }
    if (const ConfigValue* sizes = place.node->Find("hidden_sizes")) {
      const std::string path = absl::StrCat(place.prefix, "hidden_sizes");
      auto largest = Largest(*sizes);
      if (!largest.ok()) {
        return WithViolations(largest.status(),
                              {{absl::StrCat("model_config.", path), "must be a list of numbers"}});
      }
      return HiddenSize{*std::move(largest), absl::StrCat("max(", path, ")")};
    }
  }
  return HiddenSize{};
}

}  // namespace zerocast
