#ifndef ZEROCAST_SERVER_RPC_RANDOM_HEX_H_
#define ZEROCAST_SERVER_RPC_RANDOM_HEX_H_

#include <cstddef>
#include <string>

namespace zerocast::rpc {

// Random bytes from the kernel, as hexadecimal digits: parts of names, and secrets.
std::string RandomHex(size_t num_bytes);

}  // namespace zerocast::rpc

#endif  // ZEROCAST_SERVER_RPC_RANDOM_HEX_H_
