#include "server/base/python_json.h"

#include <cstddef>

#include "absl/strings/match.h"

namespace zerocast {

std::string NullForPythonConstants(absl::string_view text) {
  std::string out;
  out.reserve(text.size());
  bool in_string = false;
  for (size_t at = 0; at < text.size();) {
    if (!in_string) {
      size_t constant = 0;
      for (const absl::string_view name : {"NaN", "-Infinity", "Infinity"}) {
        if (absl::StartsWith(text.substr(at), name)) constant = name.size();
      }
      if (constant > 0) {
        // Spaces, so that nothing becomes a word with what stands beside it.
        out.append(" null ");
        at += constant;
        continue;
      }
    }
    const absl::string_view piece = text.substr(at, in_string && text[at] == '\\' ? 2 : 1);
    if (text[at] == '"') in_string = !in_string;
    out.append(piece.data(), piece.size());
    at += piece.size();
  }
  return out;
}

}  // namespace zerocast
