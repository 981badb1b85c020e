#include "server/base/byte_size.h"

#include <cmath>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace zerocast {

absl::StatusOr<int64_t> ParseByteSize(absl::string_view text) {
  absl::string_view digits = text;
  double factor = 1;
  if (!digits.empty()) {
    const size_t unit = absl::string_view("KMGT").find(digits.back());
    if (unit != absl::string_view::npos) {
      factor = std::pow(1024.0, static_cast<double>(unit + 1));
      digits.remove_suffix(1);
    }
  }
  double value;
  if (!absl::SimpleAtod(digits, &value) || !(value * factor >= 1) || value * factor > 9e18) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text, "\" is not a size; write for example 64M, 1.5G or 4096"));
  }
  return static_cast<int64_t>(value * factor);
}

int64_t ByteSizeOfFlag(absl::string_view flag, absl::string_view text, int64_t otherwise,
                       std::vector<FieldViolation>* violations) {
  if (text.empty()) return otherwise;
  const absl::StatusOr<int64_t> bytes = ParseByteSize(text);
  if (bytes.ok()) return *bytes;
  violations->push_back({std::string(flag), std::string(bytes.status().message())});
  return otherwise;
}

}  // namespace zerocast
