#include "server/jobs/source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

namespace zerocast::jobs {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr char kPlan[] = "plan";
constexpr char kKey[] = "key";

HeldShards Held(std::vector<int32_t> ranks, const char* key = kKey, const char* plan = kPlan) {
  return {plan, key, std::move(ranks)};
}

// Ranks 0 and 1 on node a, 2 and 3 on node b.
class ChooseSourceTest : public ::testing::Test {
 protected:
  ChooseSourceTest() {
    layout_.world_size = 4;
    layout_.num_nodes = 2;
    layout_.node_of_rank = {0, 0, 1, 1};
    request_.layout = &layout_;
    request_.plan_digest = kPlan;
    request_.node_names = {"a", "b"};
    request_.nodes.resize(2);
    request_.nodes[0].content_key = kKey;
  }
  void Other(const std::string& name, std::vector<HeldShards> held) {
    others_[name] = std::move(held);
    request_.others[name] = &others_[name];
  }
  std::vector<LoadSource> Sources() {
    choice_ = ChooseSource(request_);
    std::vector<LoadSource> sources;
    for (const NodeSource& node : choice_.nodes) sources.push_back(node.source);
    return sources;
  }
  // "rank: donor -> taker" by name.
  std::vector<std::string> Transfers() const {
    std::vector<std::string> transfers;
    for (const ShardTransfer& each : choice_.transfers) {
      transfers.push_back(std::to_string(each.rank) + ": " + choice_.participants[each.donor] +
                          " -> " + choice_.participants[each.taker]);
    }
    return transfers;
  }

  Layout layout_;
  SourceRequest request_;
  std::map<std::string, std::vector<HeldShards>> others_;
  SourceChoice choice_;
};

constexpr LoadSource kFiles = LoadSource::kFiles, kCache = LoadSource::kCache,
                     kPeers = LoadSource::kPeers;

TEST_F(ChooseSourceTest, NobodyHoldsAnything) {
  EXPECT_THAT(Sources(), ElementsAre(kFiles, kFiles));
  EXPECT_EQ(choice_.nodes[1].content_key, kKey);  // node 0's holds for all
}

TEST_F(ChooseSourceTest, EveryNodeHoldsItsOwn) {
  request_.nodes[0].held = {Held({0, 1})};
  request_.nodes[1].held = {Held({1, 2, 3})};
  EXPECT_THAT(Sources(), ElementsAre(kCache, kCache));
  EXPECT_THAT(choice_.participants, IsEmpty());
}

TEST_F(ChooseSourceTest, OfOtherFilesOrAnotherPlanNothingCounts) {
  request_.nodes[0].held = {Held({0, 1}, "another"), Held({0, 1}, kKey, "another")};
  request_.nodes[1].held = {Held({2, 3})};
  EXPECT_THAT(Sources(), ElementsAre(kFiles, kFiles));
}

TEST_F(ChooseSourceTest, WithoutAKeyNothingCounts) {
  request_.nodes[0] = {"", {Held({0, 1}, "")}};
  request_.nodes[1].held = {Held({2, 3}, "")};
  EXPECT_THAT(Sources(), ElementsAre(kFiles, kFiles));
}

TEST_F(ChooseSourceTest, TheKeyOfAnotherNodeThanTheFirstDoesNotCount) {
  request_.nodes[0].content_key = "new";
  request_.nodes[1].content_key = kKey;
  request_.nodes[0].held = {Held({0, 1})};
  request_.nodes[1].held = {Held({2, 3})};
  EXPECT_THAT(Sources(), ElementsAre(kFiles, kFiles));
}

TEST_F(ChooseSourceTest, AllFromAgentsThatAreNoNodes) {
  Other("x", {Held({0, 1})});
  Other("y", {Held({2, 3})});
  EXPECT_THAT(Sources(), ElementsAre(kPeers, kPeers));
  EXPECT_THAT(choice_.participants, ElementsAre("a", "b", "x", "y"));
  EXPECT_THAT(choice_.donors, ElementsAre("x", "y"));
  EXPECT_THAT(Transfers(), ElementsAre("0: x -> a", "1: x -> a", "2: y -> b", "3: y -> b"));
  EXPECT_EQ(choice_.nodes[1].participant, 1);
}

TEST_F(ChooseSourceTest, ANodeThatHasAllAndGivesNoneStandsAside) {
  request_.nodes[0].held = {Held({0, 1})};
  request_.nodes[1].held = {Held({2})};
  Other("x", {Held({3})});
  EXPECT_THAT(Sources(), ElementsAre(kCache, kPeers));
  EXPECT_THAT(choice_.participants, ElementsAre("b", "x"));
  EXPECT_THAT(Transfers(), ElementsAre("3: x -> b"));
}

TEST_F(ChooseSourceTest, NodesOfTheLoadGiveToEachOther) {
  request_.nodes[0].held = {Held({2, 3})};
  request_.nodes[1].held = {Held({0, 1})};
  EXPECT_THAT(Sources(), ElementsAre(kPeers, kPeers));
  EXPECT_THAT(choice_.donors, IsEmpty());
  EXPECT_THAT(Transfers(), ElementsAre("0: b -> a", "1: b -> a", "2: a -> b", "3: a -> b"));
}

TEST_F(ChooseSourceTest, TheWorkIsSharedByThoseThatHoldTheSame) {
  Other("x", {Held({0, 1, 2, 3})});
  Other("y", {Held({0, 1, 2, 3})});
  Sources();
  EXPECT_THAT(Transfers(), ElementsAre("0: x -> a", "1: y -> a", "2: x -> b", "3: y -> b"));
}

TEST_F(ChooseSourceTest, OneShardThatNobodyHasMeansTheFiles) {
  request_.nodes[0].held = {Held({0, 1})};
  Other("x", {Held({2})});
  EXPECT_THAT(Sources(), ElementsAre(kFiles, kFiles));
  EXPECT_THAT(choice_.transfers, IsEmpty());
}

TEST_F(ChooseSourceTest, WithLocalFilesEachNodeDecidesForItself) {
  layout_.read_mode = ReadMode::kLocal;
  request_.nodes[0].held = {Held({0, 1})};
  request_.nodes[1] = {"own", {Held({2, 3})}};
  Other("x", {Held({2, 3}, "own")});
  EXPECT_THAT(Sources(), ElementsAre(kCache, kFiles));
  EXPECT_EQ(choice_.nodes[1].content_key, "own");
  request_.nodes[1].held = {Held({2, 3}, "own")};
  EXPECT_THAT(Sources(), ElementsAre(kCache, kCache));
}

}  // namespace
}  // namespace zerocast::jobs
