#include "server/base/utf8.h"

#include <cstring>

namespace zerocast {

size_t DecodeUtf8(absl::string_view text, uint32_t* code) {
  const auto byte = [&text](size_t i) { return static_cast<uint8_t>(text[i]); };
  if (text.empty()) return 0;
  const uint8_t lead = byte(0);
  if (lead < 0x80) {
    *code = lead;
    return 1;
  }
  const size_t size = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || text.size() < size) return 0;
  *code = lead & (0x7F >> size);
  for (size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
    *code = *code << 6 | (byte(i) & 0x3F);
  }
  constexpr uint32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = *code >= 0xD800 && *code <= 0xDFFF;
  return *code < kSmallest[size] || surrogate || *code > 0x10FFFF ? 0 : size;
}

bool IsValidUtf8(absl::string_view text) {
  uint32_t code;
  while (!text.empty()) {
    uint64_t eight;
    if (text.size() >= sizeof(eight)) {
      std::memcpy(&eight, text.data(), sizeof(eight));
      if ((eight & 0x8080808080808080) == 0) {  // all ASCII
        text.remove_prefix(sizeof(eight));
        continue;
      }
    }
    const size_t size = DecodeUtf8(text, &code);
    if (size == 0) return false;
    text.remove_prefix(size);
  }
  return true;
}

void AppendUtf8(uint32_t code, std::string* out) {
  constexpr uint32_t kFirstOfSize[] = {0x80, 0x800, 0x10000};
  int more = 0;  // bytes after the first
  while (more < 3 && code >= kFirstOfSize[more]) ++more;
  constexpr uint32_t kLead[] = {0, 0xC0, 0xE0, 0xF0};
  out->push_back(static_cast<char>(kLead[more] | code >> (6 * more)));
  while (more-- > 0) out->push_back(static_cast<char>(0x80 | (code >> (6 * more) & 0x3F)));
}

std::string EscapeControls(absl::string_view text, absl::string_view kept) {
  constexpr char kHex[] = "0123456789abcdef";
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    uint32_t code = 0;
    const size_t size = DecodeUtf8(text, &code);
    const bool control = code < 0x20 || (code >= 0x7F && code < 0xA0);
    const absl::string_view bytes = text.substr(0, size == 0 ? 1 : size);
    text.remove_prefix(bytes.size());
    if (size != 0 && (!control || kept.find(bytes) != absl::string_view::npos)) {
      out.append(bytes.data(), bytes.size());
    } else if (bytes == "\n" || bytes == "\t" || bytes == "\r") {
      out.append(bytes == "\n" ? "\\n" : bytes == "\t" ? "\\t" : "\\r");
    } else {
      for (const char c : bytes) {
        const auto byte = static_cast<uint8_t>(c);
        out.append({'\\', 'x', kHex[byte >> 4], kHex[byte & 15]});
      }
    }
  }
  return out;
}

}  // namespace zerocast
