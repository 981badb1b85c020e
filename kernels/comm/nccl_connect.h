#ifndef ZEROCAST_KERNELS_COMM_NCCL_CONNECT_H_
#define ZEROCAST_KERNELS_COMM_NCCL_CONNECT_H_

#include "absl/status/statusor.h"
#include "kernels/comm/nccl.h"
#include "kernels/comm/nccl_api.h"
#include "kernels/comm/nccl_ends.h"

namespace zerocast {

// NCCL's communicator of a participant, when all stand; the device of `options` is the thread's
// current one.  size > 1.  Errors as NcclCommunicator::Create; `ends` has been told then, and
// nothing stays open.
absl::StatusOr<ncclComm_t> ConnectNccl(const NcclApi& api, const NcclOptions& options,
                                       NcclEnds* ends);

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COMM_NCCL_CONNECT_H_
