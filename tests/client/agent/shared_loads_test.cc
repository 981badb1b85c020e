// Loads that take the shards of others, from this agent or from another one.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "server/base/errors.h"
#include "server/wire/bulk_nonce.h"
#include "tests/client/agent/load_table_fixture.h"

namespace zerocast {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr char kFirst[] = "loads/first";
constexpr char kSecond[] = "loads/second";

class SharedLoadsTest : public LoadTableTest {
 protected:
  void ExpectGood(const std::vector<NodeResult>& results, LoadSource source) {
    for (const NodeResult& result : results) {
      EXPECT_THAT(result.status, IsOk());
      EXPECT_EQ(result.progress.source, source);
      EXPECT_THAT(result.shards, SizeIs(2));
    }
    EXPECT_THAT(WrongDigests(results), IsEmpty());
  }
  // The second load, from what its own agents hold.
  std::vector<NodeResult> RunFromCache(const std::string& load) {
    const std::vector<PreparedPlan> plans = PrepareBoth({load, 1});
    StartCommand command;
    command.source = LoadSource::kCache;
    command.content_key = plans[0].content_key;
    return StartBoth({load, 1}, command);
  }
  // A training process that takes a shard and writes all over it.
  void TakeAndOverwrite(const std::string& load, int32_t rank, AttachMode mode,
                        AttachMode expected) {
    LoadTable* const table = nodes_[rank / 2]->table.get();
    ZC_ASSERT_OK_AND_ASSIGN(ShardOffer offer, table->Offer(load, rank, kToken, mode));
    EXPECT_EQ(offer.mode, expected);
    ASSERT_THAT(table->Settle(offer, true), IsOk());
    const int flags = expected == AttachMode::kShared ? MAP_SHARED : MAP_PRIVATE;
    const size_t size = static_cast<size_t>(offer.arena_bytes);
    void* const place = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, offer.fd.get(), 0);
    ASSERT_NE(place, MAP_FAILED);
    std::memset(place, 0x5a, size);
    mapped_.push_back({place, size});
  }
  void TearDown() override {
    for (const auto& [place, size] : mapped_) ::munmap(place, size);
  }

  std::vector<std::pair<void*, size_t>> mapped_;  // as long as a training process keeps its tensors
};

TEST_F(SharedLoadsTest, ASecondLoadTakesTheShardsWithoutReading) {
  const std::vector<NodeResult> first = RunFindable(kFirst);
  ExpectGood(first, LoadSource::kFiles);
  const int64_t arena_bytes = Arena::TotalBytes();
  const std::vector<PreparedPlan> plans = PrepareBoth({kSecond, 1});
  ASSERT_THAT(plans[1].held, SizeIs(1));
  EXPECT_EQ(plans[1].content_key, "");  // node 0 names the content
  EXPECT_EQ(plans[1].held[0].content_key, plans[0].content_key);
  EXPECT_THAT(plans[1].held[0].ranks, ElementsAre(2, 3));
  const int64_t read = nodes_[0]->environment->reader->bytes_read();
  StartCommand command;
  command.source = LoadSource::kCache;
  command.content_key = plans[0].content_key;
  const std::vector<NodeResult> second = StartBoth({kSecond, 1}, command);
  ExpectGood(second, LoadSource::kCache);
  EXPECT_EQ(second[0].progress.bytes_read, 0);
  EXPECT_EQ(nodes_[0]->environment->reader->bytes_read(), read);
  EXPECT_EQ(Arena::TotalBytes(), arena_bytes);
  EXPECT_EQ(nodes_[0]->table->cache_stats().hits, 2);
  EXPECT_EQ(nodes_[0]->table->cache_stats().misses, 2);
}

TEST_F(SharedLoadsTest, WhatATrainerWritesReachesNoOtherLoad) {
  RunFindable(kFirst);
  TakeAndOverwrite(kFirst, 0, AttachMode::kPrivate, AttachMode::kPrivate);
  const std::vector<PreparedPlan> plans = PrepareBoth({kSecond, 1});
  TakeAndOverwrite(kFirst, 2, AttachMode::kPrivate, AttachMode::kPrivate);
  StartCommand command;
  command.source = LoadSource::kCache;
  command.content_key = plans[0].content_key;
  ExpectGood(StartBoth({kSecond, 1}, command), LoadSource::kCache);
  for (int32_t rank = 0; rank < 4; ++rank) {
    TakeAndOverwrite(kSecond, rank, AttachMode::kAuto, AttachMode::kPrivate);
  }
  ExpectGood(RunFromCache("loads/third"), LoadSource::kCache);
}

TEST_F(SharedLoadsTest, TheMemoryStaysAsLongAsAnyLoadHasIt) {
  const int64_t before = Arena::TotalBytes();
  RunFindable(kFirst);
  const int64_t arena_bytes = Arena::TotalBytes();
  RunFromCache(kSecond);
  for (const auto& node : nodes_) node->table->Cancel({kFirst, 1}, "test");
  for (const auto& node : nodes_) node->table->Shutdown(absl::Seconds(10));
  EXPECT_LE(Arena::TotalBytes(), arena_bytes);
  nodes_.clear();
  EXPECT_EQ(Arena::TotalBytes(), before);
}

TEST_F(SharedLoadsTest, WhatTwoLoadsHoldIsNotHandedOverShared) {
  RunFindable(kFirst);
  RunFromCache(kSecond);
  const auto offer = nodes_[0]->table->Offer(kFirst, 0, kToken, AttachMode::kShared);
  EXPECT_THAT(offer, StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("private")));
  EXPECT_EQ(ReasonOf(offer.status()), "WRONG_STATE");
}

TEST_F(SharedLoadsTest, WhatTwoLoadsHeldStaysSealed) {
  RunFindable(kFirst);
  RunFromCache(kSecond);
  nodes_[0]->table->Cancel({kFirst, 1}, "test");
  absl::Status refused;
  for (int k = 0; k < 5000; ++k) {  // the cancelled load lets go on a thread
    refused = nodes_[0]->table->Offer(kSecond, 0, kToken, AttachMode::kShared).status();
    ASSERT_FALSE(refused.ok());
    if (std::string(refused.message()).find("sealed") != std::string::npos) return;
    ::usleep(1000);
  }
  FAIL() << refused;
}

TEST_F(SharedLoadsTest, WhatWentOverSharedIsNeverTakenByOthers) {
  RunFindable(kFirst);
  TakeAndOverwrite(kFirst, 0, AttachMode::kAuto, AttachMode::kShared);
  const std::vector<PreparedPlan> plans = PrepareBoth({kSecond, 1});
  ASSERT_THAT(plans[0].held, SizeIs(1));
  EXPECT_THAT(plans[0].held[0].ranks, ElementsAre(1));
  StartCommand command;
  command.source = LoadSource::kCache;
  command.content_key = plans[0].content_key;
  nodes_[0]->table->Start({kSecond, 1}, command);
  const NodeResult refused = nodes_[0]->events->NextResult();
  EXPECT_THAT(refused.status, StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("rank 0")));
  ExpectGood(RunFindable("loads/third"), LoadSource::kFiles);
}

TEST_F(SharedLoadsTest, APreparedLoadKeepsWhatItWasTold) {
  RunFindable(kFirst);
  const std::vector<PreparedPlan> plans = PrepareBoth({kSecond, 1});
  for (const auto& node : nodes_) node->table->Cancel({kFirst, 1}, "the job ended");
  StartCommand command;
  command.source = LoadSource::kCache;
  command.content_key = plans[0].content_key;
  ExpectGood(StartBoth({kSecond, 1}, command), LoadSource::kCache);
}

TEST_F(SharedLoadsTest, APreparedLoadThatIsCancelledLetsGo) {
  RunFindable(kFirst);
  PrepareBoth({kSecond, 1});
  EXPECT_FALSE(nodes_[0]->table->Offer(kFirst, 0, kToken, AttachMode::kShared).ok());
  for (const auto& node : nodes_) node->table->Cancel({kSecond, 1}, "test");
  for (int k = 0; k < 5000; ++k) {
    const auto offer = nodes_[0]->table->Offer(kFirst, 0, kToken, AttachMode::kShared);
    if (offer.ok()) return;
    ::usleep(1000);
  }
  FAIL() << "the leases of a cancelled load stay";
}

TEST_F(SharedLoadsTest, AReplacedFileIsAnotherContent) {
  namespace fs = std::filesystem;
  RunFindable(kFirst);
  const fs::path path = dir_.File("model-2.safetensors"), copy = dir_.File("copy");
  fs::copy_file(path, copy);
  fs::last_write_time(copy, fs::last_write_time(path));
  fs::rename(copy, path);
  const std::vector<PreparedPlan> plans = PrepareBoth({kSecond, 1});
  ASSERT_THAT(plans[0].held, SizeIs(1));  // of the same plan
  EXPECT_NE(plans[0].held[0].content_key, plans[0].content_key);
}

TEST_F(SharedLoadsTest, WithLocalFilesEveryNodeNamesItsOwn) {
  layout_.read_mode = ReadMode::kLocal;
  const std::vector<PreparedPlan> plans = PrepareBoth({kFirst, 1});
  EXPECT_EQ(plans[1].content_key.size(), 32);
}

TEST_F(SharedLoadsTest, EndedLoadsStayWhereThereIsRoom) {
  for (const auto& node : nodes_) node->environment->cache = std::make_shared<ShardCache>(1 << 20);
  for (const auto& node : nodes_) {
    node->table = std::make_unique<LoadTable>(node->environment, 4);
  }
  RunFindable(kFirst);
  for (const auto& node : nodes_) node->table->Cancel({kFirst, 1}, "the job ended");
  for (int k = 0; k < 5000 && nodes_[1]->table->cache_stats().bytes == 0; ++k) ::usleep(1000);
  ExpectGood(RunFromCache(kSecond), LoadSource::kCache);
  EXPECT_EQ(nodes_[0]->table->cache_stats().bytes, 0);  // in use again
}

TEST_F(SharedLoadsTest, TheInventoryFollows) {
  const int before = nodes_[0]->events->NumInventories();
  EXPECT_THAT(nodes_[0]->table->Inventory(), IsEmpty());
  RunFindable(kFirst);
  EXPECT_GT(nodes_[0]->events->NumInventories(), before);
  ASSERT_THAT(nodes_[0]->table->Inventory(), SizeIs(1));
  EXPECT_THAT(nodes_[0]->table->Inventory()[0].ranks, ElementsAre(0, 1));
}

// Nodes 2 and 3 take what 0 and 1 hold.
class PeersTest : public SharedLoadsTest {
 protected:
  void SetUp() override {
    SharedLoadsTest::SetUp();
    for (int k = 2; k < 4; ++k) AddNode(k);
    takers_ = {nodes_[2].get(), nodes_[3].get()};
    peers_.participants = {"node-2", "node-3", "node-0", "node-1"};
    peers_.transfers = {{0, 2, 0}, {1, 2, 0}, {2, 3, 1}, {3, 3, 1}};
  }
  // The first load, on nodes 0 and 1 alone.
  void RunOnDonors() {
    std::vector<std::unique_ptr<Node>> others;
    for (int k = 0; k < 2; ++k) {
      others.push_back(std::move(nodes_.back()));
      nodes_.pop_back();
    }
    ExpectGood(RunFindable(kFirst), LoadSource::kFiles);
    plan_digest_ = Command(0).plan_digest;
    while (!others.empty()) {
      nodes_.push_back(std::move(others.back()));
      others.pop_back();
    }
  }
  std::vector<PreparedPlan> PrepareTakers() {
    std::vector<PreparedPlan> plans;
    for (int k = 0; k < 2; ++k) takers_[k]->table->Prepare({kSecond, 1}, Command(k));
    for (Node* const taker : takers_) {
      auto plan = taker->events->NextPlan();
      EXPECT_THAT(plan, IsOk());
      plans.push_back(plan.value_or(PreparedPlan()));
    }
    return plans;
  }
  void Donate(const std::string& content_key) {
    for (int k = 0; k < 2; ++k) {
      DonateCommand command;
      command.plan_digest = plan_digest_;
      command.content_key = content_key;
      command.peers = peers_;
      command.peers.participant = 2 + k;
      command.arena_bytes = MakePlan(dir_.path(), layout_)->arena_bytes;
      command.round_bytes = layout_.round_bytes;
      command.nonce = BulkNonce(kSecond, 1, plan_digest_, kToken);
      command.stage_timeout = absl::Seconds(20);
      nodes_[k]->table->Donate({kSecond, 1}, command);
    }
  }
  void StartTakers(const std::string& content_key) {
    for (int k = 0; k < 2; ++k) {
      StartCommand command;
      command.source = LoadSource::kPeers;
      command.content_key = content_key;
      command.peers = peers_;
      command.peers.participant = k;
      takers_[k]->table->Start({kSecond, 1}, command);
    }
  }
  std::vector<NodeResult> Results() {
    return {takers_[0]->events->NextResult(), takers_[1]->events->NextResult()};
  }

  std::vector<Node*> takers_;
  PeerTransfers peers_;
  std::string plan_digest_;
};

TEST_F(PeersTest, ShardsComeFromOtherAgentsWhileATrainerWritesToItsOwn) {
  RunOnDonors();
  TakeAndOverwrite(kFirst, 1, AttachMode::kPrivate, AttachMode::kPrivate);
  const std::vector<PreparedPlan> plans = PrepareTakers();
  EXPECT_THAT(plans[0].held, IsEmpty());
  const int64_t read = takers_[0]->environment->reader->bytes_read();
  Donate(plans[0].content_key);
  for (int k = 0; k < 2; ++k) {
    ZC_ASSERT_OK_AND_ASSIGN(const DonationStep step, nodes_[k]->events->NextDonation());
    EXPECT_EQ(step, DonationStep::kAccepted);
  }
  TakeAndOverwrite(kFirst, 3, AttachMode::kAuto, AttachMode::kPrivate);  // it is being given
  StartTakers(plans[0].content_key);
  const std::vector<NodeResult> results = Results();
  ExpectGood(results, LoadSource::kPeers);
  for (int k = 0; k < 2; ++k) {
    ZC_ASSERT_OK_AND_ASSIGN(const DonationStep step, nodes_[k]->events->NextDonation());
    EXPECT_EQ(step, DonationStep::kDone);
    EXPECT_EQ(results[k].progress.bytes_received, results[k].progress.arena_bytes);
    EXPECT_EQ(results[k].progress.bytes_read, 0);
  }
  EXPECT_EQ(takers_[0]->environment->reader->bytes_read(), read);
  EXPECT_GT(nodes_[0]->environment->bytes_sent, 0);
  // What they took is theirs: to hand over, and to give on.
  EXPECT_THAT(takers_[0]->table->Inventory(), SizeIs(1));
}

TEST_F(PeersTest, ADonorWithoutTheShardsSaysSo) {
  RunOnDonors();
  const std::vector<PreparedPlan> plans = PrepareTakers();
  for (int k = 0; k < 2; ++k) nodes_[k]->table->Cancel({kFirst, 1}, "test");
  for (int k = 0; k < 5000 && !nodes_[0]->table->Inventory().empty(); ++k) ::usleep(1000);
  Donate(plans[0].content_key);
  const auto step = nodes_[0]->events->NextDonation();
  EXPECT_THAT(step,
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("not here any more")));
  EXPECT_EQ(ReasonOf(step.status()), "WRONG_STATE");
}

TEST_F(PeersTest, ADonationOfAnOlderEpochIsRefused) {
  RunOnDonors();
  nodes_[0]->table->Cancel({kSecond, 1}, "test");
  nodes_[0]->table->Inspect({kSecond, 2}, {dir_.path(), absl::Seconds(20)});
  Donate("key");
  EXPECT_EQ(ReasonOf(nodes_[0]->events->NextDonation().status()), "STALE_EPOCH");
}

TEST_F(PeersTest, ACancelledDonationLetsTheShardsGo) {
  RunOnDonors();
  const std::vector<PreparedPlan> plans = PrepareTakers();
  Donate(plans[0].content_key);
  for (int k = 0; k < 2; ++k) EXPECT_THAT(nodes_[k]->events->NextDonation(), IsOk());
  EXPECT_FALSE(nodes_[0]->table->Offer(kFirst, 0, kToken, AttachMode::kShared).ok());
  for (int k = 0; k < 4; ++k) nodes_[k]->table->Cancel({kSecond, 1}, "test");
  // No more than the mesh that the loopback factory had begun to wait for.
  for (int k = 0; k < 5000; ++k) {
    if (nodes_[0]->table->Offer(kFirst, 0, kToken, AttachMode::kShared).ok()) return;
    ::usleep(1000);
  }
  FAIL() << "the leases of a cancelled donation stay";
}

TEST_F(PeersTest, ATakerThatIsLeftAloneFailsInTime) {
  RunOnDonors();
  const std::vector<PreparedPlan> plans = PrepareTakers();
  Donate(plans[0].content_key);
  for (int k = 0; k < 2; ++k) EXPECT_THAT(nodes_[k]->events->NextDonation(), IsOk());
  for (Node* const taker : takers_) taker->environment->root_cause_grace = absl::ZeroDuration();
  StartTakers(plans[0].content_key);
  nodes_[0]->table->Shutdown(absl::Seconds(10));  // the donor dies
  for (const NodeResult& result : Results()) {
    // It may have sent all before.
    if (!result.status.ok()) {
      EXPECT_EQ(ReasonOf(result.status), "EXCHANGE_FAILED");
    }
  }
}

}  // namespace
}  // namespace zerocast
