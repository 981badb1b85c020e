#ifndef ZEROCAST_TESTS_CLIENT_AGENT_LOAD_TABLE_FIXTURE_H_
#define ZEROCAST_TESTS_CLIENT_AGENT_LOAD_TABLE_FIXTURE_H_

#include <gtest/gtest.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/agent/load_table.h"
#include "client/formats/checkpoint.h"
#include "server/wire/plan_input.h"
#include "tests/client/agent/load_fixture.h"
#include "tests/client/agent/recording_events.h"
#include "tests/status_matchers.h"
#include "tests/temp_dir.h"

namespace zerocast {

inline constexpr char kLoad[] = "loads/abc";
inline constexpr char kToken[] = "secret";

// Agents of some nodes in one process, driven as the server drives them.
class LoadTableTest : public ::testing::Test {
 protected:
  struct Node {
    std::shared_ptr<RecordingEvents> events = std::make_shared<RecordingEvents>();
    std::shared_ptr<LoadEnvironment> environment = std::make_shared<LoadEnvironment>();
    std::unique_ptr<LoadTable> table;
  };

  void SetUp() override {
    WriteCheckpoint(dir_.path(), TestSeed());
    layout_ = MakeLayout(2, 2);
    communicators_ = LoopbackCommunicators();
    for (int k = 0; k < 2; ++k) AddNode(k);
  }

  void AddNode(int k) {
    auto node = std::make_unique<Node>();
    node->environment->node_name = absl::StrCat("node-", k);
    node->environment->bulk_host = "127.0.0.1";
    node->environment->communicators = communicators_;
    node->environment->reader = MakePosixReader({});
    node->environment->events = node->events;
    node->table = std::make_unique<LoadTable>(node->environment, 4);
    nodes_.push_back(std::move(node));
  }

  PrepareCommand Command(int node) {
    PlanInput input;
    input.manifest = std::make_shared<const Manifest>(*ReadCheckpointManifest(dir_.path()));
    input.model_spec_json = CheckpointSpecJson();
    input.layout = layout_;
    PrepareCommand command;
    command.checkpoint_path = dir_.path();
    command.compressed_plan_input = CompressPlanInput(input);
    command.plan_digest = CompilePlanInput(input, nullptr)->digest;
    command.node = node;
    command.compute_digests = true;
    command.stage_timeout = absl::Seconds(20);
    command.attach_token = kToken;
    command.node_names = {"node-0", "node-1"};
    return command;
  }

  // Runs a load on both nodes to its end.
  std::vector<NodeResult> RunLoad(const std::string& load, int64_t epoch) {
    const LoadKey key{load, epoch};
    for (int k = 0; k < 2; ++k) nodes_[k]->table->Prepare(key, Command(k));
    for (const auto& node : nodes_) EXPECT_THAT(node->events->NextPlan(), IsOk());
    for (const auto& node : nodes_) node->table->Start(key);
    std::vector<NodeResult> results;
    for (const auto& node : nodes_) results.push_back(node->events->NextResult());
    return results;
  }

  // Prepares a load on both nodes, as the server would; what they say.
  std::vector<PreparedPlan> PrepareBoth(const LoadKey& key) {
    for (int k = 0; k < 2; ++k) nodes_[k]->table->Prepare(key, Command(k));
    std::vector<PreparedPlan> plans;
    for (const auto& node : nodes_) {
      auto plan = node->events->NextPlan();
      EXPECT_THAT(plan, IsOk());
      plans.push_back(plan.value_or(PreparedPlan()));
    }
    return plans;
  }
  std::vector<NodeResult> StartBoth(const LoadKey& key, const StartCommand& command) {
    for (const auto& node : nodes_) node->table->Start(key, command);
    std::vector<NodeResult> results;
    for (const auto& node : nodes_) results.push_back(node->events->NextResult());
    return results;
  }
  // A load from the files whose shards others can find.
  std::vector<NodeResult> RunFindable(const std::string& load) {
    const std::vector<PreparedPlan> plans = PrepareBoth({load, 1});
    StartCommand command;
    command.content_key = plans[0].content_key;
    return StartBoth({load, 1}, command);
  }

  // Names of the partitions whose reported digest is not the one computed from the files.
  std::vector<std::string> WrongDigests(const std::vector<NodeResult>& results) {
    const auto plan = MakePlan(dir_.path(), layout_);
    const auto expected = ExpectedDigests(*plan, dir_.path());
    std::vector<std::string> wrong;
    for (const NodeResult& result : results) {
      for (const ShardReport& shard : result.shards) {
        EXPECT_EQ(shard.digests.size(), plan->targets.size());
        for (size_t t = 0; t < shard.digests.size(); ++t) {
          if (shard.digests[t].xxh3 != expected[static_cast<size_t>(shard.rank)][t]) {
            wrong.push_back(absl::StrCat("rank ", shard.rank, ", ", shard.digests[t].target));
          }
        }
      }
    }
    return wrong;
  }

  // Arenas are freed on a thread: waits for it.
  void ExpectArenaBytes(int64_t num_bytes) {
    for (int k = 0; k < 5000 && Arena::TotalBytes() != num_bytes; ++k) ::usleep(1000);
    EXPECT_EQ(Arena::TotalBytes(), num_bytes);
  }

  const TempDir dir_;
  Layout layout_;
  CommunicatorFactory communicators_;
  std::vector<std::unique_ptr<Node>> nodes_;
};

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_CLIENT_AGENT_LOAD_TABLE_FIXTURE_H_
