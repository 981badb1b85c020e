#include "server/conversion/json_fields.h"

#include <limits>

#include "absl/strings/str_cat.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

bool ReadInt(const nlohmann::json& value, int64_t* out) {
  if (!value.is_number_integer()) return false;
  if (value.is_number_unsigned() &&
      value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return false;
  }
  *out = value.get<int64_t>();
  return true;
}

}  // namespace

absl::Status JsonError(absl::string_view path, absl::string_view what) {
  return WithReason(absl::InvalidArgumentError(absl::StrCat(path, ": ", what)), "INVALID_FIELDS");
}

JsonFields::JsonFields(const nlohmann::json& value, absl::string_view path)
    : value_(value), path_(path) {
  if (!value.is_object()) status_ = JsonError(path, "must be an object");
}

const nlohmann::json* JsonFields::Find(const char* name) const {
  if (!value_.is_object()) return nullptr;
  const auto found = value_.find(name);
  return found == value_.end() || found->is_null() ? nullptr : &*found;
}

void JsonFields::Fail(const char* name, absl::string_view expected) {
  status_ = JsonError(absl::StrCat(path_, ".", name), absl::StrCat("must be ", expected));
}

JsonFields& JsonFields::Get(const char* name, std::string* out) {
  const nlohmann::json* const field = status_.ok() ? Find(name) : nullptr;
  if (field == nullptr) return *this;
  if (field->is_string()) {
    *out = field->get<std::string>();
  } else {
    Fail(name, "a string");
  }
  return *this;
}

JsonFields& JsonFields::Get(const char* name, int64_t* out) {
  const nlohmann::json* const field = status_.ok() ? Find(name) : nullptr;
  if (field != nullptr && !ReadInt(*field, out)) Fail(name, "an integer of 64 bits");
  return *this;
}

JsonFields& JsonFields::Get(const char* name, bool* out) {
  const nlohmann::json* const field = status_.ok() ? Find(name) : nullptr;
  if (field == nullptr) return *this;
  if (field->is_boolean()) {
    *out = field->get<bool>();
  } else {
    Fail(name, "true or false");
  }
  return *this;
}

JsonFields& JsonFields::Get(const char* name, std::vector<int64_t>* out) {
  const nlohmann::json* const field = status_.ok() ? Find(name) : nullptr;
  if (field == nullptr) return *this;
  out->clear();
  bool good = field->is_array();
  for (auto item = field->begin(); good && item != field->end(); ++item) {
    int64_t number;
    good = ReadInt(*item, &number);
    if (good) out->push_back(number);
  }
  if (!good) Fail(name, "a list of integers");
  return *this;
}

JsonFields& JsonFields::Get(const char* name, std::vector<std::string>* out) {
  const nlohmann::json* const field = status_.ok() ? Find(name) : nullptr;
  if (field == nullptr) return *this;
  out->clear();
  if (field->is_string()) {
    out->push_back(field->get<std::string>());
    return *this;
  }
  bool good = field->is_array();
  for (auto item = field->begin(); good && item != field->end(); ++item) {
    good = item->is_string();
    if (good) out->push_back(item->get<std::string>());
  }
  if (!good) Fail(name, "a string or a list of strings");
  return *this;
}

}  // namespace zerocast
