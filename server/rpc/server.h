#ifndef ZEROCAST_SERVER_RPC_SERVER_H_
#define ZEROCAST_SERVER_RPC_SERVER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/base/clock.h"

namespace grpc {
class Channel;
class Service;
}  // namespace grpc

namespace zerocast {

// The whole server: store, state machine, gRPC services, health, metrics.
//
//   Server::Options options;
//   options.listen = "127.0.0.1:0";
//   ZC_ASSIGN_OR_RETURN(auto server, Server::Start(std::move(options)));
//   use(server->port());
//   server->Shutdown();
//
// Thread-safe.  The destructor shuts down too.
class Server {
 public:
  struct Options {
    std::string listen = "127.0.0.1:0";  // "host:port" (port 0: any free one) or "unix:/path"
    // A second, plaintext port with the health service alone; empty: none.
    std::string health_listen;
    std::string metrics_listen;    // "host:port" of Prometheus' /metrics; empty: none
    std::string store = "memory";  // or "sqlite:PATH"
    bool reflection = false;       // gRPC server reflection
    // How long Shutdown() waits for active loads to end.
    absl::Duration drain_timeout = absl::Seconds(30);
    // How often agents say that they are there; given up after three of these.
    absl::Duration heartbeat_interval = absl::Seconds(5);
    // How long jobs with a lease are kept when they are over.
    absl::Duration keep_ended_jobs = absl::Hours(24);
    // The largest request that is read.  A node's report carries a digest a partition: 70,000
    // targets on 8 ranks are about 50 MB.
    int64_t max_request_bytes = int64_t{64} << 20;
    // Bounds on what holds memory or threads; beyond them RESOURCE_EXHAUSTED with RetryInfo.
    int max_sessions = 4096;
    int max_watches = 4096;
    int max_dry_runs = 8;
    int max_threads = 128;
    // Unary calls with a longer deadline get this one.
    absl::Duration max_call_time = absl::Minutes(10);
    const Clock* clock = Clock::Real();  // must outlive the server
    // Services of the process around the server, on the same port.  Must outlive the server.
    std::vector<grpc::Service*> more_services;
  };

  // Returns when the server listens and is ready.  Errors:
  //   UNAVAILABLE       an address cannot be listened on (it is named), or the store not opened.
  //   INVALID_ARGUMENT  an option makes no sense.
  // and those of OpenStore().
  static absl::StatusOr<std::unique_ptr<Server>> Start(Options options);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // The port that is listened on; 0 for a unix socket.
  int port() const;
  int health_port() const;      // 0 without one
  int metrics_port() const;     // 0 without one
  std::string address() const;  // as in Options::listen, with the real port
  // A channel that needs no socket.
  std::shared_ptr<grpc::Channel> InProcessChannel();

  // Readiness goes, new work is refused (UNAVAILABLE, SHUTTING_DOWN), active loads get
  // drain_timeout to end, then every stream and call is ended.  Blocks until all is over;
  // idempotent.
  void Shutdown();
  // Blocks until Shutdown() has ended, in whichever thread.
  void Wait();

  static const char* Version();

 private:
  struct Rep;
  explicit Server(std::unique_ptr<Rep> rep);
  const std::unique_ptr<Rep> rep_;
};

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_RPC_SERVER_H_
