#ifndef ZEROCAST_SERVER_BASE_PYTHON_JSON_H_
#define ZEROCAST_SERVER_BASE_PYTHON_JSON_H_

#include <string>

#include "absl/strings/string_view.h"

namespace zerocast {

// JSON text with null in the place of NaN, Infinity and -Infinity, which Python's json module
// writes into a model's config.json (time_step_limit of Mamba models) and JSON does not have.  For
// readers that look at other values.  Strings stay as they are; text that is no JSON stays none.
std::string NullForPythonConstants(absl::string_view text);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_BASE_PYTHON_JSON_H_
