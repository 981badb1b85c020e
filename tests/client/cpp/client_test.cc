#include "client/cpp/client.h"

#include <grpcpp/grpcpp.h>

#include <condition_variable>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "server/base/errors.h"
#include "server/wire/status.h"
#include "tests/status_matchers.h"
#include "zerocast/v1/job.grpc.pb.h"
#include "zerocast/v1/load.grpc.pb.h"

namespace zerocast {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// A server that answers from a script: what the library does with answers is what is tested.
class ScriptedServer final : public v1::JobService::Service, public v1::LoadService::Service {
 public:
  ScriptedServer() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(static_cast<v1::JobService::Service*>(this));
    builder.RegisterService(static_cast<v1::LoadService::Service*>(this));
    server_ = builder.BuildAndStart();
  }
  ~ScriptedServer() override {
    Release();
    server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(5));
  }
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

  grpc::Status CreateJob(grpc::ServerContext* context, const v1::CreateJobRequest* request,
                         v1::CreateJobResponse* response) override {
    std::lock_guard<std::mutex> lock(mutex);
    request_ids.push_back(request->request_id());
    const auto left = context->deadline() - std::chrono::system_clock::now();
    had_deadline = left < std::chrono::hours(1);
    if (failures > 0) {
      --failures;
      return ToGrpc(failure);
    }
    if (details_bytes > 0) {
      return grpc::Status(grpc::StatusCode::INTERNAL, "long", std::string(details_bytes, 'x'));
    }
    response->mutable_job()->set_name("jobs/1" + std::string(name_bytes, 'x'));
    return grpc::Status::OK;
  }
  // Never answers before Release().
  grpc::Status GetJob(grpc::ServerContext*, const v1::GetJobRequest*,
                      v1::GetJobResponse*) override {
    Hold();
    return grpc::Status::OK;
  }

  grpc::Status WatchLoad(grpc::ServerContext*, const v1::WatchLoadRequest*,
                         grpc::ServerWriter<v1::WatchLoadResponse>* writer) override {
    std::lock_guard<std::mutex> lock(mutex);
    v1::WatchLoadResponse response;
    response.mutable_load()->set_name("loads/1");
    ++watches;
    response.mutable_load()->set_state(v1::LOAD_STATE_LOADING);
    if (late.has_value()) {
      *response.mutable_load() = *late;
      writer->Write(response);
      Hold();
      return grpc::Status::OK;
    }
    writer->Write(response);
    if (watches <= breaks) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "going away");
    response.mutable_load()->set_state(v1::LOAD_STATE_READY);
    writer->Write(response);
    return grpc::Status::OK;
  }

  void Hold() {
    std::unique_lock<std::mutex> lock(hold_mutex_);
    hold_.wait(lock, [this] { return released_; });
  }
  void Release() {
    std::lock_guard<std::mutex> lock(hold_mutex_);
    released_ = true;
    hold_.notify_all();
  }

  std::mutex mutex;
  std::optional<v1::Load> late;  // shown by WatchLoad, which then stays
  int details_bytes = 0, name_bytes = 0;
  std::vector<std::string> request_ids;
  bool had_deadline = false;
  int failures = 0;
  absl::Status failure = absl::UnavailableError("not now");
  int watches = 0;
  int breaks = 0;

 private:
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  std::mutex hold_mutex_;
  std::condition_variable hold_;
  bool released_ = false;
};

std::unique_ptr<Client> Connect(const std::string& address) {
  Client::Options options;
  options.address = address;
  options.timeout = absl::Seconds(20);
  return *Client::Create(options);
}

TEST(Client, RetriesCreationUnderOneRequestId) {
  ScriptedServer server;
  server.failures = 2;
  ZC_ASSERT_OK_AND_ASSIGN(const auto created, Connect(server.address())->CreateJob({}, {}));
  EXPECT_EQ(created.job().name(), "jobs/1");
  ASSERT_EQ(server.request_ids.size(), 3);
  EXPECT_FALSE(server.request_ids[0].empty());
  EXPECT_EQ(std::set<std::string>(server.request_ids.begin(), server.request_ids.end()).size(), 1);
  EXPECT_TRUE(server.had_deadline);
}

TEST(Client, MakesAnotherRequestIdForEveryCall) {
  ScriptedServer server;
  const auto client = Connect(server.address());
  ASSERT_THAT(client->CreateJob({}, {}), IsOk());
  ASSERT_THAT(client->CreateJob({}, {}), IsOk());
  EXPECT_NE(server.request_ids[0], server.request_ids[1]);
}

TEST(Client, DoesNotRepeatARefusedRequestAndKeepsItsDetails) {
  ScriptedServer server;
  server.failures = 1;
  server.failure = InvalidFields({{"spec.topology.world_size", "must be at least 1"}});
  const auto created = Connect(server.address())->CreateJob({}, {});
  EXPECT_THAT(created,
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("must be at least 1")));
  EXPECT_EQ(ReasonOf(created.status()), "INVALID_FIELDS");
  ASSERT_EQ(ViolationsOf(created.status()).size(), 1);
  EXPECT_EQ(ViolationsOf(created.status())[0].field, "spec.topology.world_size");
  EXPECT_EQ(server.request_ids.size(), 1);
}

TEST(Client, GivesUpAfterFourAttempts) {
  ScriptedServer server;
  server.failures = 100;
  EXPECT_THAT(Connect(server.address())->CreateJob({}, {}),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("not now")));
  EXPECT_EQ(server.request_ids.size(), 4);
}

TEST(Client, WatchGoesOnAfterABrokenStream) {
  ScriptedServer server;
  server.breaks = 2;
  int changes = 0;
  ZC_ASSERT_OK_AND_ASSIGN(const v1::Load load, Connect(server.address())
                                                   ->WatchLoad("loads/1", absl::Seconds(20),
                                                               [&changes](const v1::Load&) {
                                                                 ++changes;
                                                                 return true;
                                                               }));
  EXPECT_EQ(load.state(), v1::LOAD_STATE_READY);
  EXPECT_EQ(server.watches, 3);
  EXPECT_EQ(changes, 4);
}

TEST(Client, WatchEndsAtItsDeadline) {
  ScriptedServer server;
  server.breaks = 1000;
  EXPECT_THAT(Connect(server.address())->WatchLoad("loads/1", absl::Milliseconds(300), nullptr),
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("loads/1")));
}

TEST(Client, NamesTheServerThatIsNotThere) {
  Client::Options options;
  options.address = "127.0.0.1:1";
  options.timeout = absl::Seconds(5);
  ZC_ASSERT_OK_AND_ASSIGN(const auto client, Client::Create(options));
  const absl::Status status = client->ListAgents().status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable,
                               AllOf(HasSubstr("call ListAgents of server 127.0.0.1:1 within 5s"),
                                     HasSubstr("not reached"), HasSubstr("check the address"))));
  EXPECT_EQ(ReasonOf(status), "UNAVAILABLE");
}

TEST(Client, SaysThatNoAnswerCameAndWithinWhatTime) {
  ScriptedServer server;
  Client::Options options;
  options.address = server.address();
  options.timeout = absl::Milliseconds(200);
  ZC_ASSERT_OK_AND_ASSIGN(const auto client, Client::Create(options));
  const absl::Status status = client->GetJob("jobs/1").status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kDeadlineExceeded,
                               AllOf(HasSubstr("call GetJob of server " + server.address()),
                                     HasSubstr("within 200ms"), HasSubstr("allow more time"))));
  EXPECT_EQ(ReasonOf(status), "DEADLINE_EXCEEDED");
}

TEST(Client, SaysThatTheServerDoesNotKnowAMethod) {
  ScriptedServer server;
  const absl::Status status = Connect(server.address())->ListAgents().status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnimplemented,
                               AllOf(HasSubstr("call ListAgents of server " + server.address()),
                                     HasSubstr("of one version"))));
  EXPECT_EQ(ReasonOf(status), "UNSUPPORTED");
}

TEST(Client, SaysThatAnAnswerWasTooLarge) {
  ScriptedServer server;
  server.name_bytes = 5000;
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(1000);
  ZC_ASSERT_OK_AND_ASSIGN(
      const auto client,
      Client::Create(grpc::CreateCustomChannel(server.address(), grpc::InsecureChannelCredentials(),
                                               arguments),
                     {server.address()}));
  const absl::Status status = client->CreateJob({}, {}).status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted,
                               AllOf(HasSubstr("call CreateJob of server " + server.address()),
                                     HasSubstr("larger than max"), HasSubstr("raise"))));
  EXPECT_EQ(ReasonOf(status), "RESOURCE_EXHAUSTED");
}

TEST(Client, GivesAReasonToWhatComesWithoutOne) {
  ScriptedServer server;
  server.failures = 2;
  server.failure = absl::CancelledError("by a proxy");
  const auto client = Connect(server.address());
  EXPECT_EQ(ReasonOf(client->CreateJob({}, {}).status()), "CANCELLED");
  server.failure = absl::UnknownError("who knows");
  const absl::Status status = client->CreateJob({}, {}).status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnknown, HasSubstr("who knows")));
  EXPECT_EQ(ReasonOf(status), "INTERNAL");
}

TEST(Client, TakesDetailsBeyondGrpcsDefault) {
  ScriptedServer server;
  server.details_bytes = 20000;
  // With gRPC's limit of 8 KiB it would be RESOURCE_EXHAUSTED.
  EXPECT_THAT(Connect(server.address())->CreateJob({}, {}),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("long")));
}

TEST(Client, NoCallBeginsAfterTheDeadlineOfAll) {
  ScriptedServer server;
  const auto client = Connect(server.address());
  const auto late = client->WithLimits(absl::Seconds(20), absl::Now() - absl::Seconds(1));
  const absl::Status status = late->CreateJob({}, {}).status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kDeadlineExceeded,
                               AllOf(HasSubstr("CreateJob"), HasSubstr(server.address()),
                                     HasSubstr("not made"))));
  EXPECT_EQ(ReasonOf(status), "DEADLINE_EXCEEDED");
  EXPECT_TRUE(server.request_ids.empty());
  EXPECT_THAT(late->WithLimits(absl::Seconds(20), absl::InfiniteFuture())->CreateJob({}, {}),
              IsOk());
}

TEST(Client, CancelCallsEndsWhatIsInProgressAndWhatComesLater) {
  ScriptedServer server;
  const auto client = Connect(server.address());
  absl::Status call;
  std::thread caller([&] { call = client->GetJob("jobs/1").status(); });
  // Whether it has begun or not.
  client->CancelCalls();
  caller.join();
  EXPECT_EQ(call.code(), absl::StatusCode::kCancelled) << call;
  EXPECT_EQ(ReasonOf(call), "CANCELLED");
  EXPECT_EQ(client->CreateJob({}, {}).status().code(), absl::StatusCode::kCancelled);
  // What must still be done is done by another client over the connection.
  EXPECT_THAT(client->WithLimits(absl::Seconds(20), absl::InfiniteFuture())->CreateJob({}, {}),
              IsOk());
}

TEST(Client, CancelCallsEndsAWatchThatHasBegun) {
  ScriptedServer server;
  server.late = v1::Load();
  const auto client = Connect(server.address());
  const absl::Status status = client
                                  ->WatchLoad("loads/1", absl::Hours(1),
                                              [&client](const v1::Load&) {
                                                client->CancelCalls();
                                                return true;
                                              })
                                  .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled) << status;
  EXPECT_EQ(ReasonOf(status), "CANCELLED");
}

TEST(Client, AReadyLoadWhoseShardsAreGoneIsAnError) {
  v1::Load load;
  load.set_name("loads/1");
  load.set_state(v1::LOAD_STATE_READY);
  EXPECT_THAT(LoadStatus(load), IsOk());
  load.mutable_freed()->set_code(static_cast<int>(absl::StatusCode::kFailedPrecondition));
  load.mutable_freed()->set_message("ranks 0, 1 of node a: no process took it");
  load.mutable_freed()->set_reason("WRONG_STATE");
  EXPECT_THAT(LoadStatus(load),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("loads/1: "), HasSubstr("ranks 0, 1 of node a"))));
  EXPECT_EQ(ReasonOf(LoadStatus(load)), "WRONG_STATE");
  // Cancelled after it was ready: as its owner wanted.
  load.mutable_freed()->set_code(static_cast<int>(absl::StatusCode::kCancelled));
  EXPECT_THAT(LoadStatus(load), IsOk());
}

TEST(Client, AnExpiredWatchNamesTheLateNodes) {
  ScriptedServer server;
  v1::Load late;
  late.set_name("loads/1");
  late.set_state(v1::LOAD_STATE_LOADING);
  for (const char* name : {"a", "b", "c"}) {
    v1::NodeProgress* node = late.add_nodes();
    node->set_node_name(name);
    node->set_stage(v1::NODE_STAGE_LOADING);
    node->set_round(1);
    node->set_num_rounds(3);
  }
  late.mutable_nodes(2)->set_stage(v1::NODE_STAGE_UNSPECIFIED);
  late.add_waits_for("b");
  late.add_waits_for("c");
  server.late = late;
  const absl::Status status =
      Connect(server.address())->WatchLoad("loads/1", absl::Milliseconds(300), nullptr).status();
  EXPECT_THAT(status,
              StatusIs(absl::StatusCode::kDeadlineExceeded,
                       AllOf(HasSubstr("watch loads/1 on server " + server.address()),
                             HasSubstr("after 300ms the load is LOADING and waits for node b "
                                       "(LOADING, round 1 of 3), c; see the agent's log"))));
  EXPECT_EQ(ReasonOf(status), "DEADLINE_EXCEEDED");
}

TEST(Client, TheDeadlineOfAllEndsAWatchToo) {
  ScriptedServer server;
  v1::Load pending;
  pending.set_state(v1::LOAD_STATE_PENDING);
  pending.add_waits_for("b");
  server.late = pending;
  const auto client = Connect(server.address())
                          ->WithLimits(absl::Seconds(20), absl::Now() + absl::Milliseconds(300));
  EXPECT_THAT(client->WatchLoad("loads/1", absl::Hours(1), nullptr),
              StatusIs(absl::StatusCode::kDeadlineExceeded,
                       HasSubstr("is PENDING and waits for the agent of b; start the missing")));
}

TEST(Client, RefusesAnEmptyAddress) {
  EXPECT_THAT(Client::Create(Client::Options()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("address is empty")));
}

}  // namespace
}  // namespace zerocast
