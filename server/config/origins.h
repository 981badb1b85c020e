#ifndef ZEROCAST_SERVER_CONFIG_ORIGINS_H_
#define ZEROCAST_SERVER_CONFIG_ORIGINS_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/config/value.h"

namespace zerocast {

enum class OriginKind {
  kGiven,             // as the user wrote it
  kArgument,          // "auto", filled from a training argument; or set from one
  kDerived,           // "auto", computed from the model, the steps or several arguments
  kIntegration,       // set or removed by the integration by itself
  kDeepSpeedDefault,  // absent: DeepSpeed's default takes effect
};

// Where a value of the resolved config comes from.
struct ValueOrigin {
  // Path of a value that is no object, or of an empty one; lists are one value.
  std::string path;
  OriginKind kind = OriginKind::kGiven;
  // "given", "auto filled from learning_rate", "auto filled from hidden_size: h * h",
  // "removed for inference", "default of DeepSpeed 0.19.8: 500000000".
  std::string origin;
};

// The origin of every value of `root`, in its order.  `changed` are those that are not as given:
// each value that one of their paths leads to has its origin, and those whose path leads nowhere
// (removed ones) come last.  A section whose paths would take the answer beyond kMaxOriginBytes is
// one entry.
inline constexpr size_t kMaxOriginBytes = size_t{1} << 20;
std::vector<ValueOrigin> AllOrigins(const ConfigValue& root,
                                    const std::vector<ValueOrigin>& changed);

// The defaults that take effect in `root` because their keys are absent, as the DeepSpeed release
// with the index `version` in kDeepSpeedVersions (lint.h) has them: of the top level and of each
// section that is there, scalars only, section by section and by name; no deprecated keys.
absl::StatusOr<std::vector<ValueOrigin>> DefaultOrigins(const ConfigValue& root, int version);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONFIG_ORIGINS_H_
