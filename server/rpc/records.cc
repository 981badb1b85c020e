#include "server/rpc/records.h"

#include <google/protobuf/util/time_util.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/rpc/checkpoint_convert.h"
#include "server/rpc/convert.h"
#include "server/rpc/job_spec.h"

namespace zerocast::rpc {
namespace {

constexpr int kFormat = 1;

nlohmann::json Envelope(const std::string& message, const jobs::RequestKey& request) {
  return {{"format", kFormat},
          {"message", absl::Base64Escape(message)},
          {"request_id", absl::Base64Escape(request.request_id)},
          {"fingerprint", request.fingerprint}};
}

absl::Time TimeFromProto(const google::protobuf::Timestamp& time) {
  return absl::FromUnixNanos(google::protobuf::util::TimeUtil::TimestampToNanoseconds(time));
}

// A string member; false when it is absent or no string.
bool Take(const nlohmann::json& record, const char* key, std::string* out) {
  const auto it = record.find(key);
  if (it == record.end() || !it->is_string()) return false;
  *out = it->get<std::string>();
  return true;
}

bool TakeBase64(const nlohmann::json& record, const char* key, std::string* out) {
  std::string text;
  return Take(record, key, &text) && absl::Base64Unescape(text, out);
}

// Parses the envelope and the message in it.
template <typename Message>
absl::StatusOr<nlohmann::json> Open(absl::string_view name, const std::string& text,
                                    Message* message, jobs::RequestKey* request) {
  nlohmann::json record = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!record.is_object()) return DamagedRecord(name, "it is no JSON object");
  const auto format = record.find("format");
  if (format == record.end() || *format != kFormat) {
    return DamagedRecord(name, absl::StrCat("it is not of format ", kFormat));
  }
  std::string bytes;
  if (!TakeBase64(record, "message", &bytes) || !message->ParseFromString(bytes) ||
      !TakeBase64(record, "request_id", &request->request_id) ||
      !Take(record, "fingerprint", &request->fingerprint)) {
    return DamagedRecord(name, "a field is missing or damaged");
  }
  return record;
}

}  // namespace

absl::Status DamagedRecord(absl::string_view name, absl::string_view what) {
  return WithReason(absl::DataLossError(
                        absl::StrCat("read the record of ", name, ": ", what,
                                     "; restore the store from a copy, or start with another one")),
                    "INTERNAL");
}

std::string JobToRecord(const jobs::Job& job) {
  nlohmann::json record = Envelope(JobToProto(job).SerializeAsString(), job.request);
  record["attach_token"] = job.attach_token;
  return record.dump();
}

std::string LoadToRecord(const jobs::Load& load) {
  nlohmann::json record =
      Envelope(LoadToProto(load, load.elapsed, Digests::kKeep).SerializeAsString(), load.request);
  record["released"] = load.released;
  return record.dump();
}

absl::StatusOr<jobs::Job> JobFromRecordText(absl::string_view name, const std::string& text) {
  v1::Job message;
  jobs::RequestKey request;
  ZC_ASSIGN_OR_RETURN(const nlohmann::json record, Open(name, text, &message, &request));
  ConfigFacts facts{message.resolved_config_json(), message.config_dtype(),
                    message.zero_stage(),           message.hpz_partition_size(),
                    message.offload_param_device(), message.offload_optimizer_device()};
  absl::StatusOr<jobs::Job> job = JobFromRecord(message.spec(), facts);
  if (!job.ok()) return DamagedRecord(name, job.status().message());
  job->name = std::string(name);
  // The record has the stage, whoever chose it.
  job->zero_stage_reason = message.zero_stage_reason();
  if (!v1::JobState_IsValid(message.state()) || message.state() == v1::JOB_STATE_UNSPECIFIED) {
    return DamagedRecord(name, "its state is unknown");
  }
  job->state = static_cast<jobs::JobState>(static_cast<int>(message.state()) - 1);
  job->create_time = TimeFromProto(message.create_time());
  job->lease = DurationFromProto(message.lease());
  job->end_time = TimeFromProto(message.end_time());
  job->request = std::move(request);
  if (!Take(record, "attach_token", &job->attach_token))
    return DamagedRecord(name, "no attach_token");
  return job;
}

absl::StatusOr<jobs::Load> LoadFromRecordText(absl::string_view name, const std::string& text,
                                              int64_t epoch, std::string* job_name) {
  v1::Load message;
  jobs::RequestKey request;
  ZC_ASSIGN_OR_RETURN(const nlohmann::json record, Open(name, text, &message, &request));
  if (!v1::LoadState_IsValid(message.state()) || message.state() == v1::LOAD_STATE_UNSPECIFIED) {
    return DamagedRecord(name, "its state is unknown");
  }
  jobs::Load load = LoadFromProto(message);
  load.name = std::string(name);
  load.epoch = epoch;
  load.request = std::move(request);
  const auto released = record.find("released");
  if (released == record.end() || !released->is_boolean())
    return DamagedRecord(name, "no released");
  load.released = released->get<bool>();
  *job_name = message.job();
  return load;
}

std::string CheckpointToRecord(const jobs::Checkpoint& checkpoint) {
  nlohmann::json record =
      Envelope(CheckpointToProto(checkpoint).SerializeAsString(), checkpoint.request);
  record["found_digest"] = checkpoint.found.digest;
  record["knows_step"] = checkpoint.found.step.has_value();
  return record.dump();
}

absl::StatusOr<jobs::Checkpoint> CheckpointFromRecordText(absl::string_view name,
                                                          const std::string& text) {
  v1::Checkpoint message;
  jobs::RequestKey request;
  ZC_ASSIGN_OR_RETURN(const nlohmann::json record, Open(name, text, &message, &request));
  jobs::Checkpoint checkpoint = CheckpointFromProto(message);
  checkpoint.name = std::string(name);
  checkpoint.request = std::move(request);
  if (!Take(record, "found_digest", &checkpoint.found.digest)) {
    return DamagedRecord(name, "no found_digest");
  }
  const auto knows_step = record.find("knows_step");
  if (knows_step == record.end() || !knows_step->is_boolean()) {
    return DamagedRecord(name, "no knows_step");
  }
  if (!knows_step->get<bool>()) checkpoint.found.step.reset();
  return checkpoint;
}

}  // namespace zerocast::rpc
