// ConfigService over the wire: what it answers, refuses and keeps.
#include <atomic>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "tests/server/rpc/server_fixture.h"
#include "tests/temp_dir.h"

namespace zerocast {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::IsSupersetOf;
using ::testing::Not;

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;
constexpr char kConfig[] =
    R"({"train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto", "bf16": {"enabled": "auto"},
        "optimizer": {"type": "AdamW", "params": {"lr": "auto"}},
        "zero_optimization": {"stage": 3, "reduce_bucket_size": "auto",
                              "offload_optimizer": {"device": "cpu"}}})";
constexpr char kArguments[] =
    R"({"world_size": 8, "per_device_train_batch_size": 2, "learning_rate": 1e-4, "bf16": true})";

v1::ResolveConfigRequest Request() {
  v1::ResolveConfigRequest request;
  request.set_config_json(kConfig);
  request.set_training_arguments_json(kArguments);
  request.set_model_config_json(R"({"hidden_size": 64})");
  request.set_num_training_steps(100);
  return request;
}

std::vector<std::string> Fields(const absl::Status& status) {
  std::vector<std::string> fields;
  for (const FieldViolation& violation : ViolationsOf(status)) fields.push_back(violation.field);
  return fields;
}

// The most memory that this process has held, in bytes.
int64_t PeakBytes() {
  int64_t kilobytes = 0;
  std::FILE* file = std::fopen("/proc/self/status", "r");
  char line[256];
  while (file != nullptr && std::fgets(line, sizeof(line), file) != nullptr) {
    if (std::strncmp(line, "VmHWM:", 6) == 0) kilobytes = std::atoll(line + 6);
  }
  if (file != nullptr) std::fclose(file);
  return kilobytes * 1024;
}

// A clock that the server's threads may read while it is told to move.
class SharedClock : public Clock {
 public:
  absl::Duration Steady() const override { return absl::Seconds(seconds_.load()); }
  absl::Time Now() const override { return absl::FromUnixSeconds(1700000000) + Steady(); }
  void Advance(int seconds) { seconds_ += seconds; }

 private:
  std::atomic<int64_t> seconds_{0};
};

// With padding, as launchers write it.
std::string Base64(const std::string& text) {
  std::string out = absl::WebSafeBase64Escape(text);
  out.append((4 - out.size() % 4) % 4, '=');
  return out;
}

class ConfigRpcTest : public ServerTest {
 protected:
  absl::StatusOr<v1::ResolveConfigResponse> Resolve(const v1::ResolveConfigRequest& request) {
    return Call(configs_, &v1::ConfigService::Stub::ResolveConfig, request);
  }
  absl::StatusOr<v1::QueryConfigResponse> Query(const std::string& job,
                                                const std::string& path = "") {
    v1::QueryConfigRequest request;
    request.set_job(job);
    request.set_path(path);
    return Call(configs_, &v1::ConfigService::Stub::QueryConfig, request);
  }
  std::string JobWith(const std::string& config) {
    v1::JobSpec spec = TwoNodeSpec();
    spec.set_deepspeed_config_json(config);
    spec.set_training_arguments_json(R"({"bf16": true})");
    return CreateJob(spec).job().name();
  }
  void DeleteJob(const std::string& name) {
    v1::CancelJobRequest cancel;
    cancel.set_name(name);
    ASSERT_THAT(Call(jobs_, &v1::JobService::Stub::CancelJob, cancel), IsOk());
    v1::DeleteJobRequest request;
    request.set_name(name);
    ASSERT_THAT(Call(jobs_, &v1::JobService::Stub::DeleteJob, request), IsOk());
  }
  absl::StatusOr<v1::ConfigLease> Acquire(const std::string& job, int seconds = 60) {
    v1::AcquireConfigLeaseRequest request;
    request.set_job(job);
    request.mutable_ttl()->set_seconds(seconds);
    auto response = Call(configs_, &v1::ConfigService::Stub::AcquireConfigLease, request);
    if (!response.ok()) return response.status();
    return response->lease();
  }
  absl::Status Release(const std::string& lease) {
    v1::ReleaseConfigLeaseRequest request;
    request.set_name(lease);
    return Call(configs_, &v1::ConfigService::Stub::ReleaseConfigLease, request).status();
  }
};

TEST_F(ConfigRpcTest, TheWholeAnswerComesInOneCall) {
  v1::ResolveConfigRequest request = Request();
  request.set_lint(true);
  request.set_estimate_memory(true);
  request.mutable_model_size()->set_num_parameters(1'000'000);
  request.set_all_origins(true);
  request.add_query_paths("zero_optimization.stage");
  request.add_query_paths("optimizer.params.lr");
  ZC_ASSERT_OK_AND_ASSIGN(const auto answer, Resolve(request));
  EXPECT_THAT(answer.config_json(), HasSubstr(R"("train_batch_size": 16)"));
  EXPECT_EQ(answer.dtype(), "bf16");
  EXPECT_EQ(answer.zero_stage(), 3);
  EXPECT_TRUE(answer.offload());
  EXPECT_EQ(answer.content_hash().size(), 32u);
  EXPECT_EQ(answer.optimizer(), v1::MADE_BY_DEEPSPEED);
  EXPECT_EQ(answer.lr_scheduler(), v1::MADE_BY_TRAINER);
  EXPECT_GT(answer.memory().lines_size(), 0);
  EXPECT_GT(answer.memory().accelerator_bytes(), 0);
  EXPECT_GT(answer.memory().host_bytes(), 0);
  std::vector<std::string> paths;
  for (const v1::ValueOrigin& origin : answer.origins()) {
    EXPECT_NE(origin.kind(), v1::ORIGIN_KIND_UNSPECIFIED) << origin.path();
    paths.push_back(origin.path());
  }
  EXPECT_THAT(paths, IsSupersetOf({"train_batch_size", "optimizer.type",
                                   "zero_optimization.reduce_bucket_size"}));
  ASSERT_EQ(answer.queries().paths_size(), 2);
  EXPECT_TRUE(answer.queries().is_zero3());
  EXPECT_EQ(answer.queries().paths(1).value_json(), "0.0001");
  EXPECT_EQ(answer.queries_after_process().paths(0).value_json(), "3");
}

TEST_F(ConfigRpcTest, LintLooksAtTheModelWhereItIsNamed) {
  const auto rules = [](const auto& findings) {
    std::vector<std::string> names;
    for (const v1::LintFinding& finding : findings) names.push_back(finding.rule());
    return names;
  };
  v1::ResolveConfigRequest request = Request();
  request.set_lint(true);
  request.set_model_spec_json(R"({"params": {"w": [2, 3], "scale": []}})");
  ZC_ASSERT_OK_AND_ASSIGN(auto answer, Resolve(request));
  EXPECT_THAT(rules(answer.findings()), Contains("scalar-parameter"));
  EXPECT_FALSE(answer.has_memory());
  request.set_model_spec_json(R"({"params": {"w": [2, 3], "scale": [1]}})");
  ZC_ASSERT_OK_AND_ASSIGN(answer, Resolve(request));
  EXPECT_THAT(rules(answer.findings()), Not(Contains("scalar-parameter")));
  request.set_model_spec_json(R"({"params": {"w": 2}})");
  EXPECT_THAT(Fields(Resolve(request).status()), ElementsAre("model_spec_json.params.w"));

  v1::LintConfigRequest lint;
  lint.set_config_json(R"({"train_batch_size": 8})");
  lint.set_model_spec_json(R"({"params": {"scale": []}})");
  ZC_ASSERT_OK_AND_ASSIGN(const auto linted,
                          Call(configs_, &v1::ConfigService::Stub::LintConfig, lint));
  EXPECT_THAT(rules(linted.findings()), ElementsAre("scalar-parameter"));
  lint.set_model_spec_json("5");
  const auto refused = Call(configs_, &v1::ConfigService::Stub::LintConfig, lint);
  EXPECT_THAT(Fields(refused.status()), ElementsAre("model_spec_json"));
}

TEST_F(ConfigRpcTest, WithoutAllOriginsOnlyWhatChangedHasOne) {
  ZC_ASSERT_OK_AND_ASSIGN(const auto answer, Resolve(Request()));
  EXPECT_EQ(answer.origins_size(), 6);
  for (const v1::ValueOrigin& origin : answer.origins()) {
    EXPECT_NE(origin.kind(), v1::ORIGIN_KIND_GIVEN) << origin.path();
  }
  EXPECT_FALSE(answer.has_memory());
  EXPECT_FALSE(answer.has_queries());
  EXPECT_EQ(answer.findings_size(), 0);
}

TEST_F(ConfigRpcTest, AConfigComesAsTextBase64OrValue) {
  v1::ResolveConfigRequest request = Request();
  ZC_ASSERT_OK_AND_ASSIGN(const auto text, Resolve(request));
  request.set_config_base64(Base64(kConfig));
  ZC_ASSERT_OK_AND_ASSIGN(const auto base64, Resolve(request));
  request.set_config_value_json(kConfig);
  ZC_ASSERT_OK_AND_ASSIGN(const auto value, Resolve(request));
  EXPECT_EQ(base64.config_json(), text.config_json());
  EXPECT_EQ(value.config_json(), text.config_json());
  // A value is never read as the base64 of something.
  request.set_config_value_json("5");
  EXPECT_THAT(Resolve(request), StatusIs(kInvalid, HasSubstr("not int")));
}

TEST_F(ConfigRpcTest, DuplicateKeysAreNamed) {
  v1::ResolveConfigRequest request = Request();
  request.set_config_json(R"({"zero_optimization": {"stage": 2, "stage": 3}, "a": 1, "a": 2})");
  for (const bool value : {false, true}) {
    if (value) request.set_config_value_json(std::string(request.config_json()));
    ZC_ASSERT_OK_AND_ASSIGN(const auto answer, Resolve(request));
    EXPECT_THAT(answer.duplicate_keys(), ElementsAre("zero_optimization.stage", "a"));
  }
}

TEST_F(ConfigRpcTest, EveryWrongFieldIsNamedAtOnce) {
  v1::ResolveConfigRequest request;
  request.set_training_arguments_json(R"({"learning_rate": "fast", "world_size": 0})");
  request.set_model_config_json("nothing");
  request.set_dialect("4.0.0");
  request.set_num_training_steps(-1);
  request.set_deepspeed_version("1.2.3");
  request.set_estimate_memory(true);
  const auto answer = Resolve(request);
  EXPECT_EQ(answer.status().code(), kInvalid);
  EXPECT_THAT(Fields(answer.status()),
              IsSupersetOf({"config_json", "training_arguments_json.learning_rate",
                            "training_arguments_json.world_size", "model_config_json", "dialect",
                            "num_training_steps", "deepspeed_version", "model_spec_json"}));
}

TEST_F(ConfigRpcTest, AFieldIsNamedOnce) {
  v1::ResolveConfigRequest request = Request();
  request.set_all_origins(true);
  request.set_deepspeed_version("1.2.3");
  EXPECT_THAT(Fields(Resolve(request).status()), ElementsAre("deepspeed_version"));
}

TEST_F(ConfigRpcTest, EveryMismatchHasItsPath) {
  v1::ResolveConfigRequest request = Request();
  request.set_config_json(
      R"({"train_micro_batch_size_per_gpu": 3, "gradient_clipping": 2, "bf16": {"enabled": false},
          "optimizer": {"params": {"lr": 7}}})");
  const auto answer = Resolve(request);
  EXPECT_EQ(answer.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(answer.status()), "CONFIG_MISMATCH");
  EXPECT_THAT(Fields(answer.status()),
              ElementsAre("train_micro_batch_size_per_gpu", "gradient_clipping",
                          "optimizer.params.lr", "bf16.enabled"));
}

TEST_F(ConfigRpcTest, BadInputIsRefusedByItsPathAndHoldsNoMemory) {
  struct Case {
    const char* path;
    std::string config;
    const char* says;
  };
  const std::vector<Case> cases = {
      {"config", std::string(200'000, '['), "nested deeper"},
      {"config.a", absl::StrCat(R"({"a":)", std::string(200'000, '{')), "Expected a string path"},
      {"config", absl::StrCat(R"({"a": ")", std::string((size_t{64} << 20) - 4096, 'x'), R"("})"),
       "bytes, more than the"},
      {"config", "[]", "list"},
      {"config[1]", "[1, ]", "Expected a string path"},
      {"fp16", R"({"fp16": true})", "'bool' object"},
      {"config.a", R"({"a": })", "Expected a string path"},
      {"tensor_parallel", R"({"tensor_parallel": null})", "'NoneType' object"},
  };
  const int64_t before = PeakBytes();
  for (int round = 0; round < 4; ++round) {
    for (const Case& c : cases) {
      v1::ResolveConfigRequest request = Request();
      request.set_config_json(c.config);
      const auto answer = Resolve(request);
      EXPECT_THAT(answer, StatusIs(kInvalid, HasSubstr(c.says))) << c.config.substr(0, 30);
      EXPECT_THAT(Fields(answer.status()), ElementsAre(c.path)) << c.config.substr(0, 30);
    }
  }
  // Client, wire and server hold the 64 MB at once, all in this process; no tree of values.
  EXPECT_LT(PeakBytes() - before, int64_t{600} << 20);
  // What is no UTF-8 gets onto the wire only in base64.
  v1::ResolveConfigRequest request = Request();
  request.set_config_base64(Base64("{\"a\": \"\xff\"}"));
  const auto answer = Resolve(request);
  EXPECT_EQ(answer.status().code(), kInvalid);
  EXPECT_THAT(Fields(answer.status()), ElementsAre("config"));
}

TEST_F(ConfigRpcTest, LegalOddNumbersPass) {
  v1::ResolveConfigRequest request = Request();
  request.set_config_json(
      R"({"a": 1e400, "b": NaN, "c": -Infinity, "d": 123456789012345678901234567890, "e": 5e8})");
  ZC_ASSERT_OK_AND_ASSIGN(const auto answer, Resolve(request));
  EXPECT_THAT(answer.config_json(),
              HasSubstr(R"("a": Infinity, "b": NaN, "c": -Infinity, )"
                        R"("d": 123456789012345678901234567890, "e": 500000000.0)"));
}

TEST_F(ConfigRpcTest, ABatchAnswersEachRequestByItself) {
  v1::BatchResolveConfigsRequest batch;
  *batch.add_requests() = Request();
  *batch.add_requests() = v1::ResolveConfigRequest();
  *batch.add_requests() = Request();
  // A long text that no status of a failed call could carry.
  const std::string text = absl::StrCat("{", std::string(100'000, 'x'));
  batch.mutable_requests(2)->set_config_json(text);
  ZC_ASSERT_OK_AND_ASSIGN(const auto answer,
                          Call(configs_, &v1::ConfigService::Stub::BatchResolveConfigs, batch));
  ASSERT_EQ(answer.results_size(), 3);
  EXPECT_FALSE(answer.results(0).has_status());
  EXPECT_EQ(answer.results(0).response().dtype(), "bf16");
  EXPECT_EQ(answer.results(1).status().code(), static_cast<int>(kInvalid));
  EXPECT_FALSE(answer.results(1).has_error());
  EXPECT_EQ(answer.results(2).error().type(), "ValueError");
  EXPECT_EQ(answer.results(2).error().stage(), "parse");
  EXPECT_THAT(answer.results(2).error().message(), HasSubstr(text));
}

TEST_F(ConfigRpcTest, ABatchHasABound) {
  v1::BatchResolveConfigsRequest batch;
  for (int i = 0; i < 1001; ++i) batch.add_requests();
  EXPECT_THAT(Call(configs_, &v1::ConfigService::Stub::BatchResolveConfigs, batch),
              StatusIs(kInvalid, HasSubstr("at most 1000")));
}

TEST_F(ConfigRpcTest, LintNamesWhatDeepSpeedIgnores) {
  v1::LintConfigRequest request;
  request.set_config_json(R"({"train_batch_size": 8, "zero_optimisation": {"stage": 3}})");
  request.set_world_size(8);
  ZC_ASSERT_OK_AND_ASSIGN(auto answer,
                          Call(configs_, &v1::ConfigService::Stub::LintConfig, request));
  std::vector<std::string> paths;
  for (const v1::LintFinding& finding : answer.findings()) {
    EXPECT_NE(finding.severity(), v1::LINT_SEVERITY_UNSPECIFIED);
    paths.push_back(finding.path());
  }
  EXPECT_THAT(paths, Contains("zero_optimisation"));
  EXPECT_EQ(answer.deepspeed_version(), "0.19.8");
  request.set_config_base64(Base64(request.config_json()));
  request.clear_config_json();
  ZC_ASSERT_OK_AND_ASSIGN(const auto base64,
                          Call(configs_, &v1::ConfigService::Stub::LintConfig, request));
  EXPECT_EQ(base64.SerializeAsString(), answer.SerializeAsString());
}

TEST_F(ConfigRpcTest, LintRefusesWhatItCannotRead) {
  v1::LintConfigRequest request;
  request.set_deepspeed_version("0.1");
  request.set_world_size(0);
  const auto none = Call(configs_, &v1::ConfigService::Stub::LintConfig, request);
  EXPECT_EQ(none.status().code(), kInvalid);
  EXPECT_THAT(Fields(none.status()),
              IsSupersetOf({"config_json", "deepspeed_version", "world_size"}));
  request = v1::LintConfigRequest();
  for (const auto& [text, path] :
       {std::pair<std::string, const char*>{"[1]", "config_json"},
        {"[1, ]", "config_json[1]"},
        {R"({"a": [1, ]})", "config_json.a[1]"},
        {std::string(200'000, '['), "config_json"},
        {absl::StrCat("\"", std::string(size_t{16} << 20, 'x'), "\""), "config_json"}}) {
    request.set_config_json(text);
    const auto refused = Call(configs_, &v1::ConfigService::Stub::LintConfig, request);
    EXPECT_EQ(refused.status().code(), kInvalid);
    EXPECT_THAT(Fields(refused.status()), ElementsAre(path));
  }
  request.set_config_json(R"({"train_batch_size": 1})");
  request.set_model_spec_json("[1, ]");
  EXPECT_THAT(Fields(Call(configs_, &v1::ConfigService::Stub::LintConfig, request).status()),
              ElementsAre("model_spec_json[1]"));
}

TEST_F(ConfigRpcTest, ComparesTextsAndJobs) {
  const std::string job = JobWith(R"({"bf16": {"enabled": "auto"}, "x": 1})");
  v1::DiffConfigsRequest request;
  request.mutable_before()->set_job(job);
  request.mutable_after()->set_config_json(R"({"x": 1.0, "bf16": {"enabled": true}, "y": [1]})");
  ZC_ASSERT_OK_AND_ASSIGN(const auto answer,
                          Call(configs_, &v1::ConfigService::Stub::DiffConfigs, request));
  std::vector<std::string> lines;
  for (const v1::ConfigDifference& difference : answer.differences()) {
    lines.push_back(absl::StrCat(difference.path(), " ", difference.kind(), " ",
                                 difference.before_json(), " ", difference.after_json()));
  }
  EXPECT_THAT(lines, ::testing::IsSupersetOf(
                         {absl::StrCat("x ", v1::DIFFERENCE_KIND_TYPE_CHANGED, " 1 1.0"),
                          absl::StrCat("y ", v1::DIFFERENCE_KIND_ADDED, "  [1]")}));
  EXPECT_NE(answer.before_hash(), answer.after_hash());
  request.mutable_after()->set_job(job);
  ZC_ASSERT_OK_AND_ASSIGN(const auto same,
                          Call(configs_, &v1::ConfigService::Stub::DiffConfigs, request));
  EXPECT_EQ(same.differences_size(), 0);
  EXPECT_EQ(same.before_hash(), same.after_hash());
}

TEST_F(ConfigRpcTest, BothSidesOfAComparisonAreJudged) {
  v1::DiffConfigsRequest request;
  request.mutable_before()->set_config_json("{");
  const auto answer = Call(configs_, &v1::ConfigService::Stub::DiffConfigs, request);
  EXPECT_EQ(answer.status().code(), kInvalid);
  EXPECT_THAT(Fields(answer.status()), ElementsAre("before.config_json", "after"));
  request.mutable_before()->set_config_json("{}");
  request.mutable_after()->set_job("jobs/none");
  EXPECT_EQ(Call(configs_, &v1::ConfigService::Stub::DiffConfigs, request).status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(ConfigRpcTest, AnswersAboutTheConfigOfAJob) {
  const std::string job = JobWith(kConfig);
  ZC_ASSERT_OK_AND_ASSIGN(const auto whole, Query(job));
  EXPECT_THAT(whole.value_json(), HasSubstr(R"("stage": 3)"));
  EXPECT_TRUE(whole.is_zero3());
  EXPECT_TRUE(whole.offload());
  EXPECT_EQ(whole.zero_stage(), 3);
  EXPECT_EQ(whole.dtype(), "bf16");
  EXPECT_EQ(whole.content_hash().size(), 32u);
  EXPECT_FALSE(whole.job_deleted());
  ZC_ASSERT_OK_AND_ASSIGN(auto at, Query(job, "bf16.enabled"));
  EXPECT_EQ(at.value_json(), "true");
  EXPECT_TRUE(at.is_true());
  ZC_ASSERT_OK_AND_ASSIGN(at, Query(job, "zero_optimization.nothing"));
  EXPECT_FALSE(at.has_value_json());
  // Not finalized: only the model's size could tell.
  ZC_ASSERT_OK_AND_ASSIGN(at, Query(job, "zero_optimization.reduce_bucket_size"));
  EXPECT_TRUE(at.is_auto());
  EXPECT_THAT(Query(job, "train_batch_size.x"), StatusIs(kInvalid, HasSubstr("no object")));
  EXPECT_EQ(Query("jobs/none").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ConfigRpcTest, ALeaseKeepsTheConfigOfADeletedJob) {
  const std::string job = JobWith(kConfig), other = JobWith(kConfig);
  ZC_ASSERT_OK_AND_ASSIGN(const auto before, Query(job));
  ZC_ASSERT_OK_AND_ASSIGN(const auto lease, Acquire(job));
  EXPECT_EQ(lease.job(), job);
  EXPECT_GT(lease.expire_time().seconds(), 0);
  DeleteJob(job);
  DeleteJob(other);
  ZC_ASSERT_OK_AND_ASSIGN(auto after, Query(job));
  EXPECT_TRUE(after.job_deleted());
  after.clear_job_deleted();
  EXPECT_EQ(after.SerializeAsString(), before.SerializeAsString());
  EXPECT_EQ(Query(other).status().code(), absl::StatusCode::kNotFound);
  // Who still reads it may take a lease of their own.
  ZC_ASSERT_OK_AND_ASSIGN(const auto second, Acquire(job));
  EXPECT_THAT(Release(lease.name()), IsOk());
  EXPECT_THAT(Query(job), IsOk());
  EXPECT_THAT(Release(second.name()), IsOk());
  EXPECT_EQ(Query(job).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Acquire(job).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ConfigRpcTest, AnExpiredLeaseKeepsNothing) {
  SharedClock clock;
  Server::Options options;
  options.clock = &clock;
  StartServer(std::move(options));
  const std::string job = JobWith(kConfig);
  ZC_ASSERT_OK_AND_ASSIGN(const auto lease, Acquire(job, 60));
  DeleteJob(job);
  clock.Advance(59);
  v1::RenewConfigLeaseRequest renew;
  renew.set_name(lease.name());
  ASSERT_THAT(Call(configs_, &v1::ConfigService::Stub::RenewConfigLease, renew), IsOk());
  clock.Advance(59);
  EXPECT_THAT(Query(job), IsOk());
  clock.Advance(1);
  EXPECT_EQ(Query(job).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Call(configs_, &v1::ConfigService::Stub::RenewConfigLease, renew).status().code(),
            absl::StatusCode::kNotFound);
  server_.reset();  // before its clock
}

TEST_F(ConfigRpcTest, ALeaseSurvivesTheServer) {
  const TempDir folder;
  Server::Options options;
  options.store = absl::StrCat("sqlite:", folder.path(), "/state.db");
  StartServer(options);
  const std::string job = JobWith(kConfig);
  ZC_ASSERT_OK_AND_ASSIGN(const auto lease, Acquire(job));
  DeleteJob(job);
  server_.reset();
  StartServer(options);
  ZC_ASSERT_OK_AND_ASSIGN(const auto answer, Query(job, "zero_optimization.stage"));
  EXPECT_EQ(answer.value_json(), "3");
  EXPECT_THAT(Release(lease.name()), IsOk());
  EXPECT_EQ(Query(job).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace zerocast
