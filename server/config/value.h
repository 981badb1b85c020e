#ifndef ZEROCAST_SERVER_CONFIG_VALUE_H_
#define ZEROCAST_SERVER_CONFIG_VALUE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/string_view.h"

namespace zerocast {

// An integer of any size, as Python has them.
class ConfigInteger {
 public:
  ConfigInteger() : decimal_("0") {}
  explicit ConfigInteger(int64_t value) : decimal_(std::to_string(value)) {}

  // `digits` is an optional '-' and decimal digits; leading zeros and the sign of zero go.
  static ConfigInteger FromDecimal(absl::string_view digits);

  // Canonical decimal text: no leading zeros, no "-0".
  const std::string& decimal() const { return decimal_; }
  bool negative() const { return decimal_[0] == '-'; }
  bool zero() const { return decimal_ == "0"; }

  // The value where it fits 64 bits, else false.
  bool ToInt64(int64_t* out) const;
  // The nearest double, ties to even; infinite beyond the range.
  double ToDouble() const;

  bool operator==(const ConfigInteger& other) const { return decimal_ == other.decimal_; }

 private:
  std::string decimal_;
};

struct ConfigMember;

// A JSON value with the types that Python's json module gives it.  Objects keep the order of their
// keys.  operator== is strict (1, 1.0 and true differ; key order counts); Python's equality is
// PythonEqual.  A plain value: copied deeply, no locking of its own.
class ConfigValue {
 public:
  using Array = std::vector<ConfigValue>;
  using Object = std::vector<ConfigMember>;

  ConfigValue() = default;  // null
  explicit ConfigValue(bool value) : data_(value) {}
  explicit ConfigValue(int value) : data_(ConfigInteger(value)) {}
  explicit ConfigValue(int64_t value) : data_(ConfigInteger(value)) {}
  explicit ConfigValue(ConfigInteger value) : data_(std::move(value)) {}
  explicit ConfigValue(double value) : data_(value) {}
  explicit ConfigValue(std::string value) : data_(std::move(value)) {}
  explicit ConfigValue(const char* value) : data_(std::string(value)) {}
  explicit ConfigValue(Array value) : data_(std::move(value)) {}
  explicit ConfigValue(Object value) : data_(std::move(value)) {}

  bool is_null() const { return std::holds_alternative<std::monostate>(data_); }
  // Null for any other type.
  const bool* boolean() const { return std::get_if<bool>(&data_); }
  const ConfigInteger* integer() const { return std::get_if<ConfigInteger>(&data_); }
  const double* real() const { return std::get_if<double>(&data_); }
  const std::string* text() const { return std::get_if<std::string>(&data_); }
  const Array* array() const { return std::get_if<Array>(&data_); }
  const Object* object() const { return std::get_if<Object>(&data_); }
  Array* array() { return std::get_if<Array>(&data_); }
  Object* object() { return std::get_if<Object>(&data_); }
  bool IsText(absl::string_view value) const { return text() != nullptr && *text() == value; }

  // The member of an object; null where it is absent or this is no object.
  const ConfigValue* Find(absl::string_view key) const;
  ConfigValue* Find(absl::string_view key);
  // Sets a member, in its place or at the end.  This must be an object.
  ConfigValue* Set(absl::string_view key, ConfigValue value);
  // Removes a member where there is one.
  void Erase(absl::string_view key);

  bool operator==(const ConfigValue& other) const;
  bool operator!=(const ConfigValue& other) const { return !(*this == other); }

 private:
  std::variant<std::monostate, bool, ConfigInteger, double, std::string, Array, Object> data_;
};

// The value at a path ("optimizer.params.lr"); null where a part of it is absent.
const ConfigValue* FindPath(const ConfigValue& root, absl::string_view path);

struct ConfigMember {
  std::string key;
  ConfigValue value;

  bool operator==(const ConfigMember& other) const {
    return key == other.key && value == other.value;
  }
};

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONFIG_VALUE_H_
