// The agent of a node, as a process of its own.

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <signal.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/prctl.h>
#include <time.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "client/agent/agent.h"
#include "client/agent/agent_metrics.h"
#include "client/agent/data_path_flags.h"
#include "client/agent/fresh_memory.h"
#include "client/agent/help_format.h"
#include "client/agent/log.h"
#include "kernels/base/status_macros.h"
#include "server/base/byte_size.h"
#include "server/base/errors.h"
#include "server/base/exit_code.h"
#include "server/base/listen_address.h"
#include "server/base/parent.h"

namespace zerocast {
namespace {

constexpr char kLiveness[] = "liveness";
constexpr char kReadiness[] = "readiness";

const CLI::Validator kDuration(
    [](const std::string& text) -> std::string {
      absl::Duration duration;
      if (absl::ParseDuration(text, &duration) && duration > absl::ZeroDuration()) return "";
      return "must be a duration such as 90s, 30m or 1h, or inf";
    },
    "DURATION");

absl::Duration ToDuration(const std::string& text) {
  absl::Duration duration;
  absl::ParseDuration(text, &duration);  // kDuration has seen it
  return duration;
}

// Ends the agent as soon as no process uses memory of it any more (HANDOVER.md, "cuda_ipc").
constexpr int kLeave = SIGUSR1;
constexpr timespec kReadinessPoll = {0, 200'000'000};

struct Flags {
  AgentOptions agent;
  std::string socket_mode = "0660";
  std::string health_listen;
  std::string metrics_listen;
  std::string log_level = "info";
  DataPathFlags data_path;
  std::string max_buffer_memory = "256M";
  std::string unclaimed_ttl = "1h";
  std::string file_timeout = "60s";
  pid_t parent = 0;
};

void AddFlags(CLI::App* app, Flags* flags) {
  app->add_option("--server", flags->agent.server_address, "Address of the server")
      ->required()
      ->envname("ZEROCAST_SERVER")
      ->type_name("ADDR");
  app->add_option("--node", flags->agent.node_name, "This node's name, unique in the cluster")
      ->required()
      ->envname("ZEROCAST_NODE")
      ->type_name("NAME");
  app->add_option(
         "--socket", flags->agent.socket_path,
         "Unix socket for training processes; below /tmp or /dev/shm, which may be private "
         "to a job, it is taken with a warning")
      ->type_name("PATH")
      ->capture_default_str();
  app->add_option("--socket-mode", flags->socket_mode, "Permission bits of the socket, octal")
      ->capture_default_str();
  app->add_option("--allow-uid", flags->agent.allowed_uids,
                  "A user that may attach, besides the agent's own and root; may be repeated")
      ->type_name("UID");
  app->add_option("--bulk-host", flags->agent.bulk_host,
                  "Address, host name or interface where the other agents reach this one")
      ->type_name("HOST")
      ->capture_default_str();
  app->add_option("--root", flags->agent.roots,
                  "A folder that checkpoints may lie in; may be repeated")
      ->required()
      ->type_name("DIR");
  app->add_flag("--no-gpu", flags->agent.no_gpu,
                "Open no GPU: shards for GPUs are made in host memory, and the processes that take "
                "them over copy them; alike on all nodes of a load");
  app->add_option("--max-loads", flags->agent.max_loads, "Loads at a time, held shards included")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  flags->data_path.AddTo(app, "");
  app->add_option("--max-buffer-memory", flags->max_buffer_memory,
                  "The most memory that one load may use beyond its shards; a load may allow less")
      ->type_name("SIZE")
      ->capture_default_str();
  app->add_option(
         "--unclaimed-ttl", flags->unclaimed_ttl,
         "Shards that no process has taken this long after their load was ready are freed; "
         "inf: they stay until their load is cancelled")
      ->check(kDuration)
      ->capture_default_str();
  app->add_option(
         "--cache-bytes", flags->agent.cache_bytes,
         "Shards of ended loads are kept for others of the same checkpoint, up to this many "
         "bytes (suffixes K, M, G, T: of 1024)")
      ->transform(CLI::AsSizeValue(false))
      ->check(CLI::NonNegativeNumber)
      ->type_name("SIZE")
      ->capture_default_str();
  app->add_option("--file-timeout", flags->file_timeout,
                  "The longest that one call to a file system may last when a checkpoint is "
                  "inspected; a load brings its own timeout")
      ->check(kDuration)
      ->capture_default_str();
  app->add_option("--health-listen", flags->health_listen,
                  "Address of the gRPC health service; names \"\", liveness, readiness")
      ->type_name("ADDR");
  app->add_option("--metrics-listen", flags->metrics_listen, "Address of Prometheus' /metrics")
      ->type_name("ADDR");
  app->add_option("--end-with-parent", flags->parent,
                  "Be killed when this process, which started the agent, ends")
      ->check(CLI::PositiveNumber)
      ->type_name("PID");
  app->add_option("--log-level", flags->log_level, "How much is written to stderr")
      ->check(CLI::IsMember({"debug", "info", "warn", "error"}))
      ->capture_default_str();
}

void SetReady(grpc::Server* health, bool ready) {
  if (health == nullptr) return;
  health->GetHealthCheckService()->SetServingStatus(kReadiness, ready);
  health->GetHealthCheckService()->SetServingStatus("", ready);
}

// gRPC and the metrics' HTTP server do not say why they cannot listen.
absl::Status CheckListen(const char* flag, const std::string& listen) {
  const absl::Status status = CheckListenAddress(flag, listen);
  return absl::IsInvalidArgument(status) ? status : Annotate(status, absl::StrCat("--", flag));
}

// `nothing_else` must outlive the server.
absl::StatusOr<std::unique_ptr<grpc::Server>> StartHealth(
    const std::string& listen, grpc::CallbackGenericService* nothing_else) {
  if (listen.empty()) return std::unique_ptr<grpc::Server>();
  ZC_RETURN_IF_ERROR(CheckListen("health-listen", listen));
  grpc::EnableDefaultHealthCheckService(true);
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // gRPC starts no server without a service of ours; this one refuses every call but health's.
  builder.RegisterCallbackGenericService(nothing_else);
  builder.AddListeningPort(listen, grpc::InsecureServerCredentials(), &port);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    return CannotListen(listen, "gRPC refused it, or another process just took it");
  }
  server->GetHealthCheckService()->SetServingStatus(kLiveness, true);
  SetReady(server.get(), false);
  spdlog::info("health service on port {}", port);
  return server;
}

// A signal that has arrived; 0, or less, when there is none, or only another kLeave.
int TakeSignal(const sigset_t& signals) {
  constexpr timespec kNow = {0, 0};
  const int signal = ::sigtimedwait(&signals, nullptr, &kNow);
  return signal == kLeave ? 0 : signal;
}

// Keeps readiness up to date until a signal of the set arrives, and returns it.
int WaitForSignal(const sigset_t& signals, const Agent& agent, grpc::Server* health) {
  bool ready = false;
  while (true) {
    const int signal = ::sigtimedwait(&signals, nullptr, &kReadinessPoll);
    if (signal > 0) return signal;
    if (agent.registered() == ready) continue;
    ready = !ready;
    SetReady(health, ready);
  }
}

absl::Status ParseSocketMode(const std::string& text, mode_t* mode) {
  size_t end = 0;
  unsigned long bits = 0;  // NOLINT: std::stoul's type
  if (text.empty() || text.find_first_not_of("01234567") != std::string::npos || text.size() > 4 ||
      (bits = std::stoul(text, &end, 8)) > 0777) {
    return InvalidFields({{"socket-mode", absl::StrCat("must be like 0660, was ", text)}});
  }
  *mode = static_cast<mode_t>(bits);
  return absl::OkStatus();
}

absl::Status ReadDataPathFlags(Flags* flags) {
  std::vector<FieldViolation> violations;
  flags->agent.max_buffer_bytes = ByteSizeOfFlag("--max-buffer-memory", flags->max_buffer_memory,
                                                 flags->agent.max_buffer_bytes, &violations);
  const absl::Status of_data_path = flags->data_path.Apply(&flags->agent);
  for (FieldViolation& violation : ViolationsOf(of_data_path)) {
    violations.push_back(std::move(violation));
  }
  return InvalidFields(violations);
}

// Slurm and Kubernetes may give each job a /tmp and a /dev/shm of its own, and its processes do not
// find a socket in the host's.  On a machine without them it works.
void WarnOfPrivateFolder(const std::string& socket_path) {
  const std::string path = std::filesystem::path(socket_path).lexically_normal().string();
  for (const char* const folder : {"/tmp/", "/dev/shm/"}) {
    if (!absl::StartsWith(path, folder)) continue;
    spdlog::warn(
        "socket {} lies below {}: where jobs have their own, their processes cannot attach", path,
        folder);
  }
}

// It is the machine's owner who decides.
void TellOfHugePages() {
  if (SharedMemoryGetsHugePages()) return;
  spdlog::info(
      "shared memory gets no huge pages here; loads are some three times as fast with them: "
      "echo advise > {}",
      SharedHugePagesSetting());
}

absl::Status Run(Flags flags, const sigset_t& signals) {
  if (flags.parent != 0) ZC_RETURN_IF_ERROR(EndWithParent(flags.parent));
  ZC_RETURN_IF_ERROR(ParseSocketMode(flags.socket_mode, &flags.agent.socket_mode));
  ZC_RETURN_IF_ERROR(ReadDataPathFlags(&flags));
  flags.agent.tell_devices = true;
  flags.agent.unclaimed_ttl = ToDuration(flags.unclaimed_ttl);
  flags.agent.file_timeout = ToDuration(flags.file_timeout);
  WarnOfPrivateFolder(flags.agent.socket_path);
  TellOfHugePages();
  grpc::CallbackGenericService nothing_else;
  ZC_ASSIGN_OR_RETURN(const std::unique_ptr<grpc::Server> health,
                      StartHealth(flags.health_listen, &nothing_else));
  const std::string metrics_listen = flags.metrics_listen;
  if (!metrics_listen.empty()) {
    ZC_RETURN_IF_ERROR(CheckListen("metrics-listen", metrics_listen));
  }
  ZC_ASSIGN_OR_RETURN(const std::unique_ptr<Agent> agent, Agent::Start(std::move(flags.agent)));
  std::unique_ptr<MetricsServer> metrics;
  if (!metrics_listen.empty()) {
    ZC_ASSIGN_OR_RETURN(metrics, MetricsServer::Start(metrics_listen, agent.get()));
  }
  const int signal = WaitForSignal(signals, *agent, health.get());
  spdlog::info("stopping: signal {}", signal);
  SetReady(health.get(), false);
  if (signal == kLeave) {
    // From now on it ends with the processes that use its memory, not with its parent.
    ::prctl(PR_SET_PDEATHSIG, 0);
    agent->StopWhenReturned([&signals] { return TakeSignal(signals) > 0; });
  }
  agent->Stop();
  if (health != nullptr) health->Shutdown(std::chrono::system_clock::now());
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  // Before any thread exists: all of them inherit the mask, this one takes the signals.
  sigset_t signals;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGINT);
  ::sigaddset(&signals, SIGTERM);
  ::sigaddset(&signals, kLeave);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  // A limit of file sizes, which Slurm hands on from where a job was submitted, is an error of the
  // arena that it concerns.
  ::signal(SIGXFSZ, SIG_IGN);

  CLI::App app{
      "Loads this node's share of checkpoints and hands the shards to training processes."};
  app.name("zerocast-agent");
  app.formatter(MakeHelpFormatter());
  app.set_version_flag("--version", ZEROCAST_VERSION);
  Flags flags;
  flags.agent.socket_path = "/run/zerocast/agent.sock";
  AddFlags(&app, &flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    // Help and version end here too, with code 0.
    return app.exit(error) == 0 ? 0 : 2;
  }
  spdlog::set_default_logger(spdlog::stderr_logger_mt("zerocast-agent"));
  spdlog::set_level(spdlog::level::from_str(flags.log_level));
  const absl::Status status = Run(std::move(flags), signals);
  if (!status.ok()) std::fprintf(stderr, "zerocast-agent: %s\n", ForLog(status).c_str());
  return ExitCode(status);
}

}  // namespace
}  // namespace zerocast

int main(int argc, char** argv) { return zerocast::Main(argc, argv); }
