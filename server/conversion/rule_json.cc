#include "server/conversion/rule_json.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/conversion/decoders.h"
#include "server/conversion/json_fields.h"

namespace zerocast {
namespace {

using nlohmann::json;

struct OpNames {
  OpKind kind;
  const char* name;           // in the rule tables
  const char* library_class;  // in an export of the library's objects
};

constexpr OpNames kOps[] = {
    {OpKind::kStack, "stack", "MergeModulelist"},
    {OpKind::kUnstack, "unstack", "SplitModulelist"},
    {OpKind::kCat, "cat", "Concatenate"},
    {OpKind::kChunk, "chunk", "Chunk"},
    {OpKind::kSplitByTarget, "split_by_target", "Split"},
    {OpKind::kTranspose, "transpose", "Transpose"},
    {OpKind::kInterleave, "interleave", "Interleave"},
    {OpKind::kPermuteRope, "permute_rope", "PermuteForRope"},
    {OpKind::kErnieFuseSplit, "ernie_fuse_split", "ErnieFuseAndSplitTextVisionExperts"},
    {OpKind::kErnieSplitDecouple, "ernie_split_decouple", "ErnieSplitAndDecoupleTextVisionExperts"},
    {OpKind::kConv3dToLinear, "conv3d_to_linear", "Conv3dToLinear"},
    {OpKind::kLinearToConv3d, "linear_to_conv3d", "LinearToConv3d"},
    {OpKind::kAlign16, "align16", "Force16BytesAlignment"},
    {OpKind::kFp8Dequantize, "fp8_dequantize", "Fp8Dequantize"},
    {OpKind::kMxfp4Dequantize, "mxfp4_dequantize", "Mxfp4Dequantize"},
};

struct KindNames {
  RuleKind kind;
  const char* name;
  const char* library_class;
};

constexpr KindNames kKinds[] = {
    {RuleKind::kRename, "rename", "WeightRenaming"},
    {RuleKind::kConvert, "convert", "WeightConverter"},
    {RuleKind::kPrefix, "prefix", "PrefixChange"},
    {RuleKind::kRenameGroup, "rename_group", "GroupWeightRename"},
    {RuleKind::kRenameIndex, "rename_index", "Inkling2IndexOffsetWeightRename"},
};

// Appends the operation of `value` to `ops`; the library's two deprecated vision operations are
// two of ours each.
absl::Status AppendOp(const json& value, absl::string_view path, std::vector<Op>* ops) {
  std::string name;
  JsonFields fields(value, path);
  ZC_RETURN_IF_ERROR(fields.Get("op", &name).status());
  Op op;
  const bool vision_fuse = name == "VisionFuseAndPermuteForRope";
  const bool vision_unfuse = name == "VisionUnfuseAndPermuteForRope";
  bool known = vision_fuse || vision_unfuse;
  if (known) {
    op.kind = OpKind::kPermuteRope;
    op.subconfig = "vision_config";
    op.inverse = vision_fuse;  // the default of each
  }
  for (const OpNames& names : kOps) {
    if (name != names.name && name != names.library_class) continue;
    op.kind = names.kind;
    known = true;
  }
  if (!known) {
    return WithReason(
        absl::UnimplementedError(absl::StrCat(path, ".op: the operation '", name,
                                              "' is not covered; convert the checkpoint with "
                                              "transformers first")),
        "UNSUPPORTED");
  }
  if (op.kind == OpKind::kErnieFuseSplit || op.kind == OpKind::kErnieSplitDecouple) {
    op.concat_dim = 1;
    fields.Get("stack_dim", &op.dim);
  }
  if (op.kind == OpKind::kTranspose) op.b = 1;  // the defaults of the library
  fields.Get("dim", &op.dim).Get("concat_dim", &op.concat_dim);
  fields.Get("a", &op.a).Get("b", &op.b).Get("dim0", &op.a).Get("dim1", &op.b);
  fields.Get("check_dims", &op.check_dims).Get("inverse", &op.inverse);
  fields.Get("count_attr", &op.count_attr).Get("num_shards_attribute", &op.count_attr);
  fields.Get("subconfig", &op.subconfig).Get("subconfig_key", &op.subconfig);
  fields.Get("only", &op.only).Get("permute_layer_names", &op.only);
  fields.Get("in_channels", &op.in_channels);
  fields.Get("kernel", &op.kernel).Get("kernel_size", &op.kernel);
  fields.Get("block", &op.block).Get("weight_block_size", &op.block);
  ZC_RETURN_IF_ERROR(fields.status());
  Op around;  // the cut or join of a vision operation
  around.kind = vision_fuse ? OpKind::kCat : OpKind::kChunk;
  around.dim = op.dim;
  if (vision_fuse || vision_unfuse) op.dim = 0;
  if (vision_unfuse) ops->push_back(around);
  ops->push_back(std::move(op));
  if (vision_fuse) ops->push_back(around);
  return absl::OkStatus();
}

json OpToJson(const Op& op) {
  json value = {{"op", OpName(op.kind)}};
  const bool ernie = op.kind == OpKind::kErnieFuseSplit || op.kind == OpKind::kErnieSplitDecouple;
  if (ernie) {
    value["stack_dim"] = op.dim;
    value["concat_dim"] = op.concat_dim;
  } else if (op.kind == OpKind::kTranspose) {
    value["a"] = op.a;
    value["b"] = op.b;
  } else if (op.kind != OpKind::kPermuteRope && op.kind != OpKind::kAlign16 &&
             op.kind != OpKind::kConv3dToLinear && op.kind != OpKind::kLinearToConv3d &&
             !IsDecode(op.kind)) {
    value["dim"] = op.dim;
  }
  if (op.check_dims) value["check_dims"] = true;
  if (op.inverse) value["inverse"] = true;
  if (!op.count_attr.empty()) value["count_attr"] = op.count_attr;
  if (!op.subconfig.empty()) value["subconfig"] = op.subconfig;
  if (!op.only.empty()) value["only"] = op.only;
  if (op.in_channels != 0) value["in_channels"] = op.in_channels;
  if (!op.kernel.empty()) value["kernel"] = op.kernel;
  if (!op.block.empty()) value["block"] = op.block;
  return value;
}

// The fields that both forms share under different names, for a "class" form.
absl::Status ReadPatterns(JsonFields* fields, bool library_form, Rule* rule) {
  if (!library_form) {
    return fields->Get("from", &rule->from).Get("to", &rule->to).status();
  }
  // The patterns as written, where the export has them; processing is idempotent, so processed
  // ones serve as well.
  fields->Get("source_patterns", &rule->from).Get("target_patterns", &rule->to);
  return fields->Get("original", &rule->from).Get("original_target", &rule->to).status();
}

}  // namespace

absl::string_view OpName(OpKind kind) {
  for (const OpNames& names : kOps) {
    if (names.kind == kind) return names.name;
  }
  return "unknown";
}

absl::StatusOr<Rule> RuleFromJson(const json& value, absl::string_view path) {
  JsonFields fields(value, path);
  std::string kind, library_class;
  ZC_RETURN_IF_ERROR(fields.Get("kind", &kind).Get("class", &library_class).status());
  if (kind.empty() == library_class.empty()) {
    return JsonError(path, "must have one of 'kind' and 'class'");
  }
  Rule rule;
  bool known = false;
  for (const KindNames& names : kKinds) {
    if (kind != names.name && library_class != names.library_class) continue;
    rule.kind = names.kind;
    known = true;
  }
  if (!known) {
    return JsonError(path, absl::StrCat("'", kind, library_class, "' is not a kind of rule"));
  }
  if (rule.kind == RuleKind::kPrefix) {
    fields.Get("add", &rule.prefix_add).Get("prefix_to_add", &rule.prefix_add);
    fields.Get("remove", &rule.prefix_remove).Get("prefix_to_remove", &rule.prefix_remove);
    fields.Get("under", &rule.under).Get("model_prefix", &rule.under);
  } else {
    ZC_RETURN_IF_ERROR(ReadPatterns(&fields, kind.empty(), &rule));
    if (rule.from.empty() || rule.to.empty()) {
      return JsonError(path, "needs source and target patterns");
    }
  }
  fields.Get("offset", &rule.offset);
  rule.has_scope = fields.Find("scope_prefix") != nullptr;
  fields.Get("scope_prefix", &rule.scope_prefix);
  fields.Get("scope_base", &rule.scope_base).Get("base_model_prefix", &rule.scope_base);
  ZC_RETURN_IF_ERROR(fields.status());
  const json* ops = fields.Find(kind.empty() ? "operations" : "ops");
  if (ops != nullptr && rule.kind == RuleKind::kConvert) {
    if (!ops->is_array()) return JsonError(path, "the operations must be a list");
    for (size_t i = 0; i < ops->size(); ++i) {
      ZC_RETURN_IF_ERROR(AppendOp((*ops)[i], absl::StrCat(path, ".ops[", i, "]"), &rule.ops));
    }
  }
  return rule;
}

absl::StatusOr<std::vector<Rule>> RulesFromJson(const json& value, absl::string_view path) {
  if (!value.is_array()) return JsonError(path, "must be a list of rules");
  std::vector<Rule> rules;
  rules.reserve(value.size());
  for (size_t i = 0; i < value.size(); ++i) {
    ZC_ASSIGN_OR_RETURN(Rule rule, RuleFromJson(value[i], absl::StrCat(path, "[", i, "]")));
    rules.push_back(std::move(rule));
  }
  return rules;
}

json RuleToJson(const Rule& rule) {
  json value;
  for (const KindNames& names : kKinds) {
    if (names.kind == rule.kind) value["kind"] = names.name;
  }
  if (rule.kind == RuleKind::kPrefix) {
    if (!rule.prefix_add.empty()) value["add"] = rule.prefix_add;
    if (!rule.prefix_remove.empty()) value["remove"] = rule.prefix_remove;
    if (!rule.under.empty()) value["under"] = rule.under;
  } else {
    value["from"] = rule.from;
    value["to"] = rule.to;
  }
  if (rule.kind == RuleKind::kRenameIndex) value["offset"] = rule.offset;
  if (rule.kind == RuleKind::kConvert) {
    json ops = json::array();
    for (const Op& op : rule.ops) ops.push_back(OpToJson(op));
    value["ops"] = std::move(ops);
  }
  if (rule.has_scope) {
    value["scope_prefix"] = rule.scope_prefix;
    value["scope_base"] = rule.scope_base;
  }
  return value;
}

}  // namespace zerocast
