// zerocast config resolve --batch: one line of JSON a case, one line of JSON its answer.
#include <cerrno>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/cli/config_commands.h"
#include "client/cli/config_input.h"
#include "client/cli/config_output.h"
#include "client/cli/json_slices.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/base/utf8.h"
#include "server/wire/gzip.h"
#include "server/wire/status.h"

namespace zerocast {
namespace {

constexpr int64_t kMaxFileBytes = int64_t{256} << 20, kMaxUnpackedBytes = int64_t{1} << 30;
// A line holds a config, its arguments, a model config and perhaps what is expected of them.
constexpr size_t kMaxLineBytes = size_t{32} << 20;
// Of one call: far below what the server takes, so that answers come while later lines are read.
constexpr int kMaxCases = 256;
constexpr size_t kMaxCallBytes = size_t{8} << 20;

// What the golden files ask of every config.
constexpr const char* kQueryPaths[] = {
    "zero_optimization.stage", "fp16.enabled", "bf16.enabled",
    "optimizer.params.lr",     "nope.nope",    "train_batch_size"};

// A line of the file.
struct Case {
  int64_t line = 0;
  std::string id;       // JSON text; "" where it has none
  absl::Status status;  // not OK: it cannot be read
};

absl::Status Wrong(absl::string_view key, absl::string_view what) {
  return InvalidFields({{std::string(key), std::string(what)}});
}

absl::Status ReadFlag(const JsonSlice& member, bool* out) {
  if (member.value != "true" && member.value != "false") {
    return Wrong(member.key, "must be true or false");
  }
  *out = member.value == "true";
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadText(const JsonSlice& member) {
  absl::StatusOr<std::string> text = ReadJsonString(member.value);
  if (!text.ok()) return Wrong(member.key, "must be a JSON string");
  return text;
}

absl::Status ReadMember(const JsonSlice& member, v1::ResolveConfigRequest* request) {
  const absl::string_view value = member.value;
  const bool is_null = value == "null";
  bool flag = false;
  int64_t steps = 0;
  if (member.key == "ds_config") {
    request->set_config_value_json(std::string(value));
  } else if (member.key == "ds_config_text") {
    ZC_ASSIGN_OR_RETURN(*request->mutable_config_json(), ReadText(member));
  } else if (member.key == "ds_config_base64") {
    ZC_ASSIGN_OR_RETURN(*request->mutable_config_base64(), ReadText(member));
  } else if (member.key == "args") {
    request->set_training_arguments_json(std::string(value));
  } else if (member.key == "model_config") {
    request->set_model_config_json(std::string(is_null ? "" : value));
  } else if (member.key == "num_training_steps" && !is_null) {
    if (!absl::SimpleAtoi(value, &steps)) return Wrong(member.key, "must be a 64-bit integer");
    request->set_num_training_steps(steps);
  } else if (member.key == "inference") {
    ZC_RETURN_IF_ERROR(ReadFlag(member, &flag));
    request->set_inference(flag);
  } else if (member.key == "auto_find_batch_size") {
    ZC_RETURN_IF_ERROR(ReadFlag(member, &flag));
    request->set_auto_find_batch_size(flag);
  } else if (member.key == "dialect" && !is_null) {
    ZC_ASSIGN_OR_RETURN(*request->mutable_dialect(), ReadText(member));
  }
  return absl::OkStatus();
}

// Reads a line into `request`; what it has besides (kind, expect) is left alone.
absl::Status ReadCase(absl::string_view line, const ResolveFlags& flags, Case* out,
                      v1::ResolveConfigRequest* request) {
  if (line.size() > kMaxLineBytes) {
    return Wrong("line", absl::StrCat("has ", line.size(), " bytes, more than the ", kMaxLineBytes,
                                      " allowed"));
  }
  if (!IsValidUtf8(line)) return Wrong("line", "is not UTF-8 text");
  ZC_ASSIGN_OR_RETURN(const std::vector<JsonSlice> members, SplitObject(line));
  request->set_dialect(flags.dialect);
  for (const char* path : kQueryPaths) request->add_query_paths(path);
  // The id first: it goes with whatever is wrong with the rest.
  for (const JsonSlice& member : members) {
    if (member.key == "id") out->id = std::string(member.value);
  }
  for (const JsonSlice& member : members) {
    ZC_RETURN_IF_ERROR(ReadMember(member, request));
  }
  return absl::OkStatus();
}

const char* Bool(bool value) { return value ? "true" : "false"; }

template <typename Strings>
std::string ListText(const Strings& strings) {
  std::string text = "[";
  for (const std::string& string : strings) {
    absl::StrAppend(&text, text.size() == 1 ? "" : ", ", WriteJsonString(string));
  }
  return text + "]";
}

std::string QueriesText(const v1::ConfigAnswers& answers) {
  ObjectText values, trues, falses, autos;
  for (const v1::PathAnswer& answer : answers.paths()) {
    values.Add(answer.path(), answer.has_value_json() ? answer.value_json() : "null");
    trues.Add(answer.path(), Bool(answer.is_true()));
    falses.Add(answer.path(), Bool(answer.is_false()));
    autos.Add(answer.path(), Bool(answer.is_auto()));
  }
  ObjectText out;
  out.Add("is_zero2", Bool(answers.is_zero2()));
  out.Add("is_zero3", Bool(answers.is_zero3()));
  out.Add("is_offload", Bool(answers.is_offload()));
  out.Add("get_value", values.Take());
  out.Add("is_true", trues.Take());
  out.Add("is_false", falses.Take());
  out.Add("is_auto", autos.Take());
  return out.Take();
}

std::string ErrorText(absl::string_view stage, absl::string_view type, absl::string_view message) {
  ObjectText error;
  error.Add("stage", WriteJsonString(stage));
  error.Add("type", WriteJsonString(type));
  error.Add("message", WriteJsonString(message));
  return error.Take();
}

// What we refuse where the integration was never asked.
void AddRefusal(const Case& c, const absl::Status& status, ObjectText* out) {
  out->Add("line", absl::StrCat(c.line));
  out->Add("error",
           ErrorText("request", absl::StatusCodeToString(status.code()), status.message()));
}

void AddResolved(const v1::ResolveConfigResponse& response, ObjectText* out) {
  const v1::MadeBy optimizer = response.optimizer(), scheduler = response.lr_scheduler();
  out->Add("optimizer", optimizer == v1::MADE_BY_NOBODY    ? "null"
                        : optimizer == v1::MADE_BY_TRAINER ? "\"trainer\""
                                                           : "\"DummyOptim\"");
  out->Add("lr_scheduler", scheduler == v1::MADE_BY_NOBODY ? "null" : "\"DummyScheduler\"");
  out->Add("lr_scheduler_from_trainer", Bool(scheduler == v1::MADE_BY_TRAINER));
  out->Add("calls", ListText(response.calls()));
  out->Add("log", ListText(response.log_lines()));
  out->Add("resolved", response.config_json());
  out->Add("queries", QueriesText(response.queries()));
}

// `result` is null for a line that could not be read.
std::string AnswerText(const Case& c, const v1::ResolveConfigResult* result) {
  ObjectText out;
  if (!c.id.empty()) out.Add("id", c.id);
  if (result == nullptr) {
    AddRefusal(c, c.status, &out);
    return out.Take();
  }
  const v1::ResolveConfigResponse& response = result->response();
  if (response.has_queries_after_process()) {
    out.Add("queries_after_process", QueriesText(response.queries_after_process()));
  }
  if (!response.dtype().empty()) {
    out.Add("dtype", response.dtype() == "bf16"   ? "\"bfloat16\""
                     : response.dtype() == "fp16" ? "\"float16\""
                                                  : "\"float32\"");
  }
  if (result->has_error()) {
    const v1::IntegrationError& error = result->error();
    out.Add("error", ErrorText(error.stage(), error.type(), error.message()));
  } else if (result->has_status()) {
    AddRefusal(c, StatusFromProto(result->status()), &out);
  } else {
    AddResolved(response, &out);
  }
  return out.Take();
}

// Cases that are asked together.
class Batch {
 public:
  explicit Batch(Client* client) : client_(client) {}

  absl::Status Add(int64_t line_number, absl::string_view line, const ResolveFlags& flags) {
    Case c;
    c.line = line_number;
    v1::ResolveConfigRequest request;
    c.status = ReadCase(line, flags, &c, &request);
    if (c.status.ok()) {
      num_bytes_ += line.size();
      *request_.add_requests() = std::move(request);
    }
    cases_.push_back(std::move(c));
    const bool full = static_cast<int>(cases_.size()) == kMaxCases || num_bytes_ > kMaxCallBytes;
    return full ? Flush() : absl::OkStatus();
  }

  // Asks, and prints the answers in the order of the lines.
  absl::Status Flush() {
    v1::BatchResolveConfigsResponse answer;
    if (request_.requests_size() > 0) {
      ZC_ASSIGN_OR_RETURN(answer, client_->BatchResolveConfigs(request_));
      if (answer.results_size() != request_.requests_size()) {
        return absl::InternalError(absl::StrCat("resolve ", request_.requests_size(),
                                                " configs: the server sent ", answer.results_size(),
                                                " answers"));
      }
    }
    int next = 0;
    for (const Case& c : cases_) {
      const v1::ResolveConfigResult* result = c.status.ok() ? &answer.results(next++) : nullptr;
      std::printf("%s\n", AnswerText(c, result).c_str());
    }
    cases_.clear();
    request_.Clear();
    num_bytes_ = 0;
    if (std::fflush(stdout) != 0) return ErrnoStatus(errno, "write the answers to stdout");
    return absl::OkStatus();
  }

 private:
  Client* const client_;
  std::vector<Case> cases_;
  v1::BatchResolveConfigsRequest request_;
  size_t num_bytes_ = 0;
};

}  // namespace

absl::Status RunResolveBatch(const GlobalOptions& global, const ResolveFlags& flags) {
  const bool one = !flags.ds_config.empty() || !flags.ds_config_base64.empty() ||
                   !flags.training_arguments.empty() || !flags.model_config.empty() ||
                   flags.num_training_steps >= 0 || flags.inference || flags.auto_find_batch_size ||
                   flags.validate_only || flags.lint || flags.estimate || flags.allow_extensions ||
                   !flags.deepspeed_version.empty() || !flags.model_spec.empty() ||
                   flags.num_parameters > 0;
  if (one) {
    return Wrong("--batch",
                 "takes configs, arguments and options from its lines; of the other "
                 "flags only --dialect goes with it");
  }
  ZC_ASSIGN_OR_RETURN(std::string text, ReadBytes("--batch", flags.batch, kMaxFileBytes));
  ZC_ASSIGN_OR_RETURN(text, GunzipIfPacked(std::move(text), flags.batch, kMaxUnpackedBytes));
  ZC_ASSIGN_OR_RETURN(const ClusterHandle cluster, ConnectForConfigs(global));
  Batch batch(cluster.client());
  int64_t number = 0;
  // Lines end at a line feed only: values may hold other line ends.
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    if (line.empty()) continue;
    ZC_RETURN_IF_ERROR(batch.Add(number, line, flags));
  }
  return batch.Flush();
}

}  // namespace zerocast
