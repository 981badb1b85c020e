#include "server/config/estimate.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/config/memory_settings.h"

namespace zerocast {
namespace {

// Sums and products of sizes that a config may set to anything stay at the largest number.
int64_t Times(int64_t a, int64_t b) {
  int64_t out;
  return __builtin_mul_overflow(a, b, &out) ? std::numeric_limits<int64_t>::max() : out;
}
int64_t Plus(int64_t a, int64_t b) {
  int64_t out;
  return __builtin_add_overflow(a, b, &out) ? std::numeric_limits<int64_t>::max() : out;
}
int64_t CeilDiv(int64_t a, int64_t b) { return a / b + (a % b != 0 ? 1 : 0); }

// A number of elements, with how it came about: "ceil(7241732096 / 8)".
struct Elements {
  int64_t num = 0;
  std::string formula;
};

class Estimator {
 public:
  Estimator(const EstimateRequest& request, MemorySettings settings)
      : request_(request), model_(request.model), world_(request.world_size), s_(settings) {
    out_.assumptions = std::move(settings.assumptions);
    trained_ = request.inference ? 0 : model_.num_trainable.value_or(model_.num_parameters);
    frozen_ = model_.num_parameters - trained_;
    largest_ = model_.largest_parameter;
  }

  MemoryEstimate Run() {
    if (s_.stage == 3) {
      Stage3();
    } else if (s_.stage == 0 || request_.inference) {
      Stage0();
    } else if (s_.stage == 1 && s_.dtype == "bf16" && s_.accumulated_bytes == 4 &&
               !s_.offloads_optimizer()) {
      // engine.py: _do_optimizer_sanity_check
      Bf16Optimizer();
    } else {
      Stages1And2();
    }
    if (model_.num_buffers > 0) {
      Add("buffers", MemoryPlace::kAccelerator, 4,
          {model_.num_buffers, absl::StrCat(model_.num_buffers, " elements")});
    }
    for (const MemoryLine& line : out_.lines) {
      int64_t* sum = line.place == MemoryPlace::kAccelerator ? &out_.accelerator_bytes
                     : line.place == MemoryPlace::kHost      ? &out_.host_bytes
                                                             : &out_.nvme_bytes;
      *sum = Plus(*sum, line.num_bytes);
    }
    return std::move(out_);
  }

 private:
  void Add(std::string what, MemoryPlace place, int64_t bytes, const Elements& elements) {
    if (elements.num == 0 || bytes == 0) return;
    out_.lines.push_back({std::move(what), place, Times(bytes, elements.num),
                          absl::StrCat(bytes, " bytes * ", elements.formula)});
  }
  void Assume(std::string what) { out_.assumptions.push_back(std::move(what)); }

  Elements Whole(int64_t num, absl::string_view what) const {
    return {num, absl::StrCat(num, " ", what)};
  }
  // `count` times as many.
  static Elements Several(int64_t count, absl::string_view what, const Elements& elements) {
    return {Times(count, elements.num), absl::StrCat(count, " ", what, " * ", elements.formula)};
  }

  void OptimizerStates(MemoryPlace place, const Elements& trained) {
    if (s_.optimizer_states == 0) return;
    Add("optimizer states", place, s_.state_bytes,
        Several(s_.optimizer_states, absl::StrCat("of ", s_.optimizer), trained));
  }

  void Stage0() {
    const auto here = MemoryPlace::kAccelerator;
    Add("parameters", here, s_.parameter_bytes, Whole(model_.num_parameters, "parameters"));
    if (trained_ == 0) return;
    const Elements trained = Whole(trained_, "trained parameters");
    Add("gradients", here, s_.parameter_bytes, trained);
    if (s_.mixed()) {
      Add("fp32 masters", here, 4, trained);
      Add("fp32 gradients of the step", here, 4, trained);
    }
    OptimizerStates(here, trained);
  }

  // What one rank owns of the flat buffer of stages 1 and 2, which is padded to a multiple of twice
  // the world size (stage_1_and_2.py: nccl_start_alignment_factor).
  Elements Slice() const {
    const int64_t slice = Times(2, CeilDiv(trained_, Times(2, world_)));
    return {slice, absl::StrCat("2 * ceil(", trained_, " / ", 2 * world_, ")")};
  }
  Elements Flat() const {
    const Elements slice = Slice();
    return {Plus(Times(slice.num, world_), frozen_),
            absl::StrCat("(", world_, " * ", slice.formula,
                         frozen_ == 0 ? ")" : absl::StrCat(" + ", frozen_, " frozen)"))};
  }

  void AssumeOneGroup() {
    if (world_ > 1) Assume("one parameter group: each further one may add padding");
  }

  void Stages1And2() {
    const auto here = MemoryPlace::kAccelerator;
    const MemoryPlace away = s_.optimizer_place;
    const bool offload = s_.offloads_optimizer();
    const Elements slice = Slice(), trained = Whole(trained_, "trained parameters");
    AssumeOneGroup();
    Add("parameters", here, s_.parameter_bytes, Flat());
    if (s_.stage == 1) {
      Add("gradients", here, s_.parameter_bytes, trained);
      if (s_.accumulated_bytes != s_.parameter_bytes) {
        Add("accumulated gradients", here, s_.accumulated_bytes, trained);
      }
    } else if (!offload) {
      Add("gradients", here, s_.parameter_bytes, slice);
      if (s_.accumulated_bytes != s_.parameter_bytes) {
        Add("accumulated gradients", here, s_.accumulated_bytes, slice);
      }
    } else {
      LargestParameter("gradient on its way to the host", here);
      LargestParameter("gradient on its way from the accelerator", away);
      if (s_.accumulation_steps > 1) Add("accumulated gradients", away, s_.parameter_bytes, slice);
    }
    ReduceBuckets(s_.overlap_comm ? 2 : 1,
                  s_.stage == 1 ? s_.accumulated_bytes : s_.parameter_bytes);
    Add(MastersName(), away, s_.master_bytes, slice);
    Add("gradients of the step", away, s_.master_bytes, slice);
    if (offload) Add("updated parameters on their way back", away, s_.parameter_bytes, slice);
    OptimizerStates(away, slice);
  }

  void Bf16Optimizer() {
    const auto here = MemoryPlace::kAccelerator;
    const Elements slice = Slice();
    AssumeOneGroup();
    Add("parameters", here, s_.parameter_bytes, Flat());
    if (s_.immediate_grad_update) {
      LargestParameter("gradient that is added to the fp32 ones", here);
    } else {
      Add("gradients", here, s_.parameter_bytes, Whole(trained_, "trained parameters"));
    }
    Add("accumulated gradients", here, 4, Several(world_, "ranks", slice));
    Add("fp32 masters", here, 4, slice);
    OptimizerStates(here, slice);
  }

  std::string MastersName() const {
    return s_.master_bytes == 4 ? "fp32 masters" : absl::StrCat(s_.dtype, " masters");
  }

  void LargestParameter(std::string what, MemoryPlace place) {
    if (largest_ == 0) {
      Assume(absl::StrCat("the largest parameter is unknown: no ", what, " counts"));
      return;
    }
    Add(std::move(what), place, s_.parameter_bytes, Whole(largest_, "of the largest parameter"));
  }

  void ReduceBuckets(int64_t count, int64_t bytes) {
    if (!s_.contiguous_gradients) return;
    Add("reduce buckets", MemoryPlace::kAccelerator, bytes,
        Several(count, count == 1 ? "buffer" : "buffers (overlap_comm)",
                Whole(s_.reduce_bucket_size, "of reduce_bucket_size")));
  }

  // ---- Stage 3 ----

  // What one rank owns of `num` elements: each parameter is padded to a multiple of the world size
  // (partition_parameters.py: _aligned_size).
  Elements Partition(int64_t num, absl::string_view what) const {
    if (!model_.parameters.empty() && num == model_.num_parameters) {
      int64_t sum = 0;
      for (const int64_t numel : model_.parameters) sum += CeilDiv(numel, world_);
      return {sum, absl::StrCat("the sum of ceil(n / ", world_, ") over ", model_.parameters.size(),
                                " parameters = ", sum)};
    }
    return {CeilDiv(num, world_), absl::StrCat("ceil(", num, " ", what, " / ", world_, ")")};
  }

  // The largest group of parameters whose slices are updated together (stage3.py:
  // _create_fp16_sub_groups).
  Elements SubGroup(const Elements& owned) const {
    int64_t largest = 0, sum = 0;
    if (s_.sub_group_size >= owned.num) return owned;
    if (!model_.parameters.empty() && trained_ == model_.num_parameters) {
      for (const int64_t numel : model_.parameters) {
        sum += CeilDiv(numel, world_);
        largest = std::max(largest, sum);
        if (sum >= s_.sub_group_size) sum = 0;
      }
    } else {
      largest = std::min(owned.num, Plus(s_.sub_group_size, CeilDiv(largest_, world_)));
    }
    return Whole(largest,
                 absl::StrCat("of the largest sub-group (sub_group_size ", s_.sub_group_size, ")"));
  }

  // Elements of the parameters that every rank keeps whole (parameter_offload.py:
  // mark_persistent_parameters).
  int64_t Persistent() {
    if (model_.parameters.empty()) {
      Assume(absl::StrCat("the shapes are unknown: parameters of up to ",
                          s_.param_persistence_threshold,
                          " elements (stage3_param_persistence_threshold), which each rank keeps "
                          "whole, are not counted"));
      return 0;
    }
    int64_t sum = 0;
    for (const int64_t numel : model_.parameters) {
      if (numel <= s_.param_persistence_threshold &&
          Plus(sum, numel) <= s_.model_persistence_threshold) {
        sum += numel;
      }
    }
    return sum;
  }

  void Stage3() {
    const auto here = MemoryPlace::kAccelerator;
    if (model_.parameters.empty() && world_ > 1) {
      Assume("the shapes are unknown: the padding of each parameter is not counted");
    }
    if (!model_.parameters.empty() && trained_ != model_.num_parameters && trained_ > 0) {
      Assume("which parameters are trained is unknown: their padding is not counted");
    }
    Add("parameters", s_.parameter_place, s_.parameter_bytes,
        Partition(model_.num_parameters, "parameters"));
    ParameterBuffers();
    if (s_.hpz_partition_size > 1) {
      const Elements owned = Partition(model_.num_parameters, "parameters");
      const int64_t share = world_ / s_.hpz_partition_size;
      Add("secondary partitions (hpZ)",
          s_.parameter_place == MemoryPlace::kNvme ? MemoryPlace::kHost : s_.parameter_place,
          s_.parameter_bytes,
          Several(
              share,
              absl::StrCat("(", world_, " / zero_hpz_partition_size ", s_.hpz_partition_size, ")"),
              owned));
    }
    if (world_ > 1 || s_.parameter_place != here) Gathered();
    if (trained_ > 0) Stage3Training();
  }

  void Gathered() {
    const auto here = MemoryPlace::kAccelerator;
    const int64_t persistent = Persistent();
    Add("persistent parameters", here, s_.parameter_bytes,
        Whole(persistent, absl::StrCat("of parameters of up to ", s_.param_persistence_threshold,
                                       " (stage3_param_persistence_threshold)")));
    const int64_t rest = model_.num_parameters - persistent;
    const int64_t live = std::min(rest, std::max(s_.max_live_parameters, model_.largest_layer));
    Add("gathered parameters, at most", here, s_.parameter_bytes,
        {live, absl::StrCat("min(", rest, " parameters, max(stage3_max_live_parameters ",
                            s_.max_live_parameters, ", largest layer ", model_.largest_layer,
                            ")), of them at most stage3_prefetch_bucket_size ",
                            s_.prefetch_bucket_size, " fetched ahead")});
  }

  void ParameterBuffers() {
    if (s_.parameter_place != MemoryPlace::kNvme) return;
    Add("parameter swap buffers", MemoryPlace::kHost, s_.parameter_bytes,
        Several(s_.parameter_buffer_count, "buffers",
                Whole(s_.parameter_buffer_size, "(offload_param.buffer_size)")));
    const Elements owned = Partition(model_.num_parameters, "parameters");
    const int64_t kept = std::min(owned.num, s_.max_in_cpu);
    Add("parameters kept in host memory", MemoryPlace::kHost, s_.parameter_bytes,
        {kept,
         absl::StrCat("min(", owned.formula, ", offload_param.max_in_cpu ", s_.max_in_cpu, ")")});
  }

  void Stage3Training() {
    const auto here = MemoryPlace::kAccelerator;
    const Elements owned = Partition(trained_, "trained parameters");
    const MemoryPlace away = s_.optimizer_place;
    Add("gradients", s_.offloads_optimizer() ? MemoryPlace::kHost : here, s_.accumulated_bytes,
        owned);
    ReduceBuckets(1, s_.parameter_bytes);
    if (away == here) {
      // fp32 parameters are updated in place.
      if (s_.master_bytes != s_.parameter_bytes) Add(MastersName(), here, s_.master_bytes, owned);
      Add("gradients of the step", here, s_.master_bytes, SubGroup(owned));
      OptimizerStates(here, owned);
    } else if (away == MemoryPlace::kHost) {
      OffloadToHost(owned);
    } else {
      Add(MastersName(), away, s_.master_bytes, owned);
      OptimizerStates(away, owned);
      const Elements group = SubGroup(owned);
      Add("gradients of the step", MemoryPlace::kHost, s_.master_bytes, group);
      Add("optimizer swap buffers", MemoryPlace::kHost, s_.master_bytes,
          Several(s_.optimizer_buffer_count, "buffers", group));
    }
  }

  // With a ratio below 1 the first sub-groups stay on the accelerator (stage3.py:
  // subgroup_to_device).
  void OffloadToHost(const Elements& owned) {
    int64_t stay = 0;
    if (s_.offload_ratio < 1) {
      const int64_t group = std::max<int64_t>(1, SubGroup(owned).num);
      const int64_t groups = CeilDiv(owned.num, group);
      const auto staying =
          static_cast<int64_t>((1 - s_.offload_ratio) * static_cast<double>(groups));
      stay = std::min(owned.num, Times(staying, group));
      Assume(absl::StrCat("all sub-groups are as large as the largest: ", staying, " of ", groups,
                          " stay on the accelerator (offload_optimizer.ratio)"));
    }
    const Elements on_host = stay == 0 ? owned : Whole(owned.num - stay, "elements");
    for (const auto& [place, elements] :
         {std::pair<MemoryPlace, Elements>{MemoryPlace::kAccelerator, Whole(stay, "elements")},
          {MemoryPlace::kHost, on_host}}) {
      Add(MastersName(), place, s_.master_bytes, elements);
      Add("gradients of the step", place, s_.master_bytes, elements);
      if (elements.num > 0) OptimizerStates(place, elements);
    }
  }

  const EstimateRequest& request_;
  const ModelSize& model_;
  const int64_t world_;
  const MemorySettings s_;
  int64_t trained_ = 0, frozen_ = 0, largest_ = 0;
  MemoryEstimate out_;
};

absl::Status CheckRequest(const EstimateRequest& request) {
  constexpr int64_t kMost = int64_t{1} << 50;
  std::vector<FieldViolation> violations;
  const ModelSize& model = request.model;
  if (request.world_size < 1 || request.world_size > (1 << 24)) {
    violations.push_back(
        {"world_size", absl::StrCat("must be 1..", 1 << 24, ", was ", request.world_size)});
  }
  const auto check = [&](const char* field, int64_t value, int64_t least, int64_t most) {
    if (value < least || value > most) {
      violations.push_back({absl::StrCat("model_size.", field),
                            absl::StrCat("must be ", least, "..", most, ", was ", value)});
    }
  };
  check("num_parameters", model.num_parameters, 1, kMost);
  check("num_trainable", model.num_trainable.value_or(0), 0, model.num_parameters);
  check("largest_parameter", model.largest_parameter, 0, model.num_parameters);
  check("largest_layer", model.largest_layer, 0, model.num_parameters);
  check("num_buffers", model.num_buffers, 0, kMost);
  return InvalidFields(violations);
}

}  // namespace

absl::string_view Name(MemoryPlace place) {
  return place == MemoryPlace::kAccelerator ? "accelerator"
         : place == MemoryPlace::kHost      ? "host"
                                            : "nvme";
}

absl::StatusOr<MemoryEstimate> EstimateMemory(const EstimateRequest& request) {
  ZC_RETURN_IF_ERROR(CheckRequest(request));
  ZC_ASSIGN_OR_RETURN(MemorySettings settings, ReadMemorySettings(request));
  return Estimator(request, std::move(settings)).Run();
}

}  // namespace zerocast
