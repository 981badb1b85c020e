// zerocast-agent as a process: start, health, metrics, stop.

#include <fcntl.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/byte_buffer.h>
#include <netinet/in.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "tests/status_matchers.h"
#include "tests/temp_dir.h"

extern char** environ;

namespace zerocast {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr int kServing = 1, kNotServing = 2, kNoAnswer = -1;

int FreePort() {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  EXPECT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length);
  ::close(fd);
  return ntohs(address.sin_port);
}

class Process {
 public:
  Process(const std::vector<std::string>& arguments, const std::string& log) : log_(log) {
    const std::string binary = absl::StrCat(std::getenv("ZC_BIN_DIR"), "/zerocast-agent");
    std::vector<char*> argv = {const_cast<char*>(binary.c_str())};
    for (const std::string& argument : arguments) {
      argv.push_back(const_cast<char*>(argument.c_str()));
    }
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_addopen(&actions, 2, log.c_str(), O_CREAT | O_WRONLY | O_TRUNC,
                                       0600);
    EXPECT_EQ(::posix_spawn(&pid_, binary.c_str(), &actions, nullptr, argv.data(), environ), 0);
    ::posix_spawn_file_actions_destroy(&actions);
  }
  ~Process() {
    if (pid_ > 0) Stop(SIGKILL);
  }
  // Sends a signal, unless 0, and returns the exit status.
  int Stop(int signal) {
    if (signal != 0) ::kill(pid_, signal);
    int status = 0;
    EXPECT_EQ(::waitpid(pid_, &status, 0), pid_);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  std::string Log() const {
    std::ostringstream text;
    text << std::ifstream(log_).rdbuf();
    return text.str();
  }

 private:
  const std::string log_;
  pid_t pid_ = -1;
};

// grpc.health.v1.Health/Check: a request is one string field, an answer one enum field.
int CheckHealth(const std::string& address, const std::string& service) {
  grpc::GenericStub stub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
  std::string bytes;
  if (!service.empty()) {
    bytes = std::string("\x0a") + static_cast<char>(service.size()) + service;
  }
  const grpc::Slice slice(bytes);
  const grpc::ByteBuffer request(&slice, 1);
  grpc::ClientContext context;
  context.set_wait_for_ready(true);
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  grpc::CompletionQueue queue;
  auto call = stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", request, &queue);
  call->StartCall();
  grpc::ByteBuffer answer;
  grpc::Status status;
  call->Finish(&answer, &status, nullptr);
  void* tag;
  bool ok;
  queue.Next(&tag, &ok);
  grpc::Slice flat;
  if (!status.ok() || !answer.DumpToSingleSlice(&flat).ok() || flat.size() != 2) return kNoAnswer;
  return flat.begin()[1];
}

std::string HttpGet(int port, const std::string& path) {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  std::string answer;
  if (::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0) {
    const std::string request =
        absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    EXPECT_EQ(::write(fd, request.data(), request.size()), static_cast<ssize_t>(request.size()));
    char chunk[4096];
    for (ssize_t got; (got = ::read(fd, chunk, sizeof(chunk))) > 0;) {
      answer.append(chunk, static_cast<size_t>(got));
    }
  }
  ::close(fd);
  return answer;
}

class AgentMainTest : public ::testing::Test {
 protected:
  std::vector<std::string> Arguments() const {
    return {"--server",         "unix:" + dir_.File("none.sock"),
            "--node",           "node-a",
            "--socket",         dir_.File("agent.sock"),
            "--root",           dir_.path(),
            "--health-listen",  absl::StrCat("127.0.0.1:", health_port_),
            "--metrics-listen", absl::StrCat("127.0.0.1:", metrics_port_)};
  }
  const TempDir dir_;
  const int health_port_ = FreePort(), metrics_port_ = FreePort();
};

TEST_F(AgentMainTest, IsAliveButNotReadyWithoutAServerAndStopsBySignal) {
  Process agent(Arguments(), dir_.File("log"));
  const std::string health = absl::StrCat("127.0.0.1:", health_port_);
  EXPECT_EQ(CheckHealth(health, ""), kNotServing);
  EXPECT_EQ(CheckHealth(health, "liveness"), kServing);
  EXPECT_EQ(CheckHealth(health, "readiness"), kNotServing);
  EXPECT_EQ(CheckHealth(health, "other"), kNoAnswer);
  const std::string metrics = HttpGet(metrics_port_, "/metrics");
  EXPECT_THAT(metrics, HasSubstr("\nzerocast_agent_registered 0"));
  EXPECT_THAT(metrics,
              HasSubstr("zerocast_agent_hand_overs_total{mode=\"shared\",way=\"memfd\"} 0"));
  EXPECT_THAT(metrics, HasSubstr("\nzerocast_agent_stuck_file_calls 0"));
  EXPECT_THAT(metrics, HasSubstr("\nzerocast_agent_loads_expired_total 0"));
  EXPECT_TRUE(std::filesystem::exists(dir_.File("agent.sock")));
  EXPECT_EQ(agent.Stop(SIGTERM), 0) << agent.Log();
  EXPECT_FALSE(std::filesystem::exists(dir_.File("agent.sock")));
}

TEST_F(AgentMainTest, ASecondAgentOnTheSocketSaysSo) {
  Process agent(Arguments(), dir_.File("log"));
  ASSERT_EQ(CheckHealth(absl::StrCat("127.0.0.1:", health_port_), "liveness"), kServing);
  while (HttpGet(metrics_port_, "/metrics").empty()) ::usleep(10000);  // now it listens
  std::vector<std::string> arguments = Arguments();
  arguments.resize(8);  // without health and metrics
  Process second(arguments, dir_.File("log2"));
  EXPECT_EQ(second.Stop(0), 4);
  EXPECT_THAT(second.Log(), HasSubstr(dir_.File("agent.sock")));
  EXPECT_EQ(agent.Stop(SIGINT), 0);
}

TEST_F(AgentMainTest, AMissingFolderOfTheSocketIsNamedWithWhatToDo) {
  std::vector<std::string> arguments = Arguments();
  arguments[5] = dir_.File("none/agent.sock");
  Process agent(arguments, dir_.File("log"));
  EXPECT_EQ(agent.Stop(0), 3);
  EXPECT_THAT(
      agent.Log(),
      HasSubstr(absl::StrCat("its folder ", dir_.File("none"), " does not exist; make it ",
                             "(install -d ", dir_.File("none"), ") or name another ", "--socket")));
}

TEST_F(AgentMainTest, WrongFlagsAreUsageErrors) {
  EXPECT_EQ(Process({}, dir_.File("log")).Stop(0), 2);
  std::vector<std::string> arguments = Arguments();
  arguments.insert(arguments.end(), {"--socket-mode", "rw"});
  Process agent(arguments, dir_.File("log"));
  EXPECT_EQ(agent.Stop(0), 2);
  EXPECT_THAT(agent.Log(), HasSubstr("socket-mode"));
  for (const std::string flag : {"--unclaimed-ttl", "--file-timeout"}) {
    for (const std::string value : {"soon", "0s", "-1h"}) {
      std::vector<std::string> with_flag = Arguments();
      with_flag.push_back(absl::StrCat(flag, "=", value));
      Process wrong(with_flag, dir_.File("log"));
      EXPECT_EQ(wrong.Stop(0), 2);
      EXPECT_THAT(wrong.Log(), HasSubstr(flag));
    }
  }
}

TEST_F(AgentMainTest, ATakenPortIsNamedWithWhatToDo) {
  Process agent(Arguments(), dir_.File("log"));
  ASSERT_EQ(CheckHealth(absl::StrCat("127.0.0.1:", health_port_), "liveness"), kServing);
  while (HttpGet(metrics_port_, "/metrics").empty()) ::usleep(10000);  // now it listens there too
  const int ports[] = {health_port_, metrics_port_};
  for (int i = 0; i < 2; ++i) {
    const char* const flag = i == 0 ? "--health-listen" : "--metrics-listen";
    std::vector<std::string> arguments = Arguments();
    arguments.resize(8);
    const std::string address = absl::StrCat("127.0.0.1:", ports[i]);
    arguments.insert(arguments.end(), {flag, address});
    Process second(arguments, dir_.File("log2"));
    EXPECT_EQ(second.Stop(0), 5);
    EXPECT_THAT(second.Log(), HasSubstr(absl::StrCat(
                                  "zerocast-agent: UNAVAILABLE: ", flag, ": listen on ", address,
                                  ": another process listens there; stop it, or choose another "
                                  "address\n")));
    EXPECT_THAT(second.Log(), Not(HasSubstr("chttp2")));  // gRPC's own line
  }
}

TEST_F(AgentMainTest, AnAddressThatIsNoneIsAUsageError) {
  const struct {
    std::string address, says;
  } cases[] = {{"x", "must be host:port or unix:/path, was 'x'"},
               {"127.0.0.1:70000", "must be host:port or unix:/path, was '127.0.0.1:70000'"},
               {"192.0.2.1:0", "'192.0.2.1' is not an address of this machine"}};
  for (const std::string flag : {"health-listen", "metrics-listen"}) {
    for (const auto& c : cases) {
      std::vector<std::string> arguments = Arguments();
      arguments.resize(8);
      arguments.insert(arguments.end(), {"--" + flag, c.address});
      Process agent(arguments, dir_.File("log"));
      EXPECT_EQ(agent.Stop(0), 2) << c.address;
      EXPECT_THAT(agent.Log(), HasSubstr(absl::StrCat(flag, ": ", c.says)));
      EXPECT_THAT(agent.Log(), Not(HasSubstr("chttp2")));
    }
  }
}

}  // namespace
}  // namespace zerocast
