#include "client/agent/peer_transfer.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <thread>

#include "kernels/comm/loopback.h"
#include "server/base/errors.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kArena = 100000;  // not a number of pages
constexpr int64_t kRound = 32768;

// Participants 0 and 1 have ranks 0-2 and 3; 2 and 3 want them.
std::vector<ShardTransfer> Transfers() { return {{2, 0, 3}, {0, 0, 2}, {1, 0, 2}, {3, 1, 3}}; }

TEST(TransferSchedule, EveryByteMovesOnceAndRoundsAreBounded) {
  ZC_ASSERT_OK_AND_ASSIGN(const auto schedule,
                          TransferSchedule::Create(Transfers(), 4, kArena, kRound));
  std::vector<int64_t> next(4);  // by rank
  for (int64_t round = 0; round < schedule.num_rounds(); ++round) {
    std::vector<int64_t> sent(4), received(4);
    std::set<std::pair<int32_t, int32_t>> pairs;
    for (const TransferPiece& piece : schedule.Pieces(round)) {
      EXPECT_EQ(piece.begin, next[piece.rank]);
      next[piece.rank] = piece.end;
      sent[piece.donor] += piece.end - piece.begin;
      received[piece.taker] += piece.end - piece.begin;
      EXPECT_TRUE(pairs.insert({piece.donor, piece.taker}).second);
    }
    for (int k = 0; k < 4; ++k) {
      EXPECT_LE(sent[k], kRound);
      EXPECT_LE(received[k], kRound);
    }
  }
  EXPECT_EQ(next, std::vector<int64_t>(4, kArena));
}

TEST(TransferSchedule, AnEmptyArenaNeedsNoRound) {
  ZC_ASSERT_OK_AND_ASSIGN(const auto schedule, TransferSchedule::Create(Transfers(), 4, 0, kRound));
  EXPECT_EQ(schedule.num_rounds(), 0);
}

TEST(TransferSchedule, RefusesListsThatMakeNoSense) {
  const std::vector<std::vector<ShardTransfer>> lists = {
      {{0, 0, 0}}, {{0, 0, 1}, {0, 1, 0}}, {{0, -1, 1}}, {{0, 0, 2}}};
  for (const std::vector<ShardTransfer>& list : lists) {
    EXPECT_THAT(TransferSchedule::Create(list, 2, kArena, kRound),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("contradicts")));
  }
  EXPECT_THAT(TransferSchedule::Create({{0, 0, 1}}, 2, kArena, 0),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("contradicts")));
}

// All participants in threads over a loopback group.
class TransferTest : public ::testing::Test {
 protected:
  TransferTest() : communicators_(MakeLoopbackGroup(4)), progress_(4), statuses_(4) {
    std::mt19937 random(7);
    for (const ShardTransfer& each : Transfers()) {
      std::string bytes(kArena, '\0');
      for (char& byte : bytes) byte = static_cast<char>(random());
      arenas_[each.donor][each.rank] = bytes;
      arenas_[each.taker][each.rank] = std::string(kArena, '\0');
    }
  }
  void Run(int32_t participant) {
    TransferOptions options;
    options.peers = {{"a", "b", "c", "d"}, participant, Transfers()};
    options.arena_bytes = kArena;
    options.round_bytes = kRound;
    for (auto& [rank, bytes] : arenas_[participant]) options.arenas[rank] = bytes.data();
    options.communicator = communicators_[participant].get();
    options.round_timeout = absl::Seconds(20);
    options.cancelled = &cancelled_;
    statuses_[participant] = TransferShards(options, &progress_[participant]);
  }
  void RunAll() {
    std::vector<std::thread> threads;
    for (int k = 0; k < 4; ++k) threads.emplace_back([this, k] { Run(k); });
    for (std::thread& thread : threads) thread.join();
  }

  std::vector<std::unique_ptr<Communicator>> communicators_;
  std::map<int32_t, std::map<int32_t, std::string>> arenas_;  // by participant and rank
  std::vector<TransferProgress> progress_;
  std::vector<absl::Status> statuses_;
  std::atomic<bool> cancelled_{false};
};

TEST_F(TransferTest, EveryTakerGetsTheBytesOfItsDonor) {
  RunAll();
  for (const absl::Status& status : statuses_) EXPECT_THAT(status, IsOk());
  for (const ShardTransfer& each : Transfers()) {
    EXPECT_TRUE(arenas_[each.taker][each.rank] == arenas_[each.donor][each.rank]) << each.rank;
  }
  EXPECT_EQ(progress_[0].bytes_sent, 3 * kArena);
  EXPECT_EQ(progress_[3].bytes_received, 2 * kArena);
  EXPECT_EQ(progress_[3].round, progress_[3].num_rounds);
}

TEST_F(TransferTest, ALostDonorIsNamed) {
  communicators_[1]->Abort("its process died");
  RunAll();
  EXPECT_FALSE(statuses_[3].ok());
  EXPECT_EQ(ReasonOf(statuses_[3]), "EXCHANGE_FAILED");
  EXPECT_THAT(std::string(statuses_[3].message()), HasSubstr("from 0 on: a, b, c, d"));
}

TEST_F(TransferTest, ACancelledOneMovesNothing) {
  cancelled_ = true;
  Run(0);
  EXPECT_THAT(statuses_[0], StatusIs(absl::StatusCode::kCancelled, HasSubstr("cancelled")));
  EXPECT_EQ(progress_[0].bytes_sent, 0);
}

}  // namespace
}  // namespace zerocast
