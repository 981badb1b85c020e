#ifndef ZEROCAST_CLIENT_AGENT_LOG_H_
#define ZEROCAST_CLIENT_AGENT_LOG_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/base/utf8.h"

namespace zerocast {

// A status as a log line shows it: without its payloads, which are bytes, and in one line.
inline std::string ForLog(const absl::Status& status) {
  return absl::StrCat(absl::StatusCodeToString(status.code()), ": ",
                      EscapeControls(status.message()));
}

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_LOG_H_
