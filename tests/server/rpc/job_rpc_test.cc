// Jobs, configs and the rules that every call follows, over real gRPC.
#include <string>
#include <thread>
#include <vector>

#include "tests/server/rpc/server_fixture.h"

namespace zerocast {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

// A model config that is `depth` objects in each other.
std::string NestedConfig(int depth) {
  std::string text = "{}";
  for (int i = 1; i < depth; ++i) text = absl::StrCat("{\"a\": ", text, "}");
  return text;
}

// A model config of a little more than this many bytes.
std::string LongConfig(size_t num_bytes) {
  return absl::StrCat("{\"a\": \"", std::string(num_bytes, 'x'), "\"}");
}

class JobRpcTest : public ServerTest {
 protected:
  absl::StatusOr<v1::CreateJobResponse> Create(const v1::JobSpec& spec,
                                               const std::string& request_id = "",
                                               bool validate_only = false) {
    v1::CreateJobRequest request;
    *request.mutable_spec() = spec;
    request.set_request_id(request_id);
    request.set_validate_only(validate_only);
    return Call(jobs_, &v1::JobService::Stub::CreateJob, request);
  }
  v1::ListJobsResponse List(int page_size, const std::string& token) {
    v1::ListJobsRequest request;
    request.set_page_size(page_size);
    request.set_page_token(token);
    const auto response = Call(jobs_, &v1::JobService::Stub::ListJobs, request);
    EXPECT_THAT(response, IsOk());
    return response.ok() ? *response : v1::ListJobsResponse();
  }
};

TEST_F(JobRpcTest, EveryWrongFieldIsNamedAtOnce) {
  v1::JobSpec spec;
  spec.set_checkpoint_path("relative/path");
  spec.set_variant("../fp16");
  spec.mutable_topology()->set_world_size(0);
  spec.mutable_topology()->set_num_nodes(-1);
  spec.mutable_options()->set_zero_stage(4);
  spec.mutable_options()->set_round_bytes(-5);
  spec.mutable_options()->set_read_mode(static_cast<v1::ReadMode>(99));
  spec.mutable_options()->set_key_mapping_json("[]");
  spec.mutable_options()->mutable_stage_timeout()->set_seconds(-1);
  const auto created = Create(spec);
  EXPECT_EQ(created.status().code(), kInvalid);
  EXPECT_THAT(ViolationsOf(created.status()), SizeIs(9)) << created.status();
  EXPECT_THAT(created.status().message(), HasSubstr("spec.options.key_mapping_json"));
}

TEST_F(JobRpcTest, ABadPatternIsNamedByTheUsersField) {
  v1::JobSpec spec = TwoNodeSpec();
  spec.mutable_options()->add_allow_missing("good.*");
  spec.mutable_options()->add_allow_missing("(bad");
  const auto violations = ViolationsOf(Create(spec).status());
  ASSERT_THAT(violations, SizeIs(1));
  EXPECT_EQ(violations[0].field, "spec.options.allow_missing[1]");
}

TEST_F(JobRpcTest, AModelSpecWithoutParamsIsNamedWithoutAStrayDot) {
  v1::JobSpec spec = TwoNodeSpec();
  spec.set_model_spec_json("{}");
  const auto created = Create(spec);
  EXPECT_THAT(created, StatusIs(kInvalid, HasSubstr("spec.model_spec_json: ")));
  ASSERT_THAT(ViolationsOf(created.status()), SizeIs(1));
  EXPECT_EQ(ViolationsOf(created.status())[0].field, "spec.model_spec_json");
}

// The field that the answer to this spec names first.
class BoundsTest : public JobRpcTest {
 protected:
  std::string RefusedField(const v1::JobSpec& spec) {
    const auto created = Create(spec);
    EXPECT_EQ(created.status().code(), kInvalid) << created.status().message().substr(0, 500);
    const auto violations = ViolationsOf(created.status());
    return violations.empty() ? "" : violations[0].field;
  }
};

TEST_F(BoundsTest, NodesAreBounded) {
  v1::JobSpec spec = TwoNodeSpec();
  spec.mutable_topology()->set_world_size(1 << 20);
  for (int i = spec.topology().nodes_size(); i <= 65536; ++i) {
    spec.mutable_topology()->add_nodes(std::to_string(i));
  }
  EXPECT_EQ(RefusedField(spec), "spec.topology.nodes");
  spec.mutable_topology()->mutable_nodes()->RemoveLast();
  EXPECT_THAT(Create(spec, "", true), IsOk());

  spec = TwoNodeSpec();
  spec.mutable_topology()->set_nodes(1, std::string(257, 'n'));
  EXPECT_EQ(RefusedField(spec), "spec.topology.nodes[1]");
  spec.mutable_topology()->set_nodes(1, std::string(256, 'n'));
  EXPECT_THAT(Create(spec, "", true), IsOk());

  spec = TwoNodeSpec();
  spec.mutable_topology()->set_world_size(1 << 20);
  spec.mutable_topology()->clear_nodes();
  spec.mutable_topology()->set_num_nodes(65537);
  EXPECT_EQ(RefusedField(spec), "spec.topology.num_nodes");
  spec.mutable_topology()->set_num_nodes(65536);
  EXPECT_THAT(Create(spec, "", true), IsOk());
}

TEST_F(BoundsTest, AModelConfigIsBounded) {
  v1::JobSpec spec = TwoNodeSpec();
  spec.set_model_config_json(NestedConfig(201));
  EXPECT_EQ(RefusedField(spec), "spec.model_config_json");
  spec.set_model_config_json(NestedConfig(200));
  EXPECT_THAT(Create(spec, "", true), IsOk());
  spec.set_model_config_json(LongConfig(16 << 20));
  EXPECT_EQ(RefusedField(spec), "spec.model_config_json");
  spec.set_model_config_json(LongConfig(2 << 20));
  EXPECT_THAT(Create(spec, "", true), IsOk());
}

TEST_F(JobRpcTest, APathMayNotLeaveItsFolder) {
  v1::JobSpec spec = TwoNodeSpec();
  spec.set_checkpoint_path("/data/../etc");
  EXPECT_THAT(Create(spec), StatusIs(kInvalid, HasSubstr("must not contain '..'")));
}

TEST_F(JobRpcTest, ACallWithoutADeadlineIsRefused) {
  grpc::ClientContext context;
  v1::GetJobRequest request;
  v1::GetJobResponse response;
  const absl::Status status = FromGrpc(jobs_->GetJob(&context, request, &response));
  EXPECT_EQ(status.code(), kInvalid);
  EXPECT_EQ(ReasonOf(status), "DEADLINE_REQUIRED");
}

TEST_F(JobRpcTest, ARepeatedRequestGetsTheSameAnswer) {
  ZC_ASSERT_OK_AND_ASSIGN(const auto first, Create(TwoNodeSpec(), "id-1"));
  ZC_ASSERT_OK_AND_ASSIGN(const auto again, Create(TwoNodeSpec(), "id-1"));
  EXPECT_EQ(first.SerializeAsString(), again.SerializeAsString());
  v1::JobSpec other = TwoNodeSpec();
  other.set_display_name("other");
  EXPECT_THAT(Create(other, "id-1"), StatusIs(kInvalid, HasSubstr("another body")));
  EXPECT_EQ(List(0, "").jobs_size(), 1);
}

TEST_F(JobRpcTest, ManyThreadsWithOneIdMakeOneJob) {
  std::vector<std::thread> threads;
  std::vector<std::string> names(16);
  for (size_t i = 0; i < names.size(); ++i) {
    threads.emplace_back([this, i, &names] {
      const auto created = Create(TwoNodeSpec(), "one-id");
      if (created.ok()) names[i] = created->job().name();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(names, ::testing::Each(names[0]));
  EXPECT_EQ(List(0, "").jobs_size(), 1);
}

TEST_F(JobRpcTest, ALongRequestIdIsNamedBesideTheOthers) {
  v1::JobSpec spec = TwoNodeSpec();
  spec.set_checkpoint_path("");
  EXPECT_THAT(ViolationsOf(Create(spec, std::string(129, 'x')).status()), SizeIs(2));
}

TEST_F(JobRpcTest, ValidateOnlyWritesNothing) {
  ZC_ASSERT_OK_AND_ASSIGN(const auto checked, Create(TwoNodeSpec(), "id", true));
  EXPECT_EQ(checked.job().name(), "");
  EXPECT_EQ(checked.attach_token(), "");
  EXPECT_EQ(List(0, "").jobs_size(), 0);
  v1::JobSpec bad = TwoNodeSpec();
  bad.set_checkpoint_path("x");
  EXPECT_EQ(Create(bad, "id", true).status().code(), kInvalid);
}

TEST_F(JobRpcTest, ResolvesTheConfigWithTheTopologysWorldSize) {
  v1::JobSpec spec = TwoNodeSpec();
  spec.set_deepspeed_config_json(
      R"({"bf16": {"enabled": "auto"}, "zero_optimization": {"stage": 2},
          "train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto"})");
  spec.set_training_arguments_json(R"({"bf16": true, "per_device_train_batch_size": 2})");
  ZC_ASSERT_OK_AND_ASSIGN(const auto created, Create(spec));
  EXPECT_EQ(created.job().config_dtype(), "bf16");
  EXPECT_EQ(created.job().zero_stage(), 2);
  EXPECT_THAT(created.job().resolved_config_json(), HasSubstr("\"train_batch_size\": 8"));
  v1::QueryConfigRequest query;
  query.set_job(created.job().name());
  query.set_path("zero_optimization.stage");
  ZC_ASSERT_OK_AND_ASSIGN(const auto answer,
                          Call(configs_, &v1::ConfigService::Stub::QueryConfig, query));
  EXPECT_EQ(answer.value_json(), "2");
  EXPECT_FALSE(answer.is_zero3());
}

TEST_F(JobRpcTest, AMismatchIsAFailedPrecondition) {
  v1::JobSpec spec = TwoNodeSpec();
  spec.set_deepspeed_config_json(R"({"train_micro_batch_size_per_gpu": 3})");
  spec.set_training_arguments_json(R"({"per_device_train_batch_size": 2})");
  spec.set_num_training_steps(10);
  const auto created = Create(spec);
  EXPECT_EQ(created.status().code(), absl::StatusCode::kFailedPrecondition) << created.status();
  EXPECT_EQ(ReasonOf(created.status()), "CONFIG_MISMATCH");
  EXPECT_FALSE(ViolationsOf(created.status()).empty());
}

TEST_F(JobRpcTest, AConfigWithoutArgumentsDecidesDtypeAndStage) {
  v1::JobSpec spec = TwoNodeSpec();
  // The micro batch size contradicts the arguments' default, but no arguments were given.
  spec.set_deepspeed_config_json(
      R"({"train_micro_batch_size_per_gpu": 3, "gradient_clipping": "auto",
      "fp16": {"enabled": true}, "zero_optimization": {"stage": 3}})");
  ZC_ASSERT_OK_AND_ASSIGN(const auto created, Create(spec));
  EXPECT_EQ(created.job().config_dtype(), "fp16");
  EXPECT_EQ(created.job().zero_stage(), 3);
}

TEST_F(JobRpcTest, TheConfigDecidesHierarchicalPartitions) {
  const auto create = [this](const std::string& zero, const std::string& arguments) {
    v1::JobSpec spec = TwoNodeSpec();  // of 4 ranks
    spec.set_deepspeed_config_json(R"({"zero_optimization": {)" + zero + "}}");
    spec.set_training_arguments_json(arguments);
    spec.set_num_training_steps(1);
    return Create(spec);
  };
  for (const std::string arguments : {"", R"({"per_device_train_batch_size": 2})"}) {
    ZC_ASSERT_OK_AND_ASSIGN(const auto two,
                            create(R"("stage": 3, "zero_hpz_partition_size": 2)", arguments));
    EXPECT_EQ(two.job().hpz_partition_size(), 2);
    ZC_ASSERT_OK_AND_ASSIGN(const auto all,
                            create(R"("stage": 3, "zero_hpz_partition_size": 9)", arguments));
    EXPECT_EQ(all.job().hpz_partition_size(), 4) << "as DeepSpeed takes it";
    ZC_ASSERT_OK_AND_ASSIGN(const auto unused,
                            create(R"("stage": 2, "zero_hpz_partition_size": 3)", arguments));
    EXPECT_LE(unused.job().hpz_partition_size(), 1);
    EXPECT_THAT(create(R"("stage": 3, "zero_hpz_partition_size": 3)", arguments),
                StatusIs(kInvalid, HasSubstr("zero_optimization.zero_hpz_partition_size must "
                                             "divide the world size, 4, was 3")));
    EXPECT_THAT(create(R"("stage": 3, "zero_hpz_partition_size": "auto")", arguments),
                StatusIs(kInvalid, HasSubstr("zero_hpz_partition_size must be an integer")));
  }
}

TEST_F(JobRpcTest, TheConfigDecidesWhereShardsForDevicesLie) {
  struct {
    std::string zero;
    v1::Placement placement;
    std::string reason, device;
    std::string optimizer = {};
  } const cases[] = {
      {R"("stage": 3)", v1::PLACEMENT_DEVICE, "--device", ""},
      {R"("stage": 3, "offload_param": {"device": "cpu"})", v1::PLACEMENT_HOST,
       "offload_param.device is cpu", "cpu"},
      {R"("stage": 3, "offload_param": {"device": "nvme", "nvme_path": "/x"})", v1::PLACEMENT_HOST,
       "offload_param.device is nvme", "nvme"},
      {R"("stage": 3, "offload_param": {"device": "none"})", v1::PLACEMENT_DEVICE, "--device", ""},
      {R"("stage": 3, "offload_param": {}, "offload_optimizer": {"device": "cpu"})",
       v1::PLACEMENT_DEVICE, "--device", "", "cpu"},
      // Of the optimizer's states: whether there are some is known once the checkpoint is.
      {R"("stage": 1, "cpu_offload": true)", v1::PLACEMENT_DEVICE, "--device", "", "cpu"},
      {R"("stage": 2, "offload_optimizer": {"device": "nvme"})", v1::PLACEMENT_DEVICE, "--device",
       "", "nvme"},
      {R"("stage": 0, "offload_optimizer": {"device": "cpu"})", v1::PLACEMENT_DEVICE, "--device",
       ""},
      {R"("stage": 3, "cpu_offload_param": true)", v1::PLACEMENT_HOST,
       "offload_param.device is cpu", "cpu"},
      {R"("stage": 3, "cpu_offload_param": false)", v1::PLACEMENT_DEVICE, "--device", ""},
      // DeepSpeed offloads parameters under stage 3 alone.
      {R"("stage": 2, "offload_param": {"device": "cpu"})", v1::PLACEMENT_DEVICE, "--device", ""},
  };
  for (const auto& [zero, placement, reason, device, optimizer] : cases) {
    for (const std::string arguments : {"", R"({"per_device_train_batch_size": 2})"}) {
      SCOPED_TRACE(zero + arguments);
      v1::JobSpec spec = TwoNodeSpec();
      spec.mutable_options()->set_device(v1::DEVICE_CUDA);
      spec.set_deepspeed_config_json(R"({"zero_optimization": {)" + zero + "}}");
      spec.set_training_arguments_json(arguments);
      spec.set_num_training_steps(1);
      ZC_ASSERT_OK_AND_ASSIGN(const auto created, Create(spec));
      EXPECT_EQ(created.job().placement(), placement);
      EXPECT_EQ(created.job().placement_reason(), reason);
      EXPECT_EQ(created.job().offload_param_device(), device);
      EXPECT_EQ(created.job().offload_optimizer_device(), optimizer);
      EXPECT_EQ(created.job().zero_stage_reason(), "DeepSpeed config");
      // Processors fill host memory as ever.
      spec.mutable_options()->set_device(v1::DEVICE_UNSPECIFIED);
      ZC_ASSERT_OK_AND_ASSIGN(const auto of_host, Create(spec));
      EXPECT_EQ(of_host.job().placement(), v1::PLACEMENT_HOST);
      EXPECT_EQ(of_host.job().placement_reason(), "default");
    }
  }
  v1::JobSpec spec = TwoNodeSpec();
  spec.set_deepspeed_config_json(
      R"({"zero_optimization": {"stage": 3, "offload_param": {"device": "auto"}}})");
  EXPECT_THAT(Create(spec), StatusIs(kInvalid, HasSubstr("offload_param.device must be \"none\"")));
}

TEST_F(JobRpcTest, TheJobSaysWhyItHasItsStage) {
  v1::JobSpec spec = TwoNodeSpec();
  const auto stage = [&] {
    const auto created = Create(spec);
    EXPECT_THAT(created, IsOk());
    return absl::StrCat(created->job().zero_stage(), " ", created->job().zero_stage_reason());
  };
  EXPECT_EQ(stage(), "3 default");
  spec.mutable_options()->set_zero_stage(1);
  EXPECT_EQ(stage(), "1 --zero-stage");
  spec.set_deepspeed_config_json(R"({"zero_optimization": {"stage": 2}})");
  EXPECT_EQ(stage(), "2 DeepSpeed config");
}

TEST_F(JobRpcTest, AnAutoDtypeWithoutArgumentsIsNotGuessed) {
  v1::JobSpec spec = TwoNodeSpec();
  spec.set_deepspeed_config_json(
      R"({"bf16": {"enabled": "auto"}, "zero_optimization": {"stage": "auto"}})");
  EXPECT_THAT(Create(spec), StatusIs(kInvalid, AllOf(HasSubstr("bf16.enabled is \"auto\""),
                                                     HasSubstr("zero_optimization.stage is"))));
  spec.mutable_options()->set_dtype(v1::DTYPE_POLICY_BF16);
  EXPECT_THAT(Create(spec), StatusIs(kInvalid, Not(HasSubstr("bf16.enabled"))));
}

TEST_F(JobRpcTest, AWorldSizeOfItsOwnMustAgree) {
  v1::JobSpec spec = TwoNodeSpec();
  spec.set_deepspeed_config_json("{}");
  spec.set_training_arguments_json(R"({"world_size": 3})");
  EXPECT_THAT(Create(spec), StatusIs(kInvalid, HasSubstr("must be the topology's, 4")));
}

TEST_F(JobRpcTest, PagesNeitherSkipNorRepeat) {
  std::vector<std::string> made;
  for (int i = 0; i < 5; ++i) made.push_back(CreateJob(TwoNodeSpec()).job().name());
  std::vector<std::string> seen;
  std::string token;
  int page_size = 1;
  do {
    const auto page = List(page_size++, token);
    for (const v1::Job& job : page.jobs()) seen.push_back(job.name());
    token = page.next_page_token();
    if (seen.size() == 1) made.push_back(CreateJob(TwoNodeSpec()).job().name());
  } while (!token.empty());
  EXPECT_EQ(seen, made);
}

TEST_F(JobRpcTest, PagesRefuseBadSizesAndForeignTokens) {
  v1::ListJobsRequest request;
  request.set_page_size(-1);
  request.set_page_token("?");
  EXPECT_THAT(ViolationsOf(Call(jobs_, &v1::JobService::Stub::ListJobs, request).status()),
              SizeIs(2));
  CreateJob(TwoNodeSpec());
  CreateJob(TwoNodeSpec());
  v1::ListLoadsRequest loads;
  loads.set_page_token(List(1, "").next_page_token());
  EXPECT_THAT(Call(loads_, &v1::LoadService::Stub::ListLoads, loads),
              StatusIs(kInvalid, HasSubstr("another filter")));
}

// A spec with a model config of this many bytes.
v1::JobSpec LargeSpec(v1::JobSpec spec, size_t num_bytes) {
  spec.set_model_config_json(LongConfig(num_bytes));
  return spec;
}

TEST_F(JobRpcTest, AJobLargerThanGrpcsDefaultComesBackToWhoTakesIt) {
  const v1::JobSpec spec = LargeSpec(TwoNodeSpec(), 6'000'000);
  {
    // By hand: what the client's own gRPC raises has no reason.
    v1::CreateJobRequest request;
    *request.mutable_spec() = spec;
    request.set_request_id("large");
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    v1::CreateJobResponse response;
    EXPECT_EQ(jobs_->CreateJob(&context, request, &response).error_code(),
              grpc::StatusCode::RESOURCE_EXHAUSTED)
        << "of this client: its limit is 4 MiB";
  }
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(16 << 20);
  jobs_ = v1::JobService::NewStub(
      grpc::CreateCustomChannel(server_->address(), grpc::InsecureChannelCredentials(), arguments));
  // The first call has made it.
  ZC_ASSERT_OK_AND_ASSIGN(const auto created, Create(spec, "large"));
  v1::GetJobRequest request;
  request.set_name(created.job().name());
  ZC_ASSERT_OK_AND_ASSIGN(const auto got, Call(jobs_, &v1::JobService::Stub::GetJob, request));
  EXPECT_EQ(got.job().spec().model_config_json(), spec.model_config_json());
  EXPECT_EQ(List(0, "").jobs_size(), 1);
}

TEST_F(JobRpcTest, PagesOfLargeJobsFitAClientsDefault) {
  std::vector<std::string> made;
  for (int i = 0; i < 5; ++i) {
    made.push_back(CreateJob(LargeSpec(TwoNodeSpec(), 1'400'000)).job().name());
  }
  std::vector<std::string> seen;
  std::string token;
  do {
    const auto page = List(0, token);
    ASSERT_EQ(page.jobs_size(), seen.size() < 4 ? 2 : 1);
    for (const v1::Job& job : page.jobs()) seen.push_back(job.name());
    token = page.next_page_token();
  } while (!token.empty());
  EXPECT_EQ(seen, made);
}

TEST_F(JobRpcTest, ManyViolationsReachAClientOfGrpcsDefaults) {
  v1::JobSpec spec = TwoNodeSpec();
  for (int i = 0; i < 60; ++i) {
    spec.mutable_options()->add_allow_missing("(model.layers." + std::to_string(i) + ".mlp");
  }
  const absl::Status status = Create(spec).status();
  EXPECT_THAT(status, StatusIs(kInvalid, HasSubstr("more bytes)")));
  EXPECT_EQ(ReasonOf(status), "INVALID_FIELDS");
  const auto violations = ViolationsOf(status);
  ASSERT_GT(violations.size(), 10);
  EXPECT_EQ(violations[0].field, "spec.options.allow_missing[0]");
  EXPECT_THAT(violations.back().description,
              HasSubstr("(cut: " + std::to_string(61 - violations.size()) + " more violations)"));
}

TEST_F(JobRpcTest, DeleteNeedsACancelledJobAndItsEtag) {
  const v1::Job job = CreateJob(TwoNodeSpec()).job();
  v1::DeleteJobRequest remove;
  remove.set_name(job.name());
  EXPECT_EQ(Call(jobs_, &v1::JobService::Stub::DeleteJob, remove).status().code(),
            absl::StatusCode::kFailedPrecondition);
  v1::CancelJobRequest cancel;
  cancel.set_name(job.name());
  ZC_ASSERT_OK_AND_ASSIGN(const auto cancelled,
                          Call(jobs_, &v1::JobService::Stub::CancelJob, cancel));
  remove.set_etag(job.etag());
  EXPECT_EQ(Call(jobs_, &v1::JobService::Stub::DeleteJob, remove).status().code(),
            absl::StatusCode::kAborted);
  remove.set_etag(cancelled.job().etag());
  EXPECT_THAT(Call(jobs_, &v1::JobService::Stub::DeleteJob, remove), IsOk());
  v1::GetJobRequest get;
  get.set_name(job.name());
  EXPECT_EQ(Call(jobs_, &v1::JobService::Stub::GetJob, get).status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(JobRpcTest, WatchJobEndsWithTheCancel) {
  const v1::Job job = CreateJob(TwoNodeSpec()).job();
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  v1::WatchJobRequest request;
  request.set_name(job.name());
  const auto reader = jobs_->WatchJob(&context, request);
  v1::WatchJobResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.job().state(), v1::JOB_STATE_ACTIVE);
  v1::CancelJobRequest cancel;
  cancel.set_name(job.name());
  ASSERT_THAT(Call(jobs_, &v1::JobService::Stub::CancelJob, cancel), IsOk());
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.job().state(), v1::JOB_STATE_CANCELLED);
  EXPECT_FALSE(reader->Read(&response));
  EXPECT_THAT(FromGrpc(reader->Finish()), IsOk());
}

TEST_F(JobRpcTest, UnknownFieldsSurvive) {
  v1::JobSpec spec = TwoNodeSpec();
  // Field 1000, a varint, as a newer client might send it.
  ASSERT_TRUE(spec.MergeFromString(std::string("\xc0\x3e\x05", 3)));
  const v1::Job job = CreateJob(spec).job();
  EXPECT_EQ(job.spec().SerializeAsString(), spec.SerializeAsString());
}

}  // namespace
}  // namespace zerocast
