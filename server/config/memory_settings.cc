#include "server/config/memory_settings.h"

#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/config/json_reader.h"
#include "server/config/lint_value.h"
#include "server/config/python_format.h"

namespace zerocast {
namespace {

constexpr double kMaxSize = 9.2e18;

struct OptimizerStates {
  absl::string_view name;
  int64_t states;
};

// Elements of state for each element trained: momentum and variance, momentum alone, ...
constexpr OptimizerStates kOptimizers[] = {
    {"adam", 2},    {"adamw", 2},    {"fusedadam", 2}, {"lamb", 2},    {"nadam", 2}, {"radam", 2},
    {"adamax", 2},  {"adadelta", 2}, {"muadam", 2},    {"muadamw", 2}, {"lion", 1},  {"adagrad", 1},
    {"rmsprop", 1}, {"muon", 1},     {"musgd", 0},     {"sgd", 0},     {"asgd", 1},
};

class Reader {
 public:
  explicit Reader(const EstimateRequest& request) : request_(request), root_(request.config) {}

  absl::StatusOr<MemorySettings> Run() {
    if (root_.object() == nullptr) {
      return InvalidFields(
          {{"config", absl::StrCat("must be an object, was of type ", PythonTypeName(root_))}});
    }
    ReadStage();
    ReadTypes();
    ReadBuckets();
    ReadOffload();
    ReadOptimizer();
    ZC_RETURN_IF_ERROR(InvalidFields(violations_));
    if (!autos_.empty()) {
      out_.assumptions.push_back(absl::StrCat("\"auto\" is left, DeepSpeed's default counts: ",
                                              absl::StrJoin(autos_, ", ")));
    }
    for (const char* key : {"zero_optimization.zenflow", "torch_autocast.enabled",
                            "zero_optimization.zero_quantized_weights",
                            "zero_optimization.zero_quantized_nontrainable_weights"}) {
      const ConfigValue* value = Find(key);
      if (value != nullptr && PythonTruth(*value)) {
        out_.assumptions.push_back(absl::StrCat(key, " is not taken into account"));
      }
    }
    return std::move(out_);
  }

 private:
  // The value that DeepSpeed sees: null where it is absent, null or a dropped "auto".
  const ConfigValue* Find(const std::string& path) {
    const ConfigValue* node = &root_;
    for (const absl::string_view name : absl::StrSplit(path, '.')) {
      if (node->object() == nullptr) return nullptr;
      node = node->Find(name);
      if (node == nullptr || node->is_null()) return nullptr;
    }
    if (!node->IsText("auto")) return node;
    autos_.push_back(path);
    return nullptr;
  }

  void Violate(const std::string& path, absl::string_view what, const ConfigValue& value) {
    std::string text = WriteJson(value);
    if (text.size() > 80) text = absl::StrCat("of type ", PythonTypeName(value));
    violations_.push_back({path, absl::StrCat(what, ", was ", text)});
  }

  bool Bool(const std::string& path, bool fallback) {
    const ConfigValue* value = Find(path);
    if (value == nullptr) return fallback;
    const std::optional<bool> read = LaxBool(*value);
    if (!read.has_value()) Violate(path, "must be true or false", *value);
    return read.value_or(fallback);
  }

  int64_t Size(const std::string& path, int64_t fallback, int64_t least = 0) {
    const ConfigValue* value = Find(path);
    if (value == nullptr) return fallback;
    const std::optional<double> read = LaxInt(*value);
    if (!read.has_value() || *read < static_cast<double>(least) || *read > kMaxSize) {
      Violate(path, absl::StrCat("must be an integer of at least ", least), *value);
      return fallback;
    }
    return static_cast<int64_t>(*read);
  }

  // A size of zero_optimization that may also be given without its prefix "stage3_".
  int64_t Stage3Size(const std::string& name, int64_t fallback) {
    const std::string path = "zero_optimization." + name;
    return Size("zero_optimization.stage3_" + name, Size(path, fallback));
  }

  std::string Choice(const std::string& path, absl::Span<const absl::string_view> values,
                     absl::string_view fallback) {
    const ConfigValue* value = Find(path);
    if (value == nullptr) return std::string(fallback);
    for (const absl::string_view choice : values) {
      if (value->IsText(choice)) return std::string(choice);
    }
    Violate(path, absl::StrCat("must be one of ", absl::StrJoin(values, ", ")), *value);
    return std::string(fallback);
  }

  void ReadStage() {
    const ConfigValue* section = Find("zero_optimization");
    if (section != nullptr && section->boolean() != nullptr) {
      out_.stage = *section->boolean() ? 1 : 0;  // the old form
      return;
    }
    if (section != nullptr && section->object() == nullptr) {
      Violate("zero_optimization", "must be an object", *section);
      return;
    }
    const int64_t stage = Size("zero_optimization.stage", 0);
    if (stage > 3) Violate("zero_optimization.stage", "must be 0..3", ConfigValue(stage));
    out_.stage = static_cast<int>(stage);
  }

  void ReadTypes() {
    const std::string bf16_name = Find("bf16") == nullptr && Find("bfloat16") ? "bfloat16" : "bf16";
    const bool fp16 = Bool("fp16.enabled", false), bf16 = Bool(bf16_name + ".enabled", false);
    if (fp16 && bf16) {
      violations_.push_back({bf16_name + ".enabled", "cannot be enabled together with fp16"});
    }
    out_.dtype = bf16 ? "bf16" : fp16 ? "fp16" : "fp32";
    out_.parameter_bytes = bf16 || fp16 ? 2 : 4;
    const std::string accumulated =
        Choice("data_types.grad_accum_dtype",
               {"fp32", "float32", "float", "torch.float32", "fp16", "float16", "half",
                "torch.float16", "bf16", "bfloat16", "torch.bfloat16"},
               out_.dtype);
    const bool wide = accumulated == "float" || absl::StrContains(accumulated, "32");
    out_.accumulated_bytes = wide ? 4 : 2;
    if (out_.stage == 0 && out_.accumulated_bytes != out_.parameter_bytes) {
      violations_.push_back(
          {"data_types.grad_accum_dtype", absl::StrCat("must be the parameters' type, ", out_.dtype,
                                                       ", without ZeRO, was ", accumulated)});
    }
    out_.immediate_grad_update = bf16 && Bool(bf16_name + ".immediate_grad_update", false);
    const bool masters_as_parameters =
        (fp16 && Bool("fp16.fp16_master_weights_and_grads", false)) ||
        (bf16 && Bool(bf16_name + ".bf16_master_weights_and_grads", false));
    out_.master_bytes = masters_as_parameters ? 2 : 4;
    out_.state_bytes = bf16 && Bool(bf16_name + ".bf16_optimizer_states", false) ? 2 : 4;
  }

  void ReadBuckets() {
    const std::string zero = "zero_optimization.";
    out_.contiguous_gradients = Bool(zero + "contiguous_gradients", true);
    out_.overlap_comm = Bool(zero + "overlap_comm", out_.stage == 3);
    out_.reduce_bucket_size = Size(zero + "reduce_bucket_size", 500000000, 1);
    out_.prefetch_bucket_size = Stage3Size("prefetch_bucket_size", 50000000);
    out_.max_live_parameters = Stage3Size("max_live_parameters", 1000000000);
    out_.param_persistence_threshold = Stage3Size("param_persistence_threshold", 100000);
    out_.model_persistence_threshold =
        Stage3Size("model_persistence_threshold", std::numeric_limits<int64_t>::max());
    out_.sub_group_size = Size(zero + "sub_group_size", 1000000000);
    out_.hpz_partition_size = Size(zero + "zero_hpz_partition_size", 1);
    if (out_.stage == 3 && out_.hpz_partition_size > 1 && request_.world_size > 0 &&
        request_.world_size % out_.hpz_partition_size != 0) {
      violations_.push_back({zero + "zero_hpz_partition_size",
                             absl::StrCat("must divide the world size, ", request_.world_size,
                                          ", was ", out_.hpz_partition_size)});
    }
    out_.accumulation_steps = Size("gradient_accumulation_steps", 1, 1);
  }

  MemoryPlace Place(const std::string& section) {
    const ConfigValue* value = Find(section);
    if (value != nullptr && value->object() == nullptr) {
      Violate(section, "must be an object", *value);
      return MemoryPlace::kAccelerator;
    }
    const std::string device = Choice(section + ".device", {"none", "cpu", "nvme"}, "none");
    return device == "cpu"    ? MemoryPlace::kHost
           : device == "nvme" ? MemoryPlace::kNvme
                              : MemoryPlace::kAccelerator;
  }

  void ReadOffload() {
    if (out_.stage == 0) return;
    const std::string optimizer = "zero_optimization.offload_optimizer";
    out_.optimizer_place = Place(optimizer);
    // Stages 1 and 2 have no swapper: whatever the device, states lie in the host's memory
    // (stage_1_and_2.py: cpu_offload).
    if (out_.stage < 3 && out_.offloads_optimizer()) out_.optimizer_place = MemoryPlace::kHost;
    out_.optimizer_buffer_count = Size(optimizer + ".buffer_count", 4);
    if (const ConfigValue* ratio = Find(optimizer + ".ratio")) {
      const std::optional<double> read = LaxFloat(*ratio);
      if (!read.has_value() || !(*read >= 0 && *read <= 1)) {
        Violate(optimizer + ".ratio", "must be a number of 0..1", *ratio);
      } else {
        out_.offload_ratio = *read;
      }
    }
    if (out_.stage < 3) return;
    const std::string param = "zero_optimization.offload_param";
    out_.parameter_place = Place(param);
    out_.parameter_buffer_count = Size(param + ".buffer_count", 5);
    out_.parameter_buffer_size = Size(param + ".buffer_size", 100000000);
    out_.max_in_cpu = Size(param + ".max_in_cpu", 1000000000);
  }

  void ReadOptimizer() {
    const ConfigValue* section = Find("optimizer");
    std::string name = request_.trainer_optimizer;
    if (section != nullptr) {
      const ConfigValue* type = section->Find("type");
      if (type == nullptr || type->text() == nullptr) {
        violations_.push_back({"optimizer.type", "must be set, a string"});
        return;
      }
      name = *type->text();
    }
    out_.optimizer = absl::AsciiStrToLower(name);
    bool known = false;
    for (const OptimizerStates& optimizer : kOptimizers) {
      if (optimizer.name != out_.optimizer) continue;
      out_.optimizer_states = optimizer.states;
      known = true;
    }
    if (!known) {
      out_.optimizer_states = 2;
      out_.assumptions.push_back(
          absl::StrCat("the optimizer ", name, " keeps two values for each element, as Adam does"));
    }
    if (section == nullptr) return;
    const std::string params = "optimizer.params.";
    if (Bool(params + "amsgrad", false)) ++out_.optimizer_states;
    if (out_.optimizer == "sgd" || out_.optimizer == "musgd" || out_.optimizer == "rmsprop") {
      const ConfigValue* momentum = Find(params + "momentum");
      if (momentum != nullptr && PythonTruth(*momentum)) ++out_.optimizer_states;
    }
    if (out_.optimizer == "rmsprop" && Bool(params + "centered", false)) ++out_.optimizer_states;
    if (out_.optimizer == "muon") {
      out_.assumptions.push_back(
          "Muon keeps a momentum for each element; the parameters that it leaves to AdamW keep one "
          "value more");
    }
    // DeepSpeedCPUAdam's own option; its states are then of the parameters' type.
    const bool adam = out_.optimizer == "adam" || out_.optimizer == "adamw";
    if (adam && out_.offloads_optimizer() && !Bool(params + "fp32_optimizer_states", true)) {
      out_.state_bytes = out_.master_bytes;
    }
  }

  const EstimateRequest& request_;
  const ConfigValue& root_;
  MemorySettings out_;
  std::vector<std::string> autos_;
  std::vector<FieldViolation> violations_;
};

}  // namespace

absl::StatusOr<MemorySettings> ReadMemorySettings(const EstimateRequest& request) {
  return Reader(request).Run();
}

}  // namespace zerocast
