#include "client/cli/stages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/cli/output.h"
#include "client/cli/progress.h"

namespace zerocast {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

// A quarter of what is to be read is, and of that a half was copied.
void AddNode(int64_t read, int64_t received, double read_s, double copy_s, double exchange_s,
             v1::Load* load) {
  v1::NodeProgress* const node = load->add_nodes();
  node->set_bytes_read(read);
  node->set_bytes_to_read(4 * read);
  node->set_bytes_received(received);
  node->set_bytes_copied(read / 2);
  node->mutable_seconds()->set_read(read_s);
  node->mutable_seconds()->set_copy(copy_s);
  node->mutable_seconds()->set_exchange(exchange_s);
}

TEST(Stages, BytesOfAllNodesBySecondsOfTheSlowest) {
  v1::Load load;
  AddNode(1000, 300, 2, 0.5, 0.25, &load);
  AddNode(3000, 100, 1, 0.25, 0.5, &load);
  const auto stages = StageSpeeds(load);
  ASSERT_EQ(stages.size(), 3u);
  EXPECT_EQ(stages[0].name, "read");
  EXPECT_EQ(stages[0].BytesPerSecond(), 2000);
  EXPECT_EQ(stages[1].BytesPerSecond(), 4000);
  EXPECT_EQ(stages[2].BytesPerSecond(), 800);
  EXPECT_EQ(Bottleneck(stages), "read");
}

TEST(Stages, TheBottleneckIsWhatTheOthersWaitFor) {
  const auto of = [](double read, double copy, double exchange) {
    v1::Load load;
    AddNode(1, 1, read, copy, exchange, &load);
    return Bottleneck(StageSpeeds(load));
  };
  EXPECT_EQ(of(1, 2, 2.5), "copy");
  EXPECT_EQ(of(1, 2, 3.5), "exchange");
  EXPECT_EQ(of(2, 1, 0), "read");
  EXPECT_EQ(of(0, 0, 0), "");
}

TEST(Stages, WhatNothingWentThroughHasNoSpeed) {
  v1::Load load;
  AddNode(4'000'000, 0, 2, 1e-6, 0, &load);
  load.mutable_nodes(0)->set_bytes_copied(0);
  EXPECT_EQ(StagesText(load), "read 2.00 MB/s; most of the time: read");
}

TEST(Stages, LinesOfProgressFitATerminal) {
  v1::Load load;
  load.set_state(v1::LOAD_STATE_LOADING);
  AddNode(int64_t{123'456'789'000}, int64_t{99'999'000'000}, 3, 1, 0.5, &load);
  const std::string line = ProgressLine(load, 12.3e9);
  EXPECT_THAT(line, AllOf(StartsWith("loading   [###.........]  25 %  "),
                          HasSubstr("  12.3 GB/s  "), EndsWith("  31 s left")));
  EXPECT_LE(line.size(), 79u);
  const std::string stages = StagesText(load);
  EXPECT_THAT(stages, AllOf(StartsWith("read 41.2 GB/s, copy "), HasSubstr("exchange 200 GB/s"),
                            EndsWith("; most of the time: read")));
  EXPECT_LE(stages.size(), 79u);
}

TEST(Stages, WithoutARateNothingIsSaidOfTheTimeLeft) {
  v1::Load load;
  load.set_state(v1::LOAD_STATE_LOADING);
  AddNode(4'000'000, 0, 3, 1, 0, &load);
  EXPECT_EQ(ProgressLine(load, 0), "loading   [###.........]  25 %  4.00 MB of 16.0 MB");
  load.set_state(v1::LOAD_STATE_PREPARING);
  EXPECT_EQ(ProgressLine(load, 0), "preparing");
}

TEST(Stages, ASlowLoadShowsItsRateInAUnitThatShowsSomething) {
  v1::Load load;
  load.set_state(v1::LOAD_STATE_LOADING);
  AddNode(4'000'000, 0, 3, 1, 0, &load);
  EXPECT_THAT(ProgressLine(load, 4e6), HasSubstr("  4.00 MB/s  "));
  EXPECT_THAT(ProgressLine(load, 4e4), HasSubstr("  40.0 kB/s  "));
  EXPECT_THAT(ProgressLine(load, 400), HasSubstr("  400 B/s  "));
  load.set_state(v1::LOAD_STATE_READY);
  const std::string text = LoadText(load);
  EXPECT_THAT(text, HasSubstr("read 1.33 MB/s, copy 2.00 MB/s;"));
  EXPECT_THAT(text, Not(HasSubstr("GB/s")));
}

TEST(RateMeter, ALoadThatIsJoinedLateHasTheRateOfWhatWasSeen) {
  RateMeter meter;
  const absl::Time start = absl::UnixEpoch();
  EXPECT_EQ(meter.PerSecond(), 0);
  meter.Add(start, 1'000'000'000);
  EXPECT_EQ(meter.PerSecond(), 0);
  meter.Add(start + absl::Seconds(2), 1'000'000'200);
  EXPECT_EQ(meter.PerSecond(), 100);
}

TEST(RateMeter, ForgetsWhatIsLongAgo) {
  RateMeter meter;
  absl::Time now = absl::UnixEpoch();
  int64_t value = 0;
  for (int k = 0; k < 60; ++k, now += absl::Seconds(1)) meter.Add(now, value += 1000);
  for (int k = 0; k < 12; ++k, now += absl::Seconds(1)) meter.Add(now, value += 10);
  EXPECT_EQ(meter.PerSecond(), 10);
  meter.Reset();
  EXPECT_EQ(meter.PerSecond(), 0);
}

}  // namespace
}  // namespace zerocast
