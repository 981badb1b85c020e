#ifndef ZEROCAST_SERVER_CONFIG_LINT_TABLE_DATA_H_
#define ZEROCAST_SERVER_CONFIG_LINT_TABLE_DATA_H_

#include "absl/strings/string_view.h"

namespace zerocast {

// The contents of deepspeed_keys.json; generated at configuration.
absl::string_view DeepSpeedKeys();

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONFIG_LINT_TABLE_DATA_H_
