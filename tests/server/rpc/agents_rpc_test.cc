// The agents' streams over real gRPC: who is let in, and how they are listed.
#include <chrono>

#include "tests/server/rpc/server_fixture.h"

namespace zerocast {
namespace {

using ::testing::HasSubstr;

class AgentsRpcTest : public ServerTest {};

TEST_F(AgentsRpcTest, ASecondStreamOfANodeEndsTheFirst) {
  FakeAgent first(channel_, "a", 1);
  FakeAgent second(channel_, "a", 1);
  EXPECT_EQ(first.Read().message_case(), v1::SessionResponse::MESSAGE_NOT_SET);
  const absl::Status ended = first.Finish();
  EXPECT_THAT(ended, StatusIs(absl::StatusCode::kAborted, HasSubstr("another stream")));
  EXPECT_EQ(ReasonOf(ended), "AGENT_LOST");
  ZC_ASSERT_OK_AND_ASSIGN(const auto agents, Call(agents_, &v1::AgentService::Stub::ListAgents,
                                                  v1::ListAgentsRequest()));
  ASSERT_EQ(agents.agents_size(), 1);
  EXPECT_EQ(agents.agents(0).socket_path(), "/run/zerocast/a");
}

TEST_F(AgentsRpcTest, AgentsAreListedWithTheirGpus) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  const auto stream = agents_->Session(&context);
  v1::SessionRequest request;
  request.mutable_register_()->set_node_name("a");
  request.mutable_register_()->set_incarnation(1);
  v1::Gpu* const gpu = request.mutable_register_()->add_gpus();
  gpu->set_uuid("GPU-01234567-89ab-cdef-0123-456789abcdef");
  gpu->set_name("NVIDIA H100 80GB HBM3");
  gpu->set_memory_bytes(85520809984);
  stream->Write(request);
  v1::SessionResponse response;
  ASSERT_TRUE(stream->Read(&response));
  ZC_ASSERT_OK_AND_ASSIGN(const auto agents, Call(agents_, &v1::AgentService::Stub::ListAgents,
                                                  v1::ListAgentsRequest()));
  ASSERT_EQ(agents.agents_size(), 1);
  ASSERT_EQ(agents.agents(0).gpus_size(), 1);
  EXPECT_EQ(agents.agents(0).gpus(0).SerializeAsString(), gpu->SerializeAsString());
  context.TryCancel();
  stream->Finish();
}

TEST_F(AgentsRpcTest, ASecondAgentOfANodeIsRefusedWhileTheFirstIsThere) {
  FakeAgent first(channel_, "a", 1);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  const auto stream = agents_->Session(&context);
  v1::SessionRequest request;
  request.mutable_register_()->set_node_name("a");
  request.mutable_register_()->set_incarnation(2);
  request.mutable_register_()->set_version("test");
  request.mutable_register_()->set_socket_path("/run/zerocast/other");
  stream->Write(request);
  v1::SessionResponse response;
  EXPECT_FALSE(stream->Read(&response)) << "refused agents are not registered first";
  const absl::Status refused = FromGrpc(stream->Finish());
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kAlreadyExists,
                                HasSubstr("another agent named a is connected")));
  EXPECT_EQ(ReasonOf(refused), "ALREADY_EXISTS");
  ZC_ASSERT_OK_AND_ASSIGN(const auto agents, Call(agents_, &v1::AgentService::Stub::ListAgents,
                                                  v1::ListAgentsRequest()));
  ASSERT_EQ(agents.agents_size(), 1);
  EXPECT_EQ(agents.agents(0).socket_path(), "/run/zerocast/a");
}

TEST_F(AgentsRpcTest, AStreamMustBeginWithRegister) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  const auto stream = agents_->Session(&context);
  v1::SessionRequest request;
  request.mutable_heartbeat();
  stream->Write(request);
  v1::SessionResponse response;
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_THAT(FromGrpc(stream->Finish()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("first message")));
}

TEST_F(AgentsRpcTest, AnAgentNameIsChecked) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  const auto stream = agents_->Session(&context);
  v1::SessionRequest request;
  request.mutable_register_()->set_node_name("a b\n");
  stream->Write(request);
  v1::SessionResponse response;
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_EQ(ViolationsOf(FromGrpc(stream->Finish())).size(), 1);
}

}  // namespace
}  // namespace zerocast
