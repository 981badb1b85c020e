#ifndef ZEROCAST_CLIENT_CLI_CONFIG_ERRORS_H_
#define ZEROCAST_CLIENT_CLI_CONFIG_ERRORS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace zerocast {

// What is wrong with a config, in the words of whoever typed the command.

// A field of a request and what the user gave for it: a file's path as it was typed, a flag, or
// nothing.
struct Source {
  std::string field;
  std::string name;
};

// How a file is named: its path as it was typed, "stdin" for "-".
std::string FileName(const std::string& path);

// `status` with what the server calls "config_json.a[2]" named "ds.json: a[2]".  A message that is
// the violations says so too; one that is Python's own stays byte for byte, as do the other
// details.
absl::Status NameSources(const absl::Status& status, const std::vector<Source>& sources);

// The text of a named error for people, in lines of at most 80 columns behind "zerocast: " (words
// and paths that have no blank may be longer): what is wrong, where, each once; mismatches of
// config and arguments in the integration's words and order; for another exception of the
// integration its text below.  Long values are cut, with a word on where they are whole.  `sources`
// begins with the config, to which the integration's paths belong.
std::string TextForPeople(const absl::Status& status, const std::vector<Source>& sources);

// NameSources(); the text above becomes what is printed to stderr.
absl::Status ExplainConfigError(const absl::Status& status, const std::vector<Source>& sources);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_CLI_CONFIG_ERRORS_H_
