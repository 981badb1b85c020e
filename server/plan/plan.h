#ifndef ZEROCAST_SERVER_PLAN_PLAN_H_
#define ZEROCAST_SERVER_PLAN_PLAN_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/copy/box.h"
#include "kernels/copy/dtype.h"
#include "server/conversion/decoders.h"
#include "server/conversion/model_spec.h"
#include "server/plan/layout.h"
#include "server/plan/manifest.h"

namespace zerocast {

// Every arena offset is a multiple of this, in bytes.
inline constexpr int64_t kPartitionAlignment = 64;

// Elements of a target that nothing fills.
struct TargetGap {
  int64_t offset = 0;
  int64_t num_elements = 0;
};

// A parameter or buffer of the model, or a state of its optimizer, and where its bytes come from.
struct Target {
  // Of a state "optimizer/STATE/NAME", of a group under ZeRO stages 1 and 2
  // "optimizer/STATE/GROUP".
  std::string name;
  std::vector<int64_t> shape;
  int64_t num_elements = 0;
  DType dtype = DType::kInvalid;
  bool is_buffer = false;
  // Masters and moments (README.md, optimizer states): partitioned from ZeRO stage 1 on, without
  // secondary partitions.
  bool is_state = false;
  // Partitioned: rank r owns elements [r*p, (r+1)*p) of the flattened target, p =
  // partition_elements = ceil(num_elements / world_size), zero beyond num_elements (DeepSpeed
  // 0.19.8, runtime/zero/partition_parameters.py).  Else every rank holds all num_elements and
  // partition_elements == num_elements.
  bool partitioned = false;
  int64_t partition_elements = 0;
  int64_t arena_offset = 0;  // bytes; the same in the arena of every rank
  // Where there are hierarchical partitions, rank r besides holds elements [b*q, (b+1)*q), b = r
  // mod s, q = secondary_elements = partition_elements * (world_size / s), s =
  // SecondaryGroupSize(layout); zero beyond num_elements.  Else, and of buffers, 0.
  int64_t secondary_elements = 0;
  int64_t secondary_offset = 0;  // as arena_offset; 0 where secondary_elements is
  // False: nothing in the checkpoint fills this target.  It is in Report::missing or mismatched, or
  // the spec says that it may be missing; it has no boxes, its place in the arena stays zero and
  // must not be handed to a model as a weight.
  bool is_filled = false;
  // Box::source indexes Manifest::tensors; of a source with a decoder, boxes count logical
  // elements.
  std::vector<Box> boxes;
  // Padding within the target, ascending and apart: of an optimizer's group.
  std::vector<TargetGap> gaps;
  // Other names of the same weight (tied parameters).  Of an optimizer's group its members: the
  // names of their parameters, by their place in the optimizer.
  std::vector<std::string> aliases;
};

struct MismatchedWeight {
  std::string name;
  std::vector<int64_t> checkpoint_shape;
  std::vector<int64_t> model_shape;
  // How the checkpoint's came about, for people: rule, sources, files, what is odd about them.  Not
  // in the digest.
  std::string origin = "";
};

// What was found in a folder that a training engine saved, and what of it is loaded.
struct EngineReport {
  std::string tag;
  int32_t stage = 0;
  int32_t world_size = 0;  // that saved it
  bool is_universal = false;
  int64_t global_steps = -1;        // -1: not said
  double optimizer_step = -1;       // -1: it has none
  std::vector<std::string> states;  // of the optimizer that are loaded; none: weights alone
};

// What the checkpoint and the model do not agree on: known before a byte of data is read.
struct Report {
  std::vector<std::string> missing;
  std::vector<std::string> unexpected;
  std::vector<MismatchedWeight> mismatched;
  std::vector<ConversionError> conversion_errors;
  bool missing_unknown = false;  // no model spec was given: what is missing cannot be known
  // No model spec, no config.json: nothing says which model's conversion rules hold.
  bool rules_unknown = false;
  std::string dtype;         // "bf16", "stored", ...
  std::string dtype_reason;  // why: "--dtype", "DeepSpeed config", "default"
  // Of a checkpoint that a training engine saved.  Not in the digest: the manifest is.
  std::optional<EngineReport> engine = std::nullopt;
  std::string note = "";  // Manifest::note
};

// manifest + spec + layout, compiled.
struct Plan {
  std::shared_ptr<const Manifest> manifest;
  Layout layout;
  std::vector<Target> targets;  // parameters in the model's order, then buffers
  // Of the sources that boxes read through one; ascending by source.
  std::vector<SourceDecoder> decoders;
  int64_t arena_bytes = 0;  // of one rank
  Report report;
  // 32 hexadecimal digits over all of the above but report.dtype_reason, .engine, .note and
  // .rules_unknown,
  // which manifest and report.missing_unknown decide.
  std::string digest;
};

// Compiles and proves a plan.  Pure and deterministic: server and agents get the same digest from
// the same input.  `spec` may be null: then the rules come from the catalogue by config.json, the
// targets are derived from the checkpoint, and Report::missing_unknown is set, without a
// config.json Report::rules_unknown, too.  `key_mapping` rules run before the spec's.  `report`,
// when not null, is filled also where weights do not match; its dtype_reason is the caller's and is
// kept.  Errors:
//   INVALID_ARGUMENT     a layout or spec that contradicts itself (all violations at once), a bad
//                        rule or pattern.
//   UNIMPLEMENTED        see Convert().
//   FAILED_PRECONDITION  weights missing, mismatched or not convertible, none of which
//                        layout.allow_missing / ignore_mismatched permits; reason
//                        WEIGHTS_INCOMPLETE; the message lists them (abridged).
//   DATA_LOSS            the proof failed (a bug, or a hostile spec); reason PLAN_REFUSED.
absl::StatusOr<Plan> CompilePlan(std::shared_ptr<const Manifest> manifest, const ModelSpec* spec,
                                 const std::vector<Rule>& key_mapping, const Layout& layout,
                                 Report* report);

// `plan` with its ExchangeLayout: what schedules are made from.  `plan` itself where that is its
// own.
std::shared_ptr<const Plan> ExchangePlan(std::shared_ptr<const Plan> plan);

// The proof of a plan that may come from anywhere: every element of every filled target is written
// exactly once, but for its gaps, from places inside its sources, by castable types; decoders have
// a scale for each element; no element of a source goes to two places, but to a weight and to a
// state of the optimizer, and scales to none; partitions lie in the arena aligned and apart.
// Errors: DATA_LOSS naming the target, the range and the sources; reason PLAN_REFUSED.
absl::Status ProvePlan(const Plan& plan);

// The digest of `plan`'s contents (Plan::digest itself is not part of it) and of kScheduleVersion:
// equal digests mean equal schedules and messages.
std::string PlanDigest(const Plan& plan);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_PLAN_PLAN_H_
