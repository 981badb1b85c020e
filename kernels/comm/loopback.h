#ifndef ZEROCAST_KERNELS_COMM_LOOPBACK_H_
#define ZEROCAST_KERNELS_COMM_LOOPBACK_H_

#include <memory>
#include <vector>

#include "kernels/comm/communicator.h"

namespace zerocast {

// The `size` communicators of a group whose participants are threads of this process: element r is
// participant r.  `size` >= 1.
//
// A receiver copies straight out of its sender's buffer, in its own thread; nothing is staged.
// Sizes that differ between a sender and its receiver are INTERNAL on both, naming the other, and
// nothing is copied.  Destroying a communicator leaves the group: peers that still wait for it get
// UNAVAILABLE.
std::vector<std::unique_ptr<Communicator>> MakeLoopbackGroup(int size);

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COMM_LOOPBACK_H_
