// What the store holds of checkpoints, and what two writers or a broken disk make of it.
#include "server/rpc/checkpoint_registry.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "server/base/errors.h"
#include "server/rpc/checkpoint_convert.h"
#include "server/store/memory_store.h"
#include "tests/status_matchers.h"

namespace zerocast::rpc {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kPath[] = "/ckpt/run";

// Refuses writes, or does them and says that it does not know.
class FlakyStore : public MemoryStore {
 public:
  absl::StatusOr<std::vector<int64_t>> CommitAll(
      const std::vector<std::vector<StoreWrite>>& commits) override {
    if (broken) return WithReason(absl::UnavailableError("no disk"), "STORE_UNAVAILABLE");
    auto written = MemoryStore::CommitAll(commits);
    if (forgetful) return WithReason(absl::UnavailableError("no answer"), "STORE_UNAVAILABLE");
    return written;
  }

  bool broken = false, forgetful = false;
};

class CheckpointRegistryTest : public ::testing::Test {
 protected:
  void SetUp() override { registry_ = Start(); }

  // A process on the store.
  std::unique_ptr<CheckpointRegistry> Start() {
    auto registry = CheckpointRegistry::Create({5}, &store_, &clock_);
    EXPECT_THAT(registry, IsOk());
    return registry.ok() ? *std::move(registry) : nullptr;
  }
  static jobs::FoundCheckpoint Found(const std::string& tag, const std::string& digest = "d1") {
    jobs::FoundCheckpoint found;
    found.tag = tag;
    found.step = 5;
    found.num_files = 3;
    found.digest = digest;
    if (digest.empty()) found.problem = absl::DataLossError("it is torn");
    return found;
  }
  jobs::FolderLook Look(std::vector<jobs::FoundCheckpoint> found) {
    clock_.Advance(absl::Seconds(1));
    return {"node-a", clock_.Now(), "", std::move(found)};
  }
  absl::StatusOr<jobs::Checkpoint> Add(const jobs::FoundCheckpoint& found,
                                       const std::string& request = "",
                                       const std::string& job = "jobs/1",
                                       bool validate_only = false) {
    jobs::Checkpoint checkpoint;
    checkpoint.job = job;
    checkpoint.path = kPath;
    checkpoint.request = {request, "body"};
    return registry_->Add(checkpoint, Look({}), found, validate_only);
  }
  size_t NumRecords() const { return store_.List("checkpoints/", "", 1000)->size(); }

  FlakyStore store_;
  FakeClock clock_;
  std::unique_ptr<CheckpointRegistry> registry_;
};

TEST_F(CheckpointRegistryTest, LoadsFindWhatIsRegisteredByTheFolderOrByTheTagsOwn) {
  for (const std::string tag : {"a", "b"}) ASSERT_THAT(Add(Found(tag)), IsOk());
  ASSERT_THAT(Add(Found("b", "d2"), "", "jobs/2"), IsOk());
  const auto digests = [this](const std::string& path, const std::string& tag) {
    std::vector<std::string> found;
    for (const auto& checkpoint : registry_->OfLoad(path, tag)) found.push_back(checkpoint.digest);
    return found;
  };
  EXPECT_THAT(digests("/ckpt/run", "a"), ElementsAre("d1"));
  EXPECT_THAT(digests("/ckpt/run//", "b"), ElementsAre("d1", "d2"));
  EXPECT_THAT(digests("/ckpt/run/b/", "b"), ElementsAre("d1", "d2"));
  EXPECT_THAT(digests("/ckpt/run/b", "a"), ElementsAre());
  EXPECT_THAT(digests("/ckpt/run", "c"), ElementsAre());
  EXPECT_THAT(digests("/ckpt", "run"), ElementsAre());
  EXPECT_THAT(digests("/", ""), ElementsAre());
  for (const std::string path : {"/ckpt/run", "/ckpt/run/", "/ckpt/run/a"}) {
    EXPECT_TRUE(registry_->MayHaveOfLoad(path)) << path;
  }
  for (const std::string path : {"/ckpt", "/ckpt/ru", "/ckpt/run/c", "/ckpt/run2", "/", ""}) {
    EXPECT_FALSE(registry_->MayHaveOfLoad(path)) << path;
  }
}

TEST_F(CheckpointRegistryTest, ARestartKnowsEverything) {
  ZC_ASSERT_OK_AND_ASSIGN(const jobs::Checkpoint made, Add(Found("global_step5"), "r1"));
  ASSERT_THAT(registry_->SetPinned(made.name, true), IsOk());
  jobs::FoundCheckpoint unnumbered = Found("best", "");
  unnumbered.step.reset();
  ZC_ASSERT_OK_AND_ASSIGN(const jobs::Checkpoint torn, Add(unnumbered));
  ASSERT_THAT(registry_->NoteLook(kPath, Look({Found("global_step5", "d2")})), IsOk());
  ZC_ASSERT_OK_AND_ASSIGN(const jobs::Checkpoint before, registry_->Get(made.name));
  EXPECT_EQ(jobs::StateOf(before), jobs::CheckpointState::kChanged);

  registry_ = Start();
  ZC_ASSERT_OK_AND_ASSIGN(const jobs::Checkpoint after, registry_->Get(made.name));
  EXPECT_EQ(CheckpointToProto(after).SerializeAsString(),
            CheckpointToProto(before).SerializeAsString());
  EXPECT_EQ(after.found.digest, "d2");
  EXPECT_TRUE(after.pinned);
  ZC_ASSERT_OK_AND_ASSIGN(const jobs::Checkpoint torn_after, registry_->Get(torn.name));
  EXPECT_THAT(torn_after.found.problem, StatusIs(absl::StatusCode::kDataLoss, "it is torn"));
  EXPECT_FALSE(torn_after.found.step.has_value());
  ZC_ASSERT_OK_AND_ASSIGN(const auto of_request, registry_->FindOf({"r1", "body"}));
  ASSERT_TRUE(of_request.has_value());
  EXPECT_EQ(of_request->name, made.name);
  // Names go on from where they were.
  ZC_ASSERT_OK_AND_ASSIGN(const jobs::Checkpoint next, Add(Found("global_step6")));
  EXPECT_GT(next.name, torn.name);
}

TEST_F(CheckpointRegistryTest, ADamagedRecordIsNamed) {
  ASSERT_THAT(store_.Put("checkpoints/000000000009-00", R"({"format": 1})"), IsOk());
  EXPECT_THAT(CheckpointRegistry::Create({}, &store_, &clock_),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("checkpoints/000000000009-00")));
}

TEST_F(CheckpointRegistryTest, TheSameRequestGivesTheSame) {
  ZC_ASSERT_OK_AND_ASSIGN(const jobs::Checkpoint made, Add(Found("t", "d1"), "r1"));
  ZC_ASSERT_OK_AND_ASSIGN(const jobs::Checkpoint again, Add(Found("t", "d2"), "r1"));
  EXPECT_EQ(again.name, made.name);
  EXPECT_EQ(again.digest, "d1");
  EXPECT_THAT(registry_->FindOf({"r1", "another body"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(made.name)));
}

TEST_F(CheckpointRegistryTest, RegisteringTheSameFilesAgainGivesTheSame) {
  ZC_ASSERT_OK_AND_ASSIGN(const jobs::Checkpoint made, Add(Found("t", "d1")));
  ZC_ASSERT_OK_AND_ASSIGN(const jobs::Checkpoint again, Add(Found("t", "d1")));
  EXPECT_EQ(again.name, made.name);
  EXPECT_EQ(again.create_time, made.create_time);
  EXPECT_GT(again.look_time, made.look_time);
  EXPECT_EQ(NumRecords(), 1u);
}

TEST_F(CheckpointRegistryTest, RegisteringOtherFilesTakesThePlaceAndThePin) {
  ZC_ASSERT_OK_AND_ASSIGN(const jobs::Checkpoint made, Add(Found("t", "d1")));
  ASSERT_THAT(registry_->SetPinned(made.name, true), IsOk());
  ZC_ASSERT_OK_AND_ASSIGN(const jobs::Checkpoint next, Add(Found("t", "d2")));
  EXPECT_NE(next.name, made.name);
  EXPECT_TRUE(next.pinned);
  EXPECT_EQ(jobs::StateOf(next), jobs::CheckpointState::kComplete);
  EXPECT_THAT(registry_->Get(made.name),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr(made.name)));
  EXPECT_EQ(NumRecords(), 1u);
  // Of another job it is another one.
  ZC_ASSERT_OK_AND_ASSIGN(const jobs::Checkpoint other, Add(Found("t", "d2"), "", "jobs/2"));
  EXPECT_NE(other.name, next.name);
  EXPECT_FALSE(other.pinned);
}

TEST_F(CheckpointRegistryTest, ValidateOnlyWritesNothing) {
  ZC_ASSERT_OK_AND_ASSIGN(const jobs::Checkpoint made, Add(Found("t"), "", "jobs/1", true));
  EXPECT_EQ(made.name, "");
  EXPECT_EQ(made.digest, "d1");
  EXPECT_EQ(NumRecords(), 0u);
}

TEST_F(CheckpointRegistryTest, ThereIsALimit) {
  for (int i = 0; i < 5; ++i) ASSERT_THAT(Add(Found("t" + std::to_string(i))), IsOk());
  EXPECT_THAT(Add(Found("t5")),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("at most 5")));
  // What takes another one's place is no more.
  EXPECT_THAT(Add(Found("t1", "d2")), IsOk());
}

TEST_F(CheckpointRegistryTest, ListsThoseRegisteredLastFirst) {
  std::vector<std::string> names;
  for (int i = 0; i < 4; ++i) {
    ZC_ASSERT_OK_AND_ASSIGN(const jobs::Checkpoint made,
                            Add(Found("t" + std::to_string(i)), "", i == 2 ? "jobs/2" : "jobs/1"));
    names.push_back(made.name);
  }
  const auto listed = [this](absl::string_view job, absl::string_view path,
                             absl::string_view before, int limit) {
    std::vector<std::string> found;
    for (const auto& each : registry_->List(job, path, before, limit)) found.push_back(each.name);
    return found;
  };
  EXPECT_THAT(listed("jobs/1", "", "", 10), ElementsAre(names[3], names[1], names[0]));
  EXPECT_THAT(listed("", kPath, "", 2), ElementsAre(names[3], names[2]));
  EXPECT_THAT(listed("", kPath, names[2], 2), ElementsAre(names[1], names[0]));
  EXPECT_THAT(listed("", "/elsewhere", "", 2), ElementsAre());
}

TEST_F(CheckpointRegistryTest, AnOlderLookChangesNothing) {
  const jobs::FolderLook early = Look({Found("t", "")});
  ZC_ASSERT_OK_AND_ASSIGN(const jobs::Checkpoint made, Add(Found("t")));
  ASSERT_THAT(registry_->NoteLook(kPath, early), IsOk());
  EXPECT_EQ(jobs::StateOf(*registry_->Get(made.name)), jobs::CheckpointState::kComplete);
}

TEST_F(CheckpointRegistryTest, WhatTheStoreRefusesHasNotHappened) {
  ZC_ASSERT_OK_AND_ASSIGN(const jobs::Checkpoint made, Add(Found("t")));
  store_.broken = true;
  EXPECT_THAT(Add(Found("u")), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("no disk")));
  EXPECT_THAT(registry_->SetPinned(made.name, true),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("no disk")));
  EXPECT_THAT(registry_->Remove({made}),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("no disk")));
  EXPECT_EQ(registry_->List("", "").size(), 1u);
  EXPECT_FALSE(registry_->Get(made.name)->pinned);
  store_.broken = false;
  EXPECT_THAT(registry_->SetPinned(made.name, true), IsOk());
}

TEST_F(CheckpointRegistryTest, WhatIsNotKnownToHaveHappenedIsReadAgain) {
  ZC_ASSERT_OK_AND_ASSIGN(const jobs::Checkpoint made, Add(Found("t")));
  store_.forgetful = true;
  EXPECT_THAT(registry_->SetPinned(made.name, true),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("no answer")));
  EXPECT_THAT(Add(Found("u"), "r1"), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("")));
  store_.forgetful = false;
  // Both happened: the next call about them sees it.
  ZC_ASSERT_OK_AND_ASSIGN(const jobs::Checkpoint again, Add(Found("u"), "r1"));
  EXPECT_EQ(NumRecords(), 2u);
  ZC_ASSERT_OK_AND_ASSIGN(const jobs::Checkpoint unpinned, registry_->SetPinned(made.name, false));
  EXPECT_FALSE(unpinned.pinned);
}

TEST_F(CheckpointRegistryTest, TheFasterOfTwoWritersWins) {
  ZC_ASSERT_OK_AND_ASSIGN(const jobs::Checkpoint made, Add(Found("t")));
  const auto other = Start();
  ASSERT_THAT(other->SetPinned(made.name, true), IsOk());
  // This process has not seen the pin; nothing of the other one's is lost.
  EXPECT_THAT(registry_->NoteLook(kPath, Look({Found("t", "d2")})),
              StatusIs(absl::StatusCode::kAborted, HasSubstr(made.name)));
  EXPECT_TRUE(registry_->Get(made.name)->pinned);
  EXPECT_THAT(registry_->NoteLook(kPath, Look({Found("t", "d2")})), IsOk());
}

TEST_F(CheckpointRegistryTest, WhatHasChangedIsNotForgotten) {
  ZC_ASSERT_OK_AND_ASSIGN(const jobs::Checkpoint first, Add(Found("t")));
  ZC_ASSERT_OK_AND_ASSIGN(const jobs::Checkpoint second, Add(Found("u")));
  ASSERT_THAT(registry_->SetPinned(second.name, true), IsOk());
  EXPECT_THAT(registry_->Remove({first, second}),
              StatusIs(absl::StatusCode::kAborted, HasSubstr(second.name)));
  EXPECT_EQ(NumRecords(), 2u);
  // A look alone is no change.
  ASSERT_THAT(registry_->NoteLook(kPath, Look({Found("t")})), IsOk());
  EXPECT_THAT(registry_->Remove({first}), IsOk());
  EXPECT_EQ(NumRecords(), 1u);
}

TEST_F(CheckpointRegistryTest, CountsByState) {
  ASSERT_THAT(Add(Found("t")), IsOk());
  ASSERT_THAT(Add(Found("u", "")), IsOk());
  const std::map<std::string, int64_t> counts = registry_->CountByState();
  EXPECT_EQ(counts.at("COMPLETE"), 1);
  EXPECT_EQ(counts.at("INCOMPLETE"), 1);
  EXPECT_EQ(counts.at("GONE"), 0);
}

}  // namespace
}  // namespace zerocast::rpc
