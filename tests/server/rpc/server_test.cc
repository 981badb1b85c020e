// The server's own life: ports, health, limits, restart, stop.
#include "server/rpc/server.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/server/rpc/health_client.h"
#include "tests/server/rpc/server_fixture.h"
#include "tests/temp_dir.h"

namespace zerocast {
namespace {

using ::testing::HasSubstr;

class ServerLifeTest : public ServerTest {};

TEST_F(ServerLifeTest, ASecondServerOnThePortIsRefusedByName) {
  Server::Options options;
  options.listen = server_->address();
  const auto second = Server::Start(options);
  EXPECT_THAT(second, StatusIs(absl::StatusCode::kUnavailable, HasSubstr(server_->address())));
}

TEST_F(ServerLifeTest, ASecondServerOnTheSocketIsRefusedByName) {
  TempDir dir;
  Server::Options options;
  options.listen = "unix:" + dir.path() + "/s";
  ZC_ASSERT_OK_AND_ASSIGN(const auto first, Server::Start(options));
  EXPECT_EQ(first->port(), 0);
  EXPECT_EQ(first->address(), options.listen);
  EXPECT_THAT(Server::Start(options),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr(options.listen)));
}

TEST_F(ServerLifeTest, TellsWhatItIs) {
  ZC_ASSERT_OK_AND_ASSIGN(const auto info, Call(info_, &v1::ServerInfoService::Stub::GetServerInfo,
                                                v1::GetServerInfoRequest()));
  EXPECT_EQ(info.version(), Server::Version());
  EXPECT_EQ(info.store(), "memory");
  EXPECT_EQ(info.dialects(0), "5.23.0");
  EXPECT_EQ(info.num_agents(), 0);
  EXPECT_GT(info.max_request_bytes(), 0);
}

TEST_F(ServerLifeTest, AnInProcessChannelReachesIt) {
  const auto stub = v1::ServerInfoService::NewStub(server_->InProcessChannel());
  EXPECT_THAT(Call(stub, &v1::ServerInfoService::Stub::GetServerInfo, v1::GetServerInfoRequest()),
              IsOk());
  FakeAgent agent(server_->InProcessChannel(), "in-process");
  ZC_ASSERT_OK_AND_ASSIGN(const auto agents, Call(agents_, &v1::AgentService::Stub::ListAgents,
                                                  v1::ListAgentsRequest()));
  EXPECT_EQ(agents.agents(0).node_name(), "in-process");
}

TEST_F(ServerLifeTest, HealthKnowsThreeNamesOnBothPorts) {
  Server::Options options;
  options.health_listen = "127.0.0.1:0";
  StartServer(std::move(options));
  const std::string health = "127.0.0.1:" + std::to_string(server_->health_port());
  for (const std::string& address : {server_->address(), health}) {
    for (const char* name : {"", "liveness", "readiness"}) {
      EXPECT_EQ(CheckHealth(address, name), Health::kServing) << address << " '" << name << "'";
    }
    EXPECT_EQ(CheckHealth(address, "other"), Health::kNotFound);
  }
}

TEST_F(ServerLifeTest, AnOversizedRequestIsRefused) {
  Server::Options options;
  options.max_request_bytes = 10000;
  StartServer(std::move(options));
  v1::GetJobRequest request;
  request.set_name(std::string(20000, 'x'));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  v1::GetJobResponse response;
  EXPECT_EQ(FromGrpc(jobs_->GetJob(&context, request, &response)).code(),
            absl::StatusCode::kResourceExhausted);
}

TEST_F(ServerLifeTest, OneAgentTooManyIsToldToComeAgain) {
  Server::Options options;
  options.max_sessions = 1;
  StartServer(std::move(options));
  FakeAgent first(channel_, "a");
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  const auto stream = agents_->Session(&context);
  v1::SessionResponse response;
  EXPECT_FALSE(stream->Read(&response));
  const absl::Status status = FromGrpc(stream->Finish());
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(status.GetPayload("type.googleapis.com/google.rpc.RetryInfo").has_value());
}

TEST_F(ServerLifeTest, ASilentAgentIsGivenUp) {
  Server::Options options;
  options.heartbeat_interval = absl::Milliseconds(50);
  StartServer(std::move(options));
  FakeAgent agent(channel_, "a");
  EXPECT_EQ(agent.Read().message_case(), v1::SessionResponse::MESSAGE_NOT_SET);
  EXPECT_THAT(agent.Finish(), StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("silent")));
}

TEST_F(ServerLifeTest, JobsAndLoadsSurviveARestart) {
  TempDir dir;
  const auto options = [&dir] {
    Server::Options o;
    o.store = "sqlite:" + dir.path() + "/state.db";
    return o;
  };
  StartServer(options());
  const auto created = CreateJob(TwoNodeSpec(), "id");
  const v1::Load load = CreateLoad(created.job().name());
  v1::JobSpec offloaded = TwoNodeSpec();
  offloaded.mutable_options()->set_device(v1::DEVICE_CUDA);
  offloaded.set_deepspeed_config_json(
      R"({"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}})");
  const auto offloading = CreateJob(offloaded, "id of another");
  EXPECT_EQ(offloading.job().placement(), v1::PLACEMENT_HOST);
  server_.reset();
  StartServer(options());
  EXPECT_EQ(CreateJob(offloaded, "id of another").SerializeAsString(),
            offloading.SerializeAsString());
  EXPECT_EQ(CreateJob(TwoNodeSpec(), "id").SerializeAsString(), created.SerializeAsString());
  const v1::Load after = WatchToEnd(load.name());
  EXPECT_EQ(after.state(), v1::LOAD_STATE_FAILED);
  EXPECT_EQ(after.epoch(), load.epoch());
  EXPECT_EQ(after.job(), created.job().name());
  EXPECT_THAT(after.failure().message(), HasSubstr("create a new load"));
  EXPECT_GT(CreateLoad(created.job().name()).epoch(), load.epoch());
}

TEST_F(ServerLifeTest, AStopEndsStreamsAndRefusesNewWork) {
  FakeAgent agent(channel_, "a");
  const v1::Load load = CreateLoad(CreateJob(TwoNodeSpec()).job().name());
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  v1::WatchLoadRequest request;
  request.set_name(load.name());
  const auto reader = loads_->WatchLoad(&context, request);
  v1::WatchLoadResponse response;
  ASSERT_TRUE(reader->Read(&response));
  std::thread stopper([this] { server_->Shutdown(); });
  EXPECT_FALSE(reader->Read(&response));
  const absl::Status watched = FromGrpc(reader->Finish());
  EXPECT_EQ(watched.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(watched), "SHUTTING_DOWN");
  EXPECT_EQ(agent.Read().message_case(), v1::SessionResponse::MESSAGE_NOT_SET);
  EXPECT_EQ(ReasonOf(agent.Finish()), "SHUTTING_DOWN");
  stopper.join();
  server_->Wait();
  server_->Shutdown();  // a second time does nothing
}

// What a scrape of /metrics gives.
std::string Scrape(int port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::string text;
  if (::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0) {
    const std::string request = "GET /metrics HTTP/1.0\r\n\r\n";
    EXPECT_EQ(::send(fd, request.data(), request.size(), 0), static_cast<ssize_t>(request.size()));
    char chunk[4096];
    for (ssize_t n; (n = ::recv(fd, chunk, sizeof(chunk), 0)) > 0;) text.append(chunk, n);
  }
  ::close(fd);
  return text;
}

TEST_F(ServerLifeTest, MetricsCountCallsByMethodAndCode) {
  Server::Options options;
  options.metrics_listen = "127.0.0.1:0";
  StartServer(std::move(options));
  v1::GetJobRequest request;
  request.set_name("jobs/none");
  EXPECT_EQ(Call(jobs_, &v1::JobService::Stub::GetJob, request).status().code(),
            absl::StatusCode::kNotFound);
  const std::string text = Scrape(server_->metrics_port());
  EXPECT_THAT(text, HasSubstr("zerocast_rpc_calls_total{code=\"NOT_FOUND\","
                              "method=\"JobService/GetJob\"} 1"));
  EXPECT_THAT(text, HasSubstr("zerocast_loads{state=\"READY\"} 0"));
  EXPECT_THAT(text, HasSubstr("zerocast_ready 1"));
  EXPECT_THAT(text, HasSubstr(std::string("zerocast_build_info{version=\"") + Server::Version()));
}

TEST_F(ServerLifeTest, ReflectionIsOfferedOnlyWhenAskedFor) {
  constexpr char kMethod[] = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
  // ServerReflectionRequest { string list_services = 7; }
  const std::string list("\x3a\x01*", 3);
  grpc::ByteBuffer response;
  EXPECT_EQ(CallByName(server_->address(), kMethod, list, &response).error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
  Server::Options options;
  options.reflection = true;
  StartServer(std::move(options));
  EXPECT_TRUE(CallByName(server_->address(), kMethod, list, &response).ok());
  grpc::Slice answer;
  ASSERT_TRUE(response.DumpToSingleSlice(&answer).ok());
  EXPECT_THAT(std::string(answer.begin(), answer.end()), HasSubstr("zerocast.v1.LoadService"));
}

TEST_F(ServerLifeTest, OptionsAreChecked) {
  Server::Options options;
  options.heartbeat_interval = absl::ZeroDuration();
  options.max_threads = 0;
  EXPECT_EQ(ViolationsOf(Server::Start(options).status()).size(), 2);
  Server::Options store;
  store.store = "etcd:nowhere";
  EXPECT_EQ(Server::Start(store).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace zerocast
