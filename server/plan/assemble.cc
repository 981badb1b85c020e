#include "server/plan/assemble.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/copy/copy.h"
#include "kernels/copy/decode_box.h"
#include "server/base/errors.h"
#include "server/plan/name_patterns.h"
#include "server/plan/shape.h"
#include "server/plan/strict.h"

namespace zerocast {
namespace {

enum class State { kFilled, kMissing, kMismatched };

// What the policy makes of a target that the model holds as `in_model` and the file as `stored`;
// either may be kInvalid, where there is no spec or nothing was found.
DType ChooseDType(DTypePolicy policy, DType in_model, DType stored, bool is_buffer) {
  const DType own = in_model != DType::kInvalid ? in_model : stored;
  const bool follows = !is_buffer && IsFloating(own);
  switch (policy) {
    case DTypePolicy::kStored:
      return stored != DType::kInvalid ? stored : in_model;
    case DTypePolicy::kSpec:
      return own;
    case DTypePolicy::kBFloat16:
      return follows ? DType::kBFloat16 : own;
    case DTypePolicy::kFloat16:
      return follows ? DType::kFloat16 : own;
    case DTypePolicy::kFloat32:
      return follows ? DType::kFloat32 : own;
  }
  return own;
}

// Eight bits stored for a floating weight are what is left of a quantised one whose scales nothing
// reads.  torch would cast them, and the weight would be wrong.
bool LooksQuantised(DType stored, const Target& target) {
  return (stored == DType::kInt8 || stored == DType::kUInt8) && IsFloating(target.dtype) &&
         !target.is_buffer;
}

class Assembler {
 public:
  Assembler(const Manifest& manifest, Conversion conversion, const Layout& layout)
      : manifest_(manifest), conversion_(std::move(conversion)), layout_(layout) {
    report_.unexpected = std::move(conversion_.unexpected);
    report_.conversion_errors = std::move(conversion_.errors);
  }

  void FillFromModel(const Model& model) {
    for (ConvertedTensor& tensor : conversion_.tensors) made_.emplace(tensor.name, &tensor);
    std::vector<State> states;
    states.reserve(model.weights.size());
    for (const Weight& weight : model.weights) states.push_back(Fill(weight));
    for (size_t i = 0; i < model.names.size(); ++i) {
      if (states[model.weight_of_name[i]] == State::kMissing) {
        report_.missing.push_back(model.names[i].name);
      }
    }
  }

  // Without a spec the model is what the conversion made.
  void FillFromCheckpoint() {
    report_.missing_unknown = true;
    for (ConvertedTensor& tensor : conversion_.tensors) {
      Target target;
      target.name = tensor.name;
      target.shape = tensor.shape;
      target.dtype = ChooseDType(layout_.dtype, DType::kInvalid, tensor.dtype, false);
      if (!Take(&tensor, &target)) report_.missing.push_back(tensor.name);
      targets_.push_back(std::move(target));
    }
  }

  std::vector<Target> TakeTargets() { return std::move(targets_); }

  // Those of the sources that some target reads.
  std::vector<SourceDecoder> TakeDecoders() {
    std::vector<bool> is_read(manifest_.tensors.size(), false);
    for (const Target& target : targets_) {
      for (const Box& box : target.boxes) is_read[box.source] = true;
    }
    std::vector<SourceDecoder> decoders = std::move(conversion_.decoders);
    decoders.erase(
        std::remove_if(decoders.begin(), decoders.end(),
                       [&](const SourceDecoder& decoder) { return !is_read[decoder.source]; }),
        decoders.end());
    return decoders;
  }
  Report* report() { return &report_; }

 private:
  // Appends the weight's target, with boxes where one of its names was made in the right shape.
  State Fill(const Weight& weight) {
    Target target;
    target.name = weight.tensor->name;
    target.shape = weight.tensor->shape;
    target.is_buffer = weight.is_buffer;
    target.aliases = weight.aliases;
    State state = State::kMissing;
    ConvertedTensor* best = nullptr;
    for (size_t i = 0; i <= weight.aliases.size(); ++i) {
      const auto made = made_.find(i == 0 ? target.name : weight.aliases[i - 1]);
      if (made == made_.end()) continue;
      if (made->second->shape != target.shape) {
        report_.mismatched.push_back(
            {made->second->name, made->second->shape, target.shape, made->second->origin});
        state = State::kMismatched;
      } else if (best == nullptr) {
        best = made->second;
      }
    }
    target.dtype = ChooseDType(layout_.dtype, weight.tensor->dtype,
                               best == nullptr ? DType::kInvalid : best->dtype, weight.is_buffer);
    if (best != nullptr) state = Take(best, &target) ? State::kFilled : State::kMissing;
    targets_.push_back(std::move(target));
    return state;
  }

  // Moves the boxes into `target`; false, with an error in the report, where a source cannot be
  // cast to the target's dtype.
  bool Take(ConvertedTensor* tensor, Target* target) {
    for (const int32_t source : tensor->sources) {
      const SourceTensor& from = manifest_.tensors[source].tensor;
      const bool is_decoded = FindDecoder(conversion_.decoders, source) != nullptr;
      const bool looks_quantised = !is_decoded && LooksQuantised(from.dtype, *target);
      if (is_decoded ? CanDecodeTo(target->dtype)
                     : CanCast(from.dtype, target->dtype) && !looks_quantised) {
        continue;
      }
      report_.conversion_errors.push_back(
          {target->name,
           {from.name},
           absl::StrCat(
               "'", from.name, "' in ", FileOf(manifest_, source), " is ",
               is_decoded ? "decoded from " : "stored as ", DTypeName(from.dtype),
               ", which cannot become ", DTypeName(target->dtype),
               looks_quantised ? ": it looks quantised, and nothing reads its scales" : "")});
      return false;
    }
    target->boxes = std::move(tensor->boxes);
    target->is_filled = true;
    return true;
  }

  const Manifest& manifest_;
  Conversion conversion_;
  const Layout& layout_;
  absl::flat_hash_map<absl::string_view, ConvertedTensor*> made_;
  std::vector<Target> targets_;
  Report report_;
};

absl::Status DropIgnored(const ModelSpec& spec, Report* report) {
  ZC_ASSIGN_OR_RETURN(
      NamePatterns missing,
      NamePatterns::Compile(spec.ignore_missing, "model_spec.keys_to_ignore_on_load_missing"));
  ZC_RETURN_IF_ERROR(missing.RemoveFound(&report->missing));
  ZC_ASSIGN_OR_RETURN(NamePatterns unexpected,
                      NamePatterns::Compile(spec.ignore_unexpected,
                                            "model_spec.keys_to_ignore_on_load_unexpected"));
  return unexpected.RemoveFound(&report->unexpected);
}

}  // namespace

std::string DTypePolicyName(DTypePolicy policy) {
  switch (policy) {
    case DTypePolicy::kStored:
      return "stored";
    case DTypePolicy::kSpec:
      return "spec";
    case DTypePolicy::kBFloat16:
      return "bf16";
    case DTypePolicy::kFloat16:
      return "fp16";
    case DTypePolicy::kFloat32:
      return "fp32";
  }
  return "";
}

namespace {

int64_t AlignedBytes(int64_t elements, DType dtype) {
  return (elements * SizeOf(dtype) + kPartitionAlignment - 1) / kPartitionAlignment *
         kPartitionAlignment;
}

}  // namespace

absl::Status LayOutArena(Plan* plan) {
  const auto overflow = [](const Target& target) {
    return WithReason(absl::InvalidArgumentError(
                          absl::StrCat("lay out the arena: with '", target.name, "' of shape ",
                                       ShapeAsText(target.shape), " it reaches ", kTooManyBytes,
                                       " bytes or more; check the shapes of the model spec and "
                                       "of the checkpoint")),
                      "INVALID_FIELDS");
  };
  int64_t end = 0;
  for (Target& target : plan->targets) {
    int64_t num_bytes = 0;
    if (!CheckedBytes(target.shape, target.dtype, &num_bytes)) return overflow(target);
    CheckedElements(target.shape, &target.num_elements);
    target.partitioned = !target.is_buffer && plan->layout.zero_stage >= (target.is_state ? 1 : 3);
    const int64_t parts = target.partitioned ? plan->layout.world_size : 1;
    target.partition_elements =
        target.num_elements / parts + (target.num_elements % parts != 0 ? 1 : 0);
    target.arena_offset = end;
    // Both are below kTooManyBytes: the sum does not overflow.
    end += AlignedBytes(target.partition_elements, target.dtype);
    if (end >= kTooManyBytes) return overflow(target);
  }
  const int64_t group = SecondaryGroupSize(plan->layout);
  for (Target& target : plan->targets) {
    target.secondary_elements = target.secondary_offset = 0;
    if (group == 0 || !target.partitioned || target.is_state || target.num_elements == 0) continue;
    // At most all that the target's bytes, below kTooManyBytes, and their padding are.
    target.secondary_elements = target.partition_elements * (plan->layout.world_size / group);
    target.secondary_offset = end;
    end += AlignedBytes(target.secondary_elements, target.dtype);
    if (end >= kTooManyBytes) return overflow(target);
  }
  plan->arena_bytes = end;
  return absl::OkStatus();
}

absl::StatusOr<Plan> AssemblePlan(std::shared_ptr<const Manifest> manifest, const ModelSpec* spec,
                                  const Model* model, Conversion conversion, const Layout& layout,
                                  Report* report) {
  Assembler assembler(*manifest, std::move(conversion), layout);
  if (model != nullptr) {
    assembler.FillFromModel(*model);
    ZC_RETURN_IF_ERROR(DropIgnored(*spec, assembler.report()));
  } else {
    assembler.FillFromCheckpoint();
    assembler.report()->rules_unknown = manifest->config_json.empty();
  }
  Plan plan;
  plan.report = std::move(*assembler.report());
  plan.report.dtype = DTypePolicyName(layout.dtype);
  plan.report.note = manifest->note;
  if (report != nullptr) {
    plan.report.dtype_reason = std::move(report->dtype_reason);
    *report = plan.report;
  }
  ZC_RETURN_IF_ERROR(CheckStrict(plan.report, layout));
  plan.manifest = std::move(manifest);
  plan.layout = layout;
  plan.decoders = assembler.TakeDecoders();
  plan.targets = assembler.TakeTargets();
  ZC_RETURN_IF_ERROR(LayOutArena(&plan));
  return plan;
}

}  // namespace zerocast
