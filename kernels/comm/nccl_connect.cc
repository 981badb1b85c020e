#include "kernels/comm/nccl_connect.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/comm/checks.h"
#include "kernels/comm/deadline.h"

namespace zerocast {
namespace {

constexpr char kIdKey[] = "nccl/id";
// How often `cancelled` and the peers are asked about.
constexpr absl::Duration kSlice = absl::Milliseconds(50);

std::string HereKey(int rank) { return absl::StrCat("nccl/here/", rank); }

class Connecting {
 public:
  Connecting(const NcclApi& api, const NcclOptions& options, NcclEnds* ends)
      : api_(api), options_(options), ends_(ends), deadline_(options.connect_timeout) {
    for (int peer = 0; peer < options.size; ++peer) {
      if (peer != options.rank) peers_.push_back(peer);
    }
  }

  absl::StatusOr<ncclComm_t> Run() {
    ZC_RETURN_IF_ERROR(Meet());
    ncclUniqueId id;
    ZC_ASSIGN_OR_RETURN(id, ShareId());
    return Connect(id);
  }

 private:
  std::string What() const {
    return absl::StrCat("connect participant ", options_.rank, " of ", options_.size, " by NCCL");
  }

  // Says that this participant is here, and waits for all others: NCCL itself would wait without
  // telling for whom.
  absl::Status Meet() {
    ZC_RETURN_IF_ERROR(
        options_.rendezvous->Put(HereKey(options_.rank), absl::StrCat(api_.version)));
    std::vector<int> missing = peers_;
    std::vector<int> different;
    while (!missing.empty()) {
      const int peer = missing.front();
      ZC_ASSIGN_OR_RETURN(const std::string version, Get(HereKey(peer), missing));
      if (version != absl::StrCat(api_.version)) different.push_back(peer);
      missing.erase(missing.begin());
    }
    if (different.empty()) return absl::OkStatus();
    return absl::FailedPreconditionError(
        absl::StrCat(What(), ": it has NCCL ", api_.version, ", but ", NamePeers(different),
                     " another release; install the same one on all nodes"));
  }

  absl::StatusOr<ncclUniqueId> ShareId() {
    ncclUniqueId id;
    if (options_.rank == 0) {
      ZC_RETURN_IF_ERROR(
          NcclStatus(api_, api_.get_unique_id(&id), absl::StrCat(What(), ": make the unique id")));
      ZC_RETURN_IF_ERROR(
          options_.rendezvous->Put(kIdKey, absl::string_view(id.internal, sizeof(id.internal))));
      return id;
    }
    ZC_ASSIGN_OR_RETURN(const std::string bytes, Get(kIdKey, {0}));
    if (bytes.size() != sizeof(id.internal)) {
      return absl::InternalError(absl::StrCat(What(), ": the rendezvous entry ", kIdKey, " has ",
                                              bytes.size(), " bytes, not ", sizeof(id.internal)));
    }
    std::memcpy(id.internal, bytes.data(), bytes.size());
    return id;
  }

  absl::StatusOr<ncclComm_t> Connect(const ncclUniqueId& id) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    ncclComm_t comm = nullptr;
    ncclResult_t result =
        api_.comm_init_rank_config(&comm, options_.size, id, options_.rank, &config);
    absl::Status status = NcclStatus(api_, result, What());
    while (status.ok()) {
      if (comm != nullptr) {
        const ncclResult_t asked = api_.comm_get_async_error(comm, &result);
        status = NcclStatus(api_, asked == ncclSuccess ? result : asked, What());
      }
      if (!status.ok() || (comm != nullptr && result == ncclSuccess)) break;
      status = Check(peers_);
      // Connecting takes NCCL between a tenth of a second and some seconds.
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (status.ok()) return comm;
    if (absl::IsUnavailable(status)) {
      // A peer that left has said so before NCCL noticed.
      const absl::Status gone = CheckPeers();
      if (!gone.ok()) status = gone;
    }
    // Before NCCL shows it to the peers: they shall find the reason.
    Tell(status);
    if (comm != nullptr) static_cast<void>(api_.comm_abort(comm));
    return status;
  }

  // Waits for an entry; `missing` are those who are still to do something for it.
  absl::StatusOr<std::string> Get(const std::string& key, const std::vector<int>& missing) {
    for (;;) {
      absl::StatusOr<std::string> value =
          options_.rendezvous->Get(key, std::min(kSlice, deadline_.Remaining()));
      if (value.ok() || !absl::IsDeadlineExceeded(value.status())) return value;
      ZC_RETURN_IF_ERROR(Check(StillMissing(missing)));
    }
  }

  std::vector<int> StillMissing(const std::vector<int>& missing) {
    std::vector<int> result;
    for (const int peer : missing) {
      const bool here = options_.rendezvous->Get(HereKey(peer), absl::ZeroDuration()).ok();
      if (!here) result.push_back(peer);
    }
    return result.empty() ? missing : result;
  }

  absl::Status Check(const std::vector<int>& waiting_for) {
    if (options_.cancelled && options_.cancelled()) {
      return absl::CancelledError(absl::StrCat(What(), ": cancelled"));
    }
    ZC_RETURN_IF_ERROR(CheckPeers());
    if (!deadline_.Passed()) return absl::OkStatus();
    return absl::DeadlineExceededError(
        absl::StrCat(What(), ": still waiting for ", NamePeers(waiting_for), " after ",
                     absl::FormatDuration(options_.connect_timeout)));
  }

  // UNAVAILABLE when one of the others has given up.
  absl::Status CheckPeers() {
    const NcclPeers sorted = SortPeers(ends_, peers_, 1);
    // Silent ones may still connect.
    if (sorted.silent.size() == peers_.size()) return absl::OkStatus();
    return absl::UnavailableError(absl::StrCat(What(), ": gone: ", sorted.Text()));
  }

 public:
  // Says on the rendezvous that this participant has given up.
  void Tell(const absl::Status& status) {
    const bool by_others = absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status);
    ends_->Say({by_others ? NcclEnd::kFailed : NcclEnd::kLeft, 0, std::string(status.message())});
  }

 private:
  const NcclApi& api_;
  const NcclOptions& options_;
  NcclEnds* const ends_;
  const Deadline deadline_;
  std::vector<int> peers_;
};

}  // namespace

absl::StatusOr<ncclComm_t> ConnectNccl(const NcclApi& api, const NcclOptions& options,
                                       NcclEnds* ends) {
  Connecting connecting(api, options, ends);
  absl::StatusOr<ncclComm_t> comm = connecting.Run();
  if (!comm.ok()) connecting.Tell(comm.status());
  return comm;
}

}  // namespace zerocast
