#ifndef ZEROCAST_KERNELS_COMM_CHECKS_H_
#define ZEROCAST_KERNELS_COMM_CHECKS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kernels/comm/communicator.h"

// What all transports check and say in the same way.

namespace zerocast {

// INVALID_ARGUMENT when a peer is out of range, repeated or `rank` itself, when a size is negative,
// or when a message that is not empty has no memory.
absl::Status CheckExchange(int rank, int size, absl::Span<const Message> sends,
                           absl::Span<const Message> receives);
absl::Status CheckBroadcast(int rank, int size, const void* data, int64_t num_bytes, int root);

// "participant 3" or "participants 1, 3"; sorts and drops duplicates.
std::string NamePeers(std::vector<int> peers);

// FAILED_PRECONDITION for a call on a communicator that `reason` closed.
absl::Status ClosedError(int rank, int size, absl::string_view reason);

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COMM_CHECKS_H_
