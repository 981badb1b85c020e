#include "server/rpc/metrics.h"

#include "server/rpc/server.h"

namespace zerocast::rpc {
namespace {

using prometheus::BuildCounter;
using prometheus::BuildGauge;
using prometheus::BuildHistogram;

// From a cached read to a dry run of the largest model.
const prometheus::Histogram::BucketBoundaries& SecondsBuckets() {
  static const auto* const buckets = new prometheus::Histogram::BucketBoundaries{
      0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60};
  return *buckets;
}

}  // namespace

Metrics::Metrics()
    : registry_(std::make_shared<prometheus::Registry>()),
      calls_(BuildCounter()
                 .Name("zerocast_rpc_calls_total")
                 .Help("Calls that have ended, by method and code")
                 .Register(*registry_)),
      seconds_(BuildHistogram()
                   .Name("zerocast_rpc_duration_seconds")
                   .Help("Time from a call's start to its end, by method")
                   .Register(*registry_)),
      loads_(BuildGauge()
                 .Name("zerocast_loads")
                 .Help("Loads that the server keeps, by state")
                 .Register(*registry_)),
      agents_(BuildGauge()
                  .Name("zerocast_agents")
                  .Help("Connected agents")
                  .Register(*registry_)
                  .Add({})),
      jobs_(BuildGauge()
                .Name("zerocast_jobs")
                .Help("Jobs that the server keeps")
                .Register(*registry_)
                .Add({})),
      checkpoints_(BuildGauge()
                       .Name("zerocast_checkpoints")
                       .Help("Registered checkpoints, by what the last look found")
                       .Register(*registry_)),
      watches_(BuildGauge()
                   .Name("zerocast_watches")
                   .Help("Open Watch streams")
                   .Register(*registry_)
                   .Add({})),
      dropped_(BuildGauge()
                   .Name("zerocast_dropped_reports")
                   .Help("Agents' reports that did not count since the start: of another epoch, of "
                         "an ended stream or load")
                   .Register(*registry_)
                   .Add({})),
      ready_(BuildGauge()
                 .Name("zerocast_ready")
                 .Help("1 while the server takes new work")
                 .Register(*registry_)
                 .Add({})) {
  BuildGauge()
      .Name("zerocast_build_info")
      .Help("Always 1; the version is the label")
      .Register(*registry_)
      .Add({{"version", Server::Version()}})
      .Set(1);
}

void Metrics::CountCall(absl::string_view method, absl::StatusCode code, absl::Duration took) {
  const std::string name(method);
  calls_.Add({{"method", name}, {"code", absl::StatusCodeToString(code)}}).Increment();
  seconds_.Add({{"method", name}}, SecondsBuckets()).Observe(absl::ToDoubleSeconds(took));
}

void Metrics::Show(const CoreCounts& counts, bool ready) {
  for (const auto& [state, count] : counts.loads_by_state) {
    loads_.Add({{"state", state}}).Set(static_cast<double>(count));
  }
  agents_.Set(static_cast<double>(counts.agents));
  jobs_.Set(static_cast<double>(counts.jobs));
  watches_.Set(static_cast<double>(counts.watches));
  dropped_.Set(static_cast<double>(counts.dropped_reports));
  ready_.Set(ready ? 1 : 0);
}

void Metrics::ShowCheckpoints(const std::map<std::string, int64_t>& by_state) {
  for (const auto& [state, count] : by_state) {
    checkpoints_.Add({{"state", state}}).Set(static_cast<double>(count));
  }
}

}  // namespace zerocast::rpc
