#ifndef ZEROCAST_CLIENT_CLI_CONFIG_OUTPUT_H_
#define ZEROCAST_CLIENT_CLI_CONFIG_OUTPUT_H_

#include <nlohmann/json.hpp>
#include <string>

#include "zerocast/v1/config.pb.h"

namespace zerocast {

using Findings = google::protobuf::RepeatedPtrField<v1::LintFinding>;

// Findings as people read them, in 80 columns: severity, path, rule; then what is wrong and what
// to write instead.  The last line counts them.
std::string FindingsText(const Findings& findings);
nlohmann::ordered_json FindingsJson(const Findings& findings);
// Those that DeepSpeed refuses or fails on.
int NumErrors(const Findings& findings);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_CLI_CONFIG_OUTPUT_H_
