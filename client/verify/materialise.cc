#include "client/verify/materialise.h"

#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "client/verify/natural_order.h"
#include "client/verify/operations.h"
#include "kernels/base/status_macros.h"
#include "nlohmann/json.hpp"
#include "server/base/errors.h"
#include "server/base/python_json.h"
#include "server/conversion/choose_rules.h"
#include "server/conversion/convert.h"
#include "server/conversion/quantization.h"
#include "server/conversion/rename.h"

namespace zerocast::verify {
namespace {

using nlohmann::json;

// The tensors that one run of a rule's operations gets, or one renamed tensor.
struct Group {
  std::string name;  // in the model, of the first tensor
  int rule = -1;
  // Pattern (a renamed tensor's own key) and indexes of tensors, both in the order of collection.
  std::vector<std::pair<std::string, std::vector<size_t>>> collected;
};

class Materialiser {
 public:
  Materialiser(const MaterialiseInput& input,
               absl::FunctionRef<absl::Status(MaterialisedTarget)> sink,
               std::map<std::string, std::string>* unfilled)
      : input_(input), sink_(sink), unfilled_(*unfilled) {}

  absl::Status Run() {
    ZC_RETURN_IF_ERROR(ReadConfig());
    ListModel();
    ZC_RETURN_IF_ERROR(ListRules());
    const ModelSpec* const spec = input_.spec;
    ZC_ASSIGN_OR_RETURN(
        Renamer renamer,
        Renamer::Create(rules_, dialect_, spec != nullptr && spec->has_base_model_prefix,
                        spec == nullptr ? "" : spec->base_model_prefix));
    ZC_RETURN_IF_ERROR(Collect(&renamer));
    for (const Group& group : groups_) ZC_RETURN_IF_ERROR(Materialise(group, renamer));
    // A tied weight that only its alias brought.
    for (auto& [holder, target] : from_alias_) {
      if (!given_.contains(holder)) ZC_RETURN_IF_ERROR(sink_(std::move(target)));
    }
    return absl::OkStatus();
  }

 private:
  absl::Status ReadConfig() {
    if (input_.files->config_json.empty()) return absl::OkStatus();
    config_ = json::parse(NullForPythonConstants(input_.files->config_json), nullptr,
                          /*allow_exceptions=*/false);
    if (config_.is_discarded() || !config_.is_object()) {
      return absl::InvalidArgumentError("read the checkpoint's config.json: not a JSON object");
    }
    return absl::OkStatus();
  }

  void ListModel() {
    if (input_.spec == nullptr) return;
    for (const SpecTensor& tensor : input_.spec->params) shapes_[tensor.name] = tensor.shape;
    for (const SpecTensor& tensor : input_.spec->buffers) shapes_[tensor.name] = tensor.shape;
    for (const auto& [alias, _] : input_.spec->tied) {
      if (const auto found = shapes_.find(Holder(alias)); found != shapes_.end()) {
        shapes_.emplace(alias, found->second);
      }
    }
  }

  absl::Status ListRules() {
    RuleChoice choice;
    choice.config_json = input_.files->config_json;
    choice.spec = input_.spec;
    choice.key_mapping = input_.key_mapping;
    choice.dialect = input_.dialect;
    choice.rule_table_json = input_.rule_table_json;
    ZC_ASSIGN_OR_RETURN(ConversionRules chosen, ChooseRules(choice));
    rules_ = std::move(chosen.rules);
    dialect_ = std::move(chosen.dialect);
    quantization_ = chosen.quantization;
    return absl::OkStatus();
  }

  bool IsTarget(const std::string& name) const {
    return input_.spec == nullptr || shapes_.count(name) != 0;
  }

  absl::Status Collect(Renamer* renamer) {
    std::vector<std::string> keys;
    for (const StoredTensor& stored : input_.files->tensors) keys.push_back(stored.name);
    const auto in_model = [this](absl::string_view name) {
      return shapes_.count(std::string(name)) != 0;
    };
    absl::flat_hash_map<std::string, size_t> group_of;
    for (size_t i : NaturallySorted(keys, dialect_.natural_key_v2)) {
      ZC_ASSIGN_OR_RETURN(const RenamedKey key, renamer->Rename(keys[i], in_model));
      if (!IsTarget(key.with_prefix)) continue;  // unexpected
      const auto [place, inserted] = group_of.try_emplace(key.with_prefix, groups_.size());
      if (inserted) groups_.push_back({key.with_prefix, key.owner, {}});
      Group& group = groups_[place->second];
      const std::string pattern =
          key.rule < 0 ? keys[i] : renamer->rule(key.rule).sources()[key.source];
      bool found = false;
      for (auto& [other, tensors] : group.collected) {
        if (other != pattern) continue;
        tensors.push_back(i);
        found = true;
      }
      if (!found) group.collected.push_back({pattern, {i}});
    }
    return absl::OkStatus();
  }

  absl::Status Materialise(const Group& group, const Renamer& renamer) {
    std::vector<NamedTensors> named;
    for (const auto& [pattern, tensors] : group.collected) {
      named.push_back({pattern, {}, /*single=*/false});
      for (size_t i : tensors) {
        ZC_ASSIGN_OR_RETURN(Tensor tensor, ReadTensor(input_.files->tensors[i]));
        named.back().tensors.push_back(std::move(tensor));
      }
    }
    if (group.rule < 0) {
      if (const absl::Status status = CheckDecoded(named); !status.ok()) {
        unfilled_[group.name] = std::string(status.message());
        return absl::OkStatus();
      }
      if (named.size() != 1 || named[0].tensors.size() != 1) {
        unfilled_[group.name] = "several tensors of the checkpoint claim this name";
        return absl::OkStatus();
      }
      return Give({group.name, std::move(named[0].tensors[0]), /*renamed_only=*/true});
    }
    const absl::Status run = RunOperations(group, renamer.rule(group.rule), &named);
    if (!run.ok()) {
      unfilled_[group.name] = std::string(run.message());
      return absl::OkStatus();
    }
    return GiveResults(group, std::move(named));
  }

  absl::Status RunOperations(const Group& group, const CompiledRule& rule,
                             std::vector<NamedTensors>* named) const {
    for (const NamedTensors& one : *named) {
      bool known = false;
      for (const std::string& source : rule.sources()) known = known || source == one.pattern;
      if (!known) {
        return absl::InvalidArgumentError(
            absl::StrCat("the conversion has no place for '", one.pattern, "'"));
      }
    }
    const OperationContext context{rule.sources(), rule.targets(), group.name,
                                   &shapes_,       &config_,       input_.decode_to};
    const std::vector<Op>& ops = rules_[group.rule].ops;
    for (size_t i = 0; i < ops.size(); ++i) {
      const bool decodes =
          ops[i].kind == OpKind::kFp8Dequantize || ops[i].kind == OpKind::kMxfp4Dequantize;
      if (i == 0 && !decodes) ZC_RETURN_IF_ERROR(CheckDecoded(*named));
      ZC_ASSIGN_OR_RETURN(*named, RunOperation(ops[i], std::move(*named), context));
      if (decodes) ZC_RETURN_IF_ERROR(CheckDecoded(*named));
    }
    return absl::OkStatus();
  }

  // In a checkpoint of 8-bit floats with scales none is left: its values would be wrong.
  absl::Status CheckDecoded(const std::vector<NamedTensors>& named) const {
    if (quantization_ != Quantization::kFp8) return absl::OkStatus();
    for (const NamedTensors& one : named) {
      for (const Tensor& tensor : one.tensors) {
        if (!IsFloat8(tensor.dtype)) continue;
        return absl::InvalidArgumentError(
            absl::StrCat("'", one.pattern, "' is stored as ", DTypeName(tensor.dtype),
                         ", and the checkpoint has no scales for it"));
      }
    }
    return absl::OkStatus();
  }

  // Results are named by the rule's targets, which say only a part of a name; the rest is what
  // surrounds that part in the group's name.
  absl::Status GiveResults(const Group& group, std::vector<NamedTensors> results) {
    const std::string full = dialect_.generation == 1
                                 ? absl::StrReplaceAll(group.name, {{".*.", ".0."}})
                                 : absl::StrReplaceAll(group.name, {{"*.", "0."}});
    std::string before, after;
    for (const NamedTensors& result : results) {
      const size_t at = full.find(result.pattern);
      if (at == std::string::npos) continue;
      before = full.substr(0, at);
      after = full.substr(at + result.pattern.size());
      break;
    }
    // One piece of another size than the model's means that all pieces were cut in wrong places.
    bool cut_wrong = false;
    for (NamedTensors& result : results) {
      result.pattern = absl::StrCat(before, result.pattern, after);
      const auto shape = shapes_.find(result.pattern);
      if (results.size() > 1 && shape != shapes_.end() &&
          shape->second != result.tensors[0].shape) {
        cut_wrong = true;
      }
    }
    for (NamedTensors& result : results) {
      if (!IsTarget(result.pattern)) continue;
      if (cut_wrong) {
        unfilled_[result.pattern] = "the sources do not have the size of all of their targets";
        continue;
      }
      ZC_RETURN_IF_ERROR(Give({result.pattern, std::move(result.tensors[0]), false}));
    }
    return absl::OkStatus();
  }

  // The name that holds the weight of `name`.  Ties may be chained; a circle has no holder.
  const std::string& Holder(const std::string& name) const {
    const std::string* holder = &name;
    for (size_t steps = 0; steps <= input_.spec->tied.size(); ++steps) {
      const auto tied = input_.spec->tied.find(*holder);
      if (tied == input_.spec->tied.end()) return *holder;
      holder = &tied->second;
    }
    return name;
  }

  absl::Status Give(MaterialisedTarget target) {
    if (input_.spec == nullptr) return sink_(std::move(target));
    const auto shape = shapes_.find(target.name);
    if (shape == shapes_.end() || shape->second != target.tensor.shape) {
      unfilled_[Holder(target.name)] =
          absl::StrCat("the checkpoint has shape ", ShapeText(target.tensor.shape), ", the model ",
                       shape == shapes_.end() ? "none" : ShapeText(shape->second));
      return absl::OkStatus();
    }
    const std::string holder = Holder(target.name);
    if (holder != target.name) {
      target.name = holder;
      from_alias_.emplace(holder, std::move(target));
      return absl::OkStatus();
    }
    given_.insert(target.name);
    return sink_(std::move(target));
  }

  const MaterialiseInput& input_;
  const absl::FunctionRef<absl::Status(MaterialisedTarget)> sink_;
  std::map<std::string, std::string>& unfilled_;
  json config_ = json::object();
  std::map<std::string, Shape> shapes_;  // of the model; empty without a spec
  std::vector<Rule> rules_;
  Dialect dialect_;
  Quantization quantization_ = Quantization::kNone;
  std::vector<Group> groups_;
  absl::flat_hash_set<std::string> given_;
  std::map<std::string, MaterialisedTarget> from_alias_;  // by the holder's name
};

}  // namespace

absl::Status MaterialiseTargets(const MaterialiseInput& input,
                                absl::FunctionRef<absl::Status(MaterialisedTarget)> sink,
                                std::map<std::string, std::string>* unfilled) {
  return Materialiser(input, sink, unfilled).Run();
}

absl::StatusOr<std::vector<Rule>> RenamesFromKeyMapping(const std::string& text) {
  std::vector<Rule> rules;
  if (text.empty()) return rules;
  const auto mapping = nlohmann::ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (mapping.is_discarded() || !mapping.is_object()) {
    return absl::InvalidArgumentError("read the key mapping: not one JSON object");
  }
  for (const auto& [pattern, target] : mapping.items()) {
    if (!target.is_string()) {
      return absl::InvalidArgumentError(
          absl::StrCat("read the key mapping: '", pattern, "' does not map to a string"));
    }
    Rule rule;
    rule.kind = RuleKind::kRename;
    rule.from = {pattern};
    rule.to = {target.get<std::string>()};
    rules.push_back(std::move(rule));
  }
  return rules;
}

}  // namespace zerocast::verify
