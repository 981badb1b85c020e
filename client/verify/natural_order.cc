#include "client/verify/natural_order.h"

#include <algorithm>
#include <numeric>
#include <tuple>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace zerocast::verify {
namespace {

// Members in the order in which they are compared, as the library's tuples are.
struct Part {
  bool is_text = false;
  std::string text;
  bool has_number = false;
  // A number by its digits without leading zeros: the longer is the larger.
  size_t num_digits = 0;
  std::string digits;

  bool operator<(const Part& other) const {
    return std::tie(is_text, text, has_number, num_digits, digits) <
           std::tie(other.is_text, other.text, other.has_number, other.num_digits, other.digits);
  }
};

std::vector<Part> Parts(const std::string& key, bool numbers_in_texts) {
  std::vector<Part> parts;
  for (const absl::string_view piece : absl::StrSplit(key, '.')) {
    std::string text(piece);
    Part part;
    size_t end = text.size();
    while (end > 0 && absl::ascii_isdigit(text[end - 1])) --end;
    if (end > 0 && !numbers_in_texts) end = text.size();
    part.digits = text.substr(end);
    part.has_number = !part.digits.empty();
    part.digits.erase(0, std::min(part.digits.find_first_not_of('0'), part.digits.size()));
    part.num_digits = part.digits.size();
    part.is_text = end > 0 || text.empty();
    text.resize(end);
    part.text = std::move(text);
    parts.push_back(std::move(part));
  }
  return parts;
}

}  // namespace

std::vector<size_t> NaturallySorted(const std::vector<std::string>& keys, bool numbers_in_texts) {
  std::vector<std::vector<Part>> parts;
  parts.reserve(keys.size());
  for (const std::string& key : keys) parts.push_back(Parts(key, numbers_in_texts));
  std::vector<size_t> order(keys.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return parts[a] < parts[b]; });
  return order;
}

}  // namespace zerocast::verify
