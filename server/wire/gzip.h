#ifndef ZEROCAST_SERVER_WIRE_GZIP_H_
#define ZEROCAST_SERVER_WIRE_GZIP_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace zerocast {

// One gzip member (RFC 1952; no name, no time: equal input gives equal bytes), and back.
//
// Written on zlib itself: protobuf's GzipInputStream takes a stream that was cut for one that
// ended.
//
// Errors of Gunzip: INVALID_ARGUMENT, reason INVALID_FIELDS (not gzip, damaged, cut, or followed by
// more bytes); RESOURCE_EXHAUSTED when it would unpack to more than `max_bytes`.
std::string Gzip(absl::string_view bytes);
absl::StatusOr<std::string> Gunzip(absl::string_view compressed, int64_t max_bytes);
// Text that may be gzip, as its first bytes say; else it comes back as it is.  Errors as Gunzip,
// naming `name`.
absl::StatusOr<std::string> GunzipIfPacked(std::string text, absl::string_view name,
                                           int64_t max_bytes);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_WIRE_GZIP_H_
