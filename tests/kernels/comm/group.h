#ifndef ZEROCAST_TESTS_KERNELS_COMM_GROUP_H_
#define ZEROCAST_TESTS_KERNELS_COMM_GROUP_H_

#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "kernels/comm/communicator.h"

namespace zerocast {

using Group = std::vector<std::unique_ptr<Communicator>>;

// A connected group of the transport under test: each conformance binary links its own.
Group MakeGroup(int size);

// Runs `body(r)` for r = 0 .. size - 1, each in its own thread, and returns what they returned.
std::vector<absl::Status> RunAll(int size, const std::function<absl::Status(int)>& body);

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_KERNELS_COMM_GROUP_H_
