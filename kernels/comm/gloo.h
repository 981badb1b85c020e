#ifndef ZEROCAST_KERNELS_COMM_GLOO_H_
#define ZEROCAST_KERNELS_COMM_GLOO_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/comm/communicator.h"

namespace zerocast {

struct GlooOptions {
  // Own participant number, and how many there are: 0 <= rank < size.
  int rank = 0;
  int size = 1;

  // Where to listen, and what peers connect to: a numeric address, a host name, or the name of a
  // network interface.  All participants must use the same address family.  The wildcard address
  // is refused: peers could not connect to it.
  std::string bind_host = "127.0.0.1";

  // The same on all participants of one epoch, and different in every other one.  Guards against
  // mix-ups (an older attempt, a reused port), not against attackers: links are not encrypted.
  uint64_t nonce = 0;

  // Scoped to this epoch, used until MakeGlooCommunicator returns.  Not needed when size == 1.
  // Keys: "gloo/N", the listening addresses of participant N.
  Rendezvous* rendezvous = nullptr;

  // For everything until all links stand, waiting for the slowest participant included.
  absl::Duration connect_timeout = absl::Seconds(30);

  // When set, asked about every 50 ms while connecting, in the calling thread; true ends the call
  // with CANCELLED.
  std::function<bool()> cancelled;
};

// Connects this participant to all others over TCP with Gloo; returns when every link of its own
// is up and has been checked from both ends.  With size == 1 no network is used.
//
// Connections of strangers (a port scan) are dropped and change nothing.  Errors:
//   INVALID_ARGUMENT   the options are wrong, or bind_host cannot be listened on.
//   DEADLINE_EXCEEDED  not connected within connect_timeout; names the participants that are
//                      missing.
//   DATA_LOSS          a peer uses another nonce, or its rendezvous entry cannot be read; names it.
//   UNAVAILABLE        a peer went away meanwhile (names it), or the rendezvous is unavailable.
//   CANCELLED          by `cancelled`, or by the rendezvous.
// On an error nothing stays open, and a retry needs a new epoch: peers may hold half of a mesh.
//
// The communicator owns one thread and size - 1 sockets.  Destroy it only when no call is in
// progress.
absl::StatusOr<std::unique_ptr<Communicator>> MakeGlooCommunicator(const GlooOptions& options);

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COMM_GLOO_H_
