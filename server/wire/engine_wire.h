#ifndef ZEROCAST_SERVER_WIRE_ENGINE_WIRE_H_
#define ZEROCAST_SERVER_WIRE_ENGINE_WIRE_H_

#include <vector>

#include "absl/status/statusor.h"
#include "server/plan/engine_checkpoint.h"
#include "server/plan/manifest.h"
#include "zerocast/v1/plan.pb.h"

namespace zerocast {

// Part of plan_wire.h's Manifest.  FromProto checks what EngineCheckpoint promises: indices of
// `tensors`, the manifest's, and of flats; pieces inside their tensors, which together are each
// weight's elements; names present and unique, groups' places each there once.  Errors:
// INVALID_ARGUMENT, reason INVALID_FIELDS, naming field and weight; the first
// kMaxManifestViolations of them.
v1::EngineCheckpoint EngineToProto(const EngineCheckpoint& engine);
absl::StatusOr<EngineCheckpoint> EngineFromProto(const v1::EngineCheckpoint& engine,
                                                 const std::vector<ManifestTensor>& tensors);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_WIRE_ENGINE_WIRE_H_
