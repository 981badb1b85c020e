#include "kernels/comm/gloo_mesh.h"

#include <gloo/transport/tcp/address.h>

#include <algorithm>
#include <exception>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "kernels/base/status_macros.h"
#include "kernels/comm/checks.h"
#include "kernels/comm/deadline.h"
#include "kernels/comm/socket_address.h"

namespace zerocast {
namespace {

using ::gloo::transport::tcp::Address;
using ::gloo::transport::tcp::Device;

// How often a waiting call looks at `cancelled`.
constexpr absl::Duration kPollInterval = absl::Milliseconds(50);

// First word of a rendezvous entry; another form of entry gets another word.
constexpr absl::string_view kEntryForm = "zc-gloo-1";

class MeshBuilder {
 public:
  MeshBuilder(const GlooOptions& options, LinkClosed on_closed)
      : options_(options),
        deadline_(options.connect_timeout),
        what_(absl::StrCat("connect participant ", options.rank, " of ", options.size)),
        on_closed_(std::move(on_closed)) {}

  absl::StatusOr<std::shared_ptr<GuardedContext>> Build() {
    ZC_RETURN_IF_ERROR(Listen());
    ZC_RETURN_IF_ERROR(options_.rendezvous->Put(Key(options_.rank), Entry()));
    ZC_RETURN_IF_ERROR(CallPeers());
    ZC_RETURN_IF_ERROR(AwaitLinks());
    return std::move(context_);
  }

 private:
  static std::string Key(int rank) { return absl::StrCat("gloo/", rank); }

  absl::Status CheckNotCancelled() const {
    if (!options_.cancelled || !options_.cancelled()) return absl::OkStatus();
    return absl::CancelledError(absl::StrCat(what_, ": cancelled by the caller"));
  }

  absl::Status DeadlineError(std::vector<int> missing, absl::string_view lacks) const {
    return absl::DeadlineExceededError(
        absl::StrCat(what_, ": no ", lacks, " ", NamePeers(std::move(missing)), " within ",
                     absl::FormatDuration(options_.connect_timeout)));
  }

  absl::Status Listen() {
    ZC_ASSIGN_OR_RETURN(const SocketAddress address, ResolveBindAddress(options_.bind_host));
    gloo::transport::tcp::attr attr;
    attr.ai_family = address.storage.ss_family;
    attr.ai_socktype = SOCK_STREAM;
    attr.ai_protocol = 0;
    attr.ai_addr = address.storage;
    attr.ai_addrlen = static_cast<int>(address.length);
    try {
      // The event thread, which the device starts, inherits the blocked signal.
      const SigpipeBlocker no_sigpipe;
      context_ = std::make_shared<GuardedContext>(std::make_shared<Device>(attr), options_.rank,
                                                  options_.size, options_.nonce, on_closed_);
      for (int peer = 0; peer < options_.size; ++peer) {
        if (peer != options_.rank) context_->createPair(peer);
      }
    } catch (const std::exception& error) {
      return absl::UnavailableError(
          absl::StrCat(what_, ": listen on ", FormatAddress(address.storage), ": ", error.what()));
    }
    return absl::OkStatus();
  }

  // One listening address a peer, "-" for itself.
  std::string Entry() {
    std::vector<std::string> words = {std::string(kEntryForm)};
    for (int peer = 0; peer < options_.size; ++peer) {
      words.push_back(
          peer == options_.rank
              ? "-"
              : FormatAddress(
                    static_cast<const Address&>(context_->link(peer)->address()).getSockaddr()));
    }
    return absl::StrJoin(words, " ");
  }

  // Waits for every peer's entry and starts the link to it.
  absl::Status CallPeers() {
    std::vector<int> missing;
    for (int peer = 0; peer < options_.size; ++peer) {
      if (peer == options_.rank) continue;
      absl::StatusOr<std::string> entry = AwaitEntry(peer);
      if (absl::IsDeadlineExceeded(entry.status())) {
        missing.push_back(peer);
        continue;
      }
      ZC_RETURN_IF_ERROR(entry.status());
      ZC_RETURN_IF_ERROR(Call(peer, *entry));
    }
    if (missing.empty()) return absl::OkStatus();
    return DeadlineError(std::move(missing), "address from");
  }

  absl::StatusOr<std::string> AwaitEntry(int peer) {
    for (;;) {
      ZC_RETURN_IF_ERROR(CheckNotCancelled());
      absl::StatusOr<std::string> entry = options_.rendezvous->Get(
          Key(peer), options_.cancelled ? std::min(kPollInterval, deadline_.Remaining())
                                        : deadline_.Remaining());
      if (!absl::IsDeadlineExceeded(entry.status()) || deadline_.Passed()) return entry;
    }
  }

  absl::Status Call(int peer, const std::string& entry) {
    const std::vector<absl::string_view> words = absl::StrSplit(entry, ' ');
    if (words.size() != static_cast<size_t>(options_.size) + 1 || words[0] != kEntryForm) {
      return absl::DataLossError(absl::StrCat(what_, ": the rendezvous entry of participant ", peer,
                                              " is \"", entry, "\", not \"", kEntryForm, "\" and ",
                                              options_.size, " addresses"));
    }
    absl::StatusOr<SocketAddress> address = ParseAddress(words[options_.rank + 1]);
    if (!address.ok()) {
      return absl::DataLossError(absl::StrCat(what_, ": the rendezvous entry of participant ", peer,
                                              ": ", address.status().message()));
    }
    try {
      context_->link(peer)->connect(Address(address->storage).bytes());
    } catch (const std::exception& error) {
      return absl::UnavailableError(absl::StrCat(what_, " to participant ", peer, " at ",
                                                 words[options_.rank + 1], ": ", error.what()));
    }
    return absl::OkStatus();
  }

  absl::Status AwaitLinks() {
    std::vector<int> missing;
    int num_refused = 0;
    for (int peer = 0; peer < options_.size; ++peer) {
      if (peer == options_.rank) continue;
      GuardedPair::Report report;
      do {
        ZC_RETURN_IF_ERROR(CheckNotCancelled());
        report = context_->link(peer)->Wait(
            std::min(absl::ToChronoMilliseconds(kPollInterval), deadline_.RemainingMillis()));
      } while (report.progress == GuardedPair::Progress::kWaiting && !deadline_.Passed());
      if (report.progress == GuardedPair::Progress::kClosed) return LinkError(peer, report);
      if (report.progress == GuardedPair::Progress::kWaiting) missing.push_back(peer);
      num_refused += report.num_refused;
    }
    if (missing.empty()) return absl::OkStatus();
    return DeadlineError(
        std::move(missing),
        num_refused == 0
            ? std::string("link with")
            : absl::StrCat("link (", num_refused, " callers of another epoch were refused) with"));
  }

  absl::Status LinkError(int peer, const GuardedPair::Report& report) const {
    const std::string message = absl::StrCat(what_, " to participant ", peer, ": ", report.detail);
    return report.refused ? absl::DataLossError(message) : absl::UnavailableError(message);
  }

  const GlooOptions& options_;
  const Deadline deadline_;
  const std::string what_;
  const LinkClosed on_closed_;
  std::shared_ptr<GuardedContext> context_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<GuardedContext>> ConnectGlooMesh(const GlooOptions& options,
                                                                LinkClosed on_closed) {
  return MeshBuilder(options, std::move(on_closed)).Build();
}

}  // namespace zerocast
