#ifndef ZEROCAST_SERVER_RPC_METRICS_H_
#define ZEROCAST_SERVER_RPC_METRICS_H_

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/rpc/core.h"

namespace zerocast::rpc {

// What Prometheus sees.  Labels come from closed sets (methods, codes, states): the number of
// series does not grow with the number of jobs.  Thread-safe.
class Metrics {
 public:
  Metrics();

  // One call has ended.
  void CountCall(absl::string_view method, absl::StatusCode code, absl::Duration took);
  // The state as it is now.
  void Show(const CoreCounts& counts, bool ready);
  void ShowCheckpoints(const std::map<std::string, int64_t>& by_state);

  std::shared_ptr<prometheus::Registry> registry() const { return registry_; }

 private:
  const std::shared_ptr<prometheus::Registry> registry_;
  prometheus::Family<prometheus::Counter>& calls_;
  prometheus::Family<prometheus::Histogram>& seconds_;
  prometheus::Family<prometheus::Gauge>& loads_;
  prometheus::Gauge& agents_;
  prometheus::Gauge& jobs_;
  prometheus::Family<prometheus::Gauge>& checkpoints_;
  prometheus::Gauge& watches_;
  prometheus::Gauge& dropped_;
  prometheus::Gauge& ready_;
};

}  // namespace zerocast::rpc

#endif  // ZEROCAST_SERVER_RPC_METRICS_H_
