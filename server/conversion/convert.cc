#include "server/conversion/convert.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "kernels/base/status_macros.h"
#include "kernels/copy/algebra.h"
#include "nlohmann/json.hpp"
#include "server/base/errors.h"
#include "server/base/python_json.h"
#include "server/conversion/expand_names.h"
#include "server/conversion/explain.h"
#include "server/conversion/lower.h"
#include "server/conversion/natural_key.h"
#include "server/conversion/promote.h"
#include "server/conversion/rename.h"
#include "server/conversion/rule_json.h"

namespace zerocast {
namespace {

// The tensors that were collected under one source pattern of a conversion, or, without one, under
// the key itself.
struct Collected {
  absl::string_view pattern;
  std::vector<int32_t> sources;
};

// What goes through one run of a conversion's operations; without a rule, a tensor that is only
// renamed.
struct Group {
  std::string name;
  int rule = -1;
  std::vector<Collected> collected;
};

// Every value between operations holds elements of the sources, each at most once, so where the
// sources together fit, no product of sizes overflows.  Sizes of 0 count as 1: products of a part
// of a shape are taken too.  The first source that does not fit; -1 where all do.
int32_t FirstUnfit(absl::Span<const SourceTensor> sources) {
  constexpr int64_t kMaxElements = int64_t{1} << 61;
  int64_t total = 0;
  for (size_t i = 0; i < sources.size(); ++i) {
    const SourceTensor& source = sources[i];
    int64_t numel = 1;
    bool fits = true;
    for (int64_t size : source.shape) {
      fits = fits && size >= 0 &&
             !__builtin_mul_overflow(numel, std::max<int64_t>(size, 1), &numel) &&
             numel <= kMaxElements;
    }
    if (!fits || (total += numel) > kMaxElements) return static_cast<int32_t>(i);
  }
  return -1;
}

// Operations that put the tensors of a list one behind the other, as their numbers say.
bool TakesNumberedList(const Rule& rule) {
  return std::any_of(rule.ops.begin(), rule.ops.end(), [](const Op& op) {
    return op.kind == OpKind::kStack || op.kind == OpKind::kErnieFuseSplit;
  });
}

class Converter {
 public:
  explicit Converter(const ConversionInput& input) : input_(input), rules_(*input.rules) {}

  absl::StatusOr<Conversion> Run() {
    if (const int32_t source = FirstUnfit(input_.sources); source >= 0) {
      return WithReason(absl::InvalidArgumentError(absl::StrCat(
                            "convert ", SourceText(source), ": its shape ",
                            ShapeText(input_.sources[source].shape),
                            " is not sizes >= 0, or the checkpoint has more than 2^61 elements")),
                        "CHECKPOINT_CORRUPT");
    }
    ZC_RETURN_IF_ERROR(ReadConfig());
    for (size_t i = 0; i < input_.model.size(); ++i) {
      model_.emplace(input_.model[i].name, static_cast<int32_t>(i));
    }
    ZC_ASSIGN_OR_RETURN(Renamer renamer,
                        Renamer::Create(rules_.rules, rules_.dialect, rules_.has_base_model_prefix,
                                        rules_.base_model_prefix));
    renamer_ = &renamer;
    ZC_RETURN_IF_ERROR(Collect());
    result_.used_rules = renamer.used();
    for (const Group& group : groups_) {
      if (group.rule < 0) {
        ZC_RETURN_IF_ERROR(RunPlain(group));
      } else {
        ZC_RETURN_IF_ERROR(RunOperations(group));
      }
    }
    Finish();
    return std::move(result_);
  }

 private:
  absl::Status ReadConfig() {
    if (rules_.config_json.empty()) return absl::OkStatus();
    config_ = nlohmann::json::parse(NullForPythonConstants(rules_.config_json), nullptr,
                                    /*allow_exceptions=*/false);
    if (config_->is_discarded() || !config_->is_object()) {
      return absl::InvalidArgumentError("read the checkpoint's config: it is not a JSON object");
    }
    return absl::OkStatus();
  }

  bool InModel(absl::string_view name) const { return input_.any_name || model_.contains(name); }

  const std::vector<int64_t>* ModelShape(absl::string_view name) const {
    const auto found = model_.find(name);
    return found == model_.end() ? nullptr : &input_.model[found->second].shape;
  }

  // Renames every key in natural order and collects it in its group, or as unexpected.
  absl::Status Collect() {
    std::vector<absl::string_view> keys;
    keys.reserve(input_.sources.size());
    for (const SourceTensor& source : input_.sources) keys.push_back(source.name);
    ZC_ASSIGN_OR_RETURN(const std::vector<int32_t> order, NaturalOrder(keys, rules_.dialect));
    // Without a spec there is no name to prefer: the base-prefix step finds nothing.
    const auto in_model = [&](absl::string_view name) { return model_.contains(name); };
    absl::flat_hash_map<std::string, int32_t> group_of;
    for (int32_t source : order) {
      absl::StatusOr<RenamedKey> renamed = renamer_->Rename(keys[source], in_model);
      if (!renamed.ok()) {
        return Annotate(renamed.status(), absl::StrCat("rename ", SourceText(source)));
      }
      const RenamedKey& key = *renamed;
      if (!InModel(key.with_prefix)) {
        AddUnexpected(key);
        continue;
      }
      const auto [place, inserted] =
          group_of.try_emplace(key.with_prefix, static_cast<int32_t>(groups_.size()));
      if (inserted) groups_.push_back({key.with_prefix, key.owner, {}});
      const absl::string_view pattern =
          key.rule < 0 ? keys[source]
                       : absl::string_view(renamer_->rule(key.rule).sources()[key.source]);
      AddSource(pattern, source, &groups_[place->second]);
    }
    return absl::OkStatus();
  }

  static void AddSource(absl::string_view pattern, int32_t source, Group* group) {
    for (Collected& collected : group->collected) {
      if (collected.pattern == pattern) {
        collected.sources.push_back(source);
        return;
      }
    }
    group->collected.push_back({pattern, {source}});
  }

  void AddUnexpected(const RenamedKey& key) {
    if (key.rule < 0) {
      AddUnexpectedName(key.with_prefix);
      return;
    }
    const std::vector<std::string>& targets = renamer_->rule(key.owner).targets();
    for (const std::string& target : targets) {
      AddUnexpectedName(targets[0].empty()
                            ? key.with_prefix
                            : absl::StrReplaceAll(key.with_prefix, {{targets[0], target}}));
    }
  }

  void AddUnexpectedName(const std::string& name) {
    if (unexpected_.insert(name).second) result_.unexpected.push_back(name);
  }

  std::vector<std::string> Names(const std::vector<int32_t>& sources) const {
    std::vector<std::string> names;
    for (int32_t source : sources) names.push_back(input_.sources[source].name);
    return names;
  }

  static std::vector<int32_t> AllSources(const Group& group) {
    std::vector<int32_t> sources;
    for (const Collected& collected : group.collected) {
      sources.insert(sources.end(), collected.sources.begin(), collected.sources.end());
    }
    return sources;
  }

  // "'key' in file"
  std::string SourceText(int32_t source) const {
    std::string text = absl::StrCat("'", input_.sources[source].name, "'");
    if (input_.file_of) absl::StrAppend(&text, " in ", input_.file_of(source));
    return text;
  }

  std::string RuleText(int32_t rule) const { return renamer_->rule(rule).Name(); }

  // How the sources came to the group's name: "by rule [a] -> [b] from 'x' in f".
  std::string HowText(const Group& group) const {
    std::vector<std::string> texts;
    for (const int32_t source : AllSources(group)) {
      texts.push_back(SourceText(source));
      if (group.rule >= 0) continue;
      for (const int rule : renamer_->RenamesOf(input_.sources[source].name, group.name)) {
        absl::StrAppend(&texts.back(), " by ", RuleText(rule));
      }
    }
    const std::string from = absl::StrCat("from ", Abridged(texts, ", "));
    return group.rule < 0 ? from : absl::StrCat("by ", RuleText(group.rule), " ", from);
  }

  std::vector<CollectedTensors> ListsOf(const Group& group) const {
    std::vector<CollectedTensors> lists;
    for (const Collected& collected : group.collected) {
      lists.push_back({collected.pattern, {}});
      for (const int32_t source : collected.sources) {
        lists.back().tensors.push_back(&input_.sources[source]);
      }
    }
    return lists;
  }

  // "; ..." or "".
  std::string OddText(const Group& group) const {
    if (group.rule < 0) return "";
    // Of the sources of a decoding rule some may be absent.
    absl::Span<const std::string> patterns;
    if (!Decodes(rules_.rules[group.rule])) patterns = renamer_->rule(group.rule).sources();
    const auto describe = [this](const SourceTensor& tensor) {
      return SourceText(static_cast<int32_t>(&tensor - input_.sources.data()));
    };
    const std::string odd = Oddities(patterns, ListsOf(group), describe);
    return odd.empty() ? "" : absl::StrCat("; ", odd);
  }

  void AddGroupError(const Group& group, std::string target, absl::string_view what) {
    AddError(std::move(target), AllSources(group),
             absl::StrCat(what, OddText(group), "; ", HowText(group)));
  }

  void AddError(std::string target, const std::vector<int32_t>& sources, std::string message) {
    result_.errors.push_back({std::move(target), Names(sources), std::move(message)});
  }

  absl::Status RunPlain(const Group& group) {
    const std::vector<int32_t> sources = AllSources(group);
    if (sources.size() > 1) {
      AddGroupError(group, group.name, "several tensors of the checkpoint claim this name");
      return absl::OkStatus();
    }
    ZC_ASSIGN_OR_RETURN(Value value, Stored(sources[0]));
    Emit(group.name, std::move(value), group);
    return absl::OkStatus();
  }

  // A source as its first operation sees it.
  absl::StatusOr<Value> Stored(int32_t source) const {
    absl::StatusOr<Value> value = StoredValue(source, input_.sources[source]);
    if (value.ok()) return value;
    const std::string what = absl::StrCat("convert ", SourceText(source), ": ");
    if (absl::IsUnimplemented(value.status())) {
      return WithReason(absl::UnimplementedError(absl::StrCat(
                            what, value.status().message(), "; save it again after .contiguous()")),
                        "UNSUPPORTED");
    }
    return WithReason(absl::InvalidArgumentError(absl::StrCat(what, value.status().message())),
                      "CHECKPOINT_CORRUPT");
  }

  absl::Status RunOperations(const Group& group) {
    const Rule& rule = rules_.rules[group.rule];
    const CompiledRule& compiled = renamer_->rule(group.rule);
    const auto model_shape = [this](absl::string_view name) { return ModelShape(name); };
    const OpContext context{compiled.sources(),
                            compiled.targets(),
                            group.name,
                            model_shape,
                            !input_.any_name,
                            config_.has_value() ? &*config_ : nullptr,
                            rules_.dialect.generation};
    const std::vector<int32_t> sources = AllSources(group);
    Entries entries;
    for (const Collected& collected : group.collected) {
      Entry entry{std::string(collected.pattern), /*is_list=*/true, {}};
      entry.values.reserve(collected.sources.size());
      for (int32_t source : collected.sources) {
        ZC_ASSIGN_OR_RETURN(Value value, Stored(source));
        entry.values.push_back(std::move(value));
      }
      entries.push_back(std::move(entry));
    }
    for (const Op& op : rule.ops) {
      absl::StatusOr<Entries> output =
          IsDecode(op.kind) ? Decode(op, entries, group.name) : ApplyOp(op, entries, context);
      if (output.ok()) {
        entries = *std::move(output);
        continue;
      }
      if (output.status().code() == absl::StatusCode::kUnimplemented) {
        return WithReason(
            Annotate(output.status(), absl::StrCat("convert '", group.name, "' ", HowText(group),
                                                   ", operation ", OpName(op.kind))),
            "UNSUPPORTED");
      }
      AddGroupError(group, group.name,
                    absl::StrCat(OpName(op.kind), ": ", output.status().message()));
      return absl::OkStatus();
    }
    // With a spec the shape of the model says how many there must be.
    if (input_.any_name && config_.has_value() && TakesNumberedList(rule)) {
      const std::vector<CollectedTensors> lists = ListsOf(group);
      if (!MissingBetween(lists).empty() && !MayHaveExperts(*config_, lists[0].tensors.size())) {
        AddGroupError(
            group, group.name,
            absl::StrCat("config.json does not say that there are ", lists[0].tensors.size(),
                         " experts, and their numbers have gaps"));
        return absl::OkStatus();
      }
    }
    ExpandNames(group.name, rules_.dialect.generation, &entries);
    if (AllUsed(group, sources, entries)) EmitGroup(group, std::move(entries));
    return absl::OkStatus();
  }

  absl::StatusOr<Entries> Decode(const Op& op, const Entries& entries, absl::string_view name) {
    const auto dtype = [this](int32_t source) { return input_.sources[source].dtype; };
    std::vector<SourceDecoder> decoders;
    ZC_ASSIGN_OR_RETURN(
        Entries output,
        ApplyDecode(op, entries, {name, dtype, rules_.dialect.generation}, &decoders));
    for (const SourceDecoder& decoder : decoders) {
      decoders_.insert_or_assign(decoder.source, decoder);
    }
    return output;
  }

  // False, with an error, where a collected tensor is in no result: the library drops it silently,
  // for us two tensors claim one place.
  bool AllUsed(const Group& group, const std::vector<int32_t>& sources, const Entries& entries) {
    absl::flat_hash_set<int32_t> used;
    for (const Entry& entry : entries) {
      if (entry.values.empty()) continue;
      for (const Box& box : entry.values[0].boxes) used.insert(box.source);
    }
    // Scales are used by their weights; those of activations are no weights of the model.
    for (const Collected& collected : group.collected) {
      const bool is_dropped = absl::EndsWith(collected.pattern, "activation_scale");
      for (int32_t source : collected.sources) {
        const auto decoder = decoders_.find(source);
        if (decoder != decoders_.end() && used.contains(source)) {
          used.insert(decoder->second.scale);
        }
        if (is_dropped && Decodes(rules_.rules[group.rule])) used.insert(source);
      }
    }
    std::vector<int32_t> unused;
    for (int32_t source : sources) {
      if (used.contains(source) || Product(input_.sources[source].shape) == 0) continue;
      unused.push_back(source);
    }
    if (unused.empty()) return true;
    std::vector<std::string> texts;
    for (const int32_t source : unused) texts.push_back(SourceText(source));
    AddGroupError(group, group.name,
                  absl::StrCat("the conversion has no place for ", Abridged(texts, ", ")));
    return false;
  }

  void EmitGroup(const Group& group, Entries entries) {
    // A fused tensor of the wrong size is cut in the wrong places: even the pieces that happen to
    // fit hold other weights than they should.
    bool wrong_size = false;
    for (const Entry& entry : entries) {
      const std::vector<int64_t>* const shape = ModelShape(entry.name);
      if (entries.size() > 1 && shape != nullptr && *shape != entry.values[0].shape) {
        wrong_size = true;
      }
    }
    for (Entry& entry : entries) {
      const std::vector<int64_t>* const shape = ModelShape(entry.name);
      if (wrong_size && shape != nullptr && *shape == entry.values[0].shape) {
        AddGroupError(
            group, entry.name,
            "the sources do not have the size of all of their targets together, so this piece is "
            "cut in the wrong place although its shape fits");
        continue;
      }
      Emit(entry.name, std::move(entry.values[0]), group);
    }
  }

  void Emit(const std::string& name, Value value, const Group& group) {
    if (!InModel(name)) {
      AddUnexpectedName(name);
      return;
    }
    ConvertedTensor tensor;
    tensor.name = name;
    tensor.shape = std::move(value.shape);
    tensor.boxes = std::move(value.boxes);
    if (tensor.boxes.size() > 1) MergeBoxes(&tensor.boxes);
    for (const Box& box : tensor.boxes) tensor.sources.push_back(box.source);
    if (tensor.boxes.empty()) tensor.sources = AllSources(group);
    std::sort(tensor.sources.begin(), tensor.sources.end());
    tensor.sources.erase(std::unique(tensor.sources.begin(), tensor.sources.end()),
                         tensor.sources.end());
    for (int32_t source : tensor.sources) {
      const auto decoder = decoders_.find(source);
      const DType stored = input_.sources[source].dtype;
      tensor.dtype =
          PromoteDTypes(tensor.dtype, decoder != decoders_.end() ? decoder->second.dtype : stored);
      // What has no elements has nothing to decode.
      if (!tensor.boxes.empty() && decoder == decoders_.end() &&
          rules_.quantization == Quantization::kFp8 && IsFloat8(stored)) {
        AddError(name, {source},
                 absl::StrCat("stored as ", DTypeName(stored),
                              ", and the checkpoint has no scales for it; ", HowText(group)));
        return;
      }
    }
    tensor.rule = group.rule;
    if (const auto* shape = ModelShape(name); shape != nullptr && *shape != tensor.shape) {
      tensor.origin = absl::StrCat(HowText(group), OddText(group));
    }
    const auto [place, inserted] = made_.try_emplace(name, result_.tensors.size());
    if (!inserted) {
      std::vector<int32_t> both = result_.tensors[place->second].sources;
      both.insert(both.end(), tensor.sources.begin(), tensor.sources.end());
      const int32_t other = result_.tensors[place->second].rule;
      AddError(name, both,
               absl::StrCat("several conversions make this name: ",
                            other < 0 ? "" : absl::StrCat("by ", RuleText(other), " "), "from ",
                            SourceText(both[0]), ", and ", HowText(group)));
      contested_.insert(name);
      return;
    }
    result_.tensors.push_back(std::move(tensor));
  }

  // Drops what two conversions claim; puts the rest in the order of the model.
  void Finish() {
    for (const auto& [_, decoder] : decoders_) result_.decoders.push_back(decoder);
    std::vector<ConvertedTensor>& tensors = result_.tensors;
    if (!contested_.empty()) {
      tensors.erase(std::remove_if(tensors.begin(), tensors.end(),
                                   [&](const ConvertedTensor& tensor) {
                                     return contested_.contains(tensor.name);
                                   }),
                    tensors.end());
    }
    if (input_.any_name) return;
    std::vector<std::pair<int32_t, int32_t>> order;  // place in the model, place in `tensors`
    order.reserve(tensors.size());
    for (const ConvertedTensor& tensor : tensors) {
      order.emplace_back(model_.at(tensor.name), static_cast<int32_t>(order.size()));
    }
    std::sort(order.begin(), order.end());
    std::vector<ConvertedTensor> sorted;
    sorted.reserve(tensors.size());
    for (const auto& [_, index] : order) sorted.push_back(std::move(tensors[index]));
    tensors = std::move(sorted);
  }

  const ConversionInput& input_;
  const ConversionRules& rules_;
  std::optional<nlohmann::json> config_;
  absl::flat_hash_map<absl::string_view, int32_t> model_;  // name -> index
  Renamer* renamer_ = nullptr;
  std::vector<Group> groups_;
  absl::flat_hash_set<std::string> unexpected_;
  absl::flat_hash_map<std::string, size_t> made_;  // name -> index into result_.tensors
  absl::flat_hash_set<std::string> contested_;
  std::map<int32_t, SourceDecoder> decoders_;  // by source
  Conversion result_;
};

}  // namespace

absl::StatusOr<Conversion> Convert(const ConversionInput& input) { return Converter(input).Run(); }

}  // namespace zerocast
