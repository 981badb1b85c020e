#ifndef ZEROCAST_SERVER_WIRE_BULK_NONCE_H_
#define ZEROCAST_SERVER_WIRE_BULK_NONCE_H_

#include <cstdint>

#include "absl/strings/string_view.h"

namespace zerocast {

// What the bulk links of one epoch of a load carry: equal on all its participants, another one in
// every other epoch, and not to be guessed by who does not know the job's token.  Pure.
uint64_t BulkNonce(absl::string_view load, int64_t epoch, absl::string_view plan_digest,
                   absl::string_view attach_token);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_WIRE_BULK_NONCE_H_
