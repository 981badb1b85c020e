#ifndef ZEROCAST_TESTS_STATUS_MATCHERS_H_
#define ZEROCAST_TESTS_STATUS_MATCHERS_H_

#include <gmock/gmock.h>

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace zerocast {

inline const absl::Status& StatusOf(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& StatusOf(const absl::StatusOr<T>& status_or) {
  return status_or.status();
}

// Matches an absl::Status or absl::StatusOr<T> that is OK.
MATCHER(IsOk, "is OK") {
  *result_listener << StatusOf(arg).ToString();
  return StatusOf(arg).ok();
}

// Matches a status with this code whose message matches `message` (a string matcher).
MATCHER_P2(StatusIs, code, message, "has the code " + absl::StatusCodeToString(code)) {
  *result_listener << StatusOf(arg).ToString();
  return StatusOf(arg).code() == code &&
         ::testing::ExplainMatchResult(message, std::string(StatusOf(arg).message()),
                                       result_listener);
}

// ASSERT that `expr`, a StatusOr, is OK and move its value into `lhs`.
#define ZC_ASSERT_OK_AND_ASSIGN(lhs, expr) \
  ZC_ASSERT_OK_AND_ASSIGN_IMPL_(ZC_TEST_CONCAT_(zc_test_status_or_, __LINE__), lhs, expr)
#define ZC_ASSERT_OK_AND_ASSIGN_IMPL_(status_or, lhs, expr) \
  auto status_or = (expr);                                  \
  ASSERT_THAT(status_or, ::zerocast::IsOk());               \
  lhs = *std::move(status_or)
#define ZC_TEST_CONCAT_(a, b) ZC_TEST_CONCAT_INNER_(a, b)
#define ZC_TEST_CONCAT_INNER_(a, b) a##b

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_STATUS_MATCHERS_H_
