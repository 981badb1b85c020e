#include "client/cli/config_output.h"

#include <map>

#include "absl/strings/str_cat.h"
#include "client/cli/config_input.h"
#include "server/wire/status.h"

namespace zerocast {
namespace {

using Json = nlohmann::ordered_json;

const char* SeverityName(v1::LintSeverity severity) {
  switch (severity) {
    case v1::LINT_SEVERITY_ERROR:
      return "error";
    case v1::LINT_SEVERITY_WARNING:
      return "warning";
    default:
      return "notice";
  }
}

std::string Count(int number, absl::string_view what) {
  return absl::StrCat(number, " ", what, number == 1 ? "" : "s");
}

}  // namespace

int NumErrors(const Findings& findings) {
  int errors = 0;
  for (const v1::LintFinding& finding : findings) {
    if (finding.severity() == v1::LINT_SEVERITY_ERROR) ++errors;
  }
  return errors;
}

std::string FindingsText(const Findings& findings) {
  if (findings.empty()) return "lint: nothing found\n";
  std::string text;
  std::map<v1::LintSeverity, int> counts;
  for (const v1::LintFinding& finding : findings) {
    ++counts[finding.severity()];
    const std::string head = absl::StrCat(
        SeverityName(finding.severity()), "  ",
        finding.path().empty() ? "(the whole config)" : finding.path(), "  [", finding.rule(), "]");
    absl::StrAppend(&text, WrapText(head, 0, 4), "\n    ", WrapText(finding.message(), 4, 4), "\n");
    if (!finding.suggestion().empty()) {
      absl::StrAppend(&text, "    -> ", WrapText(finding.suggestion(), 7, 7), "\n");
    }
  }
  return absl::StrCat(text, "lint: ", Count(counts[v1::LINT_SEVERITY_ERROR], "error"), ", ",
                      Count(counts[v1::LINT_SEVERITY_WARNING], "warning"), ", ",
                      Count(counts[v1::LINT_SEVERITY_NOTICE], "notice"), "\n");
}

Json FindingsJson(const Findings& findings) {
  Json list = Json::array();
  for (const v1::LintFinding& finding : findings) {
    list.push_back({{"path", finding.path()},
                    {"rule", finding.rule()},
                    {"severity", SeverityName(finding.severity())},
                    {"message", finding.message()},
                    {"suggestion", finding.suggestion()}});
  }
  return list;
}

}  // namespace zerocast
