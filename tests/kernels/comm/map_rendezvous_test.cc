#include "kernels/comm/map_rendezvous.h"

#include <gtest/gtest.h>

#include <future>

#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::HasSubstr;

TEST(MapRendezvous, GivesWhatWasPut) {
  MapRendezvous rendezvous;
  ASSERT_THAT(rendezvous.Put("a", "1"), IsOk());
  ZC_ASSERT_OK_AND_ASSIGN(const std::string value, rendezvous.Get("a", absl::ZeroDuration()));
  EXPECT_EQ(value, "1");
}

TEST(MapRendezvous, ALaterPutReplaces) {
  MapRendezvous rendezvous;
  ASSERT_THAT(rendezvous.Put("a", "1"), IsOk());
  ASSERT_THAT(rendezvous.Put("a", "2"), IsOk());
  ZC_ASSERT_OK_AND_ASSIGN(const std::string value, rendezvous.Get("a", absl::ZeroDuration()));
  EXPECT_EQ(value, "2");
}

TEST(MapRendezvous, GetWaitsForPut) {
  MapRendezvous rendezvous;
  auto got =
      std::async(std::launch::async, [&] { return rendezvous.Get("a", absl::InfiniteDuration()); });
  ASSERT_THAT(rendezvous.Put("b", "0"), IsOk());
  ASSERT_THAT(rendezvous.Put("a", "1"), IsOk());
  ZC_ASSERT_OK_AND_ASSIGN(const std::string value, got.get());
  EXPECT_EQ(value, "1");
}

TEST(MapRendezvous, GetNamesTheKeyAtItsDeadline) {
  MapRendezvous rendezvous;
  EXPECT_THAT(rendezvous.Get("gloo/3", absl::Milliseconds(20)),
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("\"gloo/3\"")));
}

TEST(MapRendezvous, CancelEndsEveryCall) {
  MapRendezvous rendezvous;
  auto got = std::async(std::launch::async, [&] { return rendezvous.Get("a", absl::Hours(1)); });
  rendezvous.Cancel("the load was cancelled");
  rendezvous.Cancel("a second reason");
  EXPECT_THAT(got.get(),
              StatusIs(absl::StatusCode::kCancelled, HasSubstr("the load was cancelled")));
  EXPECT_THAT(rendezvous.Put("a", "1"),
              StatusIs(absl::StatusCode::kCancelled, HasSubstr("the load was cancelled")));
}

}  // namespace
}  // namespace zerocast
