#ifndef ZEROCAST_SERVER_CONFIG_INTEGRATION_H_
#define ZEROCAST_SERVER_CONFIG_INTEGRATION_H_

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/base/errors.h"
#include "server/config/resolve.h"

namespace zerocast {

// Appends those whose field is not among `all` yet.
void AddViolations(const std::vector<FieldViolation>& violations, std::vector<FieldViolation>* all);

// Transformers' HfTrainerDeepSpeedConfig and deepspeed_init, method by method, on the
// config of a Resolution.  Errors are PythonErrors.
class Resolver {
 public:
  // Without `violations` the first error ends a method, as an exception would; with it, all that
  // can still be done is done, and every violation is appended, each field once.
  Resolver(const ResolveRequest& request, Resolution* out,
           std::vector<FieldViolation>* violations = nullptr)
      : request_(request),
        args_(request.arguments),
        config_(out->config),
        out_(*out),
        violations_(violations) {}

  absl::Status Process();
  absl::Status Finalize(const ConfigValue& num_training_steps);
  absl::Status Init();
  absl::Status RaiseMismatches();

 private:
  // Where a value that is filled in comes from: "learning_rate".
  struct Source {
    OriginKind kind;
    absl::string_view name;
  };
  static Source Argument(absl::string_view name) { return {OriginKind::kArgument, name}; }
  static Source Derived(absl::string_view name) { return {OriginKind::kDerived, name}; }

  absl::Status FillMatch(absl::string_view key, const ConfigValue& value, const Source& source,
                         bool must_match = true);
  absl::Status FillOnly(absl::string_view key, const ConfigValue& value, const Source& source);
  absl::StatusOr<bool> FillAuto(ConfigValue* node, absl::string_view key, const ConfigValue& value,
                                const Source& source);
  absl::StatusOr<ConfigValue> TrainBatchSize() const;
  absl::Status UseNodeLocalStorage();
  absl::Status ChooseDtype();
  absl::Status FillHiddenSizeKeys();
  absl::StatusOr<ConfigValue> WarmupSteps(const ConfigValue& num_training_steps) const;
  absl::Status InitTensorParallel();
  void ChooseOptimizerAndScheduler();

  // The first error of a sequence of steps.
  class Steps {
   public:
    explicit Steps(std::vector<FieldViolation>* violations) : violations_(violations) {}
    template <typename Step>
    void Do(Step step) {
      if (first_.ok() || violations_ != nullptr) Keep(step());
    }
    absl::Status first() const { return first_; }

   private:
    void Keep(const absl::Status& status);

    std::vector<FieldViolation>* violations_;
    absl::Status first_;
  };

  const ResolveRequest& request_;
  const TrainingArguments& args_;
  DeepSpeedConfig& config_;
  Resolution& out_;
  std::vector<FieldViolation>* violations_;
};

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONFIG_INTEGRATION_H_
