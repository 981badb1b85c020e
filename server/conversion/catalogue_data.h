#ifndef ZEROCAST_SERVER_CONVERSION_CATALOGUE_DATA_H_
#define ZEROCAST_SERVER_CONVERSION_CATALOGUE_DATA_H_

#include "absl/strings/string_view.h"

namespace zerocast {

// The contents of hf-rules-5.23.0.json and hf-rules-5.1.0.json; generated at configuration.
absl::string_view RuleTable5230();
absl::string_view RuleTable510();

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONVERSION_CATALOGUE_DATA_H_
