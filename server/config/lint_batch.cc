// train_batch_size = train_micro_batch_size_per_gpu * gradient_accumulation_steps * world size, as
// DeepSpeedConfig._set_batch_related_parameters and _batch_assertion derive and check it.
#include <cmath>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "server/config/lint_context.h"
#include "server/config/lint_value.h"

namespace zerocast {
namespace {

constexpr absl::string_view kTotal = "train_batch_size";
constexpr absl::string_view kMicro = "train_micro_batch_size_per_gpu";
constexpr absl::string_view kSteps = "gradient_accumulation_steps";
constexpr absl::string_view kParallel = "sequence_parallel_size";

struct Batch {
  std::optional<double> total, micro, steps;
};

// False where a value is none that can be computed with: reported elsewhere, or not filled yet.
bool ReadSize(const LintContext& context, absl::string_view key, std::optional<double>* out) {
  const ConfigValue* value = context.FindSet(key);
  if (value == nullptr) return true;
  if (value->text() != nullptr || value->array() != nullptr || value->object() != nullptr) {
    return false;
  }
  *out = LaxFloat(*value);
  return true;
}

// The processes that share a batch; none where the world size is unknown or no use.
std::optional<double> DataParallelSize(LintContext* context) {
  const ConfigValue* value = context->Find(kParallel);
  std::optional<double> parallel = 1;
  if (value != nullptr) {
    parallel = value->text() == nullptr ? LaxFloat(*value) : std::nullopt;
    if (parallel.has_value() && *parallel == 0) {
      if (context->Since("0.19.3")) {
        context->Error("out-of-range", kParallel, "is 0; DeepSpeed divides by it");
        return std::nullopt;
      }
      parallel.reset();
    }
    if (parallel.has_value() && !(*parallel > 0 && std::isfinite(*parallel))) {
      context->Error("out-of-range", kParallel,
                     absl::StrCat("must be greater than 0, is ", *parallel,
                                  "; the world size is divided by it"));
      return std::nullopt;
    }
    // Earlier releases catch whatever the division raises.
    if (!parallel.has_value() && !context->Since("0.19.3")) {
      context->Warning("out-of-range", kParallel,
                       "cannot divide the world size; DeepSpeed silently goes on with one process");
      return 1;
    }
  }
  if (!parallel.has_value() || !context->world_size().has_value()) return std::nullopt;
  return static_cast<double>(*context->world_size()) / *parallel;
}

// What DeepSpeed fills in.  `Batch` has a total or a micro size.
Batch Derive(Batch batch, double world) {
  if (batch.total.has_value() && batch.micro.has_value()) {
    if (!batch.steps.has_value()) {
      batch.steps = std::floor(std::floor(*batch.total / *batch.micro) / world);
    }
  } else if (batch.total.has_value()) {
    const double a_process = std::floor(*batch.total / world);
    batch.micro = batch.steps.has_value() ? std::floor(a_process / *batch.steps) : a_process;
    if (!batch.steps.has_value()) batch.steps = 1;
  } else {
    if (!batch.steps.has_value()) batch.steps = 1;
    batch.total = *batch.micro * *batch.steps * world;
  }
  return batch;
}

void CheckWithWorld(LintContext* context, const Batch& given, double world) {
  const Batch batch = Derive(given, world);
  const absl::string_view path = given.total.has_value() ? kTotal : kMicro;
  const std::string of = absl::StrCat(" (world size ", *context->world_size(),
                                      world == static_cast<double>(*context->world_size())
                                          ? ")"
                                          : absl::StrCat(", data-parallel size ", world, ")"));
  const auto too_small = [&](absl::string_view key, double value) {
    if (value > 0) return false;
    context->Error(
        "batch-triangle", path,
        absl::StrCat(key, " comes out as ", value, of, "; it must be greater than 0"),
        absl::StrCat("a multiple of ", given.micro.value_or(1) * given.steps.value_or(1) * world));
    return true;
  };
  if (too_small(kTotal, *batch.total) || too_small(kMicro, *batch.micro) ||
      too_small(kSteps, *batch.steps)) {
    return;
  }
  if (*batch.total != *batch.micro * *batch.steps * world) {
    context->Error(
        "batch-triangle", path,
        absl::StrCat("train_batch_size is not micro batch * accumulation steps * world size: ",
                     *batch.total, " != ", *batch.micro, " * ", *batch.steps, " * ", world),
        absl::StrCat(*batch.micro * *batch.steps * world));
  }
}

// What no world size could make right.
void CheckWithoutWorld(LintContext* context, const Batch& given) {
  if (!given.total.has_value()) return;
  const double part = given.micro.value_or(1) * given.steps.value_or(1);
  if (std::fmod(*given.total, part) != 0) {
    context->Error("batch-triangle", kTotal,
                   absl::StrCat(*given.total, " is no multiple of ", part,
                                " (micro batch * accumulation steps): no world size fits"),
                   absl::StrCat("a multiple of ", part));
  }
}

}  // namespace

void LintBatch(LintContext* context) {
  const std::optional<double> world = DataParallelSize(context);
  Batch given;
  if (!ReadSize(*context, kTotal, &given.total) || !ReadSize(*context, kMicro, &given.micro) ||
      !ReadSize(*context, kSteps, &given.steps)) {
    return;
  }
  if (!given.total.has_value() && !given.micro.has_value()) {
    context->Error("missing-key", kMicro,
                   "neither train_batch_size nor train_micro_batch_size_per_gpu is given",
                   absl::StrCat("\"", kMicro, "\""));
    return;
  }
  bool positive = true;
  const std::pair<absl::string_view, std::optional<double>> sizes[] = {
      {kTotal, given.total}, {kMicro, given.micro}, {kSteps, given.steps}};
  for (const auto& [key, size] : sizes) {
    if (!size.has_value() || *size > 0) continue;
    context->Error("out-of-range", key, absl::StrCat("must be greater than 0, is ", *size));
    positive = false;
  }
  if (!positive) return;
  if (world.has_value()) {
    CheckWithWorld(context, given, *world);
  } else {
    CheckWithoutWorld(context, given);
  }
}

}  // namespace zerocast
