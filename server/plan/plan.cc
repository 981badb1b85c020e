#include "server/plan/plan.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/conversion/choose_rules.h"
#include "server/conversion/convert.h"
#include "server/plan/assemble.h"
#include "server/plan/check_layout.h"
#include "server/plan/compose.h"
#include "server/plan/model.h"

namespace zerocast {
namespace {

absl::StatusOr<ConversionRules> MakeRules(const Manifest& manifest, const ModelSpec* spec,
                                          const std::vector<Rule>& key_mapping,
                                          const Layout& layout) {
  RuleChoice choice;
  choice.config_json = manifest.config_json;
  choice.spec = spec;
  choice.key_mapping = key_mapping;
  choice.dialect = layout.dialect;
  choice.rule_table_json = layout.rule_table_json;
  return ChooseRules(choice);
}

// The plan of a checkpoint that a training engine saved.
absl::StatusOr<Plan> CompileEnginePlan(std::shared_ptr<const Manifest> manifest,
                                       const ModelSpec* spec, const std::vector<Rule>& key_mapping,
                                       const Layout& layout, Report* report) {
  const EngineCheckpoint& engine = *manifest->engine;
  if (!key_mapping.empty()) {
    return InvalidFields({{"key_mapping", absl::StrCat("is for names of other models; those of ",
                                                       engine.tag, " are the model's own")}});
  }
  std::optional<ModelSpec> own;
  if (spec == nullptr) spec = &own.emplace(SpecOfEngine(engine));
  ZC_ASSIGN_OR_RETURN(const Model model, MakeModel(*spec));
  ZC_ASSIGN_OR_RETURN(Conversion conversion, ComposeWeights(*manifest, model.names));
  Report own_report;
  if (report == nullptr) report = &own_report;
  EngineReport what;
  what.tag = engine.tag;
  what.stage = engine.stage;
  what.world_size = engine.world_size;
  what.is_universal = engine.is_universal;
  what.global_steps = engine.global_steps;
  what.optimizer_step = engine.optimizer_step;
  if (!layout.weights_only) what.states = engine.states;
  absl::StatusOr<Plan> plan =
      AssemblePlan(std::move(manifest), spec, &model, std::move(conversion), layout, report);
  report->engine = what;
  ZC_RETURN_IF_ERROR(plan.status());
  plan->report.engine = std::move(what);
  if (!layout.weights_only) ZC_RETURN_IF_ERROR(AddStateTargets(&*plan));
  return plan;
}

}  // namespace

absl::StatusOr<Plan> CompilePlan(std::shared_ptr<const Manifest> manifest, const ModelSpec* spec,
                                 const std::vector<Rule>& key_mapping, const Layout& layout,
                                 Report* report) {
  ZC_RETURN_IF_ERROR(CheckLayout(layout, spec != nullptr));
  if (manifest->engine.has_value()) {
    ZC_ASSIGN_OR_RETURN(Plan plan,
                        CompileEnginePlan(std::move(manifest), spec, key_mapping, layout, report));
    ZC_RETURN_IF_ERROR(ProvePlan(plan));
    plan.digest = PlanDigest(plan);
    return plan;
  }
  std::optional<Model> model;
  if (spec != nullptr) {
    ZC_ASSIGN_OR_RETURN(model, MakeModel(*spec));
  }
  absl::Span<const SpecTensor> names;
  if (model.has_value()) names = model->names;
  ZC_ASSIGN_OR_RETURN(const ConversionRules rules, MakeRules(*manifest, spec, key_mapping, layout));
  std::vector<SourceTensor> sources;
  sources.reserve(manifest->tensors.size());
  for (const ManifestTensor& tensor : manifest->tensors) sources.push_back(tensor.tensor);
  ZC_RETURN_IF_ERROR(CheckQuantized(rules.quantization, sources, names));
  ConversionInput input;
  input.sources = sources;
  input.rules = &rules;
  input.model = names;
  input.any_name = spec == nullptr;
  input.file_of = [&manifest = *manifest](int32_t source) { return FileOf(manifest, source); };
  ZC_ASSIGN_OR_RETURN(Conversion conversion, Convert(input));
  ZC_ASSIGN_OR_RETURN(Plan plan,
                      AssemblePlan(std::move(manifest), spec, model.has_value() ? &*model : nullptr,
                                   std::move(conversion), layout, report));
  ZC_RETURN_IF_ERROR(ProvePlan(plan));
  plan.digest = PlanDigest(plan);
  return plan;
}

std::shared_ptr<const Plan> ExchangePlan(std::shared_ptr<const Plan> plan) {
  if (plan->layout.device == LoadDevice::kCpu) return plan;
  auto exchange = std::make_shared<Plan>(*plan);
  exchange->layout = ExchangeLayout(std::move(exchange->layout));
  return exchange;
}

}  // namespace zerocast
