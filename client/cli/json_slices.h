#ifndef ZEROCAST_CLIENT_CLI_JSON_SLICES_H_
#define ZEROCAST_CLIENT_CLI_JSON_SLICES_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace zerocast {

// A member of a JSON object: its value as it is written.
struct JsonSlice {
  std::string key;
  absl::string_view value;  // lives as long as the text
};

// Cuts JSON text of one object into its members.  Values are passed on, not read: a config may
// hold NaN, 1e400 and integers that no number type keeps.  What is wrong inside of a value is left
// to its reader.  Time is linear, memory does not grow with the depth.
//
// Errors: INVALID_ARGUMENT naming the byte where the text stops to be an object.
absl::StatusOr<std::vector<JsonSlice>> SplitObject(absl::string_view text);

// The text of a JSON string.  Errors: INVALID_ARGUMENT.
absl::StatusOr<std::string> ReadJsonString(absl::string_view json);
// `text` as a JSON string, as Python writes it without ensure_ascii.
std::string WriteJsonString(absl::string_view text);

// JSON text of one object, put together from JSON text.
class ObjectText {
 public:
  void Add(absl::string_view key, absl::string_view json) {
    absl::StrAppend(&text_, text_.size() == 1 ? "" : ", ", WriteJsonString(key), ": ", json);
  }
  std::string Take() { return std::move(text_.append("}")); }

 private:
  std::string text_ = "{";
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_CLI_JSON_SLICES_H_
