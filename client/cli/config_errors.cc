#include "client/cli/config_errors.h"

#include <algorithm>

#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "client/cli/config_input.h"
#include "client/cli/output.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

constexpr size_t kHead = 10;  // "zerocast: ", which goes before the text
constexpr size_t kIndent = 2;
constexpr size_t kMaxLineBytes = 400;

std::string Cut(absl::string_view text) {
  if (text.size() <= kMaxLineBytes) return std::string(text);
  size_t end = kMaxLineBytes;
  while (end > 0 && (text[end] & 0xC0) == 0x80) --end;  // not within a character
  return absl::StrCat(text.substr(0, end), " ... (", text.size() - end,
                      " more bytes; --output json has all)");
}

std::string Wrap(absl::string_view text, size_t column, size_t indent) {
  return WrapText(Cut(text), column, indent, LongWords::kKeep);
}

// A violation as the messages of INVALID_ARGUMENT have it.
std::string Line(const FieldViolation& violation) {
  return absl::StrCat(violation.field, ": ", violation.description);
}

std::string Named(absl::string_view field, const std::vector<Source>& sources) {
  for (const Source& source : sources) {
    absl::string_view rest = field;
    if (source.name.empty() || !absl::ConsumePrefix(&rest, source.field)) continue;
    if (rest.empty()) return source.name;
    if (rest[0] == '.') return absl::StrCat(source.name, ": ", rest.substr(1));
    if (rest[0] == '[') return absl::StrCat(source.name, ": ", rest);
  }
  return std::string(field);
}

// "ds.json: fp16: must be ..." of one of the integration's paths; what is named already stays.
std::string Located(const FieldViolation& violation, const std::vector<Source>& sources) {
  for (const Source& source : sources) {
    if (violation.field == source.name ||
        absl::StartsWith(violation.field, absl::StrCat(source.name, ": "))) {
      return Line(violation);
    }
  }
  return absl::StrCat(sources[0].name, ": ", Line(violation));
}

// The integration's own text has a line for each mismatch.
std::string MismatchText(const absl::Status& status, const std::vector<Source>& sources) {
  std::string text;
  const std::string message(status.message());
  for (const absl::string_view line : absl::StrSplit(message, '\n')) {
    if (text.empty()) {
      text = Wrap(absl::StrCat(sources[0].name, ": ", line), kHead, kIndent);
    } else {
      absl::StrAppend(&text, "\n", Wrap(line, 0, kIndent));
    }
  }
  // What else was found wrong on the way.
  for (const FieldViolation& violation : ViolationsOf(status)) {
    if (IsInMessage(violation, message)) continue;
    absl::StrAppend(&text, "\n", std::string(kIndent, ' '),
                    Wrap(Line(violation), kIndent, 2 * kIndent));
  }
  return text;
}

}  // namespace

std::string FileName(const std::string& path) { return path == "-" ? "stdin" : path; }

absl::Status NameSources(const absl::Status& status, const std::vector<Source>& sources) {
  std::vector<FieldViolation> violations = ViolationsOf(status);
  if (violations.empty()) return status;
  const bool told = status.message() == InvalidFields(violations).message();
  for (FieldViolation& violation : violations) violation.field = Named(violation.field, sources);
  const absl::Status named = InvalidFields(violations);
  absl::Status out = told ? WithMessage(status, named.message()) : status;
  out.SetPayload(kBadRequestUrl, *named.GetPayload(kBadRequestUrl));
  return out;
}

std::string TextForPeople(const absl::Status& status, const std::vector<Source>& sources) {
  const std::vector<FieldViolation> violations = ViolationsOf(status);
  if (violations.empty()) {
    return WrapText(status.message(), kHead, kIndent, LongWords::kKeep);
  }
  if (ReasonOf(status) == "CONFIG_MISMATCH") return MismatchText(status, sources);
  const bool python = status.message() != InvalidFields(violations).message();
  const auto line = [&](const FieldViolation& violation) {
    return python ? Located(violation, sources) : Line(violation);
  };
  std::string text;
  if (violations.size() == 1) {
    text = Wrap(line(violations[0]), kHead, kIndent);
  } else {
    text = absl::StrCat(violations.size(), " values are refused:");
    for (const FieldViolation& violation : violations) {
      absl::StrAppend(&text, "\n", std::string(kIndent, ' '),
                      Wrap(line(violation), kIndent, 2 * kIndent));
    }
  }
  if (!python) return text;
  // It may quote the config, which has lines of its own.
  std::string said = Cut(absl::StripAsciiWhitespace(status.message()));
  std::replace(said.begin(), said.end(), '\n', ' ');
  return absl::StrCat(
      text, "\n", std::string(kIndent, ' '),
      WrapText(absl::StrCat("Transformers says: ", said), kIndent, 2 * kIndent, LongWords::kKeep));
}

absl::Status ExplainConfigError(const absl::Status& status, const std::vector<Source>& sources) {
  if (status.ok()) return status;
  const absl::Status named = NameSources(status, sources);
  SetErrorText(TextForPeople(named, sources));
  return named;
}

}  // namespace zerocast
