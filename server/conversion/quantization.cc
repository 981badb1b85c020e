#include "server/conversion/quantization.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "nlohmann/json.hpp"
#include "server/base/errors.h"
#include "server/base/python_json.h"
#include "server/conversion/convert.h"
#include "server/conversion/decoders.h"
#include "server/conversion/model_spec.h"

namespace zerocast {
namespace {

using nlohmann::json;

// A parameter and the names that a checkpoint has for it (serialized_names of the quantizers).
struct Serialized {
  const char* param;
  std::vector<std::string> names;
};

const std::vector<Serialized>& SerializedOf(Quantization quantization) {
  static const auto* const fp8 =
      new std::vector<Serialized>{{"weight", {"weight", "weight_scale_inv", "activation_scale"}}};
  static const auto* const mxfp4 =
      new std::vector<Serialized>{{"gate_up_proj", {"gate_up_proj_blocks", "gate_up_proj_scales"}},
                                  {"down_proj", {"down_proj_blocks", "down_proj_scales"}}};
  static const auto* const none = new std::vector<Serialized>{};
  return quantization == Quantization::kFp8     ? *fp8
         : quantization == Quantization::kMxfp4 ? *mxfp4
                                                : *none;
}

Op DecodeOp(Quantization quantization) {
  Op op;
  op.kind = quantization == Quantization::kFp8 ? OpKind::kFp8Dequantize : OpKind::kMxfp4Dequantize;
  return op;
}

// The one rule of 5.1.0 (get_weight_conversions of its quantizers).
Rule FirstGenerationRule(const QuantizationConfig& quantization) {
  Rule rule;
  rule.kind = RuleKind::kConvert;
  rule.ops = {DecodeOp(quantization.method)};
  rule.ops[0].block = quantization.block;
  if (quantization.method == Quantization::kFp8) {
    rule.from = {"weight$", "weight_scale_inv", "activation_scale"};
    rule.to = {"weight"};
  } else {
    rule.from = {"_blocks", "_scales"};
    rule.to = {""};
  }
  return rule;
}

// weight_block_size; the library's default where there is none, nothing where it is null.
std::vector<int64_t> BlockOf(const json& quantization) {
  const auto found = quantization.find("weight_block_size");
  if (found == quantization.end()) return {128, 128};
  std::vector<int64_t> block;
  if (!found->is_array()) return block;
  for (const json& size : *found) {
    // Any other number divides no matrix.
    block.push_back(size.is_number_integer() ? size.get<int64_t>() : 0);
  }
  return block;
}

Rule Rename(std::string from, std::string to) {
  Rule rule;
  rule.from = {std::move(from)};
  rule.to = {std::move(to)};
  return rule;
}

const json* FindObject(const json& config, const char* name) {
  const auto found = config.find(name);
  return found != config.end() && found->is_object() ? &*found : nullptr;
}

// The quantization_config, where the library looks for it; null where there is none.
const json* FindQuantizationConfig(const json& config) {
  for (const char* const name : {"quantization_config", "compression_config"}) {
    if (const json* const found = FindObject(config, name)) return found;
    for (const char* const part : {"text_config", "text_encoder", "decoder", "generator"}) {
      const json* const inner = FindObject(config, part);
      if (inner == nullptr) continue;
      if (const json* const found = FindObject(*inner, name)) return found;
    }
  }
  return nullptr;
}

bool IsTrue(const json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_boolean() && found->get<bool>();
}

// "" where it names none.
std::string MethodOf(const json& quantization) {
  // Early bitsandbytes checkpoints name no method.
  if (IsTrue(quantization, "load_in_8bit") || IsTrue(quantization, "load_in_4bit")) {
    return "bitsandbytes";
  }
  const auto method = quantization.find("quant_method");
  if (method == quantization.end() || !method->is_string()) return "";
  return method->get<std::string>();
}

// The rule whose sources have their companions, decoding first; itself where it is not about
// quantised weights.
Rule WithCompanions(Quantization quantization, Rule rule) {
  if (rule.kind != RuleKind::kConvert) return rule;
  for (const Serialized& serialized : SerializedOf(quantization)) {
    const std::string ending = absl::StrCat(".", serialized.param);
    if (!std::all_of(rule.from.begin(), rule.from.end(),
                     [&](const std::string& source) { return absl::EndsWith(source, ending); })) {
      continue;
    }
    std::vector<std::string> sources;
    for (const std::string& source : rule.from) {
      const absl::string_view stem = absl::StripSuffix(source, serialized.param);
      for (const std::string& name : serialized.names) sources.push_back(absl::StrCat(stem, name));
    }
    rule.from = std::move(sources);
    rule.ops.insert(rule.ops.begin(), DecodeOp(quantization));
    return rule;
  }
  return rule;
}

absl::Status Refuse(absl::string_view message) {
  return WithReason(absl::FailedPreconditionError(message), "UNSUPPORTED");
}

}  // namespace

absl::StatusOr<QuantizationConfig> ReadQuantization(absl::string_view config_json) {
  if (config_json.empty()) return QuantizationConfig();
  const json config =
      json::parse(NullForPythonConstants(config_json), nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) {
    return WithReason(
        absl::InvalidArgumentError("read the checkpoint's config.json: it is not a JSON object"),
        "INVALID_FIELDS");
  }
  const json* const quantization = FindQuantizationConfig(config);
  if (quantization == nullptr || quantization->empty()) return QuantizationConfig();
  const std::string method = MethodOf(*quantization);
  if (method == "fp8" || method == "mxfp8") {
    return QuantizationConfig{Quantization::kFp8, BlockOf(*quantization)};
  }
  if (method == "mxfp4") return QuantizationConfig{Quantization::kMxfp4, {}};
  return WithReason(
      absl::UnimplementedError(absl::StrCat(
          "load a quantised checkpoint: its config.json says ",
          method.empty() ? "quantization_config without a quant_method"
                         : absl::StrCat("quant_method '", method, "'"),
          ", which is not decoded here (fp8, mxfp8 and mxfp4 are); load it with transformers, "
          "call model.dequantize() and save it, or take the checkpoint that was quantised")),
      "UNSUPPORTED");
}

std::vector<Rule> QuantizedRules(const QuantizationConfig& config, const Dialect& dialect,
                                 std::vector<Rule> rules, absl::Span<const SpecTensor> model) {
  const Quantization quantization = config.method;
  if (quantization == Quantization::kNone) return rules;
  if (std::any_of(rules.begin(), rules.end(), Decodes)) return rules;
  if (dialect.generation == 1) {
    rules.push_back(FirstGenerationRule(config));
    return rules;
  }
  std::vector<Rule> result;
  if (quantization == Quantization::kFp8) {
    // Other names of the scales; some models have a parameter that ends like one of them.
    const bool has_scale = std::any_of(model.begin(), model.end(), [](const SpecTensor& tensor) {
      return absl::EndsWith(tensor.name, "_l2_clip.scale");
    });
    if (!has_scale) result.push_back(Rename(R"(^(.+)\.scale)", R"(\1.weight_scale_inv)"));
    result.push_back(Rename(R"(\.qscale_weight)", ".weight_scale_inv"));
  }
  for (Rule& rule : rules) result.push_back(WithCompanions(quantization, std::move(rule)));
  for (const Serialized& serialized : SerializedOf(quantization)) {
    Rule rule;
    rule.kind = RuleKind::kConvert;
    rule.from = serialized.names;
    rule.to = {serialized.param};
    rule.ops = {DecodeOp(quantization)};
    result.push_back(std::move(rule));
  }
  return result;
}

absl::Status CheckQuantized(Quantization quantization, absl::Span<const SourceTensor> sources,
                            absl::Span<const SpecTensor> model) {
  if (quantization != Quantization::kNone) {
    for (const SpecTensor& tensor : model) {
      for (const Serialized& serialized : SerializedOf(quantization)) {
        for (const std::string& name : serialized.names) {
          if (name == serialized.param || !absl::EndsWith(tensor.name, absl::StrCat(".", name))) {
            continue;
          }
          return Refuse(absl::StrCat(
              "load a quantised checkpoint: the model spec has the parameter '", tensor.name,
              "', so its model keeps weights quantised, which ZeRO-3 cannot partition; make the "
              "spec of the model without quantization_config"));
        }
      }
    }
    return absl::OkStatus();
  }
  const auto is_float8 = [](const SourceTensor& source) { return IsFloat8(source.dtype); };
  if (std::none_of(sources.begin(), sources.end(), is_float8)) return absl::OkStatus();
  absl::flat_hash_set<absl::string_view> names;
  for (const SourceTensor& source : sources) names.insert(source.name);
  for (const SpecTensor& tensor : model) names.erase(tensor.name);
  for (const SourceTensor& source : sources) {
    if (!IsFloat8(source.dtype)) continue;
    const absl::string_view stem = absl::StripSuffix(source.name, ".weight");
    for (const std::string& scale :
         {absl::StrCat(source.name, "_scale_inv"), absl::StrCat(source.name, "_scale"),
          absl::StrCat(stem, ".scale"), absl::StrCat(stem, ".qscale_weight")}) {
      if (!names.contains(scale)) continue;
      return Refuse(
          absl::StrCat("load '", source.name, "': it is stored as ", DTypeName(source.dtype),
                       " and has scales "
                       "('",
                       scale,
                       "'), but the checkpoint's config.json has no quantization_config that says "
                       "how they are meant; put the original config.json into the folder"));
    }
  }
  return absl::OkStatus();
}

}  // namespace zerocast
