#ifndef ZEROCAST_KERNELS_COMM_NCCL_API_H_
#define ZEROCAST_KERNELS_COMM_NCCL_API_H_

#include <nccl.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace zerocast {

// The functions of NCCL that are used here, of the library that was opened.
struct NcclApi {
  decltype(&ncclGetVersion) get_version;
  decltype(&ncclGetErrorString) get_error_string;
  decltype(&ncclGetLastError) get_last_error;
  decltype(&ncclGetUniqueId) get_unique_id;
  decltype(&ncclCommInitRankConfig) comm_init_rank_config;
  decltype(&ncclCommGetAsyncError) comm_get_async_error;
  decltype(&ncclCommFinalize) comm_finalize;
  decltype(&ncclCommDestroy) comm_destroy;
  decltype(&ncclCommAbort) comm_abort;
  decltype(&ncclGroupStart) group_start;
  decltype(&ncclGroupEnd) group_end;
  decltype(&ncclSend) send;
  decltype(&ncclRecv) recv;
  decltype(&ncclBroadcast) broadcast;

  int version = 0;  // as NCCL_VERSION_CODE: 22809 is 2.28.9

  // Opens libnccl.so.2 on the first call; the answer stays for the life of the process, errors too.
  // FAILED_PRECONDITION when there is none, or one older than 2.18.
  static absl::StatusOr<const NcclApi*> Load();
};

// The status of an NCCL call that was to do `what`: OK for ncclSuccess and ncclInProgress, else a
// message of what was tried, NCCL's name for what happened, and its own words on it.
//
//   UNAVAILABLE          a peer's process is gone, or the network or the system does not do its
//   part FAILED_PRECONDITION  NCCL's invalid usage: two participants on one GPU INTERNAL everything
//   else
absl::Status NcclStatus(const NcclApi& api, ncclResult_t result, absl::string_view what);

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COMM_NCCL_API_H_
