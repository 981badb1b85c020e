// What every transport promises.  Compiled once a transport: MakeGroup decides which.

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <future>
#include <iostream>
#include <random>
#include <string>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/base/status_macros.h"
#include "tests/kernels/comm/group.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr absl::Duration kLong = absl::Seconds(60);
constexpr absl::Duration kShort = absl::Milliseconds(200);

uint64_t Seed() {
  static const uint64_t seed = [] {
    uint64_t value = std::random_device()();
    const char* given = std::getenv("ZC_SEED");
    if (given != nullptr && !absl::SimpleAtoi(given, &value)) std::abort();
    std::cout << "ZC_SEED=" << value << std::endl;
    return value;
  }();
  return seed;
}

// The message of `from` to `to` in round `round`: both ends can make it.  Sizes differ by pair and
// round and are often 0, 1 or not a multiple of anything.
Bytes Pattern(int from, int to, int round) {
  std::mt19937_64 random(Seed() + from * 1000003 + to * 10007 + round);
  const int sizes[] = {0, 1, 7, 64, 4097, 70001};
  Bytes bytes(sizes[random() % 6]);
  for (unsigned char& byte : bytes) byte = static_cast<unsigned char>(random());
  return bytes;
}

absl::Status Same(const Bytes& got, const Bytes& want) {
  return got == want ? absl::OkStatus()
                     : absl::InternalError(absl::StrCat("wrong bytes, ", want.size(), " expected"));
}

// Everybody sends everybody else its pattern of this round.
absl::Status AllToAll(Communicator& self, int round, absl::Duration timeout) {
  std::vector<Bytes> out(self.size());
  std::vector<Bytes> in(self.size());
  std::vector<Message> sends;
  std::vector<Message> receives;
  for (int peer = 0; peer < self.size(); ++peer) {
    if (peer == self.rank()) continue;
    out[peer] = Pattern(self.rank(), peer, round);
    in[peer].resize(Pattern(peer, self.rank(), round).size());
    sends.push_back({peer, out[peer].data(), static_cast<int64_t>(out[peer].size())});
    receives.push_back({peer, in[peer].data(), static_cast<int64_t>(in[peer].size())});
  }
  ZC_RETURN_IF_ERROR(self.Exchange(sends, receives, timeout));
  for (int peer = 0; peer < self.size(); ++peer) {
    if (peer != self.rank()) ZC_RETURN_IF_ERROR(Same(in[peer], Pattern(peer, self.rank(), round)));
  }
  return absl::OkStatus();
}

// One byte from and to every peer.
absl::Status Ping(Communicator& self, absl::Duration timeout) {
  Bytes out(self.size());
  Bytes in(self.size());
  std::vector<Message> sends;
  std::vector<Message> receives;
  for (int peer = 0; peer < self.size(); ++peer) {
    if (peer == self.rank()) continue;
    sends.push_back({peer, &out[peer], 1});
    receives.push_back({peer, &in[peer], 1});
  }
  return self.Exchange(sends, receives, timeout);
}

class AnySize : public ::testing::TestWithParam<int> {
 protected:
  const int size_ = GetParam();
  Group group_;

  void SetUp() override {
    if (const std::string why = WhyNoGroup(size_); !why.empty()) GTEST_SKIP() << why;
    group_ = MakeGroup(size_);
  }

  void ExpectAllOk(const std::function<absl::Status(Communicator&)>& body) {
    for (const absl::Status& status : RunAll(size_, [&](int r) { return body(*group_[r]); })) {
      EXPECT_THAT(status, IsOk());
    }
  }
};
INSTANTIATE_TEST_SUITE_P(Sizes, AnySize, ::testing::Values(1, 2, 3, 4));

TEST_P(AnySize, KnowsItsRankAndSize) {
  for (int r = 0; r < size_; ++r) {
    EXPECT_EQ(group_[r]->rank(), r);
    EXPECT_EQ(group_[r]->size(), size_);
    EXPECT_EQ(group_[r]->transport(), group_[0]->transport());
  }
}

TEST_P(AnySize, ExchangesMessagesOfDifferentSizesOverManyRounds) {
  ExpectAllOk([](Communicator& self) {
    for (int round = 0; round < 100; ++round) ZC_RETURN_IF_ERROR(AllToAll(self, round, kLong));
    return absl::OkStatus();
  });
}

TEST_P(AnySize, BroadcastsFromEveryRoot) {
  ExpectAllOk([](Communicator& self) {
    for (int root = 0; root < self.size(); ++root) {
      for (const size_t num_bytes : {0, 1, 100003, (17 << 20) + 5}) {
        Bytes want(num_bytes);
        for (size_t i = 0; i < num_bytes; ++i) {
          want[i] = static_cast<unsigned char>(i / 1021 + i + root);
        }
        Bytes data = self.rank() == root ? want : Bytes(num_bytes);
        ZC_RETURN_IF_ERROR(self.Broadcast(data.data(), data.size(), root, kLong));
        ZC_RETURN_IF_ERROR(Same(data, want));
      }
    }
    return absl::OkStatus();
  });
}

TEST_P(AnySize, ExchangesAndBroadcastsInTurn) {
  ExpectAllOk([](Communicator& self) {
    for (int round = 0; round < 20; ++round) {
      ZC_RETURN_IF_ERROR(AllToAll(self, round, kLong));
      Bytes data(1000, self.rank() == round % self.size() ? 7 : 0);
      ZC_RETURN_IF_ERROR(self.Broadcast(data.data(), 1000, round % self.size(), kLong));
      ZC_RETURN_IF_ERROR(Same(data, Bytes(1000, 7)));
    }
    return absl::OkStatus();
  });
}

TEST_P(AnySize, AnEmptyExchangeNeedsNobody) {
  for (const auto& self : group_) EXPECT_THAT(self->Exchange({}, {}, kShort), IsOk());
}

TEST_P(AnySize, CountsPayloadBytes) {
  ExpectAllOk([](Communicator& self) {
    ZC_RETURN_IF_ERROR(Ping(self, kLong));
    return Ping(self, kLong);
  });
  int64_t sent = 0;
  int64_t received = 0;
  for (const auto& self : group_) {
    EXPECT_EQ(self->bytes_sent(), 2 * (size_ - 1));
    EXPECT_EQ(self->bytes_received(), 2 * (size_ - 1));
  }
  ExpectAllOk([](Communicator& self) {
    Bytes data(10);
    return self.Broadcast(data.data(), 10, 0, kLong);
  });
  for (const auto& self : group_) {
    sent += self->bytes_sent();
    received += self->bytes_received();
    EXPECT_EQ(self->bytes_received(), 2 * (size_ - 1) + (self->rank() == 0 ? 0 : 10));
  }
  EXPECT_EQ(sent, received);
}

TEST_P(AnySize, OperationsFailAfterAbort) {
  for (const auto& self : group_) {
    self->Abort("the operator said so");
    self->Abort("a second reason");
    char data[1] = {};
    for (int i = 0; i < 2; ++i) {
      EXPECT_THAT(self->Exchange({}, {}, kLong),
                  StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("operator said so")));
      EXPECT_THAT(self->Broadcast(data, 1, 0, kLong),
                  StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("operator said so")));
    }
    EXPECT_THAT(self->Exchange({}, {}, kLong),
                StatusIs(absl::StatusCode::kFailedPrecondition, Not(HasSubstr("second reason"))));
    EXPECT_EQ(self->bytes_sent(), 0);
    EXPECT_EQ(self->bytes_received(), 0);
    EXPECT_EQ(self->size(), size_);
  }
}

TEST_P(AnySize, AReasonGivenAfterAnErrorIsTold) {
  EXPECT_THAT(group_[0]->Broadcast(nullptr, -1, 0, kShort),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("negative")));
  group_[0]->Abort("cleaning up");
  EXPECT_THAT(group_[0]->Exchange({}, {}, kLong),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("cleaning up")));
}

struct BadExchange {
  const char* name;
  std::vector<Message> messages;
  const char* why;
};

class BadMessages : public ::testing::TestWithParam<BadExchange> {};
char g_byte;  // only named: these calls fail before they move anything
INSTANTIATE_TEST_SUITE_P(
    All, BadMessages,
    ::testing::Values(BadExchange{"Self", {{0, &g_byte, 1}}, "itself"},
                      BadExchange{"TooLarge", {{2, &g_byte, 1}}, "no such participant"},
                      BadExchange{"Negative", {{-1, &g_byte, 1}}, "no such participant"},
                      BadExchange{"Repeated", {{1, &g_byte, 1}, {1, &g_byte, 1}}, "second message"},
                      BadExchange{"NegativeSize", {{1, &g_byte, -1}}, "negative"},
                      BadExchange{"Null", {{1, nullptr, 1}}, "null"}),
    [](const auto& info) { return info.param.name; });

TEST_P(BadMessages, AreInvalidAsSends) {
  ZC_MAKE_GROUP(group, 2);
  EXPECT_THAT(group[0]->Exchange(GetParam().messages, {}, kLong),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(GetParam().why)));
  EXPECT_THAT(group[0]->Exchange({}, {}, kLong),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(GetParam().why)));
}

TEST_P(BadMessages, AreInvalidAsReceives) {
  ZC_MAKE_GROUP(group, 2);
  EXPECT_THAT(group[0]->Exchange({}, GetParam().messages, kLong),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(GetParam().why)));
}

TEST(Broadcast, RefusesARootThatDoesNotExist) {
  ZC_MAKE_GROUP(group, 2);
  EXPECT_THAT(group[0]->Broadcast(&g_byte, 1, 2, kLong),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no such participant")));
  EXPECT_THAT(group[1]->Broadcast(nullptr, 1, 0, kLong),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("null")));
}

TEST(Deadline, NamesTheParticipantThatNeverCalls) {
  ZC_MAKE_GROUP(group, 3);
  const auto statuses =
      RunAll(3, [&](int r) { return r == 2 ? absl::OkStatus() : Ping(*group[r], kShort); });
  for (int r = 0; r < 2; ++r) {
    EXPECT_THAT(statuses[r], StatusIs(absl::StatusCode::kDeadlineExceeded,
                                      HasSubstr("waiting for participant 2 after 200ms")));
    EXPECT_THAT(Ping(*group[r], kLong), StatusIs(absl::StatusCode::kFailedPrecondition,
                                                 HasSubstr("new one under a new epoch")));
  }
}

TEST(Deadline, OfOneEndsTheCallsOfThoseThatWaitForIt) {
  Bytes bytes(2);
  ZC_MAKE_GROUP(group, 3);
  const auto statuses = RunAll(3, [&](int r) {
    if (r == 0) return group[0]->Exchange({}, {{2, &bytes[0], 1}}, kShort);
    if (r == 1) return group[1]->Exchange({}, {{0, &bytes[1], 1}}, kLong);
    return absl::OkStatus();
  });
  EXPECT_THAT(statuses[0],
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("participant 2")));
  EXPECT_THAT(statuses[1], StatusIs(absl::StatusCode::kUnavailable, HasSubstr("participant 0")));
}

TEST(Deadline, NamesEveryMissingParticipant) {
  ZC_MAKE_GROUP(group, 4);
  EXPECT_THAT(Ping(*group[1], kShort),
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("participants 0, 2, 3")));
}

TEST(Deadline, OfZeroOrLessHasPassed) {
  ZC_MAKE_GROUP(group, 2);
  EXPECT_THAT(Ping(*group[0], absl::ZeroDuration()),
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("participant 1")));
  EXPECT_THAT(Ping(*MakeGroup(2)[1], -absl::InfiniteDuration()),
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("participant 0")));
}

TEST(Deadline, HoldsForABroadcast) {
  Bytes bytes(1);
  ZC_MAKE_GROUP(group, 2);
  EXPECT_THAT(group[1]->Broadcast(bytes.data(), 1, 0, kShort),
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("participant 0")));
}

TEST(Deadline, MayBeInfinite) {
  ZC_MAKE_GROUP(group, 2);
  for (const absl::Status& status :
       RunAll(2, [&](int r) { return Ping(*group[r], absl::InfiniteDuration()); })) {
    EXPECT_THAT(status, IsOk());
  }
}

TEST(Abort, EndsACallInProgressHereAndOnThePeersThatWaitForIt) {
  Bytes bytes(2);
  ZC_MAKE_GROUP(group, 3);
  auto first = std::async(std::launch::async, [&] {
    return group[0]->Exchange({}, {{2, &bytes[0], 1}}, kLong);
  });
  auto second = std::async(std::launch::async, [&] {
    return group[1]->Exchange({}, {{0, &bytes[1], 1}}, kLong);
  });
  group[0]->Abort("enough");
  const absl::Time aborted = absl::Now();
  EXPECT_THAT(first.get(), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("enough")));
  EXPECT_THAT(second.get(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("participant 0")));
  EXPECT_LT(absl::Now() - aborted, absl::Seconds(20));
}

TEST(Abort, EndsALargeTransferHalfWay) {
  constexpr int64_t kBytes = int64_t{64} << 20;
  ZC_MAKE_GROUP(group, 2);
  Bytes data(kBytes);
  Bytes other(kBytes);
  std::atomic<bool> started{false};
  auto sender = std::async(std::launch::async, [&] {
    started = true;
    for (;;) ZC_RETURN_IF_ERROR(group[0]->Exchange({{1, data.data(), kBytes}}, {}, kLong));
  });
  auto receiver = std::async(std::launch::async, [&] {
    for (;;) ZC_RETURN_IF_ERROR(group[1]->Exchange({}, {{0, other.data(), kBytes}}, kLong));
  });
  while (!started || group[1]->bytes_received() == 0) std::this_thread::yield();
  group[0]->Abort("enough");
  EXPECT_THAT(sender.get(), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("enough")));
  EXPECT_THAT(receiver.get(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("participant 0")));
}

TEST(PeerGone, EndsACallInProgress) {
  ZC_MAKE_GROUP(group, 3);
  auto waiting = std::async(std::launch::async, [&] { return Ping(*group[0], kLong); });
  group[2].reset();
  EXPECT_THAT(waiting.get(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("participant 2")));
}

TEST(PeerGone, IsFoundByTheNextCall) {
  ZC_MAKE_GROUP(group, 2);
  for (const absl::Status& status : RunAll(2, [&](int r) { return Ping(*group[r], kLong); })) {
    EXPECT_THAT(status, IsOk());
  }
  group[0].reset();
  EXPECT_THAT(Ping(*group[1], kLong),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("participant 0")));
  EXPECT_THAT(Ping(*group[1], kLong),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("participant 0")));
}

TEST(PeerGone, DoesNotConcernACallThatDoesNotNeedIt) {
  ZC_MAKE_GROUP(group, 3);
  group[2].reset();
  const auto statuses = RunAll(2, [&](int r) {
    Bytes data(5000, static_cast<unsigned char>(r));
    Bytes other(5000);
    for (int round = 0; round < 10; ++round) {
      ZC_RETURN_IF_ERROR(
          group[r]->Exchange({{1 - r, data.data(), 5000}}, {{1 - r, other.data(), 5000}}, kLong));
    }
    return Same(other, Bytes(5000, static_cast<unsigned char>(1 - r)));
  });
  for (const absl::Status& status : statuses) EXPECT_THAT(status, IsOk());
}

TEST(PeerGone, StillDeliversWhatItSentBefore) {
  constexpr int64_t kBytes = 3 << 20;
  ZC_MAKE_GROUP(group, 2);
  auto sender = std::async(std::launch::async, [&] {
    Bytes data(kBytes, 9);
    const absl::Status status = group[0]->Exchange({{1, data.data(), kBytes}}, {}, kLong);
    group[0].reset();
    return status;
  });
  Bytes other(kBytes);
  EXPECT_THAT(group[1]->Exchange({}, {{0, other.data(), kBytes}}, kLong), IsOk());
  EXPECT_THAT(sender.get(), IsOk());
  EXPECT_THAT(Same(other, Bytes(kBytes, 9)), IsOk());
}

TEST(Schedule, SizesThatDifferFailAndCopyNothing) {
  ZC_MAKE_GROUP(group, 2);
  Bytes data(100, 1);
  Bytes other(200, 2);
  const auto statuses = RunAll(2, [&](int r) {
    return r == 0 ? group[0]->Exchange({{1, data.data(), 100}}, {}, kShort)
                  : group[1]->Exchange({}, {{0, other.data(), 50}}, kShort);
  });
  if (kSenderLearnsOfSizes) {
    EXPECT_THAT(statuses[0], Not(IsOk()));
  }
  EXPECT_THAT(statuses[1], Not(IsOk()));
  EXPECT_THAT(Same(other, Bytes(200, 2)), IsOk());
}

TEST(Large, MessagesOf64MiBArriveInBothDirections) {
  constexpr int64_t kBytes = int64_t{64} << 20;
  ZC_MAKE_GROUP(group, 2);
  const auto statuses = RunAll(2, [&](int r) {
    Bytes data(kBytes, static_cast<unsigned char>(r + 1));
    data.back() = 77;
    Bytes other(kBytes);
    ZC_RETURN_IF_ERROR(
        group[r]->Exchange({{1 - r, data.data(), kBytes}}, {{1 - r, other.data(), kBytes}}, kLong));
    Bytes want(kBytes, static_cast<unsigned char>(2 - r));
    want.back() = 77;
    return Same(other, want);
  });
  for (const absl::Status& status : statuses) EXPECT_THAT(status, IsOk());
  EXPECT_EQ(group[0]->bytes_sent(), kBytes);
  EXPECT_EQ(group[1]->bytes_received(), kBytes);
}

// Participant 1 is busy with what 2 sends when 0 comes, sooner or later.
TEST(Large, AMessageThatComesMeanwhileIsNotMissed) {
  constexpr int64_t kBytes = int64_t{8} << 20;
  constexpr int kRounds = 60;
  constexpr absl::Duration kStep = absl::Microseconds(50);
  Bytes large(kBytes, 5), other(kBytes), small(1, 6), got(1);
  for (int round = 0; round < kRounds && !HasFailure(); ++round) {
    // Afterwards nobody calls again: nothing else would wake it.
    ZC_MAKE_GROUP(group, 3);
    const auto statuses = RunAll(3, [&](int r) {
      const absl::Time begin = absl::Now();
      while (r == 0 && absl::Now() < begin + round * kStep) continue;
      std::vector<Message> sends, receives;
      if (r == 0) sends = {{1, small.data(), 1}};
      if (r == 1) receives = {{0, got.data(), 1}, {2, other.data(), kBytes}};
      if (r == 2) sends = {{1, large.data(), kBytes}};
      return group[r]->Exchange(sends, receives, absl::Seconds(10));
    });
    for (const absl::Status& status : statuses) EXPECT_THAT(status, IsOk());
  }
  EXPECT_EQ(got, small);
  EXPECT_THAT(Same(other, large), IsOk());
}

TEST(Groups, DoNotDisturbEachOther) {
  ZC_MAKE_GROUP(first, 2);
  ZC_MAKE_GROUP(second, 2);
  first[0]->Abort("only this one");
  for (const absl::Status& status : RunAll(2, [&](int r) { return Ping(*second[r], kLong); })) {
    EXPECT_THAT(status, IsOk());
  }
}

}  // namespace
}  // namespace zerocast
