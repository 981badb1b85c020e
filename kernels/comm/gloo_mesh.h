#ifndef ZEROCAST_KERNELS_COMM_GLOO_MESH_H_
#define ZEROCAST_KERNELS_COMM_GLOO_MESH_H_

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/comm/gloo.h"
#include "kernels/comm/gloo_link.h"

namespace zerocast {

// Listens, publishes its addresses, connects to all peers and waits until every link is up: the
// connecting part of MakeGlooCommunicator, with its errors.  `options` are valid and size > 1.
absl::StatusOr<std::shared_ptr<GuardedContext>> ConnectGlooMesh(const GlooOptions& options,
                                                                LinkClosed on_closed);

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COMM_GLOO_MESH_H_
