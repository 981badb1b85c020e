#include "server/config/config_source.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "server/base/utf8.h"
#include "server/config/python_error.h"

namespace zerocast {
namespace {

int Base64Digit(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  if (c == '-' || c == '+') return 62;
  return c == '_' || c == '/' ? 63 : -1;
}

}  // namespace

// CPython's binascii.a2b_base64 in its lenient mode.
bool DecodeUrlSafeBase64(absl::string_view text, std::string* out) {
  out->clear();
  // Python encodes the whole text as ASCII first, what follows the padding too.
  if (std::any_of(text.begin(), text.end(), [](char c) { return static_cast<uint8_t>(c) >= 0x80; }))
    return false;
  uint32_t left = 0;
  int quad = 0, pads = 0;
  for (const char c : text) {
    if (c == '=') {
      if (quad >= 2 && quad + ++pads >= 4) return true;
      continue;
    }
    const int digit = Base64Digit(c);
    if (digit < 0) continue;
    pads = 0;
    left = left << 6 | static_cast<uint32_t>(digit);
    if (quad > 0) out->push_back(static_cast<char>(left >> (6 - 2 * quad)));
    quad = (quad + 1) % 4;
  }
  return quad == 0;
}

absl::StatusOr<JsonDocument> ReadConfigText(absl::string_view text, const JsonLimits& limits) {
  auto document = ReadJson(text, "config", limits);
  if (document.ok() || !IsJsonSyntaxError(document.status())) return document;
  const absl::Status not_json = document.status();
  std::string decoded;
  if (DecodeUrlSafeBase64(text, &decoded) && IsValidUtf8(decoded)) {
    document = ReadJson(decoded, "config", limits);
    if (document.ok() || !IsJsonSyntaxError(document.status())) return document;
  }
  return WithViolations(
      PythonError("ValueError",
                  absl::StrCat("Expected a string path to an existing deepspeed config, or a "
                               "dictionary, or a base64 encoded string. Received: ",
                               text)),
      ViolationsOf(not_json));
}

}  // namespace zerocast
