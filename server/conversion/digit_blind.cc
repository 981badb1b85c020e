#include "server/conversion/digit_blind.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"

namespace zerocast {
namespace {

constexpr size_t kNone = absl::string_view::npos;

// The place behind the class that opens at `at`, or kNone where it tells digits apart.
size_t BehindClass(absl::string_view pattern, size_t at) {
  const size_t close = pattern.find(']', at + 1);
  if (close == kNone) return kNone;
  absl::string_view inside = pattern.substr(at + 1, close - at - 1);
  // A range between other characters holds all digits or none.
  if (absl::StartsWith(inside, "^")) inside.remove_prefix(1);
  if (absl::StartsWith(inside, "0-9")) inside.remove_prefix(3);
  if (inside.empty() && pattern[close - 1] != '9') return kNone;  // "[]" and "[^]" open a set
  if (HasDigit(inside) || inside.find_first_of("\\[") != kNone) return kNone;
  return close + 1;
}

}  // namespace

void WithoutNumbers(std::string* key) {
  size_t begin = 0;
  while (begin < key->size()) {
    const size_t dot = std::min(key->find('.', begin), key->size());
    char *const first = key->data() + begin, *const last = key->data() + dot;
    if (std::all_of(first, last, [](char c) { return absl::ascii_isdigit(c); })) {
      std::fill(first, last, '0');
    }
    begin = dot + 1;
  }
}

bool HasDigit(absl::string_view text) {
  return std::any_of(text.begin(), text.end(), [](char c) { return absl::ascii_isdigit(c); });
}

bool IsDigitBlindPattern(absl::string_view pattern) {
  bool behind_letter = false;  // what was matched last is a letter, or digits behind one
  for (size_t at = 0; at < pattern.size();) {
    const char c = pattern[at];
    const bool letter = absl::ascii_isalpha(c) || c == '_';
    if (absl::ascii_isdigit(c)) {
      if (!behind_letter) return false;
      ++at;
      continue;
    }
    behind_letter = letter;
    if (c == '[') {
      at = BehindClass(pattern, at);
      if (at == kNone) return false;
    } else if (c == '\\') {
      if (at + 1 == pattern.size()) return false;
      const char escaped = pattern[at + 1];
      // Of the letters these stand for classes that hold all digits or none; \1 compares digits.
      if (absl::ascii_isalnum(escaped) && absl::string_view("dDwWsSbB").find(escaped) == kNone) {
        return false;
      }
      at += 2;
    } else if (c == '{' || (c == '(' && absl::StartsWith(pattern.substr(at + 1), "*"))) {
      return false;
    } else if (c == '(' && absl::StartsWith(pattern.substr(at + 1), "?")) {
      const absl::string_view rest = pattern.substr(at + 2);
      if (rest.empty() || absl::string_view(":=!<").find(rest[0]) == kNone) return false;
      at += 3;
    } else {
      ++at;
    }
  }
  return true;
}

size_t FindAnyDigits(absl::string_view text, absl::string_view part, size_t begin) {
  const auto equal = [](char a, char b) {
    return a == b || (absl::ascii_isdigit(a) && absl::ascii_isdigit(b));
  };
  if (begin > text.size()) return kNone;
  const auto found = std::search(text.begin() + begin, text.end(), part.begin(), part.end(), equal);
  return found == text.end() && !part.empty() ? kNone : found - text.begin();
}

}  // namespace zerocast
