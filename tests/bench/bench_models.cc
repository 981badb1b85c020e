#include "tests/bench/bench_models.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/made_rules.h"

namespace zerocast {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kHidden = 2048;
constexpr int64_t kHeadSize = 128;
constexpr int64_t kIntermediate = 5632;
constexpr int64_t kExpertIntermediate = 1408;
constexpr int64_t kExperts = 8;
constexpr int64_t kMostFusedBytes = int64_t{1} << 30;

// The vision part of the transposed kind: as small as it can be.
constexpr int64_t kVisionHidden = 32;
constexpr int64_t kVisionIntermediate = 48;
constexpr int64_t kVisionPositions = 64;

struct Shape {
  int64_t vocabulary = 16000;
  int64_t heads = kHidden / kHeadSize;
  int64_t key_heads = kHidden / kHeadSize;
  int64_t expert_intermediate = kExpertIntermediate;
  int64_t layers = 1;
};

// What one layer, or what is outside of all layers, is made of: in the file and in the model.
struct Parts {
  std::vector<BenchTensor> stored, wanted;
  void Both(const std::string& name, std::vector<int64_t> shape) {
    stored.push_back({name, shape});
    wanted.push_back({name, std::move(shape)});
  }
  void Append(const Parts& more) {
    stored.insert(stored.end(), more.stored.begin(), more.stored.end());
    wanted.insert(wanted.end(), more.wanted.begin(), more.wanted.end());
  }
};

void AddAttention(const std::string& layer, const Shape& shape, Parts* parts) {
  const int64_t all = shape.heads * kHeadSize, keys = shape.key_heads * kHeadSize;
  parts->Both(layer + "self_attn.q_proj.weight", {all, kHidden});
  parts->Both(layer + "self_attn.k_proj.weight", {keys, kHidden});
  parts->Both(layer + "self_attn.v_proj.weight", {keys, kHidden});
  parts->Both(layer + "self_attn.o_proj.weight", {kHidden, all});
}

void AddNorms(const std::string& layer, Parts* parts) {
  parts->Both(layer + "input_layernorm.weight", {kHidden});
  parts->Both(layer + "post_attention_layernorm.weight", {kHidden});
}

Parts LlamaLayer(const std::string& layer, const Shape& shape) {
  Parts parts;
  AddAttention(layer, shape, &parts);
  parts.Both(layer + "mlp.gate_proj.weight", {kIntermediate, kHidden});
  parts.Both(layer + "mlp.up_proj.weight", {kIntermediate, kHidden});
  parts.Both(layer + "mlp.down_proj.weight", {kHidden, kIntermediate});
  AddNorms(layer, &parts);
  return parts;
}

Parts MixtralLayer(const std::string& layer, const Shape& shape) {
  Parts parts;
  AddAttention(layer, shape, &parts);
  const int64_t inner = shape.expert_intermediate;
  parts.stored.push_back({layer + "block_sparse_moe.gate.weight", {kExperts, kHidden}});
  parts.wanted.push_back({layer + "mlp.gate.weight", {kExperts, kHidden}});
  for (int64_t e = 0; e < kExperts; ++e) {
    const std::string expert = absl::StrCat(layer, "block_sparse_moe.experts.", e, ".");
    parts.stored.push_back({expert + "w1.weight", {inner, kHidden}});
    parts.stored.push_back({expert + "w2.weight", {kHidden, inner}});
    parts.stored.push_back({expert + "w3.weight", {inner, kHidden}});
  }
  parts.wanted.push_back({layer + "mlp.experts.gate_up_proj", {kExperts, 2 * inner, kHidden}});
  parts.wanted.push_back({layer + "mlp.experts.down_proj", {kExperts, kHidden, inner}});
  AddNorms(layer, &parts);
  return parts;
}

Parts TransposedLayer(const std::string& layer, const Shape& shape) {
  Parts parts;
  AddAttention(layer, shape, &parts);
  parts.Both(layer + "self_attn.q_norm.weight", {kHeadSize});
  parts.Both(layer + "self_attn.k_norm.weight", {kHeadSize});
  const std::string up = layer + "mlp.experts.gate_up_proj", down = layer + "mlp.experts.down_proj";
  parts.stored.push_back({up, {kExperts, kHidden, 2 * kExpertIntermediate}});
  parts.wanted.push_back({up, {kExperts, 2 * kExpertIntermediate, kHidden}});
  parts.stored.push_back({down, {kExperts, kExpertIntermediate, kHidden}});
  parts.wanted.push_back({down, {kExperts, kHidden, kExpertIntermediate}});
  parts.Both(layer + "mlp.gate.weight", {kExperts, kHidden});
  AddNorms(layer, &parts);
  return parts;
}

Parts Layer(const std::string& kind, const std::string& layer, const Shape& shape) {
  if (kind == "mixtral" || kind == kFusedKind) return MixtralLayer(layer, shape);
  if (kind == "transposed") return TransposedLayer(layer, shape);
  return LlamaLayer(layer, shape);
}

// A block of the vision part and what is around it (modeling_qwen3_vl_moe.py).
Parts Vision() {
  Parts parts;
  const auto linear = [&](const std::string& name, int64_t rows, int64_t columns) {
    parts.Both(name + ".weight", {rows, columns});
    parts.Both(name + ".bias", {rows});
  };
  const auto norm = [&](const std::string& name, int64_t size) {
    parts.Both(name + ".weight", {size});
    parts.Both(name + ".bias", {size});
  };
  const std::string visual = "model.visual.", block = visual + "blocks.0.";
  parts.Both(visual + "patch_embed.proj.weight", {kVisionHidden, 3, 2, 14, 14});
  parts.Both(visual + "patch_embed.proj.bias", {kVisionHidden});
  parts.Both(visual + "pos_embed.weight", {kVisionPositions, kVisionHidden});
  norm(block + "norm1", kVisionHidden);
  norm(block + "norm2", kVisionHidden);
  linear(block + "attn.qkv", 3 * kVisionHidden, kVisionHidden);
  linear(block + "attn.proj", kVisionHidden, kVisionHidden);
  linear(block + "mlp.linear_fc1", kVisionIntermediate, kVisionHidden);
  linear(block + "mlp.linear_fc2", kVisionHidden, kVisionIntermediate);
  for (const bool deep : {false, true}) {
    const std::string merger = visual + (deep ? "deepstack_merger_list.0" : "merger");
    norm(merger + ".norm", deep ? 4 * kVisionHidden : kVisionHidden);
    linear(merger + ".linear_fc1", 4 * kVisionHidden, 4 * kVisionHidden);
    linear(merger + ".linear_fc2", kHidden, 4 * kVisionHidden);
  }
  return parts;
}

int64_t SumElements(const std::vector<BenchTensor>& tensors) {
  int64_t elements = 0;
  for (const BenchTensor& tensor : tensors) elements += NumElements(tensor);
  return elements;
}

Json TextConfig(const std::string& model_type, const char* dtype, const Shape& shape) {
  return {{"dtype", dtype},
          {"hidden_act", "silu"},
          {"hidden_size", kHidden},
          {"head_dim", kHeadSize},
          {"initializer_range", 0.02},
          {"max_position_embeddings", 2048},
          {"model_type", model_type},
          {"num_attention_heads", shape.heads},
          {"num_hidden_layers", shape.layers},
          {"num_key_value_heads", shape.key_heads},
          {"rms_norm_eps", 1e-6},
          {"rope_parameters", {{"rope_theta", 10000.0}, {"rope_type", "default"}}},
          {"tie_word_embeddings", false},
          {"vocab_size", shape.vocabulary}};
}

Json VisionConfig() {
  return {{"deepstack_visual_indexes", {0}},
          {"depth", 1},
          {"dtype", "bfloat16"},
          {"hidden_act", "gelu_pytorch_tanh"},
          {"hidden_size", kVisionHidden},
          {"in_channels", 3},
          {"initializer_range", 0.02},
          {"intermediate_size", kVisionIntermediate},
          {"model_type", "qwen3_vl_moe_vision"},
          {"num_heads", 4},
          {"num_position_embeddings", kVisionPositions},
          {"out_hidden_size", kHidden},
          {"patch_size", 14},
          {"spatial_merge_size", 2},
          {"temporal_patch_size", 2}};
}

Json Config(const std::string& kind, const ModelSpec& spec, const Shape& shape) {
  const char* const dtype = kind == "fp32" ? "float32" : "bfloat16";
  Json config;
  if (kind == "transposed") {
    Json text = TextConfig("qwen3_vl_moe_text", dtype, shape);
    text["decoder_sparse_step"] = 1;
    text["intermediate_size"] = kIntermediate;
    text["mlp_only_layers"] = Json::array();
    text["moe_intermediate_size"] = kExpertIntermediate;
    text["num_experts_per_tok"] = 2;
    text["num_local_experts"] = kExperts;
    config = {{"dtype", dtype},
              {"image_token_id", 1},
              {"model_type", spec.model_type},
              {"text_config", std::move(text)},
              {"tie_word_embeddings", false},
              {"video_token_id", 2},
              {"vision_config", VisionConfig()},
              {"vision_end_token_id", 3},
              {"vision_start_token_id", 4}};
  } else {
    config = TextConfig(spec.model_type, dtype, shape);
    config["intermediate_size"] = kIntermediate;
  }
  if (spec.model_type == "mixtral") {
    config["intermediate_size"] = shape.expert_intermediate;
    config["num_experts_per_tok"] = 2;
    config["num_local_experts"] = kExperts;
  }
  config["architectures"] = {spec.architecture};
  return config;
}

// The renames that the library applies to every model, after the model's own rules.
void AppendLegacyRules(std::vector<Rule>* rules) {
  rules->push_back(MakeRename({"LayerNorm.gamma"}, {"LayerNorm.weight"}));
  rules->push_back(MakeRename({"LayerNorm.beta"}, {"LayerNorm.bias"}));
  rules->push_back(MakeRename({".weight_g"}, {".parametrizations.weight.original0"}));
  rules->push_back(MakeRename({".weight_v"}, {".parametrizations.weight.original1"}));
  rules->push_back(
      MakeRename({R"(^model\.language_model\.model)", R"(^language_model\.model\.model)"},
                 {"model.language_model"}));
}

std::vector<Rule> RulesOf(const std::string& kind) {
  std::vector<Rule> rules;
  if (kind == "mixtral" || kind == kFusedKind) rules = MixtralRules();
  if (kind == "transposed") {
    Op transpose = MakeOp(OpKind::kTranspose);
    transpose.a = 1;
    transpose.b = 2;
    transpose.check_dims = true;
    for (const char* name : {"mlp.experts.gate_up_proj", "mlp.experts.down_proj"}) {
      rules.push_back(MakeConvert({name}, {name}, {transpose}));
    }
  }
  AppendLegacyRules(&rules);
  return rules;
}

void NameModel(const std::string& kind, ModelSpec* spec) {
  if (kind == "transposed") {
    spec->architecture = "Qwen3VLMoeForConditionalGeneration";
    spec->model_type = "qwen3_vl_moe";
  } else if (kind == "mixtral" || kind == kFusedKind) {
    spec->architecture = "MixtralForCausalLM";
    spec->model_type = "mixtral";
  } else {
    spec->architecture = "LlamaForCausalLM";
    spec->model_type = "llama";
  }
  spec->base_model_prefix = "model";
  spec->has_base_model_prefix = true;
  spec->dialect = "5.23.0";
}

Shape ShapeOf(const std::string& kind, int64_t num_bytes) {
  Shape shape;
  if (kind == "transposed") {
    shape.vocabulary = 1024;
    shape.heads = 4;
    shape.key_heads = 1;
  } else if (kind == kFusedKind) {
    // bf16, and gate_up is two of an expert's three matrices.
    const int64_t fused = std::min(kMostFusedBytes, num_bytes * 3 / 5);
    shape.expert_intermediate =
        std::max<int64_t>(128, fused / (kExperts * 2 * kHidden * 2) / 128 * 128);
  }
  return shape;
}

}  // namespace

int64_t NumElements(const BenchTensor& tensor) {
  int64_t count = 1;
  for (const int64_t extent : tensor.shape) count *= extent;
  return count;
}

std::vector<std::string> BenchKinds() { return {"llama", "mixtral", "fp32", "transposed"}; }

BenchModel MakeBenchModel(const std::string& kind, int64_t num_bytes) {
  BenchModel model;
  if (kind == "fp32") model.stored_dtype = DType::kFloat32;
  Shape shape = ShapeOf(kind, num_bytes);
  const std::string text = kind == "transposed" ? "model.language_model." : "model.";
  Parts parts;
  if (kind == "transposed") parts = Vision();
  parts.Both(text + "embed_tokens.weight", {shape.vocabulary, kHidden});
  const Parts layer = Layer(kind, text + "layers.0.", shape);
  const int64_t around = SumElements(parts.stored) + shape.vocabulary * kHidden;  // and lm_head
  const int64_t of_layer = SumElements(layer.stored);
  const int64_t wanted = num_bytes / SizeOf(model.stored_dtype);
  shape.layers = std::max<int64_t>(1, (wanted - around + of_layer / 2) / of_layer);
  for (int64_t number = 0; number < shape.layers; ++number) {
    parts.Append(Layer(kind, absl::StrCat(text, "layers.", number, "."), shape));
  }
  parts.Both(text + "norm.weight", {kHidden});
  parts.Both("lm_head.weight", {shape.vocabulary, kHidden});
  model.stored = std::move(parts.stored);
  NameModel(kind, &model.spec);
  model.spec.transforms = RulesOf(kind);
  for (const BenchTensor& tensor : parts.wanted) {
    model.spec.params.push_back({tensor.name, tensor.shape, DType::kBFloat16});
  }
  model.config_json = Config(kind, model.spec, shape).dump(2) + "\n";
  return model;
}

}  // namespace zerocast
