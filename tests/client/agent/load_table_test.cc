#include "client/agent/load_table.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>

#include "client/agent/path_policy.h"
#include "server/base/clock.h"
#include "server/base/errors.h"
#include "tests/client/agent/load_table_fixture.h"

namespace zerocast {
namespace {

using ::testing::_;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr absl::Duration kLong = absl::Seconds(20);

TEST_F(LoadTableTest, InspectGivesTheManifest) {
  nodes_[0]->table->Inspect({kLoad, 1}, {dir_.path(), kLong});
  ZC_ASSERT_OK_AND_ASSIGN(const InspectedCheckpoint inspected, nodes_[0]->events->NextManifest());
  ZC_ASSERT_OK_AND_ASSIGN(const Manifest manifest,
                          DecompressManifest(inspected.compressed_manifest));
  EXPECT_EQ(manifest.files.size(), 2);
  EXPECT_THAT(nodes_[0]->table->Held(), IsEmpty());
}

TEST_F(LoadTableTest, InspectAndPrepareStayBelowTheRoots) {
  const TempDir root;
  ZC_ASSERT_OK_AND_ASSIGN(nodes_[0]->environment->roots, ResolveRoots({root.path()}));
  nodes_[0]->table->Inspect({kLoad, 1}, {dir_.path(), kLong});
  EXPECT_THAT(nodes_[0]->events->NextManifest(),
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr(dir_.path())));
  nodes_[0]->table->Prepare({kLoad, 1}, Command(0));
  EXPECT_THAT(nodes_[0]->events->NextPlan(),
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr(dir_.path())));
}

TEST_F(LoadTableTest, ALoadEndsWithTheShardsOfEachNode) {
  const std::vector<NodeResult> results = RunLoad(kLoad, 1);
  for (int node = 0; node < 2; ++node) {
    EXPECT_THAT(results[node].status, IsOk());
    ASSERT_EQ(results[node].shards.size(), 2);
    EXPECT_EQ(results[node].shards[1].rank, 2 * node + 1);
    EXPECT_EQ(results[node].progress.stage, NodeStage::kDone);
    EXPECT_EQ(results[node].progress.transport, "loopback");
    EXPECT_EQ(results[node].progress.node_name, absl::StrCat("node-", node));
    EXPECT_EQ(results[node].progress.round, results[node].progress.num_rounds);
  }
  EXPECT_THAT(WrongDigests(results), IsEmpty());
  EXPECT_EQ(nodes_[0]->table->Held().size(), 1);
}

TEST_F(LoadTableTest, GlooConnectsThroughRelayedRendezvousEntries) {
  for (const auto& node : nodes_) node->environment->communicators = GlooCommunicators();
  for (int k = 0; k < 2; ++k) {
    nodes_[k]->events->relay = [other = nodes_[1 - k]->table.get()](const LoadKey& key,
                                                                    const std::string& name,
                                                                    const std::string& value) {
      other->AddRendezvous(key, name, value);
    };
  }
  const std::vector<NodeResult> results = RunLoad(kLoad, 1);
  EXPECT_THAT(WrongDigests(results), IsEmpty());
  EXPECT_THAT(results[0].status, IsOk());
  EXPECT_EQ(results[1].progress.transport, "gloo");
}

TEST_F(LoadTableTest, RefusesADamagedPlanInput) {
  PrepareCommand command = Command(0);
  command.compressed_plan_input[command.compressed_plan_input.size() / 2] ^= 1;
  nodes_[0]->table->Prepare({kLoad, 1}, command);
  const auto plan = nodes_[0]->events->NextPlan();
  EXPECT_FALSE(plan.ok());
  EXPECT_THAT(nodes_[0]->table->Held(), IsEmpty());
}

TEST_F(LoadTableTest, RefusesAPlanOfAnotherDigest) {
  PrepareCommand command = Command(0);
  command.plan_digest[0] = command.plan_digest[0] == '0' ? '1' : '0';
  nodes_[0]->table->Prepare({kLoad, 1}, command);
  const auto plan = nodes_[0]->events->NextPlan();
  EXPECT_THAT(plan, StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("digest")));
  EXPECT_EQ(ReasonOf(plan.status()), "PLAN_REFUSED");
  EXPECT_THAT(nodes_[0]->table->Held(), IsEmpty());
}

TEST_F(LoadTableTest, RefusesCommandsOfAnOlderEpoch) {
  const auto& table = nodes_[0]->table;
  RecordingEvents* const events = nodes_[0]->events.get();
  table->Inspect({kLoad, 7}, {dir_.path(), kLong});
  EXPECT_THAT(events->NextManifest(), IsOk());
  table->Inspect({kLoad, 6}, {dir_.path(), kLong});
  const auto manifest = events->NextManifest();
  EXPECT_THAT(manifest, StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("7")));
  EXPECT_EQ(ReasonOf(manifest.status()), "STALE_EPOCH");
  table->Prepare({kLoad, 6}, Command(0));
  EXPECT_EQ(ReasonOf(events->NextPlan().status()), "STALE_EPOCH");
  table->Start({kLoad, 6});
  EXPECT_EQ(ReasonOf(events->NextResult().status), "STALE_EPOCH");
  // Of another load, or the same epoch, nothing is stale.
  table->Inspect({"loads/other", 1}, {dir_.path(), kLong});
  EXPECT_THAT(events->NextManifest(), IsOk());
  table->Prepare({kLoad, 7}, Command(0));
  EXPECT_THAT(events->NextPlan(), IsOk());
}

TEST_F(LoadTableTest, ANewerEpochFreesWhatTheOlderOneHolds) {
  const int64_t before = Arena::TotalBytes();
  nodes_[0]->table->Prepare({kLoad, 1}, Command(0));
  EXPECT_THAT(nodes_[0]->events->NextPlan(), IsOk());
  EXPECT_GT(Arena::TotalBytes(), before);
  nodes_[0]->table->Inspect({kLoad, 2}, {dir_.path(), kLong});
  EXPECT_THAT(nodes_[0]->events->NextManifest(), IsOk());
  ExpectArenaBytes(before);
  EXPECT_THAT(nodes_[0]->table->Held(), IsEmpty());
}

TEST_F(LoadTableTest, StartNeedsAPreparedLoadAndCountsOnce) {
  nodes_[0]->table->Start({kLoad, 1});
  EXPECT_THAT(nodes_[0]->events->NextResult().status,
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("not prepared")));
  RunLoad(kLoad, 1);
  nodes_[0]->table->Start({kLoad, 1});
  EXPECT_EQ(ReasonOf(nodes_[0]->events->NextResult().status), "WRONG_STATE");
  EXPECT_EQ(nodes_[0]->table->Held().size(), 1);  // it does no harm to the finished load
}

TEST_F(LoadTableTest, AFileThatChangedSinceTheManifestIsNamed) {
  const PrepareCommand command = Command(0);
  {
    std::fstream file(dir_.File("model-1.safetensors"),
                      std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(20);
    file.put('?');  // in the header: the size stays
  }
  nodes_[0]->table->Prepare({kLoad, 1}, command);
  const auto plan = nodes_[0]->events->NextPlan();
  EXPECT_FALSE(plan.ok());
  EXPECT_THAT(std::string(plan.status().message()), HasSubstr("model-1.safetensors"));
}

TEST_F(LoadTableTest, CancelFreesEverythingInEveryState) {
  const int64_t before = Arena::TotalBytes();
  RunLoad(kLoad, 1);
  nodes_[0]->table->Prepare({"loads/other", 1}, Command(0));
  EXPECT_THAT(nodes_[0]->events->NextPlan(), IsOk());
  for (const auto& node : nodes_) {
    node->table->Cancel({kLoad, 1}, "test");
    node->table->Cancel({"loads/other", 1}, "test");
    EXPECT_THAT(node->table->Held(), IsEmpty());
  }
  ExpectArenaBytes(before);
}

TEST_F(LoadTableTest, CancelEndsALoadThatWaitsForItsPeer) {
  const LoadKey key{kLoad, 1};
  nodes_[0]->table->Prepare(key, Command(0));
  EXPECT_THAT(nodes_[0]->events->NextPlan(), IsOk());
  nodes_[0]->table->Start(key);  // node 1 never comes
  nodes_[0]->table->Cancel(key, "test");
  nodes_[0]->table->Shutdown(absl::Seconds(10));
  EXPECT_EQ(nodes_[0]->events->NumResults(), 0);
}

TEST_F(LoadTableTest, ANodeThatLostItsPeerLetsTheCauseComeFirst) {
  PosixReaderOptions faulty;
  faulty.result_of_read = [](const ReadCall&, int64_t) -> int64_t { return -EIO; };
  nodes_[0]->environment->reader = MakePosixReader(faulty);
  // The cancel ends the wait, however late this thread sends it.
  nodes_[1]->environment->root_cause_grace = absl::Hours(1);
  const LoadKey key{kLoad, 1};
  for (int k = 0; k < 2; ++k) nodes_[k]->table->Prepare(key, Command(k));
  for (const auto& node : nodes_) EXPECT_THAT(node->events->NextPlan(), IsOk());
  for (const auto& node : nodes_) node->table->Start(key);
  const NodeResult cause = nodes_[0]->events->NextResult();
  EXPECT_EQ(ReasonOf(cause.status), "IO_ERROR");
  EXPECT_THAT(cause.shards, IsEmpty());
  nodes_[1]->table->Cancel(key, "node-0 failed");
  nodes_[1]->table->Shutdown(absl::Seconds(10));
  EXPECT_EQ(nodes_[1]->events->NumResults(), 0);
}

// A reader, for which nothing is in the page cache, whose first read (past the page cache) returns
// `fault`.
std::shared_ptr<FileReader> FaultyReader(int64_t fault, bool direct_only) {
  PosixReaderOptions faulty;
  faulty.nothing_is_cached = true;
  faulty.result_of_read = [fault, direct_only, done = std::make_shared<std::atomic<bool>>(false)](
                              const ReadCall& call, int64_t result) {
    if (direct_only && !call.direct) return result;
    return done->exchange(true) ? result : fault;
  };
  return MakePosixReader(faulty);
}

TEST_F(LoadTableTest, AReadThatFailsEndsTheLoadWithItsPlaceWhateverWayItIs) {
  const int64_t before = Arena::TotalBytes();
  int64_t epoch = 0;
  for (const IoMode io : {IoMode::kAuto, IoMode::kCached, IoMode::kDirect}) {
    nodes_[1]->environment->io = io;
    nodes_[1]->environment->reader = FaultyReader(-EIO, false);
    const std::vector<NodeResult> results = RunLoad(kLoad, ++epoch);
    EXPECT_THAT(results[1].status, StatusIs(absl::StatusCode::kUnavailable,
                                            AllOf(HasSubstr("read " + dir_.File("model-")),
                                                  HasSubstr("safetensors at offset "),
                                                  HasSubstr("Input/output error"))));
    EXPECT_EQ(ReasonOf(results[1].status), "IO_ERROR");
    EXPECT_EQ(ReasonOf(results[0].status), "EXCHANGE_FAILED");
    for (const NodeResult& result : results) EXPECT_THAT(result.shards, IsEmpty());
    ExpectArenaBytes(before);
  }
  EXPECT_THAT(WrongDigests(RunLoad(kLoad, ++epoch)), IsEmpty());
}

TEST_F(LoadTableTest, WhereDirectReadsAreRefusedTheReportSaysSo) {
  int64_t epoch = 0;
  for (const IoMode io : {IoMode::kAuto, IoMode::kDirect}) {
    nodes_[1]->environment->io = io;
    nodes_[1]->environment->reader = FaultyReader(-EINVAL, true);
    const std::vector<NodeResult> results = RunLoad(kLoad, ++epoch);
    EXPECT_THAT(WrongDigests(results), IsEmpty());
    EXPECT_THAT(results[1].progress.direct_refusal,
                AllOf(HasSubstr("read " + dir_.File("model-")),
                      HasSubstr("safetensors past the page cache: EINVAL")));
    EXPECT_EQ(results[0].progress.direct_refusal, "");
  }
}

TEST_F(LoadTableTest, RefusesMoreLoadsThanItMayHold) {
  for (int k = 0; k < 4; ++k) {
    nodes_[0]->table->Prepare({absl::StrCat("loads/", k), 1}, Command(0));
    EXPECT_THAT(nodes_[0]->events->NextPlan(), IsOk());
  }
  nodes_[0]->table->Prepare({"loads/5", 1}, Command(0));
  EXPECT_THAT(nodes_[0]->events->NextPlan(),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("4 loads")));
}

TEST_F(LoadTableTest, ATrainerThatOverwritesItsTensorsChangesNoLaterLoad) {
  ASSERT_THAT(WrongDigests(RunLoad(kLoad, 1)), IsEmpty());
  for (int rank = 0; rank < 4; ++rank) {
    LoadTable* const table = nodes_[static_cast<size_t>(rank / 2)]->table.get();
    ZC_ASSERT_OK_AND_ASSIGN(const ShardOffer offer,
                            table->Offer(kLoad, rank, kToken, AttachMode::kShared));
    ASSERT_THAT(table->Settle(offer, /*acknowledged=*/true), IsOk());
    const size_t num_bytes = static_cast<size_t>(offer.arena_bytes);
    void* const weights =
        ::mmap(nullptr, num_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, offer.fd.get(), 0);
    ASSERT_NE(weights, MAP_FAILED);
    std::memset(weights, 0x5a, num_bytes);
    const std::vector<NodeResult> next = RunLoad("loads/next", rank + 1);
    EXPECT_THAT(next[0].status, IsOk());
    EXPECT_THAT(WrongDigests(next), IsEmpty());
    EXPECT_EQ(static_cast<char*>(weights)[num_bytes - 1], 0x5a);
    ::munmap(weights, num_bytes);
  }
}

TEST_F(LoadTableTest, HandOversAreReportedAndEndTheLoad) {
  RunLoad(kLoad, 1);
  LoadTable* const table = nodes_[0]->table.get();
  EXPECT_THAT(table->Offer(kLoad, 0, "wrong", AttachMode::kShared),
              StatusIs(absl::StatusCode::kPermissionDenied, _));
  EXPECT_THAT(table->Offer("loads/none", 0, kToken, AttachMode::kShared),
              StatusIs(absl::StatusCode::kNotFound, _));
  for (int rank = 0; rank < 2; ++rank) {
    ZC_ASSERT_OK_AND_ASSIGN(const ShardOffer offer,
                            table->Offer(kLoad, rank, kToken, AttachMode::kShared));
    EXPECT_THAT(table->Settle(offer, true), IsOk());
    EXPECT_EQ(nodes_[0]->events->NextHandOver(), std::make_pair(rank, AttachMode::kShared));
  }
  EXPECT_THAT(table->Held(), IsEmpty());
  EXPECT_THAT(table->Offer(kLoad, 0, kToken, AttachMode::kShared),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("handed over")));
}

TEST_F(LoadTableTest, BeforeItIsReadyNothingIsHandedOver) {
  nodes_[0]->table->Prepare({kLoad, 1}, Command(0));
  EXPECT_THAT(nodes_[0]->events->NextPlan(), IsOk());
  EXPECT_THAT(nodes_[0]->table->Offer(kLoad, 0, kToken, AttachMode::kPrivate),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("not ready")));
}

TEST_F(LoadTableTest, AnOfferOutlivesACancelledLoad) {
  RunLoad(kLoad, 1);
  LoadTable* const table = nodes_[0]->table.get();
  ZC_ASSERT_OK_AND_ASSIGN(const ShardOffer offer,
                          table->Offer(kLoad, 0, kToken, AttachMode::kShared));
  table->Cancel({kLoad, 1}, "test");
  char byte;
  EXPECT_EQ(::pread(offer.fd.get(), &byte, 1, 0), 1);
  // But it is not given any more.
  EXPECT_THAT(table->Settle(offer, true),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("cancelled")));
}

TEST_F(LoadTableTest, ShardsThatNobodyTakesAreFreedAndSaySo) {
  FakeClock clock;
  nodes_[0]->environment->clock = &clock;
  const int64_t before = Arena::TotalBytes();
  ASSERT_THAT(RunLoad(kLoad, 1)[0].status, IsOk());
  nodes_[1]->table->Cancel({kLoad, 1}, "not of this test");
  LoadTable* const table = nodes_[0]->table.get();
  clock.Advance(absl::Minutes(59));
  table->ExpireUnclaimed(absl::Hours(1));
  EXPECT_EQ(table->Held().size(), 1);
  EXPECT_EQ(table->counts().expired, 0);

  clock.Advance(absl::Minutes(1));
  table->ExpireUnclaimed(absl::Hours(1));
  EXPECT_THAT(table->Held(), IsEmpty());
  EXPECT_EQ(table->counts().expired, 1);
  EXPECT_EQ(table->counts().held, 0);
  ExpectArenaBytes(before);
  const auto offer = table->Offer(kLoad, 0, kToken, AttachMode::kPrivate);
  EXPECT_THAT(offer, StatusIs(absl::StatusCode::kFailedPrecondition,
                              AllOf(HasSubstr("within 1h"), HasSubstr("--unclaimed-ttl"))));
  EXPECT_EQ(ReasonOf(offer.status()), "WRONG_STATE");
  // The server is told, once.
  const auto freed = nodes_[0]->events->NextFreed();
  ASSERT_TRUE(freed.has_value());
  EXPECT_THAT(freed->first, ElementsAre(0, 1));
  EXPECT_THAT(freed->second, StatusIs(absl::StatusCode::kFailedPrecondition,
                                      AllOf(HasSubstr("within 1h"), HasSubstr("--unclaimed-ttl"))));
  EXPECT_EQ(ReasonOf(freed->second), "WRONG_STATE");
  table->ExpireUnclaimed(absl::Hours(1));
  EXPECT_EQ(nodes_[0]->events->NumFreed(), 0u);
  // A new attempt is a load like any other.
  ASSERT_THAT(RunLoad(kLoad, 2)[0].status, IsOk());
  EXPECT_THAT(table->Offer(kLoad, 0, kToken, AttachMode::kPrivate), IsOk());
}

TEST_F(LoadTableTest, OnlyWhatNobodyTookExpires) {
  FakeClock clock;
  nodes_[0]->environment->clock = &clock;
  RunLoad(kLoad, 1);
  LoadTable* const table = nodes_[0]->table.get();
  ZC_ASSERT_OK_AND_ASSIGN(const ShardOffer taken,
                          table->Offer(kLoad, 0, kToken, AttachMode::kPrivate));
  ASSERT_THAT(table->Settle(taken, true), IsOk());
  clock.Advance(absl::Hours(2));
  table->ExpireUnclaimed(absl::Hours(1));
  EXPECT_EQ(table->Held().size(), 1);
  const auto freed = nodes_[0]->events->NextFreed();
  ASSERT_TRUE(freed.has_value());
  EXPECT_THAT(freed->first, ElementsAre(1));
  EXPECT_THAT(table->Offer(kLoad, 0, kToken, AttachMode::kPrivate), IsOk());
  EXPECT_THAT(table->Offer(kLoad, 1, kToken, AttachMode::kPrivate),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("within 1h")));
}

TEST_F(LoadTableTest, LoadsInWorkDoNotExpire) {
  FakeClock clock;
  nodes_[0]->environment->clock = &clock;
  nodes_[0]->table->Prepare({kLoad, 1}, Command(0));
  EXPECT_THAT(nodes_[0]->events->NextPlan(), IsOk());
  clock.Advance(absl::Hours(2));
  nodes_[0]->table->ExpireUnclaimed(absl::Hours(1));
  EXPECT_EQ(nodes_[0]->table->Held().size(), 1);
}

// Keeps the latest result only.
class LatestResult : public AgentEvents {
 public:
  void ManifestDone(const LoadKey&, absl::StatusOr<InspectedCheckpoint>) override {}
  void PlanDone(const LoadKey&, absl::StatusOr<PreparedPlan>) override {}
  void RendezvousPut(const LoadKey&, const std::string&, const std::string&) override {}
  void Progress(const LoadKey&, const NodeProgress&) override {}
  void LoadDone(const LoadKey&, const NodeResult& result) override { status = result.status; }
  void HandedOver(const LoadKey&, const HandOver&) override {}
  void ShardsFreed(const LoadKey&, const std::vector<int32_t>&, const absl::Status&) override {}
  void Donated(const LoadKey&, absl::StatusOr<DonationStep>) override {}
  void FolderLooked(const std::string&, absl::StatusOr<FoundZeroFolder>) override {}
  void InventoryChanged() override {}

  absl::Status status;
};

TEST_F(LoadTableTest, TheLatestEpochsAreRememberedAlsoWhereLoadsShareOne) {
  auto environment = std::make_shared<LoadEnvironment>();
  const auto events = std::make_shared<LatestResult>();
  environment->events = events;
  LoadTable table(environment, 4);
  // Start is answered at once where nothing is prepared.  More loads than are remembered:
  for (int k = 0; k < 65536 + 10; ++k) table.Start({absl::StrCat("loads/", k), 5});
  table.Start({"loads/last", 5});
  EXPECT_EQ(ReasonOf(events->status), "WRONG_STATE");
  table.Start({"loads/last", 4});
  EXPECT_EQ(ReasonOf(events->status), "STALE_EPOCH");
  // Of the same epoch the first by name is forgotten first.
  table.Start({"loads/9", 4});
  EXPECT_EQ(ReasonOf(events->status), "STALE_EPOCH");
}

size_t OpenDescriptors() {
  size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    (void)entry;
    ++count;
  }
  return count;
}

TEST_F(LoadTableTest, FiftyLoadsLeaveNothingBehind) {
  const int64_t arena_bytes = Arena::TotalBytes();
  RunLoad(kLoad, 1);
  for (const auto& node : nodes_) node->table->Cancel({kLoad, 1}, "test");
  ExpectArenaBytes(arena_bytes);
  const size_t descriptors = OpenDescriptors();
  for (int k = 2; k < 52; ++k) {
    RunLoad(kLoad, k);
    for (const auto& node : nodes_) node->table->Cancel({kLoad, k}, "test");
  }
  ExpectArenaBytes(arena_bytes);
  EXPECT_EQ(OpenDescriptors(), descriptors);
}

}  // namespace
}  // namespace zerocast
