#include "server/config/content_hash.h"

#include <xxhash.h>

#include <algorithm>
#include <vector>

#include "absl/strings/str_format.h"
#include "server/config/json_reader.h"

namespace zerocast {
namespace {

void Append(const ConfigValue& value, std::string* out) {
  if (const ConfigValue::Array* array = value.array()) {
    out->push_back('[');
    for (size_t i = 0; i < array->size(); ++i) {
      if (i > 0) out->push_back(',');
      Append((*array)[i], out);
    }
    out->push_back(']');
    return;
  }
  const ConfigValue::Object* members = value.object();
  if (members == nullptr) {
    if (value.text() != nullptr) {
      AppendJsonString(*value.text(), out);
    } else {
      out->append(WriteJson(value));
    }
    return;
  }
  // The bytes of UTF-8 sort as Python's code points do.
  std::vector<const ConfigMember*> sorted;
  sorted.reserve(members->size());
  for (const ConfigMember& member : *members) sorted.push_back(&member);
  std::sort(sorted.begin(), sorted.end(),
            [](const ConfigMember* a, const ConfigMember* b) { return a->key < b->key; });
  out->push_back('{');
  for (size_t i = 0; i < sorted.size(); ++i) {
    if (i > 0) out->push_back(',');
    AppendJsonString(sorted[i]->key, out);
    out->push_back(':');
    Append(sorted[i]->value, out);
  }
  out->push_back('}');
}

}  // namespace

std::string CanonicalJson(const ConfigValue& value) {
  std::string out;
  Append(value, &out);
  return out;
}

std::string ContentHash(const ConfigValue& value) {
  const std::string text = CanonicalJson(value);
  const XXH128_hash_t hash = XXH3_128bits(text.data(), text.size());
  return absl::StrFormat("%016x%016x", hash.high64, hash.low64);
}

}  // namespace zerocast
