#ifndef ZEROCAST_SERVER_CONFIG_JSON_READER_H_
#define ZEROCAST_SERVER_CONFIG_JSON_READER_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/config/value.h"

namespace zerocast {

struct JsonLimits {
  size_t max_bytes = size_t{1} << 20;
  int max_depth = 200;  // of nested arrays and objects
};

struct JsonDocument {
  ConfigValue value;
  // Paths of keys that their object names more than once; those that come first where all of them
  // would take more than 64 KiB.
  std::vector<std::string> duplicate_keys;
};

// Reads JSON as Python's json.loads does: NaN, Infinity and -Infinity are values, 1e400 is
// infinite, integers have any size, of a key given twice the last value stays at the first one's
// place.
//
// Errors: INVALID_ARGUMENT with one violation, whose field is `field` and the path below it.
// IsJsonSyntaxError tells a text that Python would refuse too from one that is beyond our limits.
absl::StatusOr<JsonDocument> ReadJson(absl::string_view text, absl::string_view field,
                                      const JsonLimits& limits = {});
bool IsJsonSyntaxError(const absl::Status& status);

// JSON text as Python's json.dumps(value, ensure_ascii=False) writes it: NaN and Infinity stay,
// 1.0 stays a float.  ReadJson(WriteJson(v)) == v.
std::string WriteJson(const ConfigValue& value);
// How a value is written: as Python's json.dumps does by default.
struct JsonStyle {
  absl::string_view comma = ", ", colon = ": ";
  // Members by their keys: the bytes of UTF-8 sort as Python's code points do.
  bool sorted = false;
};
void AppendJson(const ConfigValue& value, const JsonStyle& style, std::string* out);
// The same of one string, in its quotes.
void AppendJsonString(absl::string_view text, std::string* out);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONFIG_JSON_READER_H_
