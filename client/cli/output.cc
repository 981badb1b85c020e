#include "client/cli/output.h"

#include <algorithm>
#include <cstdio>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/cli/plan_output.h"
#include "client/cli/stages.h"
#include "server/base/utf8.h"

namespace zerocast {
namespace {

double ElapsedSeconds(const v1::Load& load) {
  return static_cast<double>(load.elapsed().seconds()) +
         static_cast<double>(load.elapsed().nanos()) / 1e9;
}

using Json = nlohmann::ordered_json;

// How many names of a list people see; the JSON has all.
constexpr int kShownNames = 8;

template <typename T>
std::vector<int64_t> Shape(const T& shape) {
  return std::vector<int64_t>(shape.begin(), shape.end());
}

std::string ShapeText(const google::protobuf::RepeatedField<int64_t>& shape) {
  return absl::StrCat("(", absl::StrJoin(shape, ", "), ")");
}

std::string Seconds(double seconds) { return absl::StrFormat("%.3f", seconds); }

void AppendNames(absl::string_view title,
                 const google::protobuf::RepeatedPtrField<std::string>& names, std::string* text) {
  if (names.empty()) return;
  absl::StrAppend(text, title, " (", names.size(), "):\n");
  for (int k = 0; k < std::min<int>(names.size(), kShownNames); ++k) {
    absl::StrAppend(text, "  ", EscapeControls(names[k]), "\n");
  }
  if (names.size() > kShownNames) {
    absl::StrAppend(text, "  ... and ", names.size() - kShownNames,
                    " more (--output json has all)\n");
  }
}

Json FailureJson(const v1::Failure& failure) {
  return {{"reason", failure.reason()}, {"message", failure.message()}};
}

Json SecondsJson(const v1::StageSeconds& seconds) {
  return {{"prepare", seconds.prepare()},   {"connect", seconds.connect()},
          {"read", seconds.read()},         {"copy", seconds.copy()},
          {"exchange", seconds.exchange()}, {"finish", seconds.finish()},
          {"total", seconds.total()}};
}

}  // namespace

std::string IndentJson(absl::string_view json) {
  std::string text;
  int depth = 0;
  bool in_string = false;
  const auto new_line = [&] { absl::StrAppend(&text, "\n", std::string(2 * depth, ' ')); };
  for (size_t k = 0; k < json.size(); ++k) {
    const char c = json[k];
    if (in_string) {
      text.push_back(c);
      if (c == '\\' && k + 1 < json.size()) text.push_back(json[++k]);
      if (c == '"') in_string = false;
      continue;
    }
    if (absl::ascii_isspace(c)) continue;
    const bool opens = c == '{' || c == '[';
    const bool closes = c == '}' || c == ']';
    const bool was_opened = !text.empty() && (text.back() == '{' || text.back() == '[');
    if (was_opened && !closes) new_line();
    if (closes) --depth;
    if (closes && !was_opened) new_line();
    text.push_back(c);
    if (opens) ++depth;
    if (c == ',') new_line();
    if (c == ':') text.push_back(' ');
    if (c == '"') in_string = true;
  }
  return text;
}

namespace {

std::string JsonDocument(const Json& document) {
  return absl::StrCat(document.dump(2, ' ', false, Json::error_handler_t::replace), "\n");
}

Json* ErrorContext() {
  static Json* const context = new Json(Json::object());
  return context;
}

std::string* ErrorText() {
  static std::string* const text = new std::string;
  return text;
}

}  // namespace

void PrintJson(const Json& document) {
  std::fputs(JsonDocument(document).c_str(), stdout);
  std::fflush(stdout);
}

void SetErrorContext(Json members) { *ErrorContext() = std::move(members); }

void SetErrorText(std::string text) { *ErrorText() = std::move(text); }

bool IsInMessage(const FieldViolation& violation, absl::string_view message) {
  return absl::StrContains(message, absl::StrCat(violation.field, ": ", violation.description)) ||
         absl::StrContains(message, absl::StrCat("- ds ", violation.field, "="));
}

ErrorTexts TextsOfError(const absl::Status& status, bool json) {
  const std::vector<FieldViolation> violations = ViolationsOf(status);
  const std::string message(status.message());
  std::string text = *ErrorText();
  if (text.empty()) {
    text = message;
    for (const FieldViolation& violation : violations) {
      if (IsInMessage(violation, message)) continue;
      absl::StrAppend(&text, "\n  ", violation.field, ": ", violation.description);
    }
  }
  // Lists of mismatches have a line each.
  ErrorTexts texts;
  texts.to_stderr = absl::StrCat("zerocast: ", EscapeControls(text, "\n"), "\n");
  if (!json) return texts;
  Json fields = Json::array();
  for (const FieldViolation& violation : violations) {
    fields.push_back({{"field", violation.field}, {"description", violation.description}});
  }
  Json document = *ErrorContext();
  document["error"] = {{"code", absl::StatusCodeToString(status.code())},
                       {"reason", ReasonOf(status)},
                       {"message", message},
                       {"violations", fields}};
  texts.to_stdout = JsonDocument(document);
  return texts;
}

void PrintError(const absl::Status& status, bool json) {
  const ErrorTexts texts = TextsOfError(status, json);
  std::fputs(texts.to_stderr.c_str(), stderr);
  std::fputs(texts.to_stdout.c_str(), stdout);
  std::fflush(stdout);
}

std::string FormatBytes(int64_t num_bytes) {
  if (num_bytes < 1000) return absl::StrCat(num_bytes, " B");
  static constexpr const char* kUnits[] = {"kB", "MB", "GB", "TB", "PB", "EB"};
  double value = static_cast<double>(num_bytes) / 1000;
  int unit = 0;
  // 999.5 would print as 1000.
  while (value >= 999.5 && unit < 5) {
    value /= 1000;
    ++unit;
  }
  const int digits = value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return absl::StrFormat("%.*f %s", digits, value, kUnits[unit]);
}

std::string BuffersText(int64_t most) {
  return absl::StrCat("buffers of at most ", FormatBytes(most), " a node");
}

std::string FormatRate(double bytes_per_second) {
  return absl::StrCat(FormatBytes(static_cast<int64_t>(bytes_per_second)), "/s");
}

std::string FormatTable(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t k = 0; k < row.size(); ++k) widths[k] = std::max(widths[k], row[k].size());
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (size_t k = 0; k < row.size(); ++k) {
      const std::string padding(widths[k] - row[k].size(), ' ');
      absl::StrAppend(&line, k == 0 ? "" : "  ", k == 0 ? row[k] + padding : padding + row[k]);
    }
    absl::StripTrailingAsciiWhitespace(&line);
    absl::StrAppend(&text, line, "\n");
  }
  return text;
}

std::string StateName(v1::LoadState state) {
  std::string name = v1::LoadState_Name(state);
  const std::string prefix = "LOAD_STATE_";
  if (name.compare(0, prefix.size(), prefix) == 0) name.erase(0, prefix.size());
  return absl::AsciiStrToLower(name);
}

// What a training engine saved; null for other checkpoints.
Json EngineJson(const v1::LoadReport& report) {
  if (!report.has_engine()) return nullptr;
  const v1::EngineReport& engine = report.engine();
  return {{"tag", engine.tag()},
          {"zero_stage", engine.zero_stage()},
          {"world_size", engine.world_size()},
          {"universal", engine.is_universal()},
          {"global_steps", engine.has_global_steps() ? Json(engine.global_steps()) : Json(nullptr)},
          {"optimizer_step",
           engine.has_optimizer_step() ? Json(engine.optimizer_step()) : Json(nullptr)},
          {"states", std::vector<std::string>(engine.states().begin(), engine.states().end())}};
}

std::string StateText(const v1::Load& load) {
  std::string name = StateName(load.state());
  if (!load.has_freed()) return name;
  const bool cancelled = load.freed().code() == static_cast<int>(absl::StatusCode::kCancelled);
  return absl::StrCat(name, cancelled ? ", released" : ", freed");
}

Json ReportJson(const v1::LoadReport& report) {
  Json mismatched = Json::array();
  // Apart, so that an entry of `mismatched` is what the library says, and nothing more.
  Json origins = Json::object();
  for (const v1::MismatchedWeight& weight : report.mismatched()) {
    mismatched.push_back({{"name", weight.name()},
                          {"checkpoint_shape", Shape(weight.checkpoint_shape())},
                          {"model_shape", Shape(weight.model_shape())}});
    if (!weight.origin().empty()) origins[weight.name()] = weight.origin();
  }
  Json errors = Json::array();
  for (const v1::ConversionError& error : report.conversion_errors()) {
    errors.push_back(
        {{"target", error.target()},
         {"sources", std::vector<std::string>(error.sources().begin(), error.sources().end())},
         {"message", error.message()}});
  }
  return {{"missing", std::vector<std::string>(report.missing().begin(), report.missing().end())},
          {"missing_unknown", report.missing_unknown()},
          {"rules_unknown", report.rules_unknown()},
          {"unexpected",
           std::vector<std::string>(report.unexpected().begin(), report.unexpected().end())},
          {"mismatched", mismatched},
          {"mismatched_origins", origins},
          {"conversion_errors", errors},
          {"dtype", report.dtype()},
          {"dtype_reason", report.dtype_reason()},
          {"engine", EngineJson(report)},
          {"note", report.note()}};
}

namespace {

// "files", "cache" or "peers"; "" until it is decided.
std::string SourceName(v1::LoadSource source) {
  if (source == v1::LOAD_SOURCE_UNSPECIFIED) return "";
  std::string name = v1::LoadSource_Name(source);
  const std::string prefix = "LOAD_SOURCE_";
  if (name.compare(0, prefix.size(), prefix) == 0) name.erase(0, prefix.size());
  return absl::AsciiStrToLower(name);
}

// Of the whole load: the farthest that a shard came from.
std::string SourceText(const v1::Load& load) {
  std::set<v1::LoadSource> sources;
  for (const v1::NodeProgress& node : load.nodes()) sources.insert(node.source());
  for (const v1::LoadSource source :
       {v1::LOAD_SOURCE_FILES, v1::LOAD_SOURCE_PEERS, v1::LOAD_SOURCE_CACHE}) {
    if (sources.count(source) > 0) return SourceName(source);
  }
  return "";
}

std::string MovedText(const std::string& source, int64_t bytes_read, int64_t bytes_received) {
  if (source == "cache") return "taken from the agents' memory";
  if (source == "peers") {
    return absl::StrCat(FormatBytes(bytes_received), " taken from other agents");
  }
  return absl::StrCat(FormatBytes(bytes_read), " read");
}

}  // namespace

Json LoadJson(const v1::Load& load) {
  Json document = ReportJson(load.report());
  document["load"] = load.name();
  document["job"] = load.job();
  document["epoch"] = load.epoch();
  document["state"] = StateName(load.state());
  document["plan_digest"] = load.plan().digest();
  document["num_targets"] = load.plan().num_targets();
  document["num_boxes"] = load.plan().num_boxes();
  document["arena_bytes"] = load.plan().arena_bytes();
  document["placement"] = PlacementName(load.plan().placement());
  document["placement_reason"] = load.plan().placement_reason();
  AddStage(load.plan(), &document);
  document["elapsed_seconds"] = ElapsedSeconds(load);
  document["transport"] = load.nodes().empty() ? "" : load.nodes(0).transport();
  Json nodes = Json::array();
  for (const v1::NodeProgress& node : load.nodes()) {
    nodes.push_back({{"node", node.node()},
                     {"name", node.node_name()},
                     {"source", SourceName(node.source())},
                     {"bytes_read", node.bytes_read()},
                     {"bytes_sent", node.bytes_sent()},
                     {"bytes_received", node.bytes_received()},
                     {"bytes_copied", node.bytes_copied()},
                     {"arena_bytes", node.arena_bytes()},
                     {"buffer_bytes", node.buffer_bytes()},
                     {"read_calls", node.read_calls()},
                     {"direct_bytes", node.direct_bytes()},
                     {"direct_refusal", node.direct_refusal()},
                     {"device_arena_bytes", node.device_arena_bytes()},
                     {"device_buffer_bytes", node.device_buffer_bytes()},
                     {"hand_over_way", node.hand_over_way()},
                     {"hand_over_because", node.hand_over_because()},
                     {"seconds", SecondsJson(node.seconds())}});
  }
  document["source"] = SourceText(load);
  document["nodes"] = nodes;
  const std::vector<StageSpeed> stages = StageSpeeds(load);
  for (const StageSpeed& stage : stages) {
    document["bytes_per_second"][stage.name] = stage.BytesPerSecond();
  }
  document["bottleneck"] = Bottleneck(stages);
  Json shards = Json::array();
  for (const v1::Shard& shard : load.shards()) {
    shards.push_back({{"rank", shard.rank()},
                      {"node", shard.node_name()},
                      {"agent_socket", shard.agent_socket()},
                      {"arena_bytes", shard.arena_bytes()},
                      {"handed_over", shard.handed_over()},
                      {"way", shard.way()},
                      {"way_because", shard.way_because()}});
    if (shard.has_freed()) shards.back()["freed"] = FailureJson(shard.freed());
  }
  document["shards"] = shards;
  if (load.state() == v1::LOAD_STATE_FAILED) {
    document["failure"] = FailureJson(load.failure());
  }
  if (load.has_freed()) document["freed"] = FailureJson(load.freed());
  return document;
}

std::string ReportText(const v1::LoadReport& report) {
  std::string text;
  if (report.has_engine()) {
    const v1::EngineReport& engine = report.engine();
    absl::StrAppend(&text, "DeepSpeed checkpoint ", EscapeControls(engine.tag()), " of ",
                    engine.world_size(), " ranks, ZeRO stage ", engine.zero_stage(),
                    engine.states().empty()
                        ? ": the weights alone"
                        : absl::StrCat(": weights and ", absl::StrJoin(engine.states(), ", ")),
                    "\n");
  }
  if (!report.note().empty()) absl::StrAppend(&text, EscapeControls(report.note()), "\n");
  AppendNames("missing in the checkpoint", report.missing(), &text);
  AppendNames("unexpected in the checkpoint, not loaded", report.unexpected(), &text);
  for (const v1::MismatchedWeight& weight : report.mismatched()) {
    absl::StrAppend(
        &text, "mismatched: ", EscapeControls(weight.name()), ": checkpoint ",
        ShapeText(weight.checkpoint_shape()), ", model ", ShapeText(weight.model_shape()),
        weight.origin().empty() ? "" : absl::StrCat(" (", EscapeControls(weight.origin()), ")"),
        "\n");
  }
  for (const v1::ConversionError& error : report.conversion_errors()) {
    absl::StrAppend(&text, "not convertible: ", EscapeControls(error.target()), ": ",
                    EscapeControls(error.message()), "\n");
  }
  if (report.missing_unknown()) {
    absl::StrAppend(&text, "no --model-spec: whether weights are missing cannot be known\n");
  }
  if (report.rules_unknown()) {
    absl::StrAppend(&text, "no config.json and no --model-spec: no conversion rules were chosen\n");
  }
  return text;
}

namespace {

// How much memory a node was allowed to use, and how what was not cached was read.
std::string ReadingText(const v1::Load& load) {
  int64_t buffers = 0, read = 0, direct = 0;
  std::string refusal;
  for (const v1::NodeProgress& node : load.nodes()) {
    buffers = std::max(buffers, node.buffer_bytes());
    read += node.bytes_read();
    direct += node.direct_bytes();
    if (refusal.empty()) refusal = node.direct_refusal();
  }
  std::string text;
  if (buffers > 0) text = BuffersText(buffers);
  if (direct > 0) {
    absl::StrAppendFormat(&text, "%s%.0f %% read past the page cache", text.empty() ? "" : "; ",
                          100.0 * static_cast<double>(direct) / static_cast<double>(read));
  }
  if (!text.empty()) text += "\n";
  if (!refusal.empty()) {
    absl::StrAppend(&text, "not past the page cache: ", EscapeControls(refusal), "\n");
  }
  return text;
}

// Where shards for GPUs lie, and how processes take them over; "" of shards for the host.
std::string DevicesText(const v1::Load& load) {
  int64_t arenas = 0, buffers = 0;
  std::set<std::string> ways, reasons;
  for (const v1::NodeProgress& node : load.nodes()) {
    arenas += node.device_arena_bytes();
    buffers = std::max(buffers, node.device_buffer_bytes());
    if (!node.hand_over_way().empty()) ways.insert(node.hand_over_way());
    if (!node.hand_over_because().empty()) reasons.insert(node.hand_over_because());
  }
  if (ways.empty()) return PlacementText(load.plan());
  std::string text =
      absl::StrCat(PlacementText(load.plan()), FormatBytes(arenas),
                   " on GPUs, buffers there of at most ", FormatBytes(buffers),
                   " a node; hand-over by ", EscapeControls(absl::StrJoin(ways, ", ")), "\n");
  for (const std::string& reason : reasons) {
    absl::StrAppend(&text, "no better way of hand-over: ", EscapeControls(reason), "\n");
  }
  return text;
}

}  // namespace

std::string LoadText(const v1::Load& load) {
  int64_t bytes_read = 0, bytes_received = 0;
  double slowest = 0;  // known at the end
  for (const v1::NodeProgress& node : load.nodes()) {
    bytes_read += node.bytes_read();
    bytes_received += node.bytes_received();
    slowest = std::max(slowest, node.seconds().total());
  }
  if (slowest == 0) slowest = ElapsedSeconds(load);
  // Nor are the ranks, before they have their shards.
  const std::string ranks =
      load.shards_size() == 0 ? "" : absl::StrCat(load.shards_size(), " ranks on ");
  std::string text = absl::StrCat(load.name(), " ", StateText(load), ": ", ranks, load.nodes_size(),
                                  load.nodes_size() == 1 ? " node" : " nodes", "\n",
                                  MovedText(SourceText(load), bytes_read, bytes_received), " in ",
                                  Seconds(slowest), " s");
  const int64_t moved = SourceText(load) == "peers" ? bytes_received : bytes_read;
  if (slowest > 0 && moved > 0) {
    absl::StrAppend(&text, " (", FormatRate(static_cast<double>(moved) / slowest), ")");
  }
  absl::StrAppend(&text, "\nplan ", load.plan().digest(), "\n", load.plan().num_targets(),
                  " targets, ", load.plan().num_boxes(), " boxes, ",
                  FormatBytes(load.plan().arena_bytes()), " a rank, dtype ", load.report().dtype(),
                  load.report().dtype_reason().empty()
                      ? ""
                      : absl::StrCat(" (", load.report().dtype_reason(), ")"),
                  "\n", StageText(load.plan()), "\n");
  std::vector<std::vector<std::string>> rows = {{"node", "from", "read", "sent", "received",
                                                 "plan s", "conn s", "read s", "copy s", "exch s",
                                                 "total s"}};
  for (const v1::NodeProgress& node : load.nodes()) {
    const v1::StageSeconds& seconds = node.seconds();
    rows.push_back({node.node_name(), SourceName(node.source()), FormatBytes(node.bytes_read()),
                    FormatBytes(node.bytes_sent()), FormatBytes(node.bytes_received()),
                    Seconds(seconds.prepare()), Seconds(seconds.connect()), Seconds(seconds.read()),
                    Seconds(seconds.copy()), Seconds(seconds.exchange()),
                    Seconds(seconds.total())});
  }
  const std::string stages = StagesText(load);
  absl::StrAppend(&text, FormatTable(rows), stages, stages.empty() ? "" : "\n", ReadingText(load),
                  DevicesText(load));
  const std::string report = ReportText(load.report());
  if (!report.empty()) absl::StrAppend(&text, "\n", report);
  return text;
}

}  // namespace zerocast
