#define PCRE2_CODE_UNIT_WIDTH 8
#include "server/config/python_format.h"

#include <pcre2.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "server/base/utf8.h"
#include "server/config/json_reader.h"
#include "server/config/python_number.h"

namespace zerocast {
namespace {

// float.__repr__ (CPython's float_repr_style "short"): the shortest digits that read back, as a
// plain number where the decimal point lies in (-4, 16], else with an exponent of two digits or
// more.
std::string FloatRepr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[40];
  const char* const end =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific).ptr;
  const char* at = buffer;
  std::string out;
  if (*at == '-') out.push_back(*at++);
  // "D.DDDe+XX": the digits without the point, and the exponent.
  char digits[32];
  int num_digits = 0, exponent = 0;
  for (; *at != 'e'; ++at) {
    if (*at != '.') digits[num_digits++] = *at;
  }
  at += at[1] == '+' ? 2 : 1;  // from_chars reads no '+'
  std::from_chars(at, end, exponent);
  if (exponent < -4 || exponent >= 16) {
    out.push_back(digits[0]);
    if (num_digits > 1) out.append(1, '.').append(digits + 1, num_digits - 1);
    absl::StrAppendFormat(&out, "e%c%02d", exponent < 0 ? '-' : '+', std::abs(exponent));
  } else if (exponent < 0) {
    out.append("0.").append(-exponent - 1, '0').append(digits, num_digits);
  } else if (exponent + 1 >= num_digits) {
    out.append(digits, num_digits).append(exponent + 1 - num_digits, '0').append(".0");
  } else {
    out.append(digits, exponent + 1).append(1, '.');
    out.append(digits + exponent + 1, num_digits - exponent - 1);
  }
  return out;
}

// str.isprintable of one character, `code`: a space, or not in the Unicode categories "Other" and
// "Separator".
bool IsPrintable(absl::string_view character, uint32_t code) {
  if (code < 0x80) return code >= 0x20 && code != 0x7F;
  static pcre2_code* const kUnprintable = [] {
    int error;
    PCRE2_SIZE offset;
    return pcre2_compile(reinterpret_cast<PCRE2_SPTR>("[\\p{C}\\p{Z}]"), PCRE2_ZERO_TERMINATED,
                         PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr);
  }();
  pcre2_match_data* match = pcre2_match_data_create(1, nullptr);
  const int found = pcre2_match(kUnprintable, reinterpret_cast<PCRE2_SPTR>(character.data()),
                                character.size(), 0, 0, match, nullptr);
  pcre2_match_data_free(match);
  return found < 0;
}

std::string StringRepr(absl::string_view text) {
  const bool single = text.find('\'') != absl::string_view::npos;
  const bool both = single && text.find('"') != absl::string_view::npos;
  const char quote = single && !both ? '"' : '\'';
  std::string out(1, quote);
  while (!text.empty()) {
    uint32_t code = 0;
    const size_t size = DecodeUtf8(text, &code);
    const absl::string_view character = text.substr(0, size == 0 ? 1 : size);
    text.remove_prefix(character.size());
    if (code == '\\' || code == static_cast<uint8_t>(quote)) {
      absl::StrAppend(&out, "\\", character);
    } else if (code == '\n') {
      out.append("\\n");
    } else if (code == '\r') {
      out.append("\\r");
    } else if (code == '\t') {
      out.append("\\t");
    } else if (IsPrintable(character, code)) {
      absl::StrAppend(&out, character);
    } else if (code < 0x100) {
      absl::StrAppendFormat(&out, "\\x%02x", code);
    } else if (code < 0x10000) {
      absl::StrAppendFormat(&out, "\\u%04x", code);
    } else {
      absl::StrAppendFormat(&out, "\\U%08x", code);
    }
  }
  out.push_back(quote);
  return out;
}

}  // namespace

std::string ToValidUtf8(absl::string_view text) {
  std::string out;
  uint32_t code;
  while (!text.empty()) {
    const size_t size = DecodeUtf8(text, &code);
    absl::StrAppend(&out, size == 0 ? "?" : text.substr(0, size));
    text.remove_prefix(size == 0 ? 1 : size);
  }
  return out;
}

std::string PythonStr(const ConfigValue& value) {
  return value.text() != nullptr ? *value.text() : PythonRepr(value);
}

std::string PythonRepr(const ConfigValue& value) {
  if (value.is_null()) return "None";
  if (const bool* boolean = value.boolean()) return *boolean ? "True" : "False";
  if (const ConfigInteger* integer = value.integer()) return integer->decimal();
  if (const double* real = value.real()) return FloatRepr(*real);
  if (const std::string* text = value.text()) return StringRepr(*text);
  std::string out;
  if (const ConfigValue::Array* array = value.array()) {
    out = "[";
    for (const ConfigValue& element : *array) {
      absl::StrAppend(&out, out.size() > 1 ? ", " : "", PythonRepr(element));
    }
    return out + "]";
  }
  out = "{";
  for (const ConfigMember& member : *value.object()) {
    absl::StrAppend(&out, out.size() > 1 ? ", " : "", StringRepr(member.key), ": ",
                    PythonRepr(member.value));
  }
  return out + "}";
}

absl::string_view PythonTypeName(const ConfigValue& value) {
  if (value.is_null()) return "NoneType";
  if (value.boolean() != nullptr) return "bool";
  if (value.integer() != nullptr) return "int";
  if (value.real() != nullptr) return "float";
  if (value.text() != nullptr) return "str";
  return value.array() != nullptr ? "list" : "dict";
}

bool PythonTruth(const ConfigValue& value) {
  if (const bool* boolean = value.boolean()) return *boolean;
  if (const ConfigInteger* integer = value.integer()) return !integer->zero();
  if (const double* real = value.real()) return *real != 0;
  if (const std::string* text = value.text()) return !text->empty();
  if (const ConfigValue::Array* array = value.array()) return !array->empty();
  if (const ConfigValue::Object* object = value.object()) return !object->empty();
  return false;
}

bool PythonSame(const ConfigValue& a, const ConfigValue& b) {
  const double *x = a.real(), *y = b.real();
  return (x != nullptr && y != nullptr && std::isnan(*x) && std::isnan(*y)) || PythonEqual(a, b);
}

bool PythonEqual(const ConfigValue& a, const ConfigValue& b) {
  if (IsPythonNumber(a) && IsPythonNumber(b)) return PythonCompare(a, b) == PythonOrder::kEqual;
  if (const ConfigValue::Array* left = a.array()) {
    const ConfigValue::Array* right = b.array();
    return right != nullptr &&
           std::equal(left->begin(), left->end(), right->begin(), right->end(), PythonSame);
  }
  if (const ConfigValue::Object* left = a.object()) {
    const ConfigValue::Object* right = b.object();
    if (right == nullptr || left->size() != right->size()) return false;
    absl::flat_hash_map<absl::string_view, const ConfigValue*> others;
    for (const ConfigMember& member : *right) others.emplace(member.key, &member.value);
    return std::all_of(left->begin(), left->end(), [&others](const ConfigMember& member) {
      const auto other = others.find(member.key);
      return other != others.end() && PythonSame(member.value, *other->second);
    });
  }
  if (a.text() != nullptr && b.text() != nullptr) return *a.text() == *b.text();
  return a.is_null() && b.is_null();
}

}  // namespace zerocast
