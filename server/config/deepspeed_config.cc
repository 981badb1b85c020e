#include "server/config/deepspeed_config.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/config/python_error.h"
#include "server/config/python_format.h"

namespace zerocast {
namespace {

// Walks all names of `key` but the last; null where a node is absent or null.
absl::StatusOr<const ConfigValue*> Walk(const ConfigValue& root, absl::string_view key) {
  const ConfigValue* node = &root;
  size_t begin = 0;
  for (size_t dot = key.find('.'); dot != absl::string_view::npos; dot = key.find('.', begin)) {
    const absl::string_view path = key.substr(0, begin == 0 ? 0 : begin - 1);
    ZC_ASSIGN_OR_RETURN(node, PythonGet(*node, key.substr(begin, dot - begin), path));
    if (node == nullptr || node->is_null()) return nullptr;
    begin = dot + 1;
  }
  return node;
}

absl::string_view ParentPath(absl::string_view key) {
  const size_t dot = key.rfind('.');
  return dot == absl::string_view::npos ? "" : key.substr(0, dot);
}

absl::string_view LastName(absl::string_view key) { return key.substr(key.rfind('.') + 1); }

}  // namespace

absl::string_view ShortName(TrainingDtype dtype) {
  return dtype == TrainingDtype::kBf16 ? "bf16" : dtype == TrainingDtype::kFp16 ? "fp16" : "fp32";
}

absl::string_view TorchName(TrainingDtype dtype) {
  return dtype == TrainingDtype::kBf16   ? "bfloat16"
         : dtype == TrainingDtype::kFp16 ? "float16"
                                         : "float32";
}

absl::StatusOr<const ConfigValue*> PythonGet(const ConfigValue& node, absl::string_view name,
                                             absl::string_view path) {
  if (node.object() != nullptr) return node.Find(name);
  const absl::string_view type = PythonTypeName(node);
  return WithViolations(
      PythonError("AttributeError", absl::StrCat("'", type, "' object has no attribute 'get'")),
      {{path.empty() ? "config" : std::string(path),
        absl::StrCat("must be an object, was of type ", type)}});
}

absl::StatusOr<DeepSpeedConfig> DeepSpeedConfig::Create(ConfigValue root,
                                                        std::vector<FieldViolation>* violations) {
  DeepSpeedConfig config;
  config.root_ = std::move(root);
  absl::Status first;
  const auto keep = [&](const absl::Status& status) {
    if (first.ok()) first = status;
    if (violations == nullptr) return;
    for (const FieldViolation& violation : ViolationsOf(status)) violations->push_back(violation);
  };
  const auto stage = config.GetValue("zero_optimization.stage");
  if (!stage.ok()) {
    keep(stage.status());
    return first;
  }
  for (const int number : {0, 1, 2, 3}) {
    if (*stage != nullptr && PythonEqual(**stage, ConfigValue(number))) config.stage_ = number;
  }
  if (!config.is_zero2() && !config.is_zero3()) return config;
  constexpr const char* kDevices[] = {"zero_optimization.offload_optimizer.device",
                                      "zero_optimization.offload_param.device"};
  const ConfigValue* devices[] = {nullptr, nullptr};
  for (const int i : {0, 1}) {
    const auto device = config.GetValue(kDevices[i]);
    keep(device.status());
    if (device.ok()) devices[i] = *device;
  }
  // The integration looks up both, then puts them into a set.
  for (const int i : {0, 1}) {
    if (devices[i] == nullptr) continue;
    if (devices[i]->array() != nullptr || devices[i]->object() != nullptr) {
      keep(WithViolations(PythonError("TypeError", absl::StrCat("unhashable type: '",
                                                                PythonTypeName(*devices[i]), "'")),
                          {{kDevices[i], "must be a string"}}));
    }
    config.offload_ |= devices[i]->IsText("cpu") || devices[i]->IsText("nvme");
  }
  if (!first.ok()) return first;
  return config;
}

absl::StatusOr<ConfigValue*> DeepSpeedConfig::FindConfigNode(absl::string_view key) {
  ZC_ASSIGN_OR_RETURN(const ConfigValue* node, Walk(root_, key));
  return const_cast<ConfigValue*>(node);
}

absl::StatusOr<const ConfigValue*> DeepSpeedConfig::GetValue(absl::string_view key) const {
  ZC_ASSIGN_OR_RETURN(const ConfigValue* node, Walk(root_, key));
  if (node == nullptr) return nullptr;
  return PythonGet(*node, LastName(key), ParentPath(key));
}

absl::StatusOr<bool> DeepSpeedConfig::IsTrue(absl::string_view key) const {
  ZC_ASSIGN_OR_RETURN(const ConfigValue* value, GetValue(key));
  return value != nullptr && PythonTruth(*value);
}

absl::StatusOr<bool> DeepSpeedConfig::IsFalse(absl::string_view key) const {
  ZC_ASSIGN_OR_RETURN(const ConfigValue* value, GetValue(key));
  return value != nullptr && !value->is_null() && !PythonTruth(*value);
}

absl::StatusOr<bool> DeepSpeedConfig::IsAuto(absl::string_view key) const {
  ZC_ASSIGN_OR_RETURN(const ConfigValue* value, GetValue(key));
  return value != nullptr && value->IsText("auto");
}

absl::StatusOr<bool> DeepSpeedConfig::DeleteSubTree(absl::string_view key, bool must_exist) {
  ZC_ASSIGN_OR_RETURN(ConfigValue * parent, FindConfigNode(key));
  const ConfigValue* value = nullptr;
  if (parent != nullptr) {
    ZC_ASSIGN_OR_RETURN(value, PythonGet(*parent, LastName(key), ParentPath(key)));
  }
  if (value == nullptr || value->is_null()) {
    if (!must_exist) return false;
    return PythonError(
        "ValueError", absl::StrCat("Can't find ", key, " entry in the config: ", PythonStr(root_)));
  }
  parent->Erase(LastName(key));
  return true;
}

absl::StatusOr<TrainingDtype> DeepSpeedConfig::dtype() const {
  if (dtype_.has_value()) return *dtype_;
  return PythonError("ValueError", "trainer_config_process() wasn't called yet to tell dtype");
}

}  // namespace zerocast
