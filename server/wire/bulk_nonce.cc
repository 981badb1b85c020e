#include "server/wire/bulk_nonce.h"

#include <xxhash.h>

#include <string>

#include "absl/strings/str_cat.h"

namespace zerocast {

uint64_t BulkNonce(absl::string_view load, int64_t epoch, absl::string_view plan_digest,
                   absl::string_view attach_token) {
  const std::string seed = absl::StrCat(load, "/", epoch, "/", plan_digest, "/", attach_token);
  return XXH3_64bits(seed.data(), seed.size());
}

}  // namespace zerocast
