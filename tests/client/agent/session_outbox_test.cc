#include "client/agent/session_outbox.h"

#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

using Taken = SessionOutbox::Taken;

class SessionOutboxTest : public ::testing::Test {
 protected:
  void HandOver(int rank) { outbox_.HandedOver({"loads/a", 3}, {rank, AttachMode::kShared}); }
  // The ranks of the hand-overs that the stream is given, 100 more for freed shards; other messages
  // are -1.
  std::vector<int> TakeAll() {
    std::vector<int> ranks;
    v1::SessionRequest message;
    while (outbox_.Next(absl::ZeroDuration(), &message) == Taken::kMessage) {
      ranks.push_back(message.has_hand_over_report() ? message.hand_over_report().rank()
                      : message.has_shards_freed_report()
                          ? 100 + message.shards_freed_report().ranks(0)
                          : -1);
    }
    return ranks;
  }

  FakeClock clock_;
  SessionOutbox outbox_{"/agent.sock", &clock_};
};

TEST_F(SessionOutboxTest, AHandOverThatAStreamTookAndLostIsSaidAgainInItsOrder) {
  outbox_.Open();
  HandOver(0);
  HandOver(1);
  EXPECT_THAT(TakeAll(), ElementsAre(0, 1));
  HandOver(2);
  outbox_.Close();  // whatever of the first two was written
  HandOver(3);
  outbox_.Open();
  EXPECT_THAT(TakeAll(), ElementsAre(0, 1, 2, 3));
}

TEST_F(SessionOutboxTest, FreedShardsAreKeptAndSaidAgainAmongTheHandOvers) {
  const auto free = [this](int32_t rank) {
    outbox_.ShardsFreed({"loads/a", 3}, {rank}, absl::FailedPreconditionError("nobody came"));
  };
  free(7);  // without a stream
  outbox_.Open();
  HandOver(0);
  free(8);
  EXPECT_THAT(TakeAll(), ElementsAre(107, 0, 108));
  outbox_.Close();
  outbox_.Open();
  EXPECT_THAT(TakeAll(), ElementsAre(107, 0, 108));
}

TEST_F(SessionOutboxTest, WhatWasTakenIsNotSaidTwiceOnOneStream) {
  outbox_.Open();
  HandOver(0);
  EXPECT_THAT(TakeAll(), ElementsAre(0));
  EXPECT_THAT(TakeAll(), IsEmpty());
}

TEST_F(SessionOutboxTest, WhatWasDeliveredLongAgoIsNotSaidAgain) {
  outbox_.Open();
  HandOver(0);
  EXPECT_THAT(TakeAll(), ElementsAre(0));
  clock_.Advance(absl::Seconds(59));
  HandOver(1);
  EXPECT_THAT(TakeAll(), ElementsAre(1));
  clock_.Advance(absl::Seconds(1));
  outbox_.Close();
  outbox_.Open();
  EXPECT_THAT(TakeAll(), ElementsAre(1));
}

TEST_F(SessionOutboxTest, WhatBelongsToAStreamEndsWithIt) {
  outbox_.Open();
  outbox_.PlanDone({"loads/a", 3}, PreparedPlan{"digest", "", {}});
  outbox_.Progress({"loads/a", 3}, {});
  HandOver(0);
  outbox_.Close();
  v1::SessionRequest message;
  EXPECT_EQ(outbox_.Next(absl::Hours(1), &message), Taken::kClosed);
  outbox_.PlanDone({"loads/b", 3}, PreparedPlan{"digest", "", {}});
  outbox_.Open();
  EXPECT_THAT(TakeAll(), ElementsAre(0));
  EXPECT_EQ(outbox_.Next(absl::ZeroDuration(), &message), Taken::kIdle);
}

}  // namespace
}  // namespace zerocast
