#include "client/formats/deepspeed/export_model.h"

#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/copy/algebra.h"
#include "server/base/errors.h"
#include "server/conversion/reverse.h"

namespace zerocast {
namespace {

constexpr size_t kNamesInMessage = 4;

std::string AbridgedNames(const std::vector<std::string>& names) {
  std::string text;
  for (size_t k = 0; k < names.size() && k < kNamesInMessage; ++k) {
    absl::StrAppend(&text, k == 0 ? "" : ", ", names[k]);
  }
  if (names.size() > kNamesInMessage) {
    absl::StrAppend(&text, " and ", names.size() - kNamesInMessage, " more");
  }
  return text;
}

// Of a consolidation's tensors those to take back.
std::vector<const ModelTensor*> Wanted(const Consolidation& all, const ModelSpec* spec) {
  std::unordered_set<std::string> names;
  if (spec != nullptr) {
    for (const SpecTensor& tensor : spec->params) names.insert(tensor.name);
    for (const SpecTensor& tensor : spec->buffers) names.insert(tensor.name);
  } else {
    for (const ModelTensor& tensor : all.model.tensors) names.insert(tensor.name);
    for (const auto& [alias, name] : all.tied) names.erase(alias);
  }
  std::vector<const ModelTensor*> wanted;
  for (const ModelTensor& tensor : all.model.tensors) {
    if (names.count(tensor.name) > 0) wanted.push_back(&tensor);
  }
  return wanted;
}

}  // namespace

ModelDifferences CompareToSpec(const ZeroCheckpoint& checkpoint, const ModelSpec& spec) {
  std::unordered_map<std::string, const SpecTensor*> model;
  for (const SpecTensor& tensor : spec.params) model.emplace(tensor.name, &tensor);
  for (const SpecTensor& tensor : spec.buffers) model.emplace(tensor.name, &tensor);
  ModelDifferences differences;
  std::unordered_set<std::string> found;
  const auto compare = [&](const std::vector<std::string>& names,
                           const std::vector<int64_t>& shape) {
    bool is_known = false;
    for (const std::string& name : names) {
      const auto tensor = model.find(name);
      if (tensor == model.end()) continue;
      is_known = true;
      found.insert(name);
      if (tensor->second->shape != shape) {
        differences.mismatched.push_back({name, shape, tensor->second->shape});
      }
    }
    if (!is_known) differences.unexpected.push_back(names.front());
  };
  for (const ZeroParameter& parameter : checkpoint.parameters) {
    std::vector<std::string> names = {parameter.name};
    names.insert(names.end(), parameter.aliases.begin(), parameter.aliases.end());
    compare(names, parameter.shape);
  }
  for (const ZeroBuffer& buffer : checkpoint.buffers) compare({buffer.name}, buffer.shape);
  for (const auto* list : {&spec.params, &spec.buffers}) {
    for (const SpecTensor& tensor : *list) {
      if (found.count(tensor.name) > 0) continue;
      // A weight that the spec lists under both of its names.
      const auto tied = spec.tied.find(tensor.name);
      if (tied != spec.tied.end() && found.count(tied->second) > 0) continue;
      differences.missing.push_back(tensor.name);
    }
  }
  return differences;
}

absl::StatusOr<Export> ExportModel(const ZeroCheckpoint& checkpoint, ModelDtype dtype,
                                   const ModelSpec* spec, const ConversionRules& rules) {
  Export result;
  ZC_ASSIGN_OR_RETURN(result.consolidation, Consolidate(checkpoint, dtype, /*one_name=*/false));
  Consolidation& all = result.consolidation;
  if (!all.absent.empty()) {
    return WithReason(
        absl::FailedPreconditionError(absl::StrCat(
            "export ", checkpoint.folder, ", tag ", checkpoint.tag, ": it does not hold ",
            AbridgedNames(all.absent),
            ", frozen parameters that were left out when it was saved (exclude_frozen_parameters); "
            "save it with them, or consolidate it and take them from the model it began with")),
        "WEIGHTS_INCOMPLETE");
  }
  const std::vector<const ModelTensor*> wanted = Wanted(all, spec);
  std::vector<SourceTensor> sources;
  for (const ModelTensor* tensor : wanted) {
    sources.push_back({tensor->name, tensor->dtype, tensor->shape});
  }
  ReverseInput input;
  input.tensors = sources;
  input.rules = &rules;
  ZC_ASSIGN_OR_RETURN(Reversal reversal, Reverse(input));
  result.errors = std::move(reversal.errors);
  std::vector<ModelTensor> tensors;
  for (ConvertedTensor& made : reversal.tensors) {
    ModelTensor tensor{std::move(made.name), std::move(made.shape), made.dtype,
                       std::move(made.boxes)};
    int64_t num_elements = 1;
    for (const int64_t extent : tensor.shape) num_elements *= extent;
    if (const absl::Status covered = ProveCoverage(tensor.boxes, num_elements); !covered.ok()) {
      return WithReason(
          absl::InternalError(absl::StrCat("export ", tensor.name, ": ", covered.message())),
          "INTERNAL");
    }
    for (Box& box : tensor.boxes) {
      box.source = wanted[static_cast<size_t>(box.source)]->boxes.front().source;
    }
    tensors.push_back(std::move(tensor));
  }
  all.model.tensors = std::move(tensors);
  return result;
}

}  // namespace zerocast
