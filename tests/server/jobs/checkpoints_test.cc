// Which registered checkpoint is complete, which is the newest, which may go.
#include "server/jobs/checkpoints.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "server/base/errors.h"
#include "tests/status_matchers.h"

namespace zerocast::jobs {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const absl::Time kNow = absl::FromUnixSeconds(1700000000);

absl::Status Torn() {
  return WithReason(absl::DataLossError("zero_pp_rank_1_mp_rank_00_optim_states.pt is torn"),
                    "CHECKPOINT_CORRUPT");
}

FoundCheckpoint Found(int64_t step, absl::Status problem = absl::OkStatus()) {
  FoundCheckpoint found;
  found.tag = "global_step" + std::to_string(step);
  found.step = step;
  found.world_size = 2;
  found.num_files = 4;
  found.problem = std::move(problem);
  if (found.problem.ok()) found.digest = "digest of " + found.tag;
  return found;
}

Checkpoint Made(const FoundCheckpoint& found, absl::Duration age = absl::ZeroDuration()) {
  Checkpoint checkpoint;
  checkpoint.name = "checkpoints/" + found.tag;
  checkpoint.path = "/ckpt";
  checkpoint.create_time = kNow - age;
  Note({"a", kNow, "", {}}, found, &checkpoint);
  return checkpoint;
}

std::vector<std::string> Tags(const std::vector<const Checkpoint*>& checkpoints) {
  std::vector<std::string> tags;
  for (const Checkpoint* checkpoint : checkpoints) tags.push_back(checkpoint->found.tag);
  return tags;
}

TEST(Checkpoints, ALoadIsComparedWithWhatAnyJobHasRegistered) {
  EXPECT_THAT(CompareWithRegistered("/ckpt/global_step1", "any", {}), IsOk());
  // Nobody ever saw it whole: there is nothing to compare with.
  const Checkpoint torn = Made(Found(1, Torn()));
  EXPECT_THAT(CompareWithRegistered("/ckpt/global_step1", "any", {torn}), IsOk());
  Checkpoint old = Made(Found(1), absl::Hours(2)), later = Made(Found(1), absl::Hours(1));
  old.name = "checkpoints/old";
  later.name = "checkpoints/later";
  later.digest = "other";
  for (const std::string digest : {"digest of global_step1", "other"}) {
    EXPECT_THAT(CompareWithRegistered("/ckpt/global_step1", digest, {torn, old, later}), IsOk());
  }
  const absl::Status refused =
      CompareWithRegistered("/ckpt/global_step1", "new", {later, torn, old});
  EXPECT_EQ(refused.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(ReasonOf(refused), "CHECKPOINT_CHANGED");
  EXPECT_THAT(refused.message(),
              HasSubstr("compare /ckpt/global_step1 with what was registered as checkpoints/later "
                        "at 2023-11-14T21:13:20+00:00: its files are others, their digest is new, "
                        "not other; "));
  EXPECT_THAT(refused.message(), HasSubstr("zerocast checkpoint delete checkpoints/later)"));
}

TEST(Checkpoints, TheFirstCompleteLookGivesTheDigestThatLaterOnesAreComparedWith) {
  Checkpoint checkpoint = Made(Found(1, Torn()));
  EXPECT_EQ(StateOf(checkpoint), CheckpointState::kIncomplete);
  EXPECT_EQ(checkpoint.digest, "");
  // It was still being written.
  Note({"b", kNow, "", {}}, Found(1), &checkpoint);
  EXPECT_EQ(StateOf(checkpoint), CheckpointState::kComplete);
  EXPECT_THAT(ProblemOf(checkpoint), IsOk());
  EXPECT_EQ(checkpoint.looked_by, "b");
  FoundCheckpoint other = Found(1);
  other.digest = "another one";
  Note({"b", kNow, "", {}}, other, &checkpoint);
  EXPECT_EQ(StateOf(checkpoint), CheckpointState::kChanged);
  EXPECT_THAT(ProblemOf(checkpoint),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("/ckpt/global_step1")));
  EXPECT_THAT(
      ProblemOf(checkpoint),
      StatusIs(absl::StatusCode::kAborted, HasSubstr("another one, not digest of global_step1")));
  EXPECT_EQ(ReasonOf(ProblemOf(checkpoint)), "CHECKPOINT_CHANGED");
  // As it was again.
  Note({"b", kNow, "", {}}, Found(1), &checkpoint);
  EXPECT_EQ(StateOf(checkpoint), CheckpointState::kComplete);
}

TEST(Checkpoints, WhatIsGoneStaysKnown) {
  Checkpoint checkpoint = Made(Found(7));
  Note({"a", kNow, "", {}}, Gone("global_step7", absl::NotFoundError("no such folder")),
       &checkpoint);
  EXPECT_EQ(StateOf(checkpoint), CheckpointState::kGone);
  EXPECT_THAT(ProblemOf(checkpoint), StatusIs(absl::StatusCode::kNotFound, "no such folder"));
  EXPECT_EQ(checkpoint.found.step, 7);
  EXPECT_EQ(checkpoint.found.world_size, 2);
  // And back, as from another mount.
  Note({"a", kNow, "", {}}, Found(7), &checkpoint);
  EXPECT_EQ(StateOf(checkpoint), CheckpointState::kComplete);
}

TEST(Checkpoints, TheNewestIsNeverATornOne) {
  const std::vector<Checkpoint> all = {Made(Found(30, Torn())), Made(Found(10)), Made(Found(20)),
                                       Made(Found(40, Torn()))};
  const Newest newest = FindNewest(all);
  ASSERT_NE(newest.checkpoint, nullptr);
  EXPECT_EQ(newest.checkpoint->found.tag, "global_step20");
  EXPECT_THAT(Tags(newest.passed_over), ElementsAre("global_step40", "global_step30"));
  EXPECT_EQ(FindNewest({all[0]}).checkpoint, nullptr);
  EXPECT_EQ(FindNewest({}).checkpoint, nullptr);
}

TEST(Checkpoints, NewerIsTheGreaterStepThenTheLaterSave) {
  FoundCheckpoint early = Found(5), late = Found(5);
  early.tag = "a_later_name";
  late.tag = "a_name";
  early.save_time = kNow;
  late.save_time = kNow + absl::Seconds(1);
  EXPECT_TRUE(IsOlder(Made(early), Made(late)));
  EXPECT_FALSE(IsOlder(Made(late), Made(early)));
  // Written later, but of an earlier step, as by a restarted training.
  early.step = 6;
  EXPECT_FALSE(IsOlder(Made(early), Made(late)));
  early.step.reset();
  EXPECT_TRUE(IsOlder(Made(early), Made(late)));
}

TEST(Checkpoints, TheDifferenceFromLatestSaysWhy) {
  const Checkpoint newest = Made(Found(20)), torn = Made(Found(30, Torn())), old = Made(Found(10)),
                   newer = Made(Found(40));
  EXPECT_EQ(DifferenceFromLatest(newest, "global_step20", &newest), "");
  EXPECT_EQ(DifferenceFromLatest(newest, "", nullptr), "there is no file latest in /ckpt");
  EXPECT_EQ(DifferenceFromLatest(newest, "global_step30", &torn),
            "latest names global_step30, which is not complete: "
            "zero_pp_rank_1_mp_rank_00_optim_states.pt is torn");
  EXPECT_EQ(DifferenceFromLatest(newest, "global_step10", &old),
            "latest names global_step10 of step 10, which is older");
  EXPECT_THAT(DifferenceFromLatest(newest, "global_step40", &newer), HasSubstr("not registered"));
  EXPECT_THAT(DifferenceFromLatest(newest, "other", nullptr), HasSubstr("nothing is known"));
}

TEST(Retention, KeepsTheNewestCompleteOnes) {
  const std::vector<Checkpoint> all = {Made(Found(10)), Made(Found(20)), Made(Found(30)),
                                       Made(Found(40))};
  const Divided divided = Divide(all, {2, {}}, kNow);
  EXPECT_THAT(Tags(divided.forgotten), ElementsAre("global_step10", "global_step20"));
  EXPECT_THAT(Tags(divided.kept), ElementsAre("global_step30", "global_step40"));
}

TEST(Retention, TornOnesDoNotCountAsKept) {
  // What a training left that died while it wrote, and went on from an older one.
  const std::vector<Checkpoint> all = {Made(Found(10)), Made(Found(20)), Made(Found(25, Torn())),
                                       Made(Found(30))};
  EXPECT_THAT(Tags(Divide(all, {2, {}}, kNow).forgotten),
              ElementsAre("global_step10", "global_step25"));
}

TEST(Retention, WhatMayBeBeingWrittenStays) {
  const std::vector<Checkpoint> all = {Made(Found(10)), Made(Found(20)), Made(Found(30, Torn()))};
  EXPECT_THAT(Tags(Divide(all, {1, {}}, kNow).forgotten), ElementsAre("global_step10"));
  // None is complete: nothing says which was given up.
  EXPECT_THAT(Divide({Made(Found(10, Torn()))}, {1, {}}, kNow).forgotten, IsEmpty());
}

TEST(Retention, WhatIsGoneMayGo) {
  const std::vector<Checkpoint> all = {Made(Found(10)),
                                       Made(Gone("global_step20", absl::NotFoundError("gone")))};
  EXPECT_THAT(Tags(Divide(all, {1, {}}, kNow).forgotten), ElementsAre("global_step20"));
}

TEST(Retention, PinnedOnesStayAndCount) {
  std::vector<Checkpoint> all = {Made(Found(10)), Made(Found(20)), Made(Found(30)),
                                 Made(Found(40))};
  all[0].pinned = true;
  all[3].pinned = true;
  EXPECT_THAT(Tags(Divide(all, {2, {}}, kNow).forgotten), ElementsAre("global_step20"));
}

TEST(Retention, YoungOnesStay) {
  const std::vector<Checkpoint> all = {Made(Found(10), absl::Hours(3)),
                                       Made(Found(20), absl::Hours(2)),
                                       Made(Found(30), absl::Hours(1)), Made(Found(40))};
  EXPECT_THAT(Tags(Divide(all, {1, absl::Hours(2)}, kNow).forgotten), ElementsAre("global_step10"));
  EXPECT_THAT(Tags(Divide(all, {1, absl::ZeroDuration()}, kNow).forgotten),
              ElementsAre("global_step10", "global_step20", "global_step30"));
}

// Whatever there is: a complete one that goes leaves keep_last newer complete ones, and nothing is
// lost or counted twice.
TEST(Retention, NeverLeavesFewerThanItShould) {
  for (uint32_t seed = 0; seed < 500; ++seed) {
    std::mt19937 random(seed);
    std::vector<Checkpoint> all;
    for (int step = 0; step < 8; ++step) {
      const int kind = static_cast<int>(random() % 4);
      all.push_back(kind == 0   ? Made(Found(step, Torn()))
                    : kind == 1 ? Made(Gone("global_step" + std::to_string(step), Torn()))
                                : Made(Found(step), absl::Hours(random() % 5)));
      all.back().pinned = random() % 5 == 0;
    }
    std::shuffle(all.begin(), all.end(), random);
    const Retention retention = {1 + static_cast<int>(random() % 3), absl::Hours(random() % 3)};
    const Divided divided = Divide(all, retention, kNow);
    EXPECT_EQ(divided.forgotten.size() + divided.kept.size(), all.size());
    for (const Checkpoint* gone : divided.forgotten) {
      EXPECT_FALSE(gone->pinned) << seed;
      EXPECT_GT(kNow - gone->create_time, *retention.older_than) << seed;
      if (StateOf(*gone) != CheckpointState::kComplete) continue;
      const auto newer =
          std::count_if(divided.kept.begin(), divided.kept.end(), [gone](const Checkpoint* kept) {
            return StateOf(*kept) == CheckpointState::kComplete && IsOlder(*gone, *kept);
          });
      EXPECT_GE(newer, retention.keep_last) << seed;
    }
  }
}

}  // namespace
}  // namespace zerocast::jobs
