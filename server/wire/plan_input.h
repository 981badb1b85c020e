#ifndef ZEROCAST_SERVER_WIRE_PLAN_INPUT_H_
#define ZEROCAST_SERVER_WIRE_PLAN_INPUT_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/plan/layout.h"
#include "server/plan/manifest.h"
#include "server/plan/plan.h"

namespace zerocast {

// All that a plan is compiled from; the domain form of v1.PlanInput.
struct PlanInput {
  std::shared_ptr<const Manifest> manifest;  // never null
  std::string model_spec_json;               // "": the rules come from the catalogue
  std::string key_mapping_json;              // "": no renames
  Layout layout;
};

// The most that a compressed message may unpack to.  A manifest of 1T parameters (69,975 tensors)
// is about 10 MB.
inline constexpr int64_t kMaxUnpackedBytes = int64_t{256} << 20;

// The compressed fields of ManifestReport and PreparePlan.  Errors of Decompress...: those of
// Gunzip; INVALID_ARGUMENT for bytes that are no such message, and as ManifestFromProto and
// LayoutFromProto.
std::string CompressManifest(const Manifest& manifest);
absl::StatusOr<Manifest> DecompressManifest(absl::string_view compressed);
std::string CompressPlanInput(const PlanInput& input);
absl::StatusOr<PlanInput> DecompressPlanInput(absl::string_view compressed);

// Parses spec and key mapping and compiles the plan.  Server and agents both call this, so that the
// same input gives the same digest.  `report`, when not null, is filled also where the plan is
// refused for missing weights.  Errors: as ParseModelSpec, ParseKeyMapping and CompilePlan.
absl::StatusOr<Plan> CompilePlanInput(const PlanInput& input, Report* report);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_WIRE_PLAN_INPUT_H_
