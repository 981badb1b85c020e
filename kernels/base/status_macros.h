#ifndef ZEROCAST_KERNELS_BASE_STATUS_MACROS_H_
#define ZEROCAST_KERNELS_BASE_STATUS_MACROS_H_

#include <utility>

#include "absl/base/optimization.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Evaluates `expr`, an absl::Status, once, and returns it from the enclosing function unless OK.
#define ZC_RETURN_IF_ERROR(expr)                                 \
  do {                                                           \
    ::absl::Status zc_status_ = (expr);                          \
    if (ABSL_PREDICT_FALSE(!zc_status_.ok())) return zc_status_; \
  } while (false)

// Evaluates `expr`, an absl::StatusOr<T>, once; on success moves its value into `lhs` (which may
// be a declaration), else returns its status from the enclosing function.
#define ZC_ASSIGN_OR_RETURN(lhs, expr) \
  ZC_ASSIGN_OR_RETURN_IMPL_(ZC_CONCAT_(zc_status_or_, __LINE__), lhs, expr)
#define ZC_ASSIGN_OR_RETURN_IMPL_(status_or, lhs, expr) \
  auto status_or = (expr);                              \
  if (ABSL_PREDICT_FALSE(!status_or.ok())) {            \
    return std::move(status_or).status();               \
  }                                                     \
  lhs = *std::move(status_or)
#define ZC_CONCAT_(a, b) ZC_CONCAT_INNER_(a, b)
#define ZC_CONCAT_INNER_(a, b) a##b

#endif  // ZEROCAST_KERNELS_BASE_STATUS_MACROS_H_
