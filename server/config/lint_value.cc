#include "server/config/lint_value.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "server/config/json_reader.h"
#include "server/config/python_format.h"

namespace zerocast {
namespace {

using Fit = ValueVerdict::Fit;

constexpr size_t kShortJson = 60;

ValueVerdict Refuse(absl::string_view rule, std::string message) {
  return {Fit::kRefused, std::string(rule), std::move(message)};
}
ValueVerdict Take(absl::string_view rule, std::string message) {
  return {Fit::kTaken, std::string(rule), std::move(message)};
}

// "an integer", "true or false": what a type asks for.
std::string TypeName(absl::string_view type) {
  std::vector<std::string> names;
  for (const absl::string_view part : absl::StrSplit(type, '|')) {
    if (part == "bool") {
      names.emplace_back("true or false");
    } else if (part == "int") {
      names.emplace_back("an integer");
    } else if (part == "float") {
      names.emplace_back("a number");
    } else if (part == "str") {
      names.emplace_back("a string");
    } else if (part == "list of str") {
      names.emplace_back("a list of strings");
    } else if (absl::StartsWith(part, "list")) {
      names.emplace_back("a list");
    } else if (part == "object" || part == "section") {
      names.emplace_back("an object");
    } else {
      names.emplace_back(part);
    }
  }
  std::string out = names[0];
  for (size_t i = 1; i < names.size(); ++i) absl::StrAppend(&out, " or ", names[i]);
  return out;
}

std::string MustBe(const KeyRule& rule, const ConfigValue& value) {
  return absl::StrCat("must be ", rule.type == "one of" ? OneOf(rule.values) : TypeName(rule.type),
                      rule.null ? " or null" : "", ", is ", ShortJson(value));
}

// An integer as pydantic reads it from text: blanks around, one '_' between digits, ".000".
std::optional<double> IntegerOfText(absl::string_view text) {
  text = absl::StripAsciiWhitespace(text);
  const bool negative = absl::ConsumePrefix(&text, "-");
  if (!negative) absl::ConsumePrefix(&text, "+");
  const size_t point = text.find('.');
  if (point != absl::string_view::npos) {
    const absl::string_view zeros = text.substr(point + 1);
    if (zeros.empty() || zeros.find_first_not_of('0') != absl::string_view::npos) return {};
    text = text.substr(0, point);
  }
  std::string digits;
  bool digit_before = false;
  for (const char c : text) {
    if (c == '_' && !digit_before) return {};
    digit_before = c != '_';
    if (c == '_') continue;
    if (!absl::ascii_isdigit(c)) return {};
    digits.push_back(c);
  }
  if (digits.empty() || !digit_before) return {};
  const double value = ConfigInteger::FromDecimal(digits).ToDouble();
  return negative ? -value : value;
}

std::optional<std::string> OutOfRange(const KeyRule& rule, double value) {
  const auto say = [value](absl::string_view relation, double bound) {
    const std::string is =
        std::isfinite(value) ? absl::StrCat(value) : WriteJson(ConfigValue(value));
    return absl::StrCat("must be ", relation, " ", bound, ", is ", is);
  };
  // NaN satisfies no bound.
  if (rule.gt.has_value() && !(value > *rule.gt)) return say("greater than", *rule.gt);
  if (rule.ge.has_value() && !(value >= *rule.ge)) return say("at least", *rule.ge);
  if (rule.lt.has_value() && !(value < *rule.lt)) return say("less than", *rule.lt);
  if (rule.le.has_value() && !(value <= *rule.le)) return say("at most", *rule.le);
  return std::nullopt;
}

bool IsValue(const KeyRule& rule, const ConfigValue& value) {
  return std::any_of(rule.values.begin(), rule.values.end(), [&](const ConfigValue& known) {
    if (rule.any_case && known.text() != nullptr && value.text() != nullptr) {
      return absl::EqualsIgnoreCase(*known.text(), *value.text());
    }
    return PythonEqual(known, value);
  });
}

bool IsNumber(const ConfigValue& value) {
  return value.integer() != nullptr || value.real() != nullptr;
}

// Taken for something else than it looks like: the reader of the integration sees the original.
ValueVerdict Coerced(const KeyRule& rule, const ConfigValue& value) {
  if (value.text() != nullptr) {
    return Take(
        "string-value",
        absl::StrCat(MustBe(rule, value),
                     rule.type == "bool"
                         ? "; DeepSpeed reads the text, Transformers takes any text that "
                           "is not empty for true"
                         : "; DeepSpeed reads the text as a number, Transformers does not"));
  }
  return Take("wrong-type", absl::StrCat(MustBe(rule, value), "; DeepSpeed takes it for ",
                                         rule.type == "bool" ? "a truth value" : "a number"));
}

// What a validator that calls int() or float() itself takes: no boolean, for int() no ".0".
bool IsPlainNumber(absl::string_view type, const ConfigValue& value) {
  if (value.boolean() != nullptr) return false;
  return type != "int" || value.text() == nullptr || !absl::StrContains(*value.text(), '.');
}

ValueVerdict CheckStrictOne(const KeyRule& rule, absl::string_view type, const ConfigValue& value) {
  // Made only where it is needed: most values are good.
  const auto wrong = [&] { return Refuse("wrong-type", MustBe(rule, value)); };
  if (type == "any") return {};
  if (type == "never") {
    return Refuse("wrong-type", "is set by the program only: no JSON value is taken");
  }
  if (type == "bool") {
    if (!LaxBool(value).has_value()) return wrong();
    return value.text() != nullptr ? Coerced(rule, value) : ValueVerdict{};
  }
  if (type == "int" || type == "float") {
    const std::optional<double> number = type == "int" ? LaxInt(value) : LaxFloat(value);
    if (!number.has_value() || (rule.no_bool && !IsPlainNumber(type, value))) return wrong();
    if (rule.finite && !std::isfinite(*number)) {
      return Refuse("out-of-range", absl::StrCat("must be finite, is ", ShortJson(value)));
    }
    if (const auto range = OutOfRange(rule, *number)) return Refuse("out-of-range", *range);
    return IsNumber(value) ? ValueVerdict{} : Coerced(rule, value);
  }
  if (type == "str") return value.text() != nullptr ? ValueVerdict{} : wrong();
  if (type == "object") return value.object() != nullptr ? ValueVerdict{} : wrong();
  if (type == "one of") {
    if (IsValue(rule, value)) {
      return value.boolean() != nullptr ? Coerced(rule, value) : ValueVerdict{};
    }
    const bool of_numbers = !rule.values.empty() && rule.values[0].integer() != nullptr;
    if (of_numbers && value.text() != nullptr) {
      const std::optional<double> number = IntegerOfText(*value.text());
      if (number.has_value() && IsValue(rule, ConfigValue(*number))) return Coerced(rule, value);
    }
    return Refuse("invalid-value", MustBe(rule, value));
  }
  if (absl::StartsWith(type, "list")) {
    if (value.array() == nullptr) return wrong();
    for (const ConfigValue& item : *value.array()) {
      const bool good = type == "list of str"      ? item.text() != nullptr
                        : type == "list of one of" ? IsValue(rule, item)
                                                   : true;
      if (!good) {
        return type == "list of str"
                   ? wrong()
                   : Refuse("invalid-value", absl::StrCat("items must be ", OneOf(rule.values),
                                                          ", one is ", ShortJson(item)));
      }
    }
    return {};
  }
  return wrong();
}

bool FitsLooseType(absl::string_view type, const ConfigValue& value) {
  if (type == "bool") return value.boolean() != nullptr;
  if (type == "int") return value.integer() != nullptr;
  if (type == "float") return IsNumber(value);
  if (type == "str") return value.text() != nullptr;
  if (type == "object" || type == "section") return value.object() != nullptr;
  if (type == "list of str") {
    return value.array() != nullptr &&
           std::all_of(value.array()->begin(), value.array()->end(),
                       [](const ConfigValue& item) { return item.text() != nullptr; });
  }
  if (absl::StartsWith(type, "list")) return value.array() != nullptr;
  return true;
}

char KindLetter(const ConfigValue& value) {
  if (value.is_null()) return 'n';
  if (value.boolean() != nullptr) return 'b';
  if (value.integer() != nullptr) return 'i';
  if (value.real() != nullptr) return 'f';
  if (value.array() != nullptr) return 'l';
  if (value.object() != nullptr) return 'd';
  return value.IsText("auto") ? 'a' : 's';
}

bool Raises(const KeyRule& rule, const ConfigValue& value) {
  const char kind = KindLetter(value);
  return absl::StrContains(rule.refuses, kind) ||
         absl::StrContains(PythonTruth(value) ? rule.refuses_true : rule.refuses_false, kind);
}

}  // namespace

std::optional<bool> LaxBool(const ConfigValue& value) {
  if (value.boolean() != nullptr) return *value.boolean();
  if (IsNumber(value)) {
    const double number = value.real() != nullptr ? *value.real() : value.integer()->ToDouble();
    if (number == 0) return false;
    if (number == 1) return true;
    return std::nullopt;
  }
  if (value.text() == nullptr) return std::nullopt;
  const std::string text = absl::AsciiStrToLower(*value.text());
  for (const absl::string_view word : {"0", "off", "f", "false", "n", "no"}) {
    if (text == word) return false;
  }
  for (const absl::string_view word : {"1", "on", "t", "true", "y", "yes"}) {
    if (text == word) return true;
  }
  return std::nullopt;
}

std::optional<double> LaxInt(const ConfigValue& value) {
  if (value.boolean() != nullptr) return *value.boolean() ? 1 : 0;
  if (value.integer() != nullptr) return value.integer()->ToDouble();
  if (value.real() != nullptr) {
    const double number = *value.real();
    return std::isfinite(number) && number == std::floor(number) ? std::optional<double>(number)
                                                                 : std::nullopt;
  }
  return value.text() != nullptr ? IntegerOfText(*value.text()) : std::nullopt;
}

std::optional<double> LaxFloat(const ConfigValue& value) {
  if (value.boolean() != nullptr) return *value.boolean() ? 1 : 0;
  if (value.integer() != nullptr) return value.integer()->ToDouble();
  if (value.real() != nullptr) return *value.real();
  if (value.text() == nullptr) return std::nullopt;
  // "1_000" is an integer to Python, and with that a number.
  if (const std::optional<double> integer = IntegerOfText(*value.text())) return integer;
  double number = 0;
  if (absl::SimpleAtod(*value.text(), &number)) return number;
  return std::nullopt;
}

ValueVerdict CheckStrictValue(const KeyRule& rule, const ConfigValue& value) {
  if (value.is_null()) {
    if (rule.null || rule.type == "any") return {};
    return Refuse("wrong-type", MustBe(rule, value));
  }
  ValueVerdict first;
  for (const absl::string_view type : absl::StrSplit(rule.type, '|')) {
    ValueVerdict verdict = CheckStrictOne(rule, type, value);
    if (verdict.fit != Fit::kRefused) return verdict;
    if (first.rule.empty()) first = std::move(verdict);
  }
  return first;
}

ValueVerdict CheckLooseValue(const KeyRule& rule, const ConfigValue& value) {
  if (value.is_null() && rule.null) return {};
  const bool enumerated = value.text() != nullptr && !rule.values.empty();
  if (enumerated) {
    if (IsValue(rule, value)) return {};
    std::string message = absl::StrCat("must be ", OneOf(rule.values), ", is ", ShortJson(value));
    return rule.refuses_other ? Refuse("invalid-value", std::move(message))
                              : Take("invalid-value", std::move(message));
  }
  const std::vector<absl::string_view> types = absl::StrSplit(rule.type, '|');
  const bool fits = std::any_of(types.begin(), types.end(),
                                [&](absl::string_view type) { return FitsLooseType(type, value); });
  if (Raises(rule, value)) {
    return fits ? Refuse("invalid-value", absl::StrCat(ShortJson(value), " is refused"))
                : Refuse("wrong-type", MustBe(rule, value));
  }
  if (!fits) {
    return Take("wrong-type", absl::StrCat(MustBe(rule, value), "; DeepSpeed does not check it"));
  }
  if (IsNumber(value)) {
    if (const auto range = OutOfRange(rule, *LaxFloat(value))) {
      return Take("out-of-range", absl::StrCat(*range, "; DeepSpeed does not check it"));
    }
  }
  return {};
}

absl::string_view KindName(const ConfigValue& value) {
  switch (KindLetter(value)) {
    case 'n':
      return "null";
    case 'b':
      return "true or false";
    case 'i':
      return "an integer";
    case 'f':
      return "a number";
    case 'l':
      return "a list";
    case 'd':
      return "an object";
    default:
      return "a string";
  }
}

std::string ShortJson(const ConfigValue& value) {
  if (value.object() != nullptr) return "an object";
  std::string text = WriteJson(value);
  if (text.size() <= kShortJson) return text;
  return value.array() != nullptr ? "a list" : ToValidUtf8(text.substr(0, kShortJson)) + "...";
}

std::string OneOf(const std::vector<ConfigValue>& values) {
  std::string out;
  for (size_t i = 0; i < values.size(); ++i) {
    absl::StrAppend(&out,
                    i == 0                   ? ""
                    : i + 1 == values.size() ? " or "
                                             : ", ",
                    WriteJson(values[i]));
  }
  return out;
}

}  // namespace zerocast
