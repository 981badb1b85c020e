#ifndef ZEROCAST_SERVER_PLAN_COMPOSE_H_
#define ZEROCAST_SERVER_PLAN_COMPOSE_H_

// Plans of checkpoints that a training engine saved: in place of conversion rules the manifest's
// EngineCheckpoint says what each weight is made of.  Internal to server/plan and its tests.

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/conversion/convert.h"
#include "server/conversion/model_spec.h"
#include "server/plan/manifest.h"
#include "server/plan/plan.h"

namespace zerocast {

// The model as the engine's state dict lists it.
ModelSpec SpecOfEngine(const EngineCheckpoint& engine);

// What Convert() makes of other checkpoints.  Trained parameters come from the masters where there
// are some.  `names` are the model's; weights under none of them are unexpected.  Requires
// manifest.engine.  Errors: INVALID_ARGUMENT, naming the weight, where its pieces are none of the
// manifest's or are not its elements.
absl::StatusOr<Conversion> ComposeWeights(const Manifest& manifest,
                                          absl::Span<const SpecTensor> names);

// Appends to plan->targets one for each state of the optimizer and parameter (README.md, optimizer
// states), or group under ZeRO stages 1 and 2, and lays out the arena anew.  States of parameters
// that the model does not have are left out.  Errors: FAILED_PRECONDITION, reason
// WEIGHTS_INCOMPLETE, where the model does not take a trained parameter as it is, so that its
// states fit nowhere; as ComposeWeights; as LayOutArena.
absl::Status AddStateTargets(Plan* plan);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_PLAN_COMPOSE_H_
