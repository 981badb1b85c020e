// The client library against a real server: what it asks about configs.
#include <memory>
#include <string>

#include "client/cpp/client.h"
#include "tests/server/rpc/server_fixture.h"

namespace zerocast {
namespace {

using ::testing::_;
using ::testing::HasSubstr;

class ConfigClientTest : public ServerTest {
 protected:
  void SetUp() override {
    ServerTest::SetUp();
    Client::Options options;
    options.address = server_->address();
    options.timeout = absl::Seconds(20);
    client_ = *Client::Create(options);
    v1::JobSpec spec = TwoNodeSpec();
    spec.set_deepspeed_config_json(R"({"zero_optimization": {"stage": 3}})");
    spec.set_training_arguments_json("{}");
    const auto created = client_->CreateJob(spec, {});
    ASSERT_THAT(created, IsOk());
    job_ = created->job().name();
  }

  std::unique_ptr<Client> client_;
  std::string job_;
};

TEST_F(ConfigClientTest, AsksAboutTheConfigOfAJob) {
  ZC_ASSERT_OK_AND_ASSIGN(const auto stage, client_->QueryConfig(job_, "zero_optimization.stage"));
  EXPECT_EQ(stage.value_json(), "3");
  EXPECT_TRUE(stage.is_zero3());
  ZC_ASSERT_OK_AND_ASSIGN(const auto whole, client_->QueryConfig(job_, ""));
  EXPECT_THAT(whole.value_json(), HasSubstr("zero_optimization"));
}

TEST_F(ConfigClientTest, ALeaseKeepsTheConfigOfADeletedJob) {
  ZC_ASSERT_OK_AND_ASSIGN(const v1::ConfigLease lease,
                          client_->AcquireConfigLease(job_, absl::Minutes(1)));
  ZC_ASSERT_OK_AND_ASSIGN(const v1::ConfigLease renewed,
                          client_->RenewConfigLease(lease.name(), absl::Minutes(2)));
  EXPECT_EQ(renewed.job(), job_);
  v1::CancelJobRequest cancel;
  cancel.set_name(job_);
  ASSERT_THAT(Call(jobs_, &v1::JobService::Stub::CancelJob, cancel), IsOk());
  v1::DeleteJobRequest remove;
  remove.set_name(job_);
  ASSERT_THAT(Call(jobs_, &v1::JobService::Stub::DeleteJob, remove), IsOk());
  ZC_ASSERT_OK_AND_ASSIGN(const auto kept, client_->QueryConfig(job_, "zero_optimization.stage"));
  EXPECT_TRUE(kept.job_deleted());
  ASSERT_THAT(client_->ReleaseConfigLease(lease.name()), IsOk());
  EXPECT_THAT(client_->QueryConfig(job_, ""), StatusIs(absl::StatusCode::kNotFound, _));
}

TEST_F(ConfigClientTest, ResolvesOneConfig) {
  v1::ResolveConfigRequest request;
  request.set_config_json(R"({"zero_optimization": {"stage": 2}})");
  request.set_training_arguments_json("{}");
  ZC_ASSERT_OK_AND_ASSIGN(const auto answer, client_->ResolveConfig(request));
  EXPECT_EQ(answer.zero_stage(), 2);
}

}  // namespace
}  // namespace zerocast
