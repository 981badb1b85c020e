#ifndef ZEROCAST_SERVER_PLAN_ASSEMBLE_H_
#define ZEROCAST_SERVER_PLAN_ASSEMBLE_H_

// The second half of CompilePlan(), after the conversion.  Internal to server/plan and its tests.

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/conversion/convert.h"
#include "server/plan/model.h"
#include "server/plan/plan.h"

namespace zerocast {

// Matches `conversion` against the model, chooses dtypes, applies the strict rule and lays out the
// arena.  `model` and `spec` are null when no spec was given.  Neither proves the plan nor fills
// Plan::digest.  `layout` has passed CheckLayout().  Errors: those of CompilePlan().
absl::StatusOr<Plan> AssemblePlan(std::shared_ptr<const Manifest> manifest, const ModelSpec* spec,
                                  const Model* model, Conversion conversion, const Layout& layout,
                                  Report* report);

// Sets what follows from shapes, dtypes and layout: partitions, places in the arena, arena_bytes.
// Errors: INVALID_ARGUMENT when the arena has kTooManyBytes (shape.h).
absl::Status LayOutArena(Plan* plan);

// "stored", "spec", "bf16", "fp16", "fp32".
std::string DTypePolicyName(DTypePolicy policy);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_PLAN_ASSEMBLE_H_
