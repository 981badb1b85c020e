#include "server/conversion/expand_names.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace zerocast {

void ExpandNames(absl::string_view name, int generation, Entries* entries) {
  const std::string full = generation == 1 ? absl::StrReplaceAll(name, {{".*.", ".0."}})
                                           : absl::StrReplaceAll(name, {{"*.", "0."}});
  for (const Entry& entry : *entries) {
    const size_t at = full.find(entry.name);
    if (at == std::string::npos) continue;
    const std::string prefix = full.substr(0, at);
    const std::string suffix = full.substr(at + entry.name.size());
    for (Entry& other : *entries) other.name = absl::StrCat(prefix, other.name, suffix);
    return;
  }
}

}  // namespace zerocast
