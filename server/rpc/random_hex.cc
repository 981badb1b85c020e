#include "server/rpc/random_hex.h"

#include <sys/random.h>

#include "absl/strings/escaping.h"

namespace zerocast::rpc {

std::string RandomHex(size_t num_bytes) {
  std::string bytes(num_bytes, '\0');
  for (size_t done = 0; done < num_bytes;) {
    // Fails for EINTR alone, once the kernel has started.
    const ssize_t got = ::getrandom(&bytes[done], num_bytes - done, 0);
    if (got > 0) done += static_cast<size_t>(got);
  }
  return absl::BytesToHexString(bytes);
}

}  // namespace zerocast::rpc
