#include "server/conversion/natural_key.h"

#include <algorithm>
#include <numeric>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

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

// Appends a number that compares by value: its length first.
void AppendDigits(absl::string_view digits, std::string* out) {
  for (int shift = 24; shift >= 0; shift -= 8) {
    out->push_back(static_cast<char>(digits.size() >> shift));
  }
  absl::StrAppend(out, digits);
}

// Appends bytes whose order is that of the parts.  Code points sort as their UTF-8 bytes do.
void AppendPart(const Part& part, std::string* out) {
  out->push_back(part.number ? 1 : 2);
  if (part.number) return AppendDigits(part.digits, out);
  // The end of a text is less than any byte that may follow, a zero byte too.
  for (const char c : part.text) {
    out->push_back(c);
    if (c == 0) out->push_back(static_cast<char>(0xff));
  }
  out->push_back(0);
  out->push_back(1);
  out->push_back(part.has_digits ? 1 : 0);
  if (part.has_digits) AppendDigits(part.digits, out);
}

// True when the first parts that differ are a number and a text.
bool AreMixed(absl::string_view a, absl::string_view b) {
  const std::vector<absl::string_view> parts_a = absl::StrSplit(a, '.');
  const std::vector<absl::string_view> parts_b = absl::StrSplit(b, '.');
  for (size_t i = 0; i < std::min(parts_a.size(), parts_b.size()); ++i) {
    const Part left = MakePart(parts_a[i], false), right = MakePart(parts_b[i], false);
    if (left.number != right.number) return true;
    if (left.text != right.text || left.digits != right.digits) return false;
  }
  return false;
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> NaturalOrder(absl::Span<const absl::string_view> keys,
                                                  const Dialect& dialect) {
  // Each key is taken apart once: bytes compare faster than parts, and a sort compares often.
  std::string bytes;
  std::vector<size_t> ends = {0};
  ends.reserve(keys.size() + 1);
  for (const absl::string_view key : keys) {
    for (const absl::string_view part : absl::StrSplit(key, '.')) {
      AppendPart(MakePart(part, dialect.natural_key_v2), &bytes);
    }
    ends.push_back(bytes.size());
  }
  const auto sort_key = [&](int32_t index) {
    return absl::string_view(bytes).substr(ends[index], ends[index + 1] - ends[index]);
  };
  std::vector<int32_t> order(keys.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return sort_key(a) < sort_key(b); });
  if (dialect.natural_key_v2) return order;
  // Sorted, keys with the same beginning are neighbours, numbers before texts: if a number and a
  // text share a place anywhere, they do so in two neighbours.
  for (size_t i = 1; i < order.size(); ++i) {
    const absl::string_view a = keys[order[i - 1]], b = keys[order[i]];
    if (AreMixed(a, b)) {
      return absl::InvalidArgumentError(
          absl::StrCat("sort the checkpoint's names: dialect ", dialect.version, " cannot order '",
                       a, "' and '", b, "': a number against a text; use dialect 5.23.0"));
    }
  }
  return order;
}

}  // namespace zerocast
