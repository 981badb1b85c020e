#include "server/config/content_hash.h"

#include <xxhash.h>

#include "absl/strings/str_format.h"
#include "server/config/json_reader.h"

namespace zerocast {
std::string CanonicalJson(const ConfigValue& value) {
  std::string out;
  AppendJson(value, {",", ":", /*sorted=*/true}, &out);
  return out;
}

std::string ContentHash(const ConfigValue& value) {
  const std::string text = CanonicalJson(value);
  const XXH128_hash_t hash = XXH3_128bits(text.data(), text.size());
  return absl::StrFormat("%016x%016x", hash.high64, hash.low64);
}

}  // namespace zerocast
