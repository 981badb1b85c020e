#ifndef ZEROCAST_KERNELS_COMM_SOCKET_ADDRESS_H_
#define ZEROCAST_KERNELS_COMM_SOCKET_ADDRESS_H_

#include <sys/socket.h>

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace zerocast {

// An IPv4 or IPv6 address with a port; bytes not in use are zero.
struct SocketAddress {
  sockaddr_storage storage = {};
  socklen_t length = 0;
};

// "192.0.2.7:4711" or "[2001:db8::7]:4711".
std::string FormatAddress(const sockaddr_storage& storage);

// Reads what FormatAddress writes.  INVALID_ARGUMENT otherwise.
absl::StatusOr<SocketAddress> ParseAddress(absl::string_view text);

// The address, port 0, that `host` (numeric, a network interface or a host name) stands for on this
// machine.  INVALID_ARGUMENT when there is none, it is the wildcard, or it is not this machine's.
absl::StatusOr<SocketAddress> ResolveBindAddress(const std::string& host);

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COMM_SOCKET_ADDRESS_H_
