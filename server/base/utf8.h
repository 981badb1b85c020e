#ifndef ZEROCAST_SERVER_BASE_UTF8_H_
#define ZEROCAST_SERVER_BASE_UTF8_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace zerocast {

// Decodes the first character of `text` into `code`.  The bytes it takes; 0 where there is none or
// it is not valid UTF-8 (RFC 3629: no surrogates, nothing longer than needed).
size_t DecodeUtf8(absl::string_view text, uint32_t* code);

bool IsValidUtf8(absl::string_view text);

// Appends a character; `code` is at most 0x10FFFF and no surrogate.
void AppendUtf8(uint32_t code, std::string* out);

// `text` as a terminal may show it: control characters (C0, DEL, C1) and bytes that are no UTF-8
// become \n, \t, \r or \xNN, everything else stays.  Names come from files that anybody may have
// made; raw, they could move the cursor or add lines.  `kept`: control characters that stay.
std::string EscapeControls(absl::string_view text, absl::string_view kept = "");

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_BASE_UTF8_H_
