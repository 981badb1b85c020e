#ifndef ZEROCAST_CLIENT_CLI_JOB_FLAGS_H_
#define ZEROCAST_CLIENT_CLI_JOB_FLAGS_H_

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "zerocast/v1/job.pb.h"

namespace zerocast {

// The flags that describe a job: load, plan and job submit share them.
struct JobFlags {
  std::string checkpoint, variant, format = "auto", tag;
  bool no_optimizer = false;
  int32_t world_size = -1;
  int32_t nodes = 0;
  std::vector<std::string> node_names;
  int32_t zero_stage = -1;
  std::string dtype, mode = "parallel", move = "scatter", device = "cpu";
  std::string ds_config, training_arguments, model_config, model_spec, key_mapping, rules, dialect;
  int64_t num_training_steps = -1;
  std::vector<std::string> allow_missing;
  bool ignore_mismatched = false;
  std::string round_bytes;
  std::string max_buffer_memory;
  double stage_timeout_seconds = 0;
  std::string display_name;

  // Adds the flags to `command`.
  void AddTo(CLI::App* command);

  // The job they describe; reads the files they name.  Errors: INVALID_ARGUMENT with every wrong
  // flag at once; NOT_FOUND and the like for files.
  absl::StatusOr<v1::JobSpec> ToSpec() const;
};

// The word of --format for it.
absl::string_view FormatName(v1::CheckpointFormat format);

// `failure` of a load or plan of that job by a server, with what the choice of the node that reads
// has to do with it, if anything.
absl::Status ExplainReader(const absl::Status& failure, const v1::JobSpec& spec);

// A flag in seconds: finite, more than 0, at most ten years.
extern const CLI::Validator kSeconds;

// A flag that is a whole number within bounds, which the error names.
CLI::Validator WholeNumber(int64_t least, int64_t most);
// A name in a collection of the server's: "jobs/ID" where `prefix` is "jobs/".
CLI::Validator NameIn(const char* prefix);
// A flag that is left out rather than empty, as one from an unset variable of a shell would be.
extern const CLI::Validator kNotEmpty;

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_CLI_JOB_FLAGS_H_
