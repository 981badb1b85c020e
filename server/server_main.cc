// zerocast-server: the server as a process.
#include <signal.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "server/base/errors.h"
#include "server/base/exit_code.h"
#include "server/base/parent.h"
#include "server/base/utf8.h"
#include "server/conversion/catalogue.h"
#include "server/rpc/server.h"

namespace {

// One JSON object a line; the message may hold anything.
class JsonFormatter final : public spdlog::formatter {
 public:
  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& out) override {
    const nlohmann::json line = {
        {"time", absl::FormatTime(absl::FromChrono(message.time), absl::UTCTimeZone())},
        {"level", std::string(spdlog::level::to_string_view(message.level).data(),
                              spdlog::level::to_string_view(message.level).size())},
        {"message", std::string(message.payload.data(), message.payload.size())}};
    const std::string text =
        line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
    out.append(text.data(), text.data() + text.size());
  }
  std::unique_ptr<spdlog::formatter> clone() const override {
    return std::make_unique<JsonFormatter>();
  }
};

void SetUpLog(const std::string& level, const std::string& format) {
  auto logger = spdlog::stderr_logger_mt("zerocast-server");
  if (format == "json") logger->set_formatter(std::make_unique<JsonFormatter>());
  logger->set_level(spdlog::level::from_str(level));
  logger->flush_on(spdlog::level::trace);
  spdlog::set_default_logger(std::move(logger));
}

absl::Status WritePort(const std::string& path, int port) {
  // Renamed into place: a script that waits for the file never reads half of it.
  const std::string partial = path + ".partial";
  std::ofstream file(partial);
  file << port << "\n";
  file.close();
  if (!file || std::rename(partial.c_str(), path.c_str()) != 0) {
    return zerocast::ErrnoStatus(errno, absl::StrCat("write the port to ", path));
  }
  return absl::OkStatus();
}

int Fail(const absl::Status& status) {
  std::cerr << "zerocast-server: " << zerocast::EscapeControls(status.message(), "\n") << "\n";
  return zerocast::ExitCode(status);
}

// What --drain-timeout and --heartbeat-interval take.
const CLI::Validator kDuration(
    [](const std::string& text) -> std::string {
      absl::Duration duration;
      if (absl::ParseDuration(text, &duration) && duration >= absl::ZeroDuration() &&
          duration <= absl::Hours(24)) {
        return "";
      }
      return "must be a duration such as 30s or 500ms, at most 24h";
    },
    "DURATION");

const CLI::Validator kLongDuration(
    [](const std::string& text) -> std::string {
      absl::Duration duration;
      if (absl::ParseDuration(text, &duration) && duration >= absl::ZeroDuration()) return "";
      return "must be a duration such as 24h, or inf";
    },
    "DURATION");

absl::Duration ToDuration(const std::string& text) {
  absl::Duration duration;
  absl::ParseDuration(text, &duration);  // kDuration has seen it
  return duration;
}

int Run(zerocast::Server::Options options, const std::string& port_file, pid_t parent) {
  if (parent != 0) {
    const absl::Status status = zerocast::EndWithParent(parent);
    if (!status.ok()) return Fail(status);
  }
  // Blocked in every thread, taken by sigwait below: a signal handler could do nothing useful.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);

  // A rule table that does not hold is found before a job needs it.
  for (const absl::string_view dialect : zerocast::kDialects) {
    const absl::Status table = zerocast::BuiltInCatalogue(dialect).status();
    if (!table.ok()) return Fail(table);
  }
  auto server = zerocast::Server::Start(std::move(options));
  if (!server.ok()) return Fail(server.status());
  if (!port_file.empty()) {
    const absl::Status written = WritePort(port_file, (*server)->port());
    if (!written.ok()) return Fail(written);
  }
  std::cout << "listening on " << (*server)->address() << std::endl;
  int signal_number = 0;
  while (sigwait(&signals, &signal_number) != 0) {
  }
  spdlog::info("signal {}: draining", signal_number);
  // A second signal ends the process at once.
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
  (*server)->Shutdown();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("zerocast-server: resolves configs, plans loads and directs the agents");
  app.set_version_flag("--version", zerocast::Server::Version());
  zerocast::Server::Options options;
  options.listen = "127.0.0.1:50051";
  std::string drain_timeout = "30s", heartbeat = "5s", keep_ended_jobs = "24h";
  std::string log_level = "info", log_format = "json", port_file;
  app.add_option("--listen", options.listen, "host:port (port 0: any free one) or unix:/path")
      ->capture_default_str();
  app.add_option("--health-listen", options.health_listen,
                 "host:port of a second port with the health service alone");
  app.add_option("--metrics-listen", options.metrics_listen, "host:port of /metrics (Prometheus)");
  app.add_option("--store", options.store, "memory, or sqlite:PATH")->capture_default_str();
  app.add_option("--drain-timeout", drain_timeout, "how long a stop waits for active loads to end")
      ->check(kDuration)
      ->capture_default_str();
  app.add_option("--heartbeat-interval", heartbeat,
                 "how often agents report; given up after three missed")
      ->check(kDuration)
      ->capture_default_str();
  app.add_option("--keep-ended-jobs", keep_ended_jobs,
                 "how long jobs that had a lease are kept when they are over; others stay until "
                 "they are deleted")
      ->check(kLongDuration)
      ->capture_default_str();
  app.add_flag("--reflection", options.reflection, "offer gRPC server reflection");
  app.add_option("--log-level", log_level, "least level that is logged to stderr")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error", "off"}))
      ->capture_default_str();
  app.add_option("--log-format", log_format, "one JSON object a line, or text")
      ->check(CLI::IsMember({"json", "text"}))
      ->capture_default_str();
  app.add_option("--print-port-file", port_file, "write the port that is listened on to this file");
  pid_t parent = 0;
  app.add_option("--end-with-parent", parent,
                 "be killed when this process, which started the server, ends")
      ->check(CLI::PositiveNumber)
      ->type_name("PID");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    constexpr int kUsage = 2;
    return app.exit(error) == 0 ? 0 : kUsage;
  }
  options.drain_timeout = ToDuration(drain_timeout);
  options.heartbeat_interval = ToDuration(heartbeat);
  options.keep_ended_jobs = ToDuration(keep_ended_jobs);
  SetUpLog(log_level, log_format);
  return Run(std::move(options), port_file, parent);
}
