#include "client/agent/agent_metrics.h"

#include <prometheus/collectable.h>
#include <prometheus/exposer.h>
#include <prometheus/metric_family.h>

#include <exception>
#include <utility>
#include <vector>

#include "server/base/listen_address.h"

namespace zerocast {
namespace {

using Labels = std::vector<prometheus::ClientMetric::Label>;
using Samples = std::vector<std::pair<Labels, int64_t>>;

prometheus::MetricFamily Family(const std::string& name, const std::string& help,
                                prometheus::MetricType type, const Samples& samples) {
  prometheus::MetricFamily family;
  family.name = name;
  family.help = help;
  family.type = type;
  for (const auto& [labels, value] : samples) {
    prometheus::ClientMetric metric;
    metric.label = labels;
    (type == prometheus::MetricType::Counter ? metric.counter.value : metric.gauge.value) =
        static_cast<double>(value);
    family.metric.push_back(std::move(metric));
  }
  return family;
}

prometheus::MetricFamily Counter(const std::string& name, const std::string& help,
                                 const Samples& samples) {
  return Family(name, help, prometheus::MetricType::Counter, samples);
}

prometheus::MetricFamily Gauge(const std::string& name, const std::string& help, int64_t value) {
  return Family(name, help, prometheus::MetricType::Gauge, {{{}, value}});
}

// All that there can be, those that have not happened with 0: a memory that lies on a GPU is given
// shared only.
Samples HandOvers(const AgentStats& stats) {
  Samples samples;
  for (const auto& [mode, way] :
       {std::pair("shared", "memfd"), std::pair("private", "memfd"),
        std::pair("shared", "cuda_vmm"), std::pair("shared", "cuda_ipc"),
        std::pair("shared", "host_copy"), std::pair("private", "host_copy")}) {
    const auto found = stats.handed_over.find({mode, way});
    samples.push_back(
        {{{"mode", mode}, {"way", way}}, found == stats.handed_over.end() ? 0 : found->second});
  }
  return samples;
}

class AgentCollectable : public prometheus::Collectable {
 public:
  explicit AgentCollectable(const Agent* agent) : agent_(agent) {}

  std::vector<prometheus::MetricFamily> Collect() const override {
    const AgentStats stats = agent_->stats();
    return {
        Counter("zerocast_agent_read_bytes_total", "Bytes read from checkpoint files.",
                {{{}, stats.bytes_read}}),
        Counter("zerocast_agent_sent_bytes_total", "Payload bytes sent to other nodes.",
                {{{}, stats.bytes_sent}}),
        Counter("zerocast_agent_received_bytes_total", "Payload bytes received from other nodes.",
                {{{}, stats.bytes_received}}),
        Counter("zerocast_agent_loads_total", "Loads that ended on this node, by outcome.",
                {{{{"outcome", "ready"}}, stats.loads_ready},
                 {{{"outcome", "failed"}}, stats.loads_failed},
                 {{{"outcome", "cancelled"}}, stats.loads_cancelled}}),
        Counter("zerocast_agent_loads_expired_total",
                "Loads of which shards were freed because no process took them in time.",
                {{{}, stats.loads_expired}}),
        Counter("zerocast_agent_hand_overs_total",
                "Shards handed over to training processes, by mode and way.", HandOvers(stats)),
        Gauge("zerocast_agent_loads_held", "Loads in work, or with shards on this node.",
              stats.loads_held),
        Gauge("zerocast_agent_arena_bytes", "Bytes of all arenas that the agent owns.",
              stats.arena_bytes),
        Gauge("zerocast_agent_cache_bytes",
              "Bytes of shards of ended loads that are kept for other loads (--cache-bytes).",
              stats.cache_bytes),
        Counter(
            "zerocast_agent_cache_shards_total",
            "Shards of loads on this node: hit, taken from those that were here; miss, read or "
            "fetched from other agents.",
            {{{{"result", "hit"}}, stats.cache_hits}, {{{"result", "miss"}}, stats.cache_misses}}),
        Counter("zerocast_agent_cache_evictions_total",
                "Kept shards that were freed to make room for others.",
                {{{}, stats.cache_evictions}}),
        Gauge("zerocast_agent_stuck_file_calls",
              "Threads left behind in calls to file systems that do not answer.",
              stats.stuck_file_calls),
        Gauge("zerocast_agent_registered", "1 while the server has accepted this agent.",
              stats.registered ? 1 : 0),
    };
  }

 private:
  const Agent* const agent_;
};

}  // namespace

struct MetricsServer::Rep {
  std::shared_ptr<AgentCollectable> collectable;
  std::unique_ptr<prometheus::Exposer> exposer;
};

MetricsServer::MetricsServer(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}

MetricsServer::~MetricsServer() = default;

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(const std::string& listen,
                                                                    const Agent* agent) {
  auto rep = std::make_unique<Rep>();
  rep->collectable = std::make_shared<AgentCollectable>(agent);
  try {
    rep->exposer = std::make_unique<prometheus::Exposer>(listen);
  } catch (const std::exception& error) {
    return CannotListen(listen, error.what());
  }
  rep->exposer->RegisterCollectable(rep->collectable);
  return std::unique_ptr<MetricsServer>(new MetricsServer(std::move(rep)));
}

}  // namespace zerocast
