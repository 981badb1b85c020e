#ifndef ZEROCAST_CLIENT_CLI_OUTPUT_H_
#define ZEROCAST_CLIENT_CLI_OUTPUT_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "server/base/errors.h"
#include "zerocast/v1/load.pb.h"

namespace zerocast {

// Prints "zerocast: MESSAGE" to stderr, and each field violation that the message does not tell on
// a line of its own; with `json` also {"error": {...}} to stdout.
void PrintError(const absl::Status& status, bool json);

// The same, for those who print by other means.
struct ErrorTexts {
  std::string to_stderr, to_stdout;
};
ErrorTexts TextsOfError(const absl::Status& status, bool json);

// What PrintError() prints to stderr instead of the message and its violations; the JSON stays.
void SetErrorText(std::string text);

// Whether the message of a status says what its violation says: as InvalidFields() does, or with
// the integration's line for the mismatch.
bool IsInMessage(const FieldViolation& violation, absl::string_view message);

// Members that PrintError() puts beside "error": what exists although the command failed.
void SetErrorContext(nlohmann::ordered_json members);

// Prints one JSON document and a newline to stdout.
void PrintJson(const nlohmann::ordered_json& document);

// JSON text with two spaces an indent.  Numbers and strings stay as they are written: a config may
// hold Infinity, or integers that no number type keeps.
std::string IndentJson(absl::string_view json);

// "1.82 GB", "90.9 MB", "512 B": three digits, decimal units.
std::string FormatBytes(int64_t num_bytes);

// "1.21 GB/s", "820 kB/s".
std::string FormatRate(double bytes_per_second);

// "buffers of at most 67.1 MB a node".
std::string BuffersText(int64_t most);

// Columns aligned, the first to the left and the others to the right; no trailing spaces.
std::string FormatTable(const std::vector<std::vector<std::string>>& rows);

// report.json: what checkpoint and model do not agree on, and what the load did.
// `mismatched_origins` has, by the name of a mismatched weight, how the checkpoint's came about.
nlohmann::ordered_json ReportJson(const v1::LoadReport& report);
nlohmann::ordered_json LoadJson(const v1::Load& load);

// The load as people read it: a line on what was done, the plan, a row for each node, and what was
// missing or unexpected.
std::string LoadText(const v1::Load& load);
// Only the report's part of it; empty when there is nothing to say.
std::string ReportText(const v1::LoadReport& report);

// "ready", "failed", ...
std::string StateName(v1::LoadState state);
// The same for people, who must not take shards for there that are gone: "ready, released" once the
// load was cancelled, "ready, freed" when they went otherwise.
std::string StateText(const v1::Load& load);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_CLI_OUTPUT_H_
