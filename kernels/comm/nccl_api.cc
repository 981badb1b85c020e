#include "kernels/comm/nccl_api.h"

#include <dlfcn.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

namespace zerocast {
namespace {

constexpr char kLibrary[] = "libnccl.so.2";
// Of 2.18: the first one whose ncclCommFinalize and ncclCommAbort keep to non-blocking mode.
constexpr int kOldest = NCCL_VERSION(2, 18, 0);

template <typename Function>
absl::Status Find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  if (*function != nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("find ", name, " in ", kLibrary, ": there is none; install NCCL 2.18 or later"));
}

absl::StatusOr<NcclApi> Open() {
  // Never closed: NCCL leaves threads behind.
  void* const library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* const why = dlerror();
    return absl::FailedPreconditionError(
        absl::StrCat("open ", kLibrary, ": ", why == nullptr ? "no reason given" : why,
                     "; install NCCL 2.18 or later (libnccl2) where the loader finds it"));
  }
  NcclApi api{};
  ZC_RETURN_IF_ERROR(Find(library, "ncclGetVersion", &api.get_version));
  ZC_RETURN_IF_ERROR(Find(library, "ncclGetErrorString", &api.get_error_string));
  ZC_RETURN_IF_ERROR(Find(library, "ncclGetLastError", &api.get_last_error));
  ZC_RETURN_IF_ERROR(Find(library, "ncclGetUniqueId", &api.get_unique_id));
  ZC_RETURN_IF_ERROR(Find(library, "ncclCommInitRankConfig", &api.comm_init_rank_config));
  ZC_RETURN_IF_ERROR(Find(library, "ncclCommGetAsyncError", &api.comm_get_async_error));
  ZC_RETURN_IF_ERROR(Find(library, "ncclCommFinalize", &api.comm_finalize));
  ZC_RETURN_IF_ERROR(Find(library, "ncclCommDestroy", &api.comm_destroy));
  ZC_RETURN_IF_ERROR(Find(library, "ncclCommAbort", &api.comm_abort));
  ZC_RETURN_IF_ERROR(Find(library, "ncclGroupStart", &api.group_start));
  ZC_RETURN_IF_ERROR(Find(library, "ncclGroupEnd", &api.group_end));
  ZC_RETURN_IF_ERROR(Find(library, "ncclSend", &api.send));
  ZC_RETURN_IF_ERROR(Find(library, "ncclRecv", &api.recv));
  ZC_RETURN_IF_ERROR(Find(library, "ncclBroadcast", &api.broadcast));
  ZC_RETURN_IF_ERROR(NcclStatus(api, api.get_version(&api.version), "ask NCCL for its version"));
  if (api.version < kOldest) {
    return absl::FailedPreconditionError(absl::StrCat("open ", kLibrary, ": it is NCCL ",
                                                      api.version, "; install 2.18 (", kOldest,
                                                      ") or later"));
  }
  return api;
}

absl::StatusCode CodeOf(ncclResult_t result) {
  switch (result) {
    case ncclSystemError:
    case ncclRemoteError:
      return absl::StatusCode::kUnavailable;
    case ncclInvalidUsage:
      return absl::StatusCode::kFailedPrecondition;
    default:
      return absl::StatusCode::kInternal;
  }
}

}  // namespace

absl::StatusOr<const NcclApi*> NcclApi::Load() {
  static const auto* const opened = new absl::StatusOr<NcclApi>(Open());
  ZC_RETURN_IF_ERROR(opened->status());
  return &**opened;
}

absl::Status NcclStatus(const NcclApi& api, ncclResult_t result, absl::string_view what) {
  if (result == ncclSuccess || result == ncclInProgress) return absl::OkStatus();
  // The argument is unused since 2.13: the text is the thread's, or the process's, last one.
  const char* const last = api.get_last_error(nullptr);
  const absl::string_view words = last == nullptr ? "" : last;
  return absl::Status(
      CodeOf(result),
      absl::StrCat(what, ": NCCL error ", static_cast<int>(result), " (",
                   api.get_error_string(result), ")", words.empty() ? "" : ": ", words,
                   "; NCCL_DEBUG=INFO in the environment makes NCCL say more"));
}

}  // namespace zerocast
