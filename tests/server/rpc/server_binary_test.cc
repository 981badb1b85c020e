// zerocast-server as a process: flags, port file, signals, exit codes.
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "tests/server/rpc/health_client.h"
#include "tests/server/rpc/server_fixture.h"
#include "tests/temp_dir.h"

extern char** environ;

namespace zerocast {
namespace {

using ::testing::HasSubstr;

// A zerocast-server that this test has started; killed at the end if it still runs.
class ServerProcess {
 public:
  ServerProcess(const TempDir& dir, const std::string& name, std::vector<std::string> flags)
      : out_(dir.File(name + ".out")),
        err_(dir.File(name + ".err")),
        port_(dir.File(name + ".port")) {
    std::vector<std::string> args = {std::string(std::getenv("ZC_BIN_DIR")) + "/zerocast-server",
                                     "--print-port-file=" + port_};
    args.insert(args.end(), flags.begin(), flags.end());
    std::vector<char*> argv;
    for (std::string& arg : args) argv.push_back(arg.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    const int mode = O_WRONLY | O_CREAT | O_TRUNC;
    posix_spawn_file_actions_addopen(&actions, 1, out_.c_str(), mode, 0600);
    posix_spawn_file_actions_addopen(&actions, 2, err_.c_str(), mode, 0600);
    EXPECT_EQ(posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
  }
  ~ServerProcess() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
  }

  void Signal(int number) { ::kill(pid_, number); }
  // The exit code, or -1 when it does not end within 20 s or ends by a signal.
  int WaitForExit() {
    for (int i = 0; i < 2000; ++i) {
      int status = 0;
      if (::waitpid(pid_, &status, WNOHANG) == pid_) {
        pid_ = -1;
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return -1;
  }
  // "127.0.0.1:PORT" once the port file is there; "" after 20 s.
  std::string WaitForAddress() {
    for (int i = 0; i < 2000; ++i) {
      std::ifstream file(port_);
      int port = 0;
      if (file >> port) return "127.0.0.1:" + std::to_string(port);
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return "";
  }
  std::string Out() const { return Read(out_); }
  std::string Err() const { return Read(err_); }

 private:
  static std::string Read(const std::string& path) {
    std::stringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
  }
  const std::string out_, err_, port_;
  pid_t pid_ = -1;
};

TEST(ServerBinary, ListensTellsItsPortAndStopsGracefully) {
  TempDir dir;
  ServerProcess server(dir, "s", {"--listen=127.0.0.1:0", "--metrics-listen=127.0.0.1:0"});
  const std::string address = server.WaitForAddress();
  ASSERT_NE(address, "") << server.Err();
  EXPECT_EQ(CheckHealth(address, "readiness"), Health::kServing);
  server.Signal(SIGTERM);
  EXPECT_EQ(server.WaitForExit(), 0) << server.Err();
  EXPECT_EQ(server.Out(), "listening on " + address + "\n");
  EXPECT_THAT(server.Err(), HasSubstr(R"("level":"info")"));
}

TEST(ServerBinary, ASecondOneOnThePortExitsNamingTheAddress) {
  TempDir dir;
  ServerProcess first(dir, "a", {"--listen=127.0.0.1:0"});
  const std::string address = first.WaitForAddress();
  ASSERT_NE(address, "") << first.Err();
  ServerProcess second(dir, "b", {"--listen=" + address});
  EXPECT_EQ(second.WaitForExit(), 1);
  EXPECT_THAT(second.Err(), HasSubstr("listen on " + address));
  first.Signal(SIGINT);
  EXPECT_EQ(first.WaitForExit(), 0);
}

TEST(ServerBinary, AKilledServerKeepsWhatItAcknowledged) {
  TempDir dir;
  const std::vector<std::string> flags = {"--listen=127.0.0.1:0",
                                          "--store=sqlite:" + dir.File("state.db")};
  v1::CreateJobRequest request;
  request.set_request_id("once");
  request.mutable_spec()->set_checkpoint_path("/data/ckpt");
  request.mutable_spec()->mutable_topology()->set_world_size(1);
  std::vector<std::string> answers;
  for (const char* name : {"a", "b"}) {
    ServerProcess server(dir, name, flags);
    const std::string address = server.WaitForAddress();
    ASSERT_NE(address, "") << server.Err();
    const auto stub =
        v1::JobService::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    v1::CreateJobResponse response;
    ASSERT_TRUE(stub->CreateJob(&context, request, &response).ok());
    answers.push_back(response.SerializeAsString());
    server.Signal(SIGKILL);
    server.WaitForExit();
  }
  EXPECT_EQ(answers[0], answers[1]);
}

TEST(ServerBinary, ItsLogTellsHowLoadsBeginAndEnd) {
  TempDir dir;
  ServerProcess server(dir, "s", {"--listen=127.0.0.1:0"});
  const std::string address = server.WaitForAddress();
  ASSERT_NE(address, "") << server.Err();
  const auto channel = grpc::CreateChannel(address, grpc::InsecureChannelCredentials());
  const auto jobs = v1::JobService::NewStub(channel);
  const auto loads = v1::LoadService::NewStub(channel);
  v1::CreateJobRequest spec;
  spec.mutable_spec()->set_checkpoint_path("/data/ckpt");
  spec.mutable_spec()->mutable_topology()->set_world_size(1);
  spec.mutable_spec()->mutable_options()->mutable_stage_timeout()->set_nanos(1'000'000);
  std::vector<std::string> names;
  for (const bool cancel : {false, true}) {
    if (cancel) spec.mutable_spec()->mutable_options()->mutable_stage_timeout()->set_seconds(600);
    grpc::ClientContext job_context, load_context, end_context;
    for (grpc::ClientContext* context : {&job_context, &load_context, &end_context}) {
      context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    }
    v1::CreateJobResponse job;
    ASSERT_TRUE(jobs->CreateJob(&job_context, spec, &job).ok());
    v1::CreateLoadRequest request;
    request.set_job(job.job().name());
    v1::CreateLoadResponse load;
    ASSERT_TRUE(loads->CreateLoad(&load_context, request, &load).ok());
    names.push_back(load.load().name() + " of " + job.job().name());
    if (cancel) {
      v1::CancelLoadRequest end;
      end.set_name(load.load().name());
      v1::CancelLoadResponse ended;
      ASSERT_TRUE(loads->CancelLoad(&end_context, end, &ended).ok());
    } else {
      v1::WatchLoadRequest watch;
      watch.set_name(load.load().name());
      const auto updates = loads->WatchLoad(&end_context, watch);
      v1::WatchLoadResponse update;
      while (updates->Read(&update)) continue;
      EXPECT_EQ(update.load().state(), v1::LOAD_STATE_FAILED);
    }
  }
  server.Signal(SIGTERM);
  EXPECT_EQ(server.WaitForExit(), 0);
  std::istringstream log(server.Err());
  std::vector<std::string> of_loads;
  for (std::string line; std::getline(log, line);) {
    if (line.find("loads/") != std::string::npos && line.find(" of jobs/") != std::string::npos) {
      of_loads.push_back(line);
    }
  }
  ASSERT_EQ(of_loads.size(), 4) << server.Err();
  EXPECT_THAT(of_loads[0], HasSubstr(names[0] + " is created: /data/ckpt, 1 ranks on 1 nodes"));
  EXPECT_THAT(of_loads[1], HasSubstr(names[0] + " is FAILED after "));
  EXPECT_THAT(of_loads[1], HasSubstr(" s: NOT_ENOUGH_AGENTS: "));
  EXPECT_THAT(of_loads[1], HasSubstr(R"("level":"warning")"));
  EXPECT_THAT(of_loads[2], HasSubstr(names[1] + " is created"));
  EXPECT_THAT(of_loads[3], HasSubstr(names[1] + " is CANCELLED after "));
  EXPECT_THAT(of_loads[3], HasSubstr(R"("level":"info")"));
}

TEST(ServerBinary, AWrongFlagIsAUsageError) {
  TempDir dir;
  ServerProcess server(dir, "s", {"--drain-timeout=soon"});
  EXPECT_EQ(server.WaitForExit(), 2);
  EXPECT_THAT(server.Err(), HasSubstr("must be a duration"));
}

}  // namespace
}  // namespace zerocast
