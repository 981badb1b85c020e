#include "server/conversion/model_spec.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "nlohmann/json.hpp"
#include "server/conversion/json_fields.h"
#include "server/conversion/rule_json.h"

namespace zerocast {
namespace {

using nlohmann::json;

absl::StatusOr<std::vector<SpecTensor>> TensorsFromJson(const json* value, absl::string_view path) {
  std::vector<SpecTensor> tensors;
  if (value == nullptr) return tensors;
  if (!value->is_array()) return JsonError(path, "must be a list of tensors");
  tensors.reserve(value->size());
  for (size_t i = 0; i < value->size(); ++i) {
    const std::string item = absl::StrCat(path, "[", i, "]");
    JsonFields fields((*value)[i], item);
    SpecTensor tensor;
    std::string dtype;
    fields.Get("name", &tensor.name).Get("shape", &tensor.shape).Get("dtype", &dtype);
    ZC_RETURN_IF_ERROR(fields.status());
    if (tensor.name.empty()) return JsonError(item, "needs a name");
    if (fields.Find("shape") == nullptr) return JsonError(item, "needs a shape");
    tensor.dtype = DTypeFromName(dtype.c_str());
    if (tensor.dtype == DType::kInvalid) {
      return JsonError(absl::StrCat(item, ".dtype"),
                       absl::StrCat("'", dtype, "' is not a dtype of torch"));
    }
    int64_t numel = 1;
    for (int64_t size : tensor.shape) {
      if (size < 0 || __builtin_mul_overflow(numel, size, &numel)) {
        return JsonError(absl::StrCat(item, ".shape"),
                         "must be sizes >= 0 whose product fits 64 bits");
      }
    }
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

json TensorsToJson(const std::vector<SpecTensor>& tensors) {
  json list = json::array();
  for (const SpecTensor& tensor : tensors) {
    list.push_back(
        {{"name", tensor.name}, {"shape", tensor.shape}, {"dtype", DTypeName(tensor.dtype)}});
  }
  return list;
}

absl::Status ReadTied(const json* value, std::map<std::string, std::string>* tied) {
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_object()) return JsonError("tied", "must be an object of names");
  for (const auto& [alias, holder] : value->items()) {
    if (!holder.is_string()) return JsonError(absl::StrCat("tied.", alias), "must be a string");
    (*tied)[alias] = holder.get<std::string>();
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelSpec> ParseModelSpec(absl::string_view text) {
  const json value = json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded()) return JsonError("model spec", "is not JSON");
  JsonFields fields(value, "model spec");
  ModelSpec spec;
  fields.Get("architecture", &spec.architecture).Get("model_type", &spec.model_type);
  fields.Get("dialect", &spec.dialect);
  spec.has_base_model_prefix = fields.Find("base_model_prefix") != nullptr;
  fields.Get("base_model_prefix", &spec.base_model_prefix);
  fields.Get("keys_to_ignore_on_load_missing", &spec.ignore_missing);
  fields.Get("keys_to_ignore_on_load_unexpected", &spec.ignore_unexpected);
  ZC_RETURN_IF_ERROR(fields.status());
  ZC_RETURN_IF_ERROR(ReadTied(fields.Find("tied"), &spec.tied));
  if (const json* transforms = fields.Find("transforms"); transforms != nullptr) {
    ZC_ASSIGN_OR_RETURN(spec.transforms, RulesFromJson(*transforms, "transforms"));
  } else {
    spec.transforms_from_table = true;
  }
  if (fields.Find("params") == nullptr) return JsonError("params", "is required");
  ZC_ASSIGN_OR_RETURN(spec.params, TensorsFromJson(fields.Find("params"), "params"));
  ZC_ASSIGN_OR_RETURN(spec.buffers, TensorsFromJson(fields.Find("buffers"), "buffers"));
  return spec;
}

std::string ModelSpecToJson(const ModelSpec& spec) {
  json value;
  value["architecture"] = spec.architecture;
  value["model_type"] = spec.model_type;
  if (spec.has_base_model_prefix) value["base_model_prefix"] = spec.base_model_prefix;
  value["tied"] = json::object();
  for (const auto& [alias, holder] : spec.tied) value["tied"][alias] = holder;
  if (!spec.dialect.empty()) value["dialect"] = spec.dialect;
  if (!spec.transforms_from_table) {
    json transforms = json::array();
    for (const Rule& rule : spec.transforms) transforms.push_back(RuleToJson(rule));
    value["transforms"] = std::move(transforms);
  }
  value["params"] = TensorsToJson(spec.params);
  value["buffers"] = TensorsToJson(spec.buffers);
  value["keys_to_ignore_on_load_missing"] = spec.ignore_missing;
  value["keys_to_ignore_on_load_unexpected"] = spec.ignore_unexpected;
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace zerocast
