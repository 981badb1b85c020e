#ifndef ZEROCAST_SERVER_BASE_LISTEN_ADDRESS_H_
#define ZEROCAST_SERVER_BASE_LISTEN_ADDRESS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace zerocast {

// Whether a server may listen on `address` now, "host:port" or "unix:/path"; `option` names it in
// an error.  gRPC itself says only that it did not work, and writes why to stderr in its own
// format.  Looks the host up, and binds or connects for a moment.  Addresses in gRPC's other forms
// ("ipv4:...") pass unseen.
//   INVALID_ARGUMENT   neither form, an unknown host, or not an address of this machine.
//   NOT_FOUND          the folder of a unix socket.
//   UNAVAILABLE        another process listens there.
//   PERMISSION_DENIED  a port or a folder that this user may not use.
absl::Status CheckListenAddress(absl::string_view option, const std::string& address);

// UNAVAILABLE: "listen on `address`: `why`".
absl::Status CannotListen(absl::string_view address, absl::string_view why);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_BASE_LISTEN_ADDRESS_H_
