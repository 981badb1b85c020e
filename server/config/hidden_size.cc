#include "server/config/hidden_size.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/config/hidden_size_table.h"
#include "server/config/json_reader.h"
#include "server/config/python_error.h"
#include "server/config/python_format.h"
#include "server/config/python_number.h"

namespace zerocast {
namespace {

// What Python iterates over: a list's elements, a dict's keys, a string's characters.
absl::StatusOr<ConfigValue::Array> Elements(const ConfigValue& values) {
  if (const ConfigValue::Array* array = values.array()) return *array;
  ConfigValue::Array out;
  if (const ConfigValue::Object* members = values.object()) {
    for (const ConfigMember& member : *members) out.emplace_back(member.key);
  } else if (const std::string* text = values.text()) {
    for (size_t begin = 0; begin < text->size();) {
      size_t end = begin + 1;
      while (end < text->size() && (static_cast<uint8_t>((*text)[end]) & 0xC0) == 0x80) ++end;
      out.emplace_back(text->substr(begin, end - begin));
      begin = end;
    }
  } else {
    return PythonError("TypeError",
                       absl::StrCat("'", PythonTypeName(values), "' object is not iterable"));
  }
  return out;
}

// max(values).
absl::StatusOr<ConfigValue> Largest(const ConfigValue& values) {
  ZC_ASSIGN_OR_RETURN(const ConfigValue::Array elements, Elements(values));
  if (elements.empty()) return PythonError("ValueError", "max() arg is an empty sequence");
  const ConfigValue* largest = &elements.front();
  for (size_t i = 1; i < elements.size(); ++i) {
    ZC_ASSIGN_OR_RETURN(const bool greater, PythonGreater(elements[i], *largest));
    if (greater) largest = &elements[i];
  }
  return *largest;
}

}  // namespace

absl::StatusOr<ConfigValue> ReadModelConfig(absl::string_view json, absl::string_view field) {
  JsonLimits limits;
  limits.max_bytes = size_t{16} << 20;
  ZC_ASSIGN_OR_RETURN(JsonDocument document, ReadJson(json.empty() ? "null" : json, field, limits));
  if (document.value.object() != nullptr) return std::move(document.value);
  if (document.value.is_null()) return ConfigValue();
  return InvalidFields({{std::string(field), absl::StrCat("must be an object, was of type ",
                                                          PythonTypeName(document.value))}});
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

HiddenSize FindHiddenSizeByType(const ConfigValue& model_config) {
  const ConfigValue* type = model_config.Find("model_type");
  if (type == nullptr || type->text() == nullptr) return {};
  const HiddenSizeEntry* entry = FindHiddenSizeEntry(*type->text());
  if (entry == nullptr) return {};
  const bool in_text = entry->place == HiddenSizeEntry::Place::kText;
  const ConfigValue* node = in_text ? model_config.Find("text_config") : &model_config;
  const bool absent = node == nullptr || node->is_null();
  if (!absent && !entry->alias.empty()) {
    if (const ConfigValue* size = node->Find(entry->alias)) {
      const ConfigInteger* integer = size->integer();
      if (integer == nullptr || integer->negative() || integer->zero()) return {};
      return {*size, absl::StrCat(in_text ? "text_config." : "", entry->alias, " (model_type ",
                                  entry->model_type, ")")};
    }
  }
  // What is written, and null or of no use, is not as the class would have it.
  for (const char* key : {"hidden_size", "hidden_sizes"}) {
    if (!absent && node->Find(key) != nullptr) return {};
  }
  return {ConfigValue(entry->default_size),
          absl::StrCat("default of model_type ", entry->model_type)};
}

}  // namespace zerocast
