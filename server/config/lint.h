#ifndef ZEROCAST_SERVER_CONFIG_LINT_H_
#define ZEROCAST_SERVER_CONFIG_LINT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/config/value.h"

namespace zerocast {

// The DeepSpeed releases whose keys are known, oldest first.
inline constexpr absl::string_view kDeepSpeedVersions[] = {
    "0.19.0", "0.19.1", "0.19.2", "0.19.3", "0.19.4", "0.19.5", "0.19.6", "0.19.7", "0.19.8"};

enum class LintSeverity {
  kError,    // DeepSpeed refuses the config or crashes on it
  kWarning,  // DeepSpeed ignores it, or it does what its author did not mean
  kNotice,   // works, and will not for ever or not as well as it could
};
absl::string_view LintSeverityName(LintSeverity severity);  // "error", "warning", "notice"

// What the lint found at one place of a config.
struct LintFinding {
  std::string path;        // in the user's JSON, "zero_optimization.stage"; empty: the whole config
  std::string rule;        // one of the room's README, "unknown-key"
  std::string message;     // what is wrong, and what DeepSpeed does about it
  std::string suggestion;  // what to write instead; may be empty
  LintSeverity severity = LintSeverity::kNotice;
};

// The index of a release in kDeepSpeedVersions; of the newest for "".  Errors: INVALID_ARGUMENT for
// field deepspeed_version, naming the known ones.
absl::StatusOr<int> FindDeepSpeedVersion(absl::string_view name);

struct LintRequest {
  const ConfigValue* config = nullptr;      // not owned; not null
  std::vector<std::string> duplicate_keys;  // JsonDocument::duplicate_keys
  std::string deepspeed_version;            // one of kDeepSpeedVersions; empty: the newest
  // Processes of the job: with it the batch sizes are checked as DeepSpeed does, without it only
  // for what no world size could satisfy.
  std::optional<int64_t> world_size;
  // The integration has filled what it fills: an "auto" that is left is a finding, and DeepSpeed
  // sees it. Where false, "auto" stands for a good value.
  bool resolved = false;
  // ModelSize::scalar_parameters of the model; empty where it has none or is not known.
  std::vector<std::string> scalar_parameters;
};

// Finds what the named DeepSpeed release would refuse, ignore or take in another sense.  Findings
// are ordered by where they stand in the user's text.  Pure.
//
// Errors: INVALID_ARGUMENT where the version is unknown (it names the known ones) or world_size is
// less than 1.
absl::StatusOr<std::vector<LintFinding>> LintConfig(const LintRequest& request);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONFIG_LINT_H_
