#include "server/config/json_reader.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/base/utf8.h"
#include "server/config/python_format.h"

namespace zerocast {
namespace {

using nlohmann::json;

constexpr absl::string_view kSyntaxUrl = "zerocast.dev/config/json-syntax";
constexpr size_t kMaxIntegerDigits = 4300;  // sys.int_info.default_max_str_digits
constexpr size_t kMaxDuplicateBytes = size_t{64} << 10;
// An integer of fewer digits fits a double, and so nlohmann's lexer.
constexpr size_t kFewDigits = 300;

absl::Status Refuse(absl::string_view field, absl::string_view path, absl::string_view what) {
  const std::string where = path.empty() ? std::string(field) : absl::StrCat(field, ".", path);
  return InvalidFields({{where, std::string(what)}});
}

absl::Status RefuseSyntax(absl::string_view field, absl::string_view path, absl::string_view what) {
  absl::Status status = Refuse(field, path, absl::StrCat("is not JSON: ", what));
  status.SetPayload(kSyntaxUrl, absl::Cord());
  return status;
}

bool IsNumberChar(char c) {
  return absl::ascii_isdigit(c) || c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E';
}

// JSON's grammar of a number; *integer where it has neither fraction nor exponent.
bool IsJsonNumber(absl::string_view token, bool* integer) {
  const auto digits = [&token] {
    size_t n = 0;
    while (n < token.size() && absl::ascii_isdigit(token[n])) ++n;
    token.remove_prefix(n);
    return n;
  };
  if (absl::StartsWith(token, "-")) token.remove_prefix(1);
  const bool leading_zero = absl::StartsWith(token, "0");
  const size_t whole = digits();
  if (whole == 0 || (leading_zero && whole > 1)) return false;
  *integer = token.empty();
  if (absl::StartsWith(token, ".")) {
    token.remove_prefix(1);
    if (digits() == 0) return false;
  }
  if (absl::StartsWith(token, "e") || absl::StartsWith(token, "E")) {
    token.remove_prefix(1);
    if (absl::StartsWith(token, "-") || absl::StartsWith(token, "+")) token.remove_prefix(1);
    if (digits() == 0) return false;
  }
  return token.empty();
}

// Text that nlohmann accepts, and what its placeholders stand for.
struct PlainJson {
  std::string text;                       // empty: the text as it came
  std::map<size_t, ConfigValue> numbers;  // by ordinal among the document's numbers
};

// Replaces what Python reads as a number and nlohmann does not by 0.
class Plainer {
 public:
  Plainer(absl::string_view text, absl::string_view field) : text_(text), field_(field) {}

  absl::StatusOr<PlainJson> Run() {
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '"') {
        ZC_RETURN_IF_ERROR(String());
      } else if ((c == 'N' || c == 'I' || c == '-') &&
                 (Constant("NaN", std::nan("")) || Constant("Infinity", kInfinity) ||
                  Constant("-Infinity", -kInfinity))) {
        continue;
      } else if (IsNumberChar(c)) {
        ZC_RETURN_IF_ERROR(Number());
      } else if (c == '\0') {
        // nlohmann takes a NUL for the end of the text.
        return RefuseSyntax(field_, "", absl::StrCat("NUL at byte ", at_));
      } else {
        ++at_;
      }
    }
    if (!plain_.numbers.empty()) Flush();
    return std::move(plain_);
  }

 private:
  static constexpr double kInfinity = std::numeric_limits<double>::infinity();

  // Copies what came since the last replacement; where there is none nothing is copied at all.
  void Flush() {
    plain_.text.append(text_.data() + copied_, at_ - copied_);
    copied_ = at_;
  }

  void Replace(size_t n, ConfigValue value) {
    Flush();
    copied_ += n;
    // The spaces keep "1NaN" from becoming a number.
    plain_.text.append(" 0 ");
    plain_.numbers.emplace(next_number_++, std::move(value));
    at_ += n;
  }

  bool Constant(absl::string_view name, double value) {
    if (!absl::StartsWith(text_.substr(at_), name)) return false;
    Replace(name.size(), ConfigValue(value));
    return true;
  }

  // A string stays as it is; nlohmann checks it.  The one thing to find is half a surrogate pair.
  absl::Status String() {
    ++at_;
    while (true) {
      const char* at = text_.data() + at_;
      const char* const end = text_.data() + text_.size();
      while (at != end && *at != '"' && *at != '\\') ++at;
      at_ = static_cast<size_t>(at - text_.data());
      if (at == end || *at == '"') break;
      const int first = EscapedUnit(at_);
      if (first >= 0xDC00 && first <= 0xDFFF) return HalfPair();
      if (first >= 0xD800 && first <= 0xDBFF) {
        const int second = EscapedUnit(at_ + 6);
        if (second < 0xDC00 || second > 0xDFFF) return HalfPair();
        at_ += 6;
      }
      at_ += std::min<size_t>(2, text_.size() - at_);
    }
    if (at_ < text_.size()) ++at_;
    return absl::OkStatus();
  }

  // The code unit of the escape \uXXXX at `at`, or -1.
  int EscapedUnit(size_t at) const {
    const absl::string_view escape = text_.substr(std::min(at, text_.size()), 6);
    uint32_t unit = 0;
    if (escape.size() < 6 || escape[0] != '\\' || escape[1] != 'u') return -1;
    for (const char c : escape.substr(2)) {
      if (!absl::ascii_isxdigit(c)) return -1;
      unit = unit * 16 + (absl::ascii_isdigit(c) ? c - '0' : absl::ascii_tolower(c) - 'a' + 10);
    }
    return static_cast<int>(unit);
  }

  absl::Status HalfPair() const {
    return Refuse(field_, "",
                  absl::StrCat("holds half of a surrogate pair at byte ", at_,
                               ", which UTF-8 cannot carry; write the whole character"));
  }

  absl::Status Number() {
    size_t n = 0;
    while (at_ + n < text_.size() && IsNumberChar(text_[at_ + n])) ++n;
    const absl::string_view token = text_.substr(at_, n);
    bool integer = false;
    if (!IsJsonNumber(token, &integer)) {
      at_ += n;  // nlohmann says what is wrong with it
      return absl::OkStatus();
    }
    if (integer && n > kFewDigits) {
      if (n - (token[0] == '-') > kMaxIntegerDigits) {
        return RefuseSyntax(field_, "", absl::StrCat("an integer of ", n, " digits at byte ", at_));
      }
      Replace(n, ConfigValue(ConfigInteger::FromDecimal(token)));
      return absl::OkStatus();
    }
    double value = 0;
    // Only an exponent or very many digits lead beyond a double.
    const bool large =
        n > kFewDigits || absl::StrContains(token, 'e') || absl::StrContains(token, 'E');
    if (!integer && large && absl::SimpleAtod(token, &value) && std::isinf(value)) {
      Replace(n, ConfigValue(value));
      return absl::OkStatus();
    }
    ++next_number_;
    at_ += n;
    return absl::OkStatus();
  }

  const absl::string_view text_;
  const absl::string_view field_;
  size_t at_ = 0;
  size_t copied_ = 0;  // of the text, where anything is replaced
  size_t next_number_ = 0;
  PlainJson plain_;
};

// Builds a ConfigValue from nlohmann's events.
class Builder : public nlohmann::json_sax<json> {
 public:
  Builder(std::map<size_t, ConfigValue> numbers, absl::string_view field, int max_depth)
      : numbers_(std::move(numbers)), field_(field), max_depth_(max_depth) {}

  absl::Status status() const { return status_; }
  JsonDocument Take() { return std::move(document_); }

  bool null() override { return Add(ConfigValue()); }
  bool boolean(bool value) override { return Add(ConfigValue(value)); }
  bool number_integer(number_integer_t value) override {
    return AddNumber(ConfigValue(static_cast<int64_t>(value)));
  }
  bool number_unsigned(number_unsigned_t value) override {
    constexpr auto kMost = static_cast<number_unsigned_t>(std::numeric_limits<int64_t>::max());
    return AddNumber(value <= kMost
                         ? ConfigValue(static_cast<int64_t>(value))
                         : ConfigValue(ConfigInteger::FromDecimal(std::to_string(value))));
  }
  bool number_float(number_float_t value, const string_t& token) override {
    // Integers beyond 64 bits come here too, with their text.
    bool integer = false;
    if (IsJsonNumber(token, &integer) && integer) {
      return AddNumber(ConfigValue(ConfigInteger::FromDecimal(token)));
    }
    return AddNumber(ConfigValue(value));
  }
  bool string(string_t& value) override { return Add(ConfigValue(std::move(value))); }
  bool binary(binary_t&) override { return false; }
  bool key(string_t& value) override {
    open_.back().key = std::move(value);
    return true;
  }
  bool start_object(size_t) override { return Open(ConfigValue(ConfigValue::Object())); }
  bool start_array(size_t) override { return Open(ConfigValue(ConfigValue::Array())); }
  bool end_object() override {
    KeepLast(open_.back().value.object());
    return Close();
  }
  bool end_array() override { return Close(); }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception& error) override {
    absl::string_view what = error.what();
    const size_t end_of_id = what.find("] ");
    if (end_of_id != absl::string_view::npos) what.remove_prefix(end_of_id + 2);
    // nlohmann quotes the last token, which may be half a character.
    status_ = RefuseSyntax(field_, Path(), ToValidUtf8(what));
    return false;
  }

 private:
  struct OpenValue {
    ConfigValue value;
    std::string key;  // of the member that comes next, in an object
  };

  std::string Path() const {
    std::string path;
    for (const OpenValue& open : open_) {
      if (const auto* array = open.value.array()) {
        absl::StrAppend(&path, "[", array->size(), "]");
      } else if (!open.key.empty()) {
        absl::StrAppend(&path, path.empty() ? "" : ".", open.key);
      }
    }
    return path;
  }

  bool AddNumber(ConfigValue value) {
    const auto replaced = numbers_.find(next_number_++);
    return Add(replaced == numbers_.end() ? std::move(value) : replaced->second);
  }

  bool Add(ConfigValue value) {
    if (open_.empty()) {
      document_.value = std::move(value);
    } else if (auto* array = open_.back().value.array()) {
      array->push_back(std::move(value));
    } else {
      open_.back().value.object()->push_back({open_.back().key, std::move(value)});
    }
    return true;
  }

  bool Open(ConfigValue value) {
    if (static_cast<int>(open_.size()) == max_depth_) {
      status_ = Refuse(field_, "", absl::StrCat("is nested deeper than ", max_depth_, " levels"));
      return false;
    }
    open_.push_back({std::move(value), ""});
    return true;
  }

  bool Close() {
    ConfigValue value = std::move(open_.back().value);
    open_.pop_back();
    return Add(std::move(value));
  }

  void NoteDuplicate(const std::string& key) {
    // Long keys above many duplicates would take more memory than the text, and much time.
    if (duplicate_bytes_ > kMaxDuplicateBytes) return;
    open_.back().key = key;
    std::string path = Path();
    duplicate_bytes_ += path.size();
    if (duplicate_bytes_ <= kMaxDuplicateBytes) document_.duplicate_keys.push_back(std::move(path));
  }

  static bool HasDuplicates(const ConfigValue::Object& members) {
    constexpr size_t kFew = 16;  // fewer are compared faster than hashed
    if (members.size() > kFew) {
      absl::flat_hash_set<absl::string_view> keys;
      keys.reserve(members.size());
      return !std::all_of(members.begin(), members.end(), [&keys](const ConfigMember& member) {
        return keys.insert(member.key).second;
      });
    }
    for (size_t i = 1; i < members.size(); ++i) {
      for (size_t j = 0; j < i; ++j) {
        if (members[i].key == members[j].key) return true;
      }
    }
    return false;
  }

  // Python's dict: of equal keys the first gives the place, the last the value.
  void KeepLast(ConfigValue::Object* members) {
    if (!HasDuplicates(*members)) return;
    absl::flat_hash_map<absl::string_view, size_t> place;
    ConfigValue::Object kept;
    kept.reserve(members->size());
    for (ConfigMember& member : *members) {
      const auto found = place.find(member.key);
      if (found == place.end()) {
        kept.push_back(std::move(member));
        place.emplace(kept.back().key, kept.size() - 1);  // kept never reallocates
      } else {
        NoteDuplicate(member.key);
        kept[found->second].value = std::move(member.value);
      }
    }
    *members = std::move(kept);
  }

  const std::map<size_t, ConfigValue> numbers_;
  const absl::string_view field_;
  const int max_depth_;
  size_t next_number_ = 0;
  size_t duplicate_bytes_ = 0;
  std::vector<OpenValue> open_;
  JsonDocument document_;
  absl::Status status_;
};

}  // namespace

absl::StatusOr<JsonDocument> ReadJson(absl::string_view text, absl::string_view field,
                                      const JsonLimits& limits) {
  if (text.size() > limits.max_bytes) {
    return Refuse(
        field, "",
        absl::StrCat("has ", text.size(), " bytes, more than the ", limits.max_bytes, " allowed"));
  }
  if (!IsValidUtf8(text)) return Refuse(field, "", "is not valid UTF-8");
  if (absl::StartsWith(text, "\xEF\xBB\xBF")) {
    return RefuseSyntax(field, "", "it begins with a byte order mark");
  }
  ZC_ASSIGN_OR_RETURN(PlainJson plain, Plainer(text, field).Run());
  Builder builder(std::move(plain.numbers), field, limits.max_depth);
  const absl::string_view accepted = plain.text.empty() ? text : plain.text;
  if (!json::sax_parse(accepted.begin(), accepted.end(), &builder)) return builder.status();
  return builder.Take();
}

bool IsJsonSyntaxError(const absl::Status& status) {
  return status.GetPayload(kSyntaxUrl).has_value();
}

void AppendJsonString(absl::string_view text, std::string* out) {
  // Printable ASCII without '"' and '\\' needs no escapes.
  static constexpr auto kPlain = [] {
    std::array<bool, 256> plain = {};
    for (int c = 0x20; c < 0x7F; ++c) plain[c] = c != '"' && c != '\\';
    return plain;
  }();
  bool plain = true;
  for (const char c : text) plain &= kPlain[static_cast<uint8_t>(c)];
  if (plain) {
    absl::StrAppend(out, "\"", text, "\"");
    return;
  }
  out->append(json(std::string(text)).dump(-1, ' ', false, json::error_handler_t::replace));
}

void AppendJson(const ConfigValue& value, const JsonStyle& style, std::string* out) {
  if (value.is_null()) {
    out->append("null");
  } else if (const bool* boolean = value.boolean()) {
    out->append(*boolean ? "true" : "false");
  } else if (const ConfigInteger* integer = value.integer()) {
    out->append(integer->decimal());
  } else if (const double* real = value.real()) {
    if (std::isfinite(*real)) {
      out->append(PythonRepr(value));
    } else {
      out->append(std::isnan(*real) ? "NaN" : *real > 0 ? "Infinity" : "-Infinity");
    }
  } else if (const std::string* text = value.text()) {
    AppendJsonString(*text, out);
  } else if (const ConfigValue::Array* array = value.array()) {
    out->push_back('[');
    for (size_t i = 0; i < array->size(); ++i) {
      if (i > 0) absl::StrAppend(out, style.comma);
      AppendJson((*array)[i], style, out);
    }
    out->push_back(']');
  } else {
    const auto append = [&](const ConfigMember& member, bool first) {
      if (!first) absl::StrAppend(out, style.comma);
      AppendJsonString(member.key, out);
      absl::StrAppend(out, style.colon);
      AppendJson(member.value, style, out);
    };
    const ConfigValue::Object& members = *value.object();
    out->push_back('{');
    if (style.sorted) {
      std::vector<const ConfigMember*> sorted;
      sorted.reserve(members.size());
      for (const ConfigMember& member : members) sorted.push_back(&member);
      std::sort(sorted.begin(), sorted.end(),
                [](const ConfigMember* a, const ConfigMember* b) { return a->key < b->key; });
      for (const ConfigMember* member : sorted) append(*member, member == sorted.front());
    } else {
      for (const ConfigMember& member : members) append(member, &member == &members.front());
    }
    out->push_back('}');
  }
}

std::string WriteJson(const ConfigValue& value) {
  std::string out;
  AppendJson(value, JsonStyle(), &out);
  return out;
}

}  // namespace zerocast
