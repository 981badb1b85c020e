#include "server/plan/plan.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "nlohmann/json.hpp"
#include "server/base/errors.h"
#include "server/conversion/convert.h"
#include "server/plan/assemble.h"
#include "server/plan/check_layout.h"
#include "server/plan/model.h"

namespace zerocast {
namespace {

// The release whose matching rules hold (semantics of model specs and of the built-in catalogue).
constexpr char kDialect[] = "5.23.0";

// What config.json says about the model's class; empty where it says nothing.
struct ConfigNames {
  std::string architecture;
  std::string model_type;
};

absl::StatusOr<ConfigNames> ReadConfigNames(const std::string& config_json) {
  ConfigNames names;
  if (config_json.empty()) return names;
  // What lies deeper than a list of the top level is not needed, and hostile depth costs nothing.
  const auto keep_shallow = [](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
    return depth <= 2;
  };
  const nlohmann::json config =
      nlohmann::json::parse(config_json, keep_shallow, /*allow_exceptions=*/false);
  if (!config.is_object()) {
    return WithReason(
        absl::InvalidArgumentError("read the checkpoint's config.json: it is not a JSON object"),
        "INVALID_FIELDS");
  }
  const auto type = config.find("model_type");
  if (type != config.end() && type->is_string()) names.model_type = type->get<std::string>();
  const auto classes = config.find("architectures");
  if (classes != config.end() && classes->is_array() && !classes->empty() &&
      classes->front().is_string()) {
    names.architecture = classes->front().get<std::string>();
  }
  return names;
}

absl::StatusOr<ConversionRules> ModelRules(const Manifest& manifest, const ModelSpec* spec,
                                           const std::vector<Rule>& key_mapping) {
  ConversionRules rules;
  rules.config_json = manifest.config_json;
  ZC_ASSIGN_OR_RETURN(rules.dialect, CatalogueDialect(kDialect));
  rules.rules = key_mapping;
  if (spec != nullptr) {
    rules.rules.insert(rules.rules.end(), spec->transforms.begin(), spec->transforms.end());
    rules.base_model_prefix = spec->base_model_prefix;
    rules.has_base_model_prefix = spec->has_base_model_prefix;
    return rules;
  }
  ZC_ASSIGN_OR_RETURN(const ConfigNames names, ReadConfigNames(manifest.config_json));
  ZC_ASSIGN_OR_RETURN(std::vector<Rule> built_in,
                      CatalogueRules(names.architecture, names.model_type, kDialect));
  for (Rule& rule : built_in) rules.rules.push_back(std::move(rule));
  return rules;
}

// The model's rules, decoding first where the checkpoint is quantised.
absl::StatusOr<ConversionRules> MakeRules(const Manifest& manifest, const ModelSpec* spec,
                                          const std::vector<Rule>& key_mapping,
                                          absl::Span<const SpecTensor> names) {
  ZC_ASSIGN_OR_RETURN(ConversionRules rules, ModelRules(manifest, spec, key_mapping));
  ZC_ASSIGN_OR_RETURN(rules.quantization, ReadQuantization(manifest.config_json));
  rules.rules = QuantizedRules(rules.quantization, std::move(rules.rules), names);
  return rules;
}

}  // namespace

absl::StatusOr<Plan> CompilePlan(std::shared_ptr<const Manifest> manifest, const ModelSpec* spec,
                                 const std::vector<Rule>& key_mapping, const Layout& layout,
                                 Report* report) {
  ZC_RETURN_IF_ERROR(CheckLayout(layout, spec != nullptr));
  std::optional<Model> model;
  if (spec != nullptr) {
    ZC_ASSIGN_OR_RETURN(model, MakeModel(*spec));
  }
  absl::Span<const SpecTensor> names;
  if (model.has_value()) names = model->names;
  ZC_ASSIGN_OR_RETURN(const ConversionRules rules, MakeRules(*manifest, spec, key_mapping, names));
  std::vector<SourceTensor> sources;
  sources.reserve(manifest->tensors.size());
  for (const ManifestTensor& tensor : manifest->tensors) sources.push_back(tensor.tensor);
  ZC_RETURN_IF_ERROR(CheckQuantized(rules.quantization, sources, names));
  ConversionInput input;
  input.sources = sources;
  input.rules = &rules;
  input.model = names;
  input.any_name = spec == nullptr;
  ZC_ASSIGN_OR_RETURN(Conversion conversion, Convert(input));
  ZC_ASSIGN_OR_RETURN(Plan plan,
                      AssemblePlan(std::move(manifest), spec, model.has_value() ? &*model : nullptr,
                                   std::move(conversion), layout, report));
  ZC_RETURN_IF_ERROR(ProvePlan(plan));
  plan.digest = PlanDigest(plan);
  return plan;
}

}  // namespace zerocast
