// zerocast-server as a process: flags, port file, signals, exit codes.
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <future>
#include <random>
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
  EXPECT_EQ(second.WaitForExit(), 5);
  EXPECT_EQ(second.Err(), "zerocast-server: listen on " + address +
                              ": another process listens there; stop it, or choose another "
                              "address\n");
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

// What a server has answered: it has to be there after whatever happens to the process.
struct Answered {
  std::string request_id;
  v1::CreateJobResponse created;
  std::string load;  // "": its creation was not answered
  int64_t epoch = 0;
  bool cancelled = false;
};

// Calls that are expected to fail when the server is killed.
class Submitter {
 public:
  explicit Submitter(const std::string& address)
      : channel_(grpc::CreateChannel(address, grpc::InsecureChannelCredentials())),
        jobs_(v1::JobService::NewStub(channel_)),
        loads_(v1::LoadService::NewStub(channel_)) {}

  template <typename Stub, typename Request, typename Response>
  bool Call(Stub* stub,
            grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
            const Request& request, Response* response) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    return (stub->*method)(&context, request, response).ok();
  }
  bool CreateJob(const std::string& request_id, v1::CreateJobResponse* response) {
    v1::CreateJobRequest request;
    request.set_request_id(request_id);
    request.mutable_spec()->set_checkpoint_path("/data/ckpt");
    request.mutable_spec()->mutable_topology()->set_world_size(1);
    request.mutable_spec()->mutable_options()->mutable_stage_timeout()->set_seconds(600);
    return Call(jobs_.get(), &v1::JobService::Stub::CreateJob, request, response);
  }
  bool CreateLoad(const std::string& job, v1::CreateLoadResponse* response) {
    v1::CreateLoadRequest request;
    request.set_job(job);
    return Call(loads_.get(), &v1::LoadService::Stub::CreateLoad, request, response);
  }
  bool CancelJob(const std::string& job) {
    v1::CancelJobRequest request;
    request.set_name(job);
    v1::CancelJobResponse response;
    return Call(jobs_.get(), &v1::JobService::Stub::CancelJob, request, &response);
  }
  bool GetJob(const std::string& job, v1::GetJobResponse* response) {
    v1::GetJobRequest request;
    request.set_name(job);
    return Call(jobs_.get(), &v1::JobService::Stub::GetJob, request, response);
  }
  bool GetLoad(const std::string& load, v1::GetLoadResponse* response) {
    v1::GetLoadRequest request;
    request.set_name(load);
    return Call(loads_.get(), &v1::LoadService::Stub::GetLoad, request, response);
  }

 private:
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::JobService::Stub> jobs_;
  std::unique_ptr<v1::LoadService::Stub> loads_;
};

// Submits until the server does not answer any more.
std::vector<Answered> SubmitUntilKilled(const std::string& address, const std::string& prefix,
                                        std::atomic<int>* num_answers) {
  Submitter submitter(address);
  std::vector<Answered> all;
  for (int i = 0;; ++i) {
    Answered one;
    one.request_id = prefix + std::to_string(i);
    if (!submitter.CreateJob(one.request_id, &one.created)) return all;
    ++*num_answers;
    all.push_back(one);
    v1::CreateLoadResponse load;
    if (!submitter.CreateLoad(one.created.job().name(), &load)) return all;
    ++*num_answers;
    all.back().load = load.load().name();
    all.back().epoch = load.load().epoch();
    if (i % 3 != 0) continue;
    if (!submitter.CancelJob(one.created.job().name())) return all;
    ++*num_answers;
    all.back().cancelled = true;
  }
}

void ExpectIsThere(Submitter* submitter, const Answered& answered) {
  v1::CreateJobResponse again;
  ASSERT_TRUE(submitter->CreateJob(answered.request_id, &again)) << answered.request_id;
  EXPECT_EQ(again.job().name(), answered.created.job().name()) << answered.request_id;
  EXPECT_EQ(again.attach_token(), answered.created.attach_token());
  v1::GetJobResponse job;
  ASSERT_TRUE(submitter->GetJob(answered.created.job().name(), &job));
  if (answered.cancelled) {
    EXPECT_EQ(job.job().state(), v1::JOB_STATE_CANCELLED);
  }
  if (answered.load.empty()) return;
  v1::GetLoadResponse load;
  ASSERT_TRUE(submitter->GetLoad(answered.load, &load)) << answered.load;
  EXPECT_EQ(load.load().epoch(), answered.epoch);
  if (answered.cancelled) {
    EXPECT_EQ(load.load().state(), v1::LOAD_STATE_CANCELLED);
  }
}

TEST(ServerBinary, KilledAmidSubmitsItHasAllThatItAnswered) {
  const char* const fixed = std::getenv("ZC_SEED");
  const uint64_t seed = fixed != nullptr ? std::stoull(fixed) : std::random_device()();
  std::printf("ZC_SEED=%llu\n", static_cast<unsigned long long>(seed));
  std::mt19937_64 random(seed);
  TempDir dir;
  const std::vector<std::string> flags = {"--listen=127.0.0.1:0",
                                          "--store=sqlite:" + dir.File("state.db")};
  std::vector<Answered> all;
  for (int round = 0; round < 4; ++round) {
    ServerProcess server(dir, "s" + std::to_string(round), flags);
    const std::string address = server.WaitForAddress();
    ASSERT_NE(address, "") << server.Err();
    Submitter reader(address);
    for (const Answered& answered : all) ExpectIsThere(&reader, answered);
    if (round == 3) break;
    // Killed after some number of answers: at whichever point of the others' commits that is.
    const int enough = static_cast<int>(10 + random() % 60);
    std::atomic<int> num_answers{0};
    std::vector<std::future<std::vector<Answered>>> submitters;
    for (int i = 0; i < 6; ++i) {
      const std::string prefix = std::to_string(round) + "-" + std::to_string(i) + "-";
      submitters.push_back(std::async(std::launch::async, [address, prefix, &num_answers] {
        return SubmitUntilKilled(address, prefix, &num_answers);
      }));
    }
    while (num_answers < enough) std::this_thread::yield();
    server.Signal(SIGKILL);
    for (auto& submitter : submitters) {
      for (Answered& answered : submitter.get()) all.push_back(std::move(answered));
    }
    server.WaitForExit();
  }
  EXPECT_GE(all.size(), 10);
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

TEST(ServerBinary, MistakesAreNamedWithTheirExitCodeInOneLine) {
  TempDir dir;
  const std::string missing = dir.File("none");
  dir.Write("file", "");
  const struct {
    std::vector<std::string> flags;
    int code;
    std::string says;
  } cases[] = {
      {{"--store=foo"}, 2, "store: must be 'memory' or 'sqlite:PATH', was 'foo'"},
      {{"--store=sqlite:" + missing + "/x.db"},
       3,
       "open store '" + missing + "/x.db': its folder " + missing +
           " does not exist; make it (install -d " + missing + ")"},
      {{"--store=sqlite:" + dir.File("file") + "/x.db"}, 3, dir.File("file") + "/x.db"},
      {{"--listen=bad"}, 2, "listen: must be host:port or unix:/path, was 'bad'"},
      {{"--listen=127.0.0.1:99999"}, 2, "was '127.0.0.1:99999'"},
      {{"--listen=::1:0"}, 2, "was '::1:0'"},
      {{"--listen=192.0.2.1:0"}, 2, "listen: '192.0.2.1' is not an address of this machine"},
      {{"--listen=unix:" + missing + "/s"}, 3, "its folder " + missing + " does not exist"},
      {{"--listen=127.0.0.1:0", "--health-listen=x"}, 2, "health_listen: must be host:port"},
      {{"--listen=127.0.0.1:0", "--metrics-listen=x"}, 2, "metrics_listen: must be host:port"},
  };
  for (const auto& c : cases) {
    std::vector<std::string> flags = c.flags;
    flags.push_back("--log-level=off");
    ServerProcess server(dir, "s", flags);
    EXPECT_EQ(server.WaitForExit(), c.code) << c.says;
    const std::string err = server.Err();
    EXPECT_THAT(err, HasSubstr(c.says));
    EXPECT_EQ(std::count(err.begin(), err.end(), '\n'), 1) << err;
  }
}

TEST(ServerBinary, AWrongFlagIsAUsageError) {
  TempDir dir;
  ServerProcess server(dir, "s", {"--drain-timeout=soon"});
  EXPECT_EQ(server.WaitForExit(), 2);
  EXPECT_THAT(server.Err(), HasSubstr("must be a duration"));
}

}  // namespace
}  // namespace zerocast
