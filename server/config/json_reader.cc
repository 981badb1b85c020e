#include "server/config/json_reader.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/base/errors.h"
#include "server/base/utf8.h"
#include "server/config/python_format.h"

namespace zerocast {
namespace {

constexpr absl::string_view kSyntaxUrl = "zerocast.dev/config/json-syntax";
constexpr size_t kMaxIntegerDigits = 4300;  // sys.int_info.default_max_str_digits
constexpr size_t kMaxDuplicateBytes = size_t{64} << 10;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

absl::Status Refuse(absl::string_view field, absl::string_view path, absl::string_view what) {
  // "field.key", but "field[0]".
  const bool joined = path.empty() || path.front() == '[';
  const std::string where = absl::StrCat(field, joined ? "" : ".", path);
  return InvalidFields({{where, std::string(what)}});
}

// Of each byte, whether it stands for itself within a string, and is ASCII.
struct Plain {
  bool within_string[256] = {}, ascii[256] = {};
};
constexpr Plain MakePlain() {
  Plain plain;
  for (int c = 0x20; c < 256; ++c) {
    plain.within_string[c] = c != '"' && c != '\\';
    plain.ascii[c] = plain.within_string[c] && c < 0x7F;
  }
  return plain;
}
constexpr Plain kPlain = MakePlain();

// What ReadJson reads.  The text is UTF-8 already.  Each function reads one thing at at_; false
// after an error, which is in status_.
class Reader {
 public:
  Reader(absl::string_view text, absl::string_view field, int max_depth)
      : text_(text), field_(field), max_depth_(static_cast<size_t>(max_depth)) {
    constexpr size_t kUsual = 64;  // more than most configs have open at a time
    elements_.reserve(kUsual);
    members_.reserve(kUsual);
  }

  absl::StatusOr<JsonDocument> Run() {
    if (absl::StartsWith(text_, "\xEF\xBB\xBF")) {
      NotJson("it begins with a byte order mark");
      return status_;
    }
    if (!Value(&document_.value)) return status_;
    SkipSpace();
    if (at_ < text_.size()) {
      Expected("the end of the text");
      return status_;
    }
    return std::move(document_);
  }

 private:
  // An array or object that is being read.
  struct Open {
    bool object = false;
    size_t index = 0;       // of the next element of an array
    absl::string_view key;  // of the member that is read, or was last
  };

  bool Value(ConfigValue* out) {
    SkipSpace();
    switch (Peek()) {
      case '{':
        return Enter(/*object=*/true) && Members(out);
      case '[':
        return Enter(/*object=*/false) && Elements(out);
      case '"': {
        std::string text;
        if (!String(&text)) return false;
        *out = ConfigValue(std::move(text));
        return true;
      }
      case 't':
        return Word("true", ConfigValue(true), out);
      case 'f':
        return Word("false", ConfigValue(false), out);
      case 'n':
        return Word("null", ConfigValue(), out);
      case 'N':
        return Word("NaN", ConfigValue(std::nan("")), out);
      case 'I':
        return Word("Infinity", ConfigValue(kInfinity), out);
      default:
        return Number(out);
    }
  }

  // ---- Arrays and objects ----------------------------------------------------------------------
  bool Enter(bool object) {
    if (open_.size() == max_depth_) {
      status_ = Refuse(field_, "", absl::StrCat("is nested deeper than ", max_depth_, " levels"));
      return false;
    }
    open_.push_back({object, 0, ""});
    ++at_;
    SkipSpace();
    return true;
  }

  bool Elements(ConfigValue* out) {
    // Elements gather on one stack: each array is made once, as long as it is.
    const size_t first = elements_.size();
    if (Peek() != ']') {
      do {
        ConfigValue element;
        if (!Value(&element)) return false;
        elements_.push_back(std::move(element));
        ++open_.back().index;
        SkipSpace();
      } while (Take(','));
    }
    if (!Take(']')) return Expected(first == elements_.size() ? "a value or ']'" : "',' or ']'");
    *out = ConfigValue(TakeFrom(first, &elements_));
    open_.pop_back();
    return true;
  }

  bool Members(ConfigValue* out) {
    const size_t first = members_.size();
    if (Peek() != '}') {
      do {
        SkipSpace();
        if (Peek() != '"') {
          return Expected(first == members_.size() ? "a key in '\"' or '}'" : "a key in '\"'");
        }
        ConfigMember member;
        if (!String(&member.key)) return false;
        open_.back().key = member.key;
        SkipSpace();
        if (!Take(':')) return Expected("':'");
        if (!Value(&member.value)) return false;
        SkipSpace();
        members_.push_back(std::move(member));
        open_.back().key = members_.back().key;
      } while (Take(','));
    }
    if (!Take('}')) return Expected("',' or '}'");
    ConfigValue::Object object = TakeFrom(first, &members_);
    KeepLast(&object);
    *out = ConfigValue(std::move(object));
    open_.pop_back();
    return true;
  }

  template <typename T>
  static std::vector<T> TakeFrom(size_t first, std::vector<T>* stack) {
    const auto begin = stack->begin() + static_cast<ptrdiff_t>(first);
    std::vector<T> taken(std::make_move_iterator(begin), std::make_move_iterator(stack->end()));
    stack->erase(begin, stack->end());
    return taken;
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

  void NoteDuplicate(const std::string& key) {
    // Long keys above many duplicates would take more memory than the text, and much time.
    if (duplicate_bytes_ > kMaxDuplicateBytes) return;
    open_.back().key = key;
    std::string path = Path();
    duplicate_bytes_ += path.size();
    if (duplicate_bytes_ <= kMaxDuplicateBytes) document_.duplicate_keys.push_back(std::move(path));
  }

  // ---- Tokens ----------------------------------------------------------------------------------
  bool Word(absl::string_view word, ConfigValue value, ConfigValue* out) {
    if (!absl::StartsWith(text_.substr(at_), word)) return Expected("a value");
    at_ += word.size();
    *out = std::move(value);
    return true;
  }

  bool Number(ConfigValue* out) {
    const size_t begin = at_;
    const bool negative = Take('-');
    if (negative && Peek() == 'I') return Word("Infinity", ConfigValue(-kInfinity), out);
    if (!IsDigit(Peek())) return Expected(negative ? "a digit" : "a value");
    if (!Take('0')) SkipDigits();
    const size_t num_digits = at_ - begin - (negative ? 1 : 0);
    bool integer = true;
    if (Take('.')) {
      integer = false;
      if (!SkipDigits()) return Expected("a digit");
    }
    if (Take('e') || Take('E')) {
      integer = false;
      if (!Take('-')) Take('+');
      if (!SkipDigits()) return Expected("a digit");
    }
    const absl::string_view token = text_.substr(begin, at_ - begin);
    if (!integer) {
      double value = 0;
      (void)absl::SimpleAtod(token, &value);  // a number by the above; infinite beyond the range
      *out = ConfigValue(value);
      return true;
    }
    if (num_digits > kMaxIntegerDigits) {
      return NotJson(absl::StrCat("an integer of ", num_digits, " digits at byte ", begin,
                                  ", more than Python reads"));
    }
    *out = ConfigValue(ConfigInteger::FromDecimal(token));
    return true;
  }

  // At least one.
  bool SkipDigits() {
    const size_t begin = at_;
    while (IsDigit(Peek())) ++at_;
    return at_ > begin;
  }

  bool String(std::string* out) {
    ++at_;
    while (true) {
      const size_t begin = at_;
      while (at_ < text_.size() && kPlain.within_string[static_cast<uint8_t>(text_[at_])]) ++at_;
      out->append(text_.data() + begin, at_ - begin);
      if (Take('"')) return true;
      if (Peek() != '\\') return Expected("'\"' at the end of a string");
      if (!Escape(out)) return false;
    }
  }

  bool Escape(std::string* out) {
    static constexpr absl::string_view kNames = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
    const int unit = EscapedUnit(at_);
    if (unit >= 0) return Character(static_cast<uint32_t>(unit), out);
    ++at_;
    const size_t which = kNames.find(Peek());
    if (at_ == text_.size() || which == absl::string_view::npos) {
      return Expected("one of \"\\/bfnrt or u and four hexadecimal digits after '\\'");
    }
    out->push_back(kMeanings[which]);
    ++at_;
    return true;
  }

  // The code unit of the escape \uXXXX at `at`, or -1.
  int EscapedUnit(size_t at) const {
    const absl::string_view escape = text_.substr(std::min(at, text_.size()), 6);
    uint32_t unit = 0;
    if (escape.size() < 6 || escape[0] != '\\' || escape[1] != 'u') return -1;
    for (const char c : escape.substr(2)) {
      if (!absl::ascii_isxdigit(c)) return -1;
      unit = unit * 16 + (IsDigit(c) ? c - '0' : absl::ascii_tolower(c) - 'a' + 10);
    }
    return static_cast<int>(unit);
  }

  // The character that begins with the code unit `unit`, which is escaped at at_.
  bool Character(uint32_t unit, std::string* out) {
    uint32_t code = unit;
    if (unit >= 0xD800 && unit <= 0xDFFF) {
      const int low = EscapedUnit(at_ + 6);
      if (unit >= 0xDC00 || low < 0xDC00 || low > 0xDFFF) {
        status_ = Refuse(field_, Path(),
                         absl::StrCat("holds half of a surrogate pair at byte ", at_,
                                      ", which UTF-8 cannot carry; write the whole character"));
        return false;
      }
      code = 0x10000 + ((unit - 0xD800) << 10) + static_cast<uint32_t>(low - 0xDC00);
      at_ += 6;
    }
    at_ += 6;
    AppendUtf8(code, out);
    return true;
  }

  static bool IsDigit(char c) { return c >= '0' && c <= '9'; }
  // NUL at the end, which is no token either.
  char Peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool Take(char c) {
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void SkipSpace() {
    while (at_ < text_.size() &&
           (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t')) {
      ++at_;
    }
  }

  // ---- Errors; all return false ----------------------------------------------------------------
  bool Expected(absl::string_view what) {
    const absl::string_view before = text_.substr(0, at_);
    const size_t newline = before.rfind('\n');  // npos + 1 is 0
    const auto column = std::count_if(before.begin() + static_cast<ptrdiff_t>(newline + 1),
                                      before.end(), [](char c) { return (c & 0xC0) != 0x80; });
    return NotJson(absl::StrCat("line ", 1 + std::count(before.begin(), before.end(), '\n'),
                                ", column ", column + 1, ": expected ", what, ", found ", Found()));
  }

  // What is at at_, in words.
  std::string Found() const {
    if (at_ == text_.size()) return "the end of the text";
    const auto byte = static_cast<uint8_t>(text_[at_]);
    if (byte < 0x20 || byte == 0x7F) return absl::StrFormat("the control character 0x%02x", byte);
    uint32_t code = 0;
    return absl::StrCat("'", text_.substr(at_, DecodeUtf8(text_.substr(at_), &code)), "'");
  }

  bool NotJson(absl::string_view what) {
    status_ = Refuse(field_, Path(), absl::StrCat("is not JSON: ", what));
    status_.SetPayload(kSyntaxUrl, absl::Cord());
    return false;
  }

  std::string Path() const {
    std::string path;
    for (const Open& open : open_) {
      if (!open.object) {
        absl::StrAppend(&path, "[", open.index, "]");
      } else if (!open.key.empty()) {
        absl::StrAppend(&path, path.empty() ? "" : ".", open.key);
      }
    }
    return path;
  }

  const absl::string_view text_, field_;
  const size_t max_depth_;
  size_t at_ = 0;
  std::vector<Open> open_;
  std::vector<ConfigValue> elements_;
  std::vector<ConfigMember> members_;
  size_t duplicate_bytes_ = 0;
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
  return Reader(text, field, limits.max_depth).Run();
}

bool IsJsonSyntaxError(const absl::Status& status) {
  return status.GetPayload(kSyntaxUrl).has_value();
}

void AppendJsonString(absl::string_view text, std::string* out) {
  bool plain = true;
  for (const char c : text) plain &= kPlain.ascii[static_cast<uint8_t>(c)];
  if (plain) {
    out->push_back('"');
    out->append(text.data(), text.size());
    out->push_back('"');
    return;
  }
  using nlohmann::json;
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
      if (i > 0) out->append(style.comma.data(), style.comma.size());
      AppendJson((*array)[i], style, out);
    }
    out->push_back(']');
  } else {
    const auto append = [&](const ConfigMember& member, bool first) {
      if (!first) out->append(style.comma.data(), style.comma.size());
      AppendJsonString(member.key, out);
      out->append(style.colon.data(), style.colon.size());
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
