#ifndef ZEROCAST_CLIENT_AGENT_AGENT_METRICS_H_
#define ZEROCAST_CLIENT_AGENT_AGENT_METRICS_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "client/agent/agent.h"

namespace zerocast {

// Prometheus' /metrics of an agent, over HTTP.
class MetricsServer {
 public:
  // Listens on "host:port".  `agent` must outlive the server.  Errors: UNAVAILABLE, naming the
  // address.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(const std::string& listen,
                                                              const Agent* agent);
  ~MetricsServer();

 private:
  struct Rep;
  explicit MetricsServer(std::unique_ptr<Rep> rep);
  const std::unique_ptr<Rep> rep_;
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_AGENT_METRICS_H_
