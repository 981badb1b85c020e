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

void AddNode(int64_t read, int64_t received, double read_s, double copy_s, double exchange_s,
             v1::Load* load) {
  v1::NodeProgress* const node = load->add_nodes();
  node->set_bytes_read(read);
  node->set_bytes_to_read(4 * read);
  node->set_bytes_received(received);
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
  EXPECT_EQ(stages[1].BytesPerSecond(), 8000);
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

TEST(Stages, ALineOfProgressNamesItAndFitsATerminal) {
  v1::Load load;
  load.set_state(v1::LOAD_STATE_LOADING);
  AddNode(int64_t{123'456'789'000}, 0, 3, 1, 0, &load);
  const std::string line = ProgressLine(load, absl::Seconds(10), 79);
  EXPECT_THAT(line, AllOf(StartsWith("loading   [###.........]  25 %"), HasSubstr("  12.3 GB/s  "),
                          HasSubstr("30 s left"), EndsWith("  read")));
  EXPECT_LE(line.size(), 79u);
}

TEST(Stages, ASlowLoadShowsItsRateInAUnitThatShowsSomething) {
  v1::Load load;
  load.set_state(v1::LOAD_STATE_LOADING);
  AddNode(4'000'000, 0, 3, 1, 0, &load);
  EXPECT_THAT(ProgressLine(load, absl::Seconds(1), 79), HasSubstr("  4.00 MB/s  "));
  EXPECT_THAT(ProgressLine(load, absl::Seconds(100), 79), HasSubstr("  40.0 kB/s  "));
  EXPECT_THAT(ProgressLine(load, absl::Seconds(10'000), 79), HasSubstr("  400 B/s  "));
  load.set_state(v1::LOAD_STATE_READY);
  const std::string text = LoadText(load);
  EXPECT_THAT(text, HasSubstr("read 1.33 MB/s, copy 4.00 MB/s;"));
  EXPECT_THAT(text, Not(HasSubstr("GB/s")));
}

}  // namespace
}  // namespace zerocast
