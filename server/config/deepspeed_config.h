#ifndef ZEROCAST_SERVER_CONFIG_DEEPSPEED_CONFIG_H_
#define ZEROCAST_SERVER_CONFIG_DEEPSPEED_CONFIG_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/base/errors.h"
#include "server/config/value.h"

namespace zerocast {

enum class TrainingDtype { kFp32, kFp16, kBf16 };
absl::string_view ShortName(TrainingDtype dtype);  // "bf16"
absl::string_view TorchName(TrainingDtype dtype);  // "bfloat16"

// A DeepSpeed config with the queries of accelerate 1.15.0's HfDeepSpeedConfig.  Keys are paths
// such as "zero_optimization.stage"; a key's last name is looked up in the object that the others
// lead to. Queries return a PythonError (AttributeError) where they meet a node that is no object.
class DeepSpeedConfig {
 public:
  // An empty config.
  DeepSpeedConfig() : root_(ConfigValue::Object()) {}

  // Reads stage and offload, once, as the integration does; later changes of the config do not move
  // them. PythonError where the config or zero_optimization is no object, or a device is a list or
  // an object.
  // Where `violations` is given, it gets all that is wrong with them.
  static absl::StatusOr<DeepSpeedConfig> Create(ConfigValue root,
                                                std::vector<FieldViolation>* violations = nullptr);

  const ConfigValue& root() const { return root_; }
  ConfigValue& root() { return root_; }

  // The object that holds the key's last name, for a caller who sets it, or null where a node on
  // the way is absent or null.  (The result may be of any type: nobody has looked into it yet.)
  absl::StatusOr<ConfigValue*> FindConfigNode(absl::string_view key);

  // The value, or null where it or a node on the way is absent.  An explicit null is a value.
  absl::StatusOr<const ConfigValue*> GetValue(absl::string_view key) const;

  absl::StatusOr<bool> IsTrue(absl::string_view key) const;   // there, and truthy ("auto" is)
  absl::StatusOr<bool> IsFalse(absl::string_view key) const;  // there, not null, and not truthy
  absl::StatusOr<bool> IsAuto(absl::string_view key) const;

  // Removes a key; where it or a node on the way is absent or null, ValueError if `must_exist`,
  // else nothing.  True where something was removed.
  absl::StatusOr<bool> DeleteSubTree(absl::string_view key, bool must_exist = false);

  // The value at zero_optimization.stage where it is a number equal to 0..3, else -1.  The string
  // "3" is none, though DeepSpeed itself takes it for 3.
  int zero_stage() const { return stage_; }
  bool is_zero2() const { return stage_ == 2; }
  bool is_zero3() const { return stage_ == 3; }
  bool is_offload() const { return offload_; }

  // ValueError before set_dtype.
  absl::StatusOr<TrainingDtype> dtype() const;
  void set_dtype(TrainingDtype dtype) { dtype_ = dtype; }

 private:
  ConfigValue root_;
  int stage_ = -1;
  bool offload_ = false;
  std::optional<TrainingDtype> dtype_;
};

// `node`'s member, as Python's node.get(name): null where absent, AttributeError (naming `path`)
// where the node is no object.
absl::StatusOr<const ConfigValue*> PythonGet(const ConfigValue& node, absl::string_view name,
                                             absl::string_view path);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONFIG_DEEPSPEED_CONFIG_H_
