#include "server/conversion/natural_key.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace zerocast {
namespace {

// A part of a key: an all-digit part has only digits, another has a text and, in the second form
// of the order, perhaps digits at its end.
struct Part {
  bool number = false;
  absl::string_view text;
  bool has_digits = false;
  absl::string_view digits;  // without leading zeros
};

Part MakePart(absl::string_view part, bool split_digits) {
  size_t begin = part.size();
  while (begin > 0 && absl::ascii_isdigit(part[begin - 1])) --begin;
  Part result;
  result.number = begin == 0 && !part.empty();
  if (!result.number && !split_digits) begin = part.size();
  result.text = part.substr(0, begin);
  result.has_digits = begin < part.size();
  result.digits = part.substr(begin);
  const size_t zeros = result.digits.find_first_not_of('0');
  result.digits.remove_prefix(zeros == absl::string_view::npos ? result.digits.size() : zeros);
  return result;
}

int CompareParts(const Part& a, const Part& b) {
  if (a.number != b.number) return a.number ? -1 : 1;
  // Code points sort as their UTF-8 bytes do.
  if (const int order = a.text.compare(b.text); order != 0) return order;
  if (a.has_digits != b.has_digits) return a.has_digits ? 1 : -1;
  if (a.digits.size() != b.digits.size()) return a.digits.size() < b.digits.size() ? -1 : 1;
  return a.digits.compare(b.digits);
}

// Takes the next part off `rest`; false at the end.
bool NextPart(absl::string_view* rest, bool* done, absl::string_view* part) {
  if (*done) return false;
  const size_t dot = rest->find('.');
  *part = rest->substr(0, dot);
  *done = dot == absl::string_view::npos;
  if (!*done) rest->remove_prefix(dot + 1);
  return true;
}

// `mixed` is set when the order was decided by a number against a text.
int Compare(absl::string_view a, absl::string_view b, bool split_digits, bool* mixed) {
  *mixed = false;
  // Parts that are the same bytes are equal: start where the keys first differ.
  const size_t shorter = std::min(a.size(), b.size());
  const size_t same = std::mismatch(a.begin(), a.begin() + shorter, b.begin()).first - a.begin();
  const size_t dot = same == 0 ? absl::string_view::npos : a.rfind('.', same - 1);
  if (dot != absl::string_view::npos) {
    a.remove_prefix(dot + 1);
    b.remove_prefix(dot + 1);
  }
  bool done_a = false, done_b = false;
  while (true) {
    absl::string_view part_a, part_b;
    const bool has_a = NextPart(&a, &done_a, &part_a), has_b = NextPart(&b, &done_b, &part_b);
    if (!has_a || !has_b) return has_a ? 1 : has_b ? -1 : 0;
    const Part left = MakePart(part_a, split_digits), right = MakePart(part_b, split_digits);
    if (const int order = CompareParts(left, right); order != 0) {
      *mixed = left.number != right.number;
      return order;
    }
  }
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> NaturalOrder(absl::Span<const absl::string_view> keys,
                                                  const Dialect& dialect) {
  std::vector<int32_t> order(keys.size());
  std::iota(order.begin(), order.end(), 0);
  bool mixed;
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return Compare(keys[a], keys[b], dialect.natural_key_v2, &mixed) < 0;
  });
  if (dialect.natural_key_v2) return order;
  // Sorted, keys with the same beginning are neighbours, numbers before texts: if a number and a
  // text share a place anywhere, they do so in two neighbours.
  for (size_t i = 1; i < order.size(); ++i) {
    const absl::string_view a = keys[order[i - 1]], b = keys[order[i]];
    Compare(a, b, false, &mixed);
    if (mixed) {
      return absl::InvalidArgumentError(
          absl::StrCat("sort the checkpoint's names: dialect ", dialect.version, " cannot order '",
                       a, "' and '", b, "': a number against a text; use dialect 5.23.0"));
    }
  }
  return order;
}

}  // namespace zerocast
