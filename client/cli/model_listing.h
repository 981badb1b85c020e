#ifndef ZEROCAST_CLIENT_CLI_MODEL_LISTING_H_
#define ZEROCAST_CLIENT_CLI_MODEL_LISTING_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/plan/manifest.h"

namespace zerocast {

// A checkpoint as `plan --manifest` knows it: names, shapes and dtypes, no files.
struct ModelListing {
  Manifest manifest;
  std::string model_spec_json;  // "" where the listing has no `params`
};

// Files of a listing are filled up to this size, as the library's own saving does (its
// max_shard_size); a larger tensor has a file of its own.
inline constexpr int64_t kListingFileBytes = 5'000'000'000;

// Parses a listing: a model spec (DESIGN.md section 8) with two more fields, `checkpoint`: a list
// of [name, shape, dtype] in the order of the files, and `config`: the content of config.json.
// `text` may be hostile.  Pure.  Errors: INVALID_ARGUMENT naming the JSON path.
absl::StatusOr<ModelListing> ParseModelListing(absl::string_view text);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_CLI_MODEL_LISTING_H_
