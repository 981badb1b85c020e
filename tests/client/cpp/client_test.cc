#include "client/cpp/client.h"

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <mutex>
#include <set>
#include <string>
#include <vector>

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
    response->mutable_job()->set_name("jobs/1");
    return grpc::Status::OK;
  }

  grpc::Status WatchLoad(grpc::ServerContext*, const v1::WatchLoadRequest*,
                         grpc::ServerWriter<v1::WatchLoadResponse>* writer) override {
    std::lock_guard<std::mutex> lock(mutex);
    v1::WatchLoadResponse response;
    response.mutable_load()->set_name("loads/1");
    ++watches;
    response.mutable_load()->set_state(v1::LOAD_STATE_LOADING);
    writer->Write(response);
    if (watches <= breaks) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "going away");
    response.mutable_load()->set_state(v1::LOAD_STATE_READY);
    writer->Write(response);
    return grpc::Status::OK;
  }

  std::mutex mutex;
  std::vector<std::string> request_ids;
  bool had_deadline = false;
  int failures = 0;
  absl::Status failure = absl::UnavailableError("not now");
  int watches = 0;
  int breaks = 0;

 private:
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
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
  EXPECT_THAT(client->ListAgents(),
              StatusIs(absl::StatusCode::kUnavailable, AllOf(HasSubstr("127.0.0.1:1"))));
}

TEST(Client, RefusesAnEmptyAddress) {
  EXPECT_THAT(Client::Create(Client::Options()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("address is empty")));
}

}  // namespace
}  // namespace zerocast
