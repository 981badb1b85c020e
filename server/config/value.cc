#include "server/config/value.h"

#include <algorithm>
#include <cstdint>

#include "absl/base/casts.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

namespace zerocast {

ConfigInteger ConfigInteger::FromDecimal(absl::string_view digits) {
  const bool negative = !digits.empty() && digits.front() == '-';
  if (negative) digits.remove_prefix(1);
  while (digits.size() > 1 && digits.front() == '0') digits.remove_prefix(1);
  ConfigInteger integer;
  if (digits.empty() || digits == "0") return integer;
  integer.decimal_ = negative ? "-" : "";
  integer.decimal_.append(digits.data(), digits.size());
  return integer;
}

bool ConfigInteger::ToInt64(int64_t* out) const { return absl::SimpleAtoi(decimal_, out); }

double ConfigInteger::ToDouble() const {
  double value = 0;
  // Rounds to nearest even; out of range gives the infinity of the right sign.
  (void)absl::SimpleAtod(decimal_, &value);
  return value;
}

const ConfigValue* ConfigValue::Find(absl::string_view key) const {
  const Object* members = object();
  if (members == nullptr) return nullptr;
  for (const ConfigMember& member : *members) {
    if (member.key == key) return &member.value;
  }
  return nullptr;
}

ConfigValue* ConfigValue::Find(absl::string_view key) {
  return const_cast<ConfigValue*>(static_cast<const ConfigValue*>(this)->Find(key));
}

ConfigValue* ConfigValue::Set(absl::string_view key, ConfigValue value) {
  if (ConfigValue* found = Find(key)) {
    *found = std::move(value);
    return found;
  }
  object()->push_back({std::string(key), std::move(value)});
  return &object()->back().value;
}

void ConfigValue::Erase(absl::string_view key) {
  Object* members = object();
  if (members == nullptr) return;
  members->erase(std::remove_if(members->begin(), members->end(),
                                [&](const ConfigMember& member) { return member.key == key; }),
                 members->end());
}

bool ConfigValue::operator==(const ConfigValue& other) const {
  if (data_.index() != other.data_.index()) return false;
  if (real() != nullptr) {
    // By bits: -0.0 is not 0.0, and NaN equals itself.
    return absl::bit_cast<uint64_t>(*real()) == absl::bit_cast<uint64_t>(*other.real());
  }
  return data_ == other.data_;
}

const ConfigValue* FindPath(const ConfigValue& root, absl::string_view path) {
  const ConfigValue* node = &root;
  for (const absl::string_view name : absl::StrSplit(path, '.')) {
    node = node->Find(name);
    if (node == nullptr) return nullptr;
  }
  return node;
}

}  // namespace zerocast
