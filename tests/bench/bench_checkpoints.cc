#include "tests/bench/bench_checkpoints.h"

#include <sys/stat.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/formats/safetensors_writer.h"
#include "kernels/base/status_macros.h"
#include "tests/made_rules.h"

namespace zerocast {
namespace {

constexpr int64_t kFileBytes = int64_t{1} << 30;
constexpr int64_t kHidden = 2048;
constexpr int64_t kIntermediate = 5632;
constexpr int64_t kExpertIntermediate = 1408;
constexpr int64_t kExperts = 8;
constexpr int64_t kVocabulary = 16000;

struct Named {
  std::string name;
  std::vector<int64_t> shape;
};

int64_t Count(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  return count;
}

// What one layer, or what is outside of all layers, is made of: in the file and in the model.
struct Parts {
  std::vector<Named> stored, wanted;
  void Both(const std::string& name, std::vector<int64_t> shape) {
    stored.push_back({name, shape});
    wanted.push_back({name, std::move(shape)});
  }
};

void AddAttention(const std::string& layer, Parts* parts) {
  for (const char* name : {"q", "k", "v", "o"}) {
    parts->Both(absl::StrCat(layer, "self_attn.", name, "_proj.weight"), {kHidden, kHidden});
  }
  parts->Both(absl::StrCat(layer, "input_layernorm.weight"), {kHidden});
  parts->Both(absl::StrCat(layer, "post_attention_layernorm.weight"), {kHidden});
}

Parts Layer(const std::string& kind, int64_t number) {
  Parts parts;
  const std::string layer = absl::StrCat("model.layers.", number, ".");
  if (kind == "transposed") {
    const std::string experts = layer + "mlp.experts.";
    parts.stored.push_back(
        {experts + "gate_up_proj", {kExperts, kHidden, 2 * kExpertIntermediate}});
    parts.wanted.push_back(
        {experts + "gate_up_proj", {kExperts, 2 * kExpertIntermediate, kHidden}});
    parts.stored.push_back({experts + "down_proj", {kExperts, kExpertIntermediate, kHidden}});
    parts.wanted.push_back({experts + "down_proj", {kExperts, kHidden, kExpertIntermediate}});
    parts.Both(layer + "input_layernorm.weight", {kHidden});
    return parts;
  }
  AddAttention(layer, &parts);
  if (kind == "mixtral") {
    for (int64_t e = 0; e < kExperts; ++e) {
      const std::string expert = absl::StrCat(layer, "block_sparse_moe.experts.", e, ".");
      parts.stored.push_back({expert + "w1.weight", {kExpertIntermediate, kHidden}});
      parts.stored.push_back({expert + "w2.weight", {kHidden, kExpertIntermediate}});
      parts.stored.push_back({expert + "w3.weight", {kExpertIntermediate, kHidden}});
    }
    const std::string experts = layer + "mlp.experts.";
    parts.wanted.push_back(
        {experts + "gate_up_proj", {kExperts, 2 * kExpertIntermediate, kHidden}});
    parts.wanted.push_back({experts + "down_proj", {kExperts, kHidden, kExpertIntermediate}});
    return parts;
  }
  parts.Both(layer + "mlp.gate_proj.weight", {kIntermediate, kHidden});
  parts.Both(layer + "mlp.up_proj.weight", {kIntermediate, kHidden});
  parts.Both(layer + "mlp.down_proj.weight", {kHidden, kIntermediate});
  return parts;
}

void Append(const Parts& more, Parts* parts) {
  parts->stored.insert(parts->stored.end(), more.stored.begin(), more.stored.end());
  parts->wanted.insert(parts->wanted.end(), more.wanted.begin(), more.wanted.end());
}

int64_t Elements(const std::vector<Named>& tensors) {
  int64_t elements = 0;
  for (const Named& tensor : tensors) elements += Count(tensor.shape);
  return elements;
}

Parts ModelOf(const std::string& kind, int64_t num_elements) {
  Parts parts;
  if (kind != "transposed") {
    parts.Both("model.embed_tokens.weight", {kVocabulary, kHidden});
    parts.Both("lm_head.weight", {kVocabulary, kHidden});
  }
  const int64_t of_layer = Elements(Layer(kind, 0).stored);
  const int64_t layers =
      std::max<int64_t>(1, (num_elements - Elements(parts.stored) + of_layer / 2) / of_layer);
  for (int64_t layer = 0; layer < layers; ++layer) Append(Layer(kind, layer), &parts);
  parts.Both("model.norm.weight", {kHidden});
  return parts;
}

std::vector<Rule> RulesOf(const std::string& kind) {
  if (kind == "mixtral") return MixtralRules();
  if (kind == "transposed") {
    std::vector<Rule> rules;
    Op transpose = MakeOp(OpKind::kTranspose);
    transpose.a = 1;
    transpose.b = 2;
    for (const char* name : {"mlp.experts.gate_up_proj", "mlp.experts.down_proj"}) {
      rules.push_back(MakeConvert({name}, {name}, {transpose}));
    }
    return rules;
  }
  return {};
}

absl::Status WriteFiles(const std::string& folder, const std::vector<Named>& tensors, DType dtype) {
  // One piece of random bytes serves all tensors, each from another place on.
  int64_t most = 0;
  for (const Named& tensor : tensors) most = std::max(most, Count(tensor.shape) * SizeOf(dtype));
  constexpr size_t kShift = 1 << 20;
  std::string bytes(static_cast<size_t>(most) + kShift, '\0');
  std::mt19937_64 random(1);
  for (size_t i = 0; i + 8 <= bytes.size(); i += 8) {
    // No infinities and NaNs: exponents stay small.
    const uint64_t word = random() & 0xBFFFBFFFBFFFBFFF;
    std::copy_n(reinterpret_cast<const char*>(&word), 8, &bytes[i]);
  }
  std::vector<std::vector<TensorToWrite>> files(1);
  int64_t room = kFileBytes;
  for (const Named& tensor : tensors) {
    const int64_t size = Count(tensor.shape) * SizeOf(dtype);
    if (size > room && !files.back().empty()) {
      files.emplace_back();
      room = kFileBytes;
    }
    room -= size;
    const size_t shift = random() % kShift / 64 * 64;
    files.back().push_back({tensor.name, dtype, tensor.shape,
                            absl::string_view(bytes).substr(shift, static_cast<size_t>(size))});
  }
  nlohmann::json index = {{"metadata", {{"total_size", 0}}}};
  for (size_t k = 0; k < files.size(); ++k) {
    const std::string name = absl::StrFormat("model-%05d-of-%05d.safetensors", k + 1, files.size());
    ZC_RETURN_IF_ERROR(WriteSafetensors(folder + "/" + name, files[k], {{"format", "pt"}}));
    for (const TensorToWrite& tensor : files[k]) index["weight_map"][tensor.name] = name;
  }
  // Last: a folder with an index is whole.
  std::ofstream(folder + "/config.json") << R"({"model_type": "llama"})";
  std::ofstream out(folder + "/model.safetensors.index.json");
  out << index.dump();
  out.close();
  if (!out) return absl::UnavailableError("write " + folder);
  return absl::OkStatus();
}

}  // namespace

std::vector<std::string> BenchKinds() { return {"llama", "mixtral", "fp32", "transposed"}; }

absl::StatusOr<BenchCheckpoint> MakeBenchCheckpoint(const std::string& folder,
                                                    const std::string& kind, int64_t num_bytes) {
  BenchCheckpoint made;
  made.name = kind;
  made.folder = absl::StrCat(folder, "/", kind, "-", num_bytes);
  const DType stored = kind == "fp32" ? DType::kFloat32 : DType::kBFloat16;
  made.dtype = kind == "fp32" ? DTypePolicy::kBFloat16 : DTypePolicy::kStored;
  const Parts parts = ModelOf(kind, num_bytes / SizeOf(stored));
  made.spec.architecture = "ForCausalLM";
  made.spec.model_type = kind;
  made.spec.transforms = RulesOf(kind);
  for (const Named& tensor : parts.wanted) {
    made.spec.params.push_back({tensor.name, tensor.shape, DType::kBFloat16});
  }
  struct stat info;
  if (::stat((made.folder + "/model.safetensors.index.json").c_str(), &info) == 0) return made;
  ::mkdir(folder.c_str(), 0777);
  ::mkdir(made.folder.c_str(), 0777);
  ZC_RETURN_IF_ERROR(WriteFiles(made.folder, parts.stored, stored));
  return made;
}

}  // namespace zerocast
