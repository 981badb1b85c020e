#include "server/rpc/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/impl/server_builder_option.h>
#include <grpcpp/impl/server_builder_plugin.h>
#include <grpcpp/resource_quota.h>
#include <prometheus/exposer.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <limits>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/mutex.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/base/listen_address.h"
#include "server/conversion/catalogue.h"
#include "server/rpc/checkpoint_registry.h"
#include "server/rpc/config_leases.h"
#include "server/rpc/core.h"
#include "server/rpc/metrics.h"
#include "server/rpc/services.h"
#include "server/store/state_store.h"

namespace zerocast {
namespace {

constexpr absl::string_view kUnix = "unix:";
// How long calls that are still running get at the very end.
constexpr absl::Duration kLastCalls = absl::Seconds(2);
constexpr absl::Duration kWatchPeriod = absl::Milliseconds(500);
// Agreed with the agents and the client library: pings every 20 s, a dead peer is seen within 30 s.
constexpr int kKeepaliveMs = 20000, kKeepaliveTimeoutMs = 10000, kMinPingIntervalMs = 5000;

// gRPC's reflection, once asked for or linked in whole, is on for every server that the process
// makes later; this takes it out again.
class WithoutReflection : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    plugins->erase(std::remove_if(plugins->begin(), plugins->end(),
                                  [](const auto& plugin) {
                                    return plugin->name() == "proto_server_reflection";
                                  }),
                   plugins->end());
  }
};

struct Listener {
  std::unique_ptr<grpc::Server> server;
  int port = 0;  // 0 for a unix socket
};

absl::StatusOr<Listener> Listen(grpc::ServerBuilder* builder, absl::string_view option,
                                const std::string& address, bool reflection) {
  ZC_RETURN_IF_ERROR(CheckListenAddress(option, address));
  if (!reflection) builder->SetOption(std::make_unique<WithoutReflection>());
  // Without this a second server on the port starts too, and takes half of the calls.
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  int port = 0;
  builder->AddListeningPort(address, grpc::InsecureServerCredentials(), &port);
  Listener listener;
  listener.server = builder->BuildAndStart();
  if (listener.server == nullptr || port == 0) {
    return CannotListen(address, "gRPC refused it, or another process just took it");
  }
  listener.port = absl::StartsWith(address, kUnix) ? 0 : port;
  return listener;
}

void SetHealth(grpc::Server* server, bool ready) {
  if (server == nullptr) return;
  grpc::HealthCheckServiceInterface* health = server->GetHealthCheckService();
  if (health == nullptr) return;
  health->SetServingStatus("liveness", true);
  health->SetServingStatus("readiness", ready);
  health->SetServingStatus("", ready);
}

absl::Status CheckOptions(const Server::Options& options) {
  std::vector<FieldViolation> violations;
  const auto require = [&violations](bool good, const char* field, const char* what) {
    if (!good) violations.push_back({field, what});
  };
  require(!options.listen.empty(), "listen", "must not be empty");
  require(options.heartbeat_interval > absl::ZeroDuration(), "heartbeat_interval",
          "must be positive");
  require(options.drain_timeout >= absl::ZeroDuration(), "drain_timeout", "must not be negative");
  require(options.max_call_time > absl::ZeroDuration(), "max_call_time", "must be positive");
  require(
      options.max_request_bytes > 0 && options.max_request_bytes <= std::numeric_limits<int>::max(),
      "max_request_bytes", "must be positive and below 2 GiB");
  require(options.max_threads >= 4, "max_threads", "must be at least 4");
  return InvalidFields(violations);
}

// The address with the real port instead of 0.
std::string RealAddress(const std::string& listen, int port) {
  const size_t colon = listen.rfind(':');
  if (absl::StartsWith(listen, kUnix) || colon == std::string::npos) return listen;
  return absl::StrCat(listen.substr(0, colon), ":", port);
}

}  // namespace

// In the order of their dependence: what is declared later ends earlier.
struct Server::Rep {
  Options options;
  std::unique_ptr<rpc::Core> core;
  std::unique_ptr<rpc::ConfigLeases> leases;
  rpc::Metrics metrics;
  std::vector<std::unique_ptr<grpc::Service>> services;
  grpc::CallbackGenericService nothing_else;
  Listener main;
  Listener health;
  std::unique_ptr<prometheus::Exposer> exposer;
  std::thread watcher;  // keeps health and gauges

  Mutex mutex;
  CondVar changed;
  bool stopping ABSL_GUARDED_BY(mutex) = false;
  bool stopped ABSL_GUARDED_BY(mutex) = false;

  absl::Status StartMain();
  absl::Status StartHealth();
  absl::Status StartMetrics();
  void ShowState(bool ready) {
    SetHealth(main.server.get(), ready);
    SetHealth(health.server.get(), ready);
    metrics.Show(core->Counts(), ready);
    metrics.ShowCheckpoints(core->checkpoints()->CountByState());
  }
  void WatchLoop();
};

absl::Status Server::Rep::StartMain() {
  rpc::Env env;
  env.core = core.get();
  env.metrics = &metrics;
  env.clock = options.clock;
  env.max_call_time = options.max_call_time;
  env.started = options.clock->Steady();
  env.max_request_bytes = options.max_request_bytes;
  services.push_back(std::make_unique<rpc::ConfigServiceImpl>(env, leases.get()));
  services.push_back(std::make_unique<rpc::JobServiceImpl>(env));
  services.push_back(std::make_unique<rpc::LoadServiceImpl>(env));
  services.push_back(std::make_unique<rpc::AgentServiceImpl>(env));
  services.push_back(std::make_unique<rpc::CheckpointServiceImpl>(env, core->checkpoints()));
  services.push_back(std::make_unique<rpc::ServerInfoServiceImpl>(env));

  grpc::ServerBuilder builder;
  grpc::ResourceQuota quota("zerocast");
  quota.SetMaxThreads(options.max_threads);
  builder.SetResourceQuota(quota);
  builder.SetMaxReceiveMessageSize(static_cast<int>(options.max_request_bytes));
  builder.SetMaxSendMessageSize(std::numeric_limits<int>::max());
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             kMinPingIntervalMs);
  for (const auto& service : services) builder.RegisterService(service.get());
  for (grpc::Service* service : options.more_services) builder.RegisterService(service);
  ZC_ASSIGN_OR_RETURN(main, Listen(&builder, "listen", options.listen, options.reflection));
  return absl::OkStatus();
}

absl::Status Server::Rep::StartHealth() {
  if (options.health_listen.empty()) return absl::OkStatus();
  grpc::ServerBuilder builder;
  // gRPC starts no server without a service of ours; this one refuses every call but health's.
  builder.RegisterCallbackGenericService(&nothing_else);
  ZC_ASSIGN_OR_RETURN(health, Listen(&builder, "health_listen", options.health_listen, false));
  return absl::OkStatus();
}

absl::Status Server::Rep::StartMetrics() {
  if (options.metrics_listen.empty()) return absl::OkStatus();
  ZC_RETURN_IF_ERROR(CheckListenAddress("metrics_listen", options.metrics_listen));
  // The HTTP server inside throws when it cannot listen.
  try {
    exposer = std::make_unique<prometheus::Exposer>(options.metrics_listen);
    exposer->RegisterCollectable(metrics.registry());
  } catch (const std::exception& error) {
    return CannotListen(options.metrics_listen, error.what());
  }
  return absl::OkStatus();
}

void Server::Rep::WatchLoop() {
  while (true) {
    {
      MutexLock lock(&mutex);
      if (!stopping) changed.WaitWithTimeout(&mutex, kWatchPeriod);
      if (stopping) return;
    }
    ShowState(core->Healthy());
  }
}

Server::Server(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}
Server::~Server() { Shutdown(); }

absl::StatusOr<std::unique_ptr<Server>> Server::Start(Options options) {
  ZC_RETURN_IF_ERROR(CheckOptions(options));
  ZC_ASSIGN_OR_RETURN(std::unique_ptr<StateStore> store, OpenStore(options.store));
  auto rep = std::make_unique<Rep>();
  rpc::Core::Options core_options;
  core_options.machine.heartbeat_interval = options.heartbeat_interval;
  core_options.machine.keep_ended = options.keep_ended_jobs;
  core_options.max_sessions = options.max_sessions;
  core_options.max_watches = options.max_watches;
  core_options.max_dry_runs = options.max_dry_runs;
  // The other half of the threads serves those who do not wait for the store.
  core_options.max_waiting = std::max(1, options.max_threads / 2);
  ZC_ASSIGN_OR_RETURN(rep->core, rpc::Core::Create(core_options, std::move(store), options.clock));
  ZC_ASSIGN_OR_RETURN(rep->leases,
                      rpc::ConfigLeases::Create({}, rep->core->store(), options.clock));
  rep->options = std::move(options);
  // Both for this server and every one the process makes later; see WithoutReflection.
  if (rep->options.reflection) grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::EnableDefaultHealthCheckService(true);
  std::unique_ptr<Server> server(new Server(std::move(rep)));
  Rep* const r = server->rep_.get();
  ZC_RETURN_IF_ERROR(r->StartMain());
  ZC_RETURN_IF_ERROR(r->StartHealth());
  ZC_RETURN_IF_ERROR(r->StartMetrics());
  r->ShowState(true);
  r->watcher = std::thread([r] { r->WatchLoop(); });
  spdlog::info("zerocast-server {} listens on {}, store {}", Version(), server->address(),
               r->options.store);
  return server;
}

int Server::port() const { return rep_->main.port; }
int Server::health_port() const { return rep_->health.port; }
int Server::metrics_port() const {
  if (rep_->exposer == nullptr) return 0;
  const std::vector<int> ports = rep_->exposer->GetListeningPorts();
  return ports.empty() ? 0 : ports.front();
}
std::string Server::address() const { return RealAddress(rep_->options.listen, port()); }

std::shared_ptr<grpc::Channel> Server::InProcessChannel() {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  return rep_->main.server->InProcessChannel(arguments);
}

void Server::Shutdown() {
  {
    MutexLock lock(&rep_->mutex);
    if (rep_->stopping) {
      while (!rep_->stopped) rep_->changed.Wait(&rep_->mutex);
      return;
    }
    rep_->stopping = true;
    rep_->changed.SignalAll();
  }
  if (rep_->watcher.joinable()) rep_->watcher.join();
  rep_->core->StartDraining();
  rep_->ShowState(false);
  if (rep_->main.server != nullptr) {
    if (!rep_->core->WaitIdle(rep_->options.drain_timeout)) {
      spdlog::warn("stopping although loads are active: they had {}",
                   absl::FormatDuration(rep_->options.drain_timeout));
    }
    rep_->core->EndStreams();
    rep_->main.server->Shutdown(std::chrono::system_clock::now() +
                                absl::ToChronoMilliseconds(kLastCalls));
    rep_->main.server->Wait();
  }
  if (rep_->health.server != nullptr) {
    rep_->health.server->Shutdown(std::chrono::system_clock::now());
    rep_->health.server->Wait();
  }
  rep_->exposer.reset();
  MutexLock lock(&rep_->mutex);
  rep_->stopped = true;
  rep_->changed.SignalAll();
}

void Server::Wait() {
  MutexLock lock(&rep_->mutex);
  while (!rep_->stopped) rep_->changed.Wait(&rep_->mutex);
}

const char* Server::Version() { return ZEROCAST_VERSION; }

}  // namespace zerocast
