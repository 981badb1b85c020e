#ifndef ZEROCAST_SERVER_CONFIG_PYTHON_NUMBER_H_
#define ZEROCAST_SERVER_CONFIG_PYTHON_NUMBER_H_

#include "absl/status/statusor.h"
#include "server/config/value.h"

namespace zerocast {

// Arithmetic of bool, int and float as Python does it.  Errors are PythonErrors with the
// interpreter's own type and text.

bool IsPythonNumber(const ConfigValue& value);

enum class PythonOrder { kLess, kEqual, kGreater, kUnordered };
// Exact, also between an int beyond 2^53 and a float.  Both must be numbers.
PythonOrder PythonCompare(const ConfigValue& a, const ConfigValue& b);

// a > b of two numbers, two strings (by code point) or two lists.  TypeError for other pairs.
absl::StatusOr<bool> PythonGreater(const ConfigValue& a, const ConfigValue& b);

// a * b.  Int times int is exact.  TypeError where either is not a number, OverflowError where an
// int is too large for the float that it meets.
absl::StatusOr<ConfigValue> PythonMultiply(const ConfigValue& a, const ConfigValue& b);

// int(value) and math.ceil(value) of a number.  ValueError for NaN, OverflowError for an infinity.
absl::StatusOr<ConfigValue> PythonInt(const ConfigValue& value);
absl::StatusOr<ConfigValue> PythonCeil(const ConfigValue& value);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONFIG_PYTHON_NUMBER_H_
