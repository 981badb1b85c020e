#ifndef ZEROCAST_SERVER_CONFIG_CONTENT_HASH_H_
#define ZEROCAST_SERVER_CONFIG_CONTENT_HASH_H_

#include <string>

#include "server/config/value.h"

namespace zerocast {

// The text that is hashed: what Python's
//   json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
// writes.  The order of keys and the white space do not count; the type of a number does: 1, 1.0
// and true differ, 5e8 and 500000000.0 do not.
std::string CanonicalJson(const ConfigValue& value);

// XXH3-128 of CanonicalJson's UTF-8 bytes, as 32 hexadecimal digits, high half first.  Tells
// configs apart that differ by chance or by hand; no defence against somebody who makes two with
// the same hash.
std::string ContentHash(const ConfigValue& value);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONFIG_CONTENT_HASH_H_
