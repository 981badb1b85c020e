#ifndef ZEROCAST_TESTS_SERVER_CONFIG_PATHS_H_
#define ZEROCAST_TESTS_SERVER_CONFIG_PATHS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/base/errors.h"

namespace zerocast {

// The fields that a status names, in order.
inline std::vector<std::string> Paths(const absl::Status& status) {
  std::vector<std::string> paths;
  for (const FieldViolation& violation : ViolationsOf(status)) paths.push_back(violation.field);
  return paths;
}

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_SERVER_CONFIG_PATHS_H_
