#include "server/config/python_number.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/status_macros.h"
#include "server/config/python_error.h"
#include "server/config/python_format.h"

namespace zerocast {
namespace {

// A bool is an int in Python.
ConfigInteger AsInteger(const ConfigValue& value) {
  if (const bool* boolean = value.boolean()) return ConfigInteger(*boolean ? 1 : 0);
  return *value.integer();
}

absl::StatusOr<double> AsFloat(const ConfigValue& value) {
  if (const double* real = value.real()) return *real;
  const double converted = AsInteger(value).ToDouble();
  if (std::isinf(converted))
    return PythonError("OverflowError", "int too large to convert to float");
  return converted;
}

PythonOrder CompareIntegers(const ConfigInteger& a, const ConfigInteger& b) {
  if (a == b) return PythonOrder::kEqual;
  if (a.negative() != b.negative())
    return a.negative() ? PythonOrder::kLess : PythonOrder::kGreater;
  const bool shorter = a.decimal().size() < b.decimal().size();
  const bool smaller_magnitude =
      a.decimal().size() != b.decimal().size() ? shorter : a.decimal() < b.decimal();
  return smaller_magnitude != a.negative() ? PythonOrder::kLess : PythonOrder::kGreater;
}

// The exact value of an integral, finite double.
ConfigInteger ExactInteger(double integral) {
  return ConfigInteger::FromDecimal(absl::StrFormat("%.0f", integral));
}

PythonOrder CompareIntegerWithFloat(const ConfigInteger& a, double b) {
  if (std::isnan(b)) return PythonOrder::kUnordered;
  if (std::isinf(b)) return b > 0 ? PythonOrder::kLess : PythonOrder::kGreater;
  const double floor = std::floor(b);
  const PythonOrder order = CompareIntegers(a, ExactInteger(floor));
  return order == PythonOrder::kEqual && floor != b ? PythonOrder::kLess : order;
}

// Schoolbook product on limbs of 9 decimal digits: hidden sizes and batch sizes are short.
ConfigInteger MultiplyIntegers(const ConfigInteger& a, const ConfigInteger& b) {
  int64_t x, y, both;
  if (a.ToInt64(&x) && b.ToInt64(&y) && !__builtin_mul_overflow(x, y, &both)) {
    return ConfigInteger(both);
  }
  constexpr uint64_t kBase = 1000000000;
  const auto limbs = [](const ConfigInteger& integer) {
    const std::string& text = integer.decimal();
    std::vector<uint64_t> out;
    const size_t begin = integer.negative() ? 1 : 0;
    for (size_t end = text.size(); end > begin;) {
      const size_t start = end - begin > 9 ? end - 9 : begin;
      out.push_back(std::strtoull(text.substr(start, end - start).c_str(), nullptr, 10));
      end = start;
    }
    return out;
  };
  const std::vector<uint64_t> left = limbs(a), right = limbs(b);
  std::vector<uint64_t> product(left.size() + right.size(), 0);
  for (size_t i = 0; i < left.size(); ++i) {
    uint64_t carry = 0;
    for (size_t j = 0; j < right.size() || carry > 0; ++j) {
      const uint64_t sum =
          product[i + j] + carry + (j < right.size() ? left[i] * right[j] : uint64_t{0});
      product[i + j] = sum % kBase;
      carry = sum / kBase;
    }
  }
  std::string text = a.negative() != b.negative() ? "-" : "";
  for (size_t i = product.size(); i-- > 0;) absl::StrAppendFormat(&text, "%09d", product[i]);
  return ConfigInteger::FromDecimal(text);
}

absl::Status NotFinite(double value) {
  if (std::isnan(value)) return PythonError("ValueError", "cannot convert float NaN to integer");
  return PythonError("OverflowError", "cannot convert float infinity to integer");
}

absl::Status CannotMultiply(const ConfigValue& a, const ConfigValue& b) {
  const auto is_sequence = [](const ConfigValue& value) {
    return value.text() != nullptr || value.array() != nullptr;
  };
  // A sequence asks the other operand for an index first.
  if (is_sequence(a) || is_sequence(b)) {
    const ConfigValue& other = is_sequence(a) ? b : a;
    return PythonError("TypeError", absl::StrCat("can't multiply sequence by non-int of type '",
                                                 PythonTypeName(other), "'"));
  }
  return PythonError("TypeError",
                     absl::StrCat("unsupported operand type(s) for *: '", PythonTypeName(a),
                                  "' and '", PythonTypeName(b), "'"));
}

}  // namespace

bool IsPythonNumber(const ConfigValue& value) {
  return value.boolean() != nullptr || value.integer() != nullptr || value.real() != nullptr;
}

PythonOrder PythonCompare(const ConfigValue& a, const ConfigValue& b) {
  const double* x = a.real();
  const double* y = b.real();
  if (x == nullptr && y == nullptr) return CompareIntegers(AsInteger(a), AsInteger(b));
  if (x == nullptr) return CompareIntegerWithFloat(AsInteger(a), *y);
  if (y == nullptr) {
    const PythonOrder order = CompareIntegerWithFloat(AsInteger(b), *x);
    if (order == PythonOrder::kLess) return PythonOrder::kGreater;
    return order == PythonOrder::kGreater ? PythonOrder::kLess : order;
  }
  if (*x < *y) return PythonOrder::kLess;
  if (*x > *y) return PythonOrder::kGreater;
  return *x == *y ? PythonOrder::kEqual : PythonOrder::kUnordered;
}

absl::StatusOr<bool> PythonGreater(const ConfigValue& a, const ConfigValue& b) {
  if (IsPythonNumber(a) && IsPythonNumber(b)) return PythonCompare(a, b) == PythonOrder::kGreater;
  if (a.text() != nullptr && b.text() != nullptr) return *a.text() > *b.text();
  if (a.array() != nullptr && b.array() != nullptr) {
    // The first elements that differ decide, else the lengths.
    const ConfigValue::Array &x = *a.array(), &y = *b.array();
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
      if (!PythonSame(x[i], y[i])) return PythonGreater(x[i], y[i]);
    }
    return x.size() > y.size();
  }
  return PythonError("TypeError",
                     absl::StrCat("'>' not supported between instances of '", PythonTypeName(a),
                                  "' and '", PythonTypeName(b), "'"));
}

absl::StatusOr<ConfigValue> PythonMultiply(const ConfigValue& a, const ConfigValue& b) {
  if (!IsPythonNumber(a) || !IsPythonNumber(b)) return CannotMultiply(a, b);
  if (a.real() == nullptr && b.real() == nullptr) {
    return ConfigValue(MultiplyIntegers(AsInteger(a), AsInteger(b)));
  }
  ZC_ASSIGN_OR_RETURN(const double x, AsFloat(a));
  ZC_ASSIGN_OR_RETURN(const double y, AsFloat(b));
  return ConfigValue(x * y);
}

absl::StatusOr<ConfigValue> PythonInt(const ConfigValue& value) {
  if (value.real() == nullptr) return ConfigValue(AsInteger(value));
  if (!std::isfinite(*value.real())) return NotFinite(*value.real());
  return ConfigValue(ExactInteger(std::trunc(*value.real())));
}

absl::StatusOr<ConfigValue> PythonCeil(const ConfigValue& value) {
  if (value.real() == nullptr) return ConfigValue(AsInteger(value));
  if (!std::isfinite(*value.real())) return NotFinite(*value.real());
  return ConfigValue(ExactInteger(std::ceil(*value.real())));
}

}  // namespace zerocast
