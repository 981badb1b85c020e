#include "server/conversion/reverse.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"
#include "kernels/copy/algebra.h"
#include "nlohmann/json.hpp"
#include "server/base/errors.h"
#include "server/base/python_json.h"
#include "server/conversion/catalogue.h"
#include "server/conversion/decoders.h"
#include "server/conversion/expand_names.h"
#include "server/conversion/lower.h"
#include "server/conversion/natural_key.h"
#include "server/conversion/pattern.h"
#include "server/conversion/promote.h"
#include "server/conversion/rule_json.h"

namespace zerocast {
namespace {

std::string RuleName(const Rule& rule) {
  if (rule.kind == RuleKind::kPrefix) {
    return absl::StrCat("rule that changes the prefix '", rule.prefix_add, rule.prefix_remove, "'");
  }
  return absl::StrCat("rule [", absl::StrJoin(rule.from, ", "), "] -> [",
                      absl::StrJoin(rule.to, ", "), "]");
}

// The tensors that one run of a reversed conversion takes in.
struct Group {
  std::string name;    // after the conversion's patterns
  int converter = -1;  // index into Reverser::converters_; -1: a tensor that is only renamed
  std::vector<std::pair<std::string, std::vector<int32_t>>> collected;  // by pattern
  std::vector<int32_t> sources;
};

class Reverser {
 public:
  explicit Reverser(const ReverseInput& input) : input_(input), rules_(*input.rules) {}

  absl::StatusOr<Reversal> Run() {
    ZC_RETURN_IF_ERROR(ReadConfig());
    for (const SourceTensor& tensor : input_.tensors) shapes_.emplace(tensor.name, &tensor.shape);
    ZC_RETURN_IF_ERROR(CompileRules());
    ZC_RETURN_IF_ERROR(Collect());
    for (const Group& group : groups_) ZC_RETURN_IF_ERROR(RunGroup(group));
    DropContested();
    ZC_RETURN_IF_ERROR(ProveForward());
    return std::move(result_);
  }

 private:
  struct Compiled {
    Rule reversed;
    int original = 0;  // index in rules_.rules
    CompiledRule rule;
  };

  absl::Status ReadConfig() {
    if (rules_.config_json.empty()) return absl::OkStatus();
    config_ = nlohmann::json::parse(NullForPythonConstants(rules_.config_json), nullptr,
                                    /*allow_exceptions=*/false);
    if (config_->is_object()) return absl::OkStatus();
    return absl::InvalidArgumentError("read the checkpoint's config: it is not a JSON object");
  }

  // Without knowledge of what a load needed: neither what only old checkpoints need, nor a prefix
  // that may or may not have been there.
  absl::StatusOr<std::vector<bool>> RulesToReverse() const {
    std::vector<bool> reversed = input_.used_rules;
    if (!reversed.empty()) {
      reversed.resize(rules_.rules.size());
      return reversed;
    }
    // A table of another release has the legacy rules of the built-in one of its generation.
    ZC_ASSIGN_OR_RETURN(
        const std::vector<Rule> always,
        CatalogueRules("", "", rules_.dialect.generation == 1 ? "5.1.0" : kDefaultDialect));
    std::vector<nlohmann::json> legacy;
    for (const Rule& rule : always) legacy.push_back(RuleToJson(rule));
    for (const Rule& rule : rules_.rules) {
      const bool is_legacy =
          std::find(legacy.begin(), legacy.end(), RuleToJson(rule)) != legacy.end();
      reversed.push_back(!is_legacy && rule.kind != RuleKind::kPrefix);
    }
    return reversed;
  }

  absl::Status CompileRules() {
    ZC_ASSIGN_OR_RETURN(const std::vector<bool> wanted, RulesToReverse());
    const bool first_release = rules_.dialect.generation == 1;
    for (size_t i = 0; i < rules_.rules.size(); ++i) {
      // The first release keeps the order of the rules, the second goes from the last to the first.
      const size_t index = first_release ? i : rules_.rules.size() - 1 - i;
      if (!wanted[index]) continue;
      const auto refuse = [&](absl::string_view why) {
        return WithReason(
            absl::UnimplementedError(absl::StrCat("reverse the ", RuleName(rules_.rules[index]),
                                                  ": it has no reverse: ", why)),
            "UNSUPPORTED");
      };
      if (Decodes(rules_.rules[index])) {
        return refuse("what was read from a quantised form cannot be rounded to it again");
      }
      Rule reversed = ReverseRule(rules_.rules[index]);
      absl::StatusOr<CompiledRule> compiled = CompiledRule::Create(reversed, rules_.dialect);
      if (!compiled.ok()) return refuse(compiled.status().message());
      auto& list = reversed.kind == RuleKind::kConvert ? converters_ : renames_;
      list.push_back({std::move(reversed), static_cast<int>(index), *std::move(compiled)});
    }
    // A source pattern that several conversions share belongs to the last of them.
    for (size_t i = 0; i < converters_.size(); ++i) {
      for (const std::string& source : converters_[i].rule.sources()) owner_[source] = i;
    }
    return absl::OkStatus();
  }

  absl::Status Rename(std::string* name, const std::vector<int32_t>& sources) {
    for (Compiled& rename : renames_) {
      ZC_ASSIGN_OR_RETURN(const int matched, rename.rule.Rename(name));
      if (matched < 0) continue;
      for (const int32_t source : sources) touched_[source].push_back(rename.original);
    }
    return absl::OkStatus();
  }

  absl::Status Collect() {
    touched_.resize(input_.tensors.size());
    std::vector<absl::string_view> names;
    for (const SourceTensor& tensor : input_.tensors) names.push_back(tensor.name);
    ZC_ASSIGN_OR_RETURN(const std::vector<int32_t> order, NaturalOrder(names, rules_.dialect));
    const bool first_release = rules_.dialect.generation == 1;
    absl::flat_hash_map<std::string, size_t> group_of;
    for (const int32_t source : order) {
      std::string name(names[source]);
      if (first_release) ZC_RETURN_IF_ERROR(Rename(&name, {source}));
      int converter = -1;
      std::string pattern = std::string(names[source]);
      for (size_t i = 0; i < converters_.size() && converter < 0; ++i) {
        ZC_ASSIGN_OR_RETURN(const int matched, converters_[i].rule.Rename(&name));
        if (matched < 0) continue;
        pattern = converters_[i].rule.sources()[matched];
        converter = static_cast<int>(owner_.at(pattern));
        touched_[source].push_back(converters_[converter].original);
      }
      if (converter < 0 && !first_release) ZC_RETURN_IF_ERROR(Rename(&name, {source}));
      const auto [place, inserted] = group_of.try_emplace(name, groups_.size());
      if (inserted) groups_.push_back({name, converter, {}, {}});
      Group& group = groups_[place->second];
      group.sources.push_back(source);
      auto collected = std::find_if(group.collected.begin(), group.collected.end(),
                                    [&](const auto& entry) { return entry.first == pattern; });
      if (collected == group.collected.end()) {
        collected = group.collected.insert(collected, {pattern, {}});
      }
      collected->second.push_back(source);
    }
    return absl::OkStatus();
  }

  void AddError(const std::vector<int32_t>& sources, absl::string_view message) {
    ConversionError error;
    std::vector<std::string> names;
    std::vector<int> rules;
    for (const int32_t source : sources) {
      error.sources.push_back(input_.tensors[source].name);
      for (const int rule : touched_[source]) {
        if (std::find(rules.begin(), rules.end(), rule) == rules.end()) rules.push_back(rule);
      }
      refused_.insert(source);
    }
    for (const int rule : rules) names.push_back(RuleName(rules_.rules[rule]));
    error.target = error.sources.front();
    error.message = absl::StrCat("cannot be taken back to the checkpoint's form",
                                 names.empty() ? "" : " by the reverse of ",
                                 absl::StrJoin(names, " and "), ": ", message);
    result_.errors.push_back(std::move(error));
  }

  absl::Status RunGroup(const Group& group) {
    if (group.converter < 0) {
      if (group.sources.size() > 1) {
        AddError(group.sources, absl::StrCat("several weights become '", group.name, "'"));
        return absl::OkStatus();
      }
      const int32_t source = group.sources[0];
      Emit(group.name, WholeValue(source, input_.tensors[source].shape), group);
      return absl::OkStatus();
    }
    const Compiled& compiled = converters_[group.converter];
    const auto model_shape = [this](absl::string_view name) -> const std::vector<int64_t>* {
      const auto found = shapes_.find(name);
      return found == shapes_.end() ? nullptr : found->second;
    };
    const OpContext context{compiled.rule.sources(),
                            compiled.rule.targets(),
                            group.name,
                            model_shape,
                            /*model_known=*/true,
                            config_.has_value() ? &*config_ : nullptr,
                            rules_.dialect.generation};
    Entries entries;
    for (const auto& [pattern, sources] : group.collected) {
      Entry entry{pattern, /*is_list=*/true, {}};
      for (const int32_t source : sources) {
        entry.values.push_back(WholeValue(source, input_.tensors[source].shape));
      }
      entries.push_back(std::move(entry));
    }
    for (const Op& op : compiled.reversed.ops) {
      absl::StatusOr<Entries> output = ApplyOp(op, entries, context);
      if (!output.ok()) {
        AddError(group.sources, absl::StrCat(OpName(op.kind), ": ", output.status().message()));
        return absl::OkStatus();
      }
      entries = *std::move(output);
    }
    ExpandNames(group.name, rules_.dialect.generation, &entries);
    for (Entry& entry : entries) {
      if (rules_.dialect.generation != 1) {
        ZC_RETURN_IF_ERROR(Rename(&entry.name, group.sources));
      }
      if (!entry.values.empty()) Emit(entry.name, std::move(entry.values[0]), group);
    }
    return absl::OkStatus();
  }

  void Emit(const std::string& name, Value value, const Group& group) {
    ConvertedTensor tensor;
    tensor.name = name;
    tensor.shape = std::move(value.shape);
    tensor.boxes = std::move(value.boxes);
    if (tensor.boxes.size() > 1) MergeBoxes(&tensor.boxes);
    tensor.sources = group.sources;
    std::sort(tensor.sources.begin(), tensor.sources.end());
    for (const int32_t source : tensor.sources) {
      tensor.dtype = PromoteDTypes(tensor.dtype, input_.tensors[source].dtype);
    }
    const auto [place, inserted] = made_.try_emplace(name, result_.tensors.size());
    if (!inserted) {
      std::vector<int32_t> both = result_.tensors[place->second].sources;
      both.insert(both.end(), tensor.sources.begin(), tensor.sources.end());
      AddError(both, absl::StrCat("several weights become '", name, "'"));
      return;
    }
    result_.tensors.push_back(std::move(tensor));
  }

  // Removes what an error concerns.
  void DropContested() {
    std::vector<ConvertedTensor>& tensors = result_.tensors;
    const auto refused = [this](const ConvertedTensor& tensor) {
      return std::any_of(tensor.sources.begin(), tensor.sources.end(),
                         [this](int32_t source) { return refused_.contains(source); });
    };
    tensors.erase(std::remove_if(tensors.begin(), tensors.end(), refused), tensors.end());
  }

  // Converts what was made, and expects every weight back as it is.
  absl::Status ProveForward() {
    std::vector<SourceTensor> made;
    for (const ConvertedTensor& tensor : result_.tensors) {
      made.push_back({tensor.name, tensor.dtype, tensor.shape});
    }
    std::vector<SpecTensor> model;
    for (const SourceTensor& tensor : input_.tensors) {
      model.push_back({tensor.name, tensor.shape, tensor.dtype});
    }
    ConversionInput forward;
    forward.sources = made;
    forward.rules = &rules_;
    forward.model = model;
    ZC_ASSIGN_OR_RETURN(const Conversion conversion, Convert(forward));
    absl::flat_hash_map<absl::string_view, const ConvertedTensor*> back;
    for (const ConvertedTensor& tensor : conversion.tensors) back.emplace(tensor.name, &tensor);
    absl::flat_hash_map<absl::string_view, absl::string_view> why;
    for (const ConversionError& error : conversion.errors) why.emplace(error.target, error.message);
    for (size_t i = 0; i < input_.tensors.size(); ++i) {
      const auto source = static_cast<int32_t>(i);
      if (refused_.contains(source)) continue;
      const SourceTensor& tensor = input_.tensors[i];
      const auto found = back.find(tensor.name);
      if (found == back.end()) {
        const auto error = why.find(tensor.name);
        AddError({source}, absl::StrCat("loading it again would not give this name",
                                        error == why.end() ? "" : ": ",
                                        error == why.end() ? "" : error->second));
      } else if (found->second->shape != tensor.shape) {
        AddError({source},
                 absl::StrCat("loading it again would give the shape ",
                              ShapeText(found->second->shape), ", not ", ShapeText(tensor.shape)));
      } else {
        ZC_ASSIGN_OR_RETURN(const bool same, ComesBack(source, *found->second));
        if (!same) AddError({source}, "loading it again would put elements in other places");
      }
    }
    DropContested();
    return absl::OkStatus();
  }

  // True when `forward` after the reversal is the whole of `source`.
  absl::StatusOr<bool> ComesBack(int32_t source, const ConvertedTensor& forward) const {
    const int64_t numel = Product(input_.tensors[source].shape);
    if (numel == 0) return true;
    std::vector<Box> round_trip;
    for (const Box& box : forward.boxes) {
      ZC_RETURN_IF_ERROR(
          Compose(result_.tensors[box.source].boxes, {&box, 1}, kMaxBoxesPerTarget, &round_trip));
    }
    MergeBoxes(&round_trip);
    return round_trip.size() == 1 && round_trip[0] == WholeBox(source, numel, 0);
  }

  const ReverseInput& input_;
  const ConversionRules& rules_;
  std::optional<nlohmann::json> config_;
  absl::flat_hash_map<absl::string_view, const std::vector<int64_t>*> shapes_;
  std::vector<Compiled> renames_, converters_;
  absl::flat_hash_map<std::string, size_t> owner_;
  std::vector<std::vector<int>> touched_;  // by source: the rules that matched it
  std::vector<Group> groups_;
  absl::flat_hash_map<std::string, size_t> made_;
  absl::flat_hash_set<int32_t> refused_;
  Reversal result_;
};

}  // namespace

absl::StatusOr<Reversal> Reverse(const ReverseInput& input) { return Reverser(input).Run(); }

}  // namespace zerocast
