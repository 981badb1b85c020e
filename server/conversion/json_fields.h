#ifndef ZEROCAST_SERVER_CONVERSION_JSON_FIELDS_H_
#define ZEROCAST_SERVER_CONVERSION_JSON_FIELDS_H_

// Typed access to the fields of a JSON object that may be hostile.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace zerocast {

// INVALID_ARGUMENT "<path>: <what>".
absl::Status JsonError(absl::string_view path, absl::string_view what);

// The fields of one object.  A getter leaves `*out` alone where the field is absent or null.  After
// the first field of a wrong type, status() says which and further getters do nothing.
class JsonFields {
 public:
  // `value` and `path` must outlive this.
  JsonFields(const nlohmann::json& value, absl::string_view path);

  // The field, or null pointer where it is absent or null.
  const nlohmann::json* Find(const char* name) const;

  JsonFields& Get(const char* name, std::string* out);
  JsonFields& Get(const char* name, int64_t* out);
  JsonFields& Get(const char* name, bool* out);
  JsonFields& Get(const char* name, std::vector<int64_t>* out);
  // One string, or a list of strings.
  JsonFields& Get(const char* name, std::vector<std::string>* out);

  const absl::Status& status() const { return status_; }

 private:
  void Fail(const char* name, absl::string_view expected);

  const nlohmann::json& value_;
  absl::string_view path_;
  absl::Status status_;
};

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONVERSION_JSON_FIELDS_H_
