#include "client/cli/checkpoint_optimizer.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/formats/deepspeed/pickle_view.h"
#include "kernels/base/status_macros.h"

namespace zerocast {
namespace {

using Json = nlohmann::ordered_json;

// A number, text, truth value, None or a list of these; false for anything else.
bool ToJsonValue(const PickleGraph& graph, PickleId id, bool lists, Json* value) {
  const PickleNode& node = graph.node(id);
  switch (node.kind) {
    case PickleKind::kNone:
      *value = nullptr;
      return true;
    case PickleKind::kBool:
      *value = node.integer != 0;
      return true;
    case PickleKind::kInteger:
      *value = node.integer;
      return true;
    case PickleKind::kFloat:
      // JSON has neither infinity nor NaN.
      if (!std::isfinite(node.real)) return false;
      *value = node.real;
      return true;
    case PickleKind::kText:
      *value = std::string(node.text);
      return true;
    case PickleKind::kList:
    case PickleKind::kTuple: {
      if (!lists) return false;
      *value = Json::array();
      for (const PickleId item : node.items) {
        Json one;
        if (!ToJsonValue(graph, item, /*lists=*/false, &one)) return false;
        value->push_back(std::move(one));
      }
      return true;
    }
    default:
      return false;
  }
}

}  // namespace

Json OptimizerGroup::ToJson() const {
  Json json = {{"parameters", num_parameters}, {"elements", num_elements}};
  json.update(values);
  return json;
}

std::string OptimizerGroup::Text(const std::string& name) const {
  const auto found = values.find(name);
  if (found == values.end() || found->is_null()) return "-";
  if (found->is_number_float()) return absl::StrFormat("%.6g", found->get<double>());
  return found->is_string() ? found->get<std::string>() : found->dump();
}

absl::StatusOr<std::vector<OptimizerGroup>> OptimizerGroups(const ZeroCheckpoint& checkpoint) {
  const TorchFile& file = *checkpoint.optimizer_file;
  const PickleGraph& graph = file.graph();
  const PickleView view(file);
  PickleId param_groups = kNoValue;
  if (checkpoint.is_universal) {
    param_groups = graph.Find(file.root(), "param_groups");
  } else {
    const PickleId states = graph.Find(file.root(), "optimizer_state_dict");
    param_groups = graph.Find(
        graph.Find(states, checkpoint.stage == 3 ? "optimizer_state_dict" : "base_optimizer_state"),
        "param_groups");
  }
  std::vector<OptimizerGroup> groups;
  // An optimizer whose own state was not saved.
  if (param_groups == kNoValue) return groups;
  ZC_ASSIGN_OR_RETURN(const std::vector<PickleId> list, view.List(param_groups, "param_groups"));
  for (const PickleId id : list) {
    ZC_ASSIGN_OR_RETURN(const auto entries,
                        view.Dict(id, absl::StrCat("param_groups[", groups.size(), "]")));
    OptimizerGroup group;
    for (const auto& [name, value] : entries) {
      Json json;
      if (name != "params" && ToJsonValue(graph, value, /*lists=*/true, &json)) {
        group.values[name] = std::move(json);
      }
    }
    groups.push_back(std::move(group));
  }
  for (const ZeroParameter& parameter : checkpoint.parameters) {
    const auto index = static_cast<size_t>(parameter.group);
    if (parameter.group < 0 || index >= groups.size()) continue;
    ++groups[index].num_parameters;
    groups[index].num_elements += parameter.num_elements;
  }
  return groups;
}

}  // namespace zerocast
