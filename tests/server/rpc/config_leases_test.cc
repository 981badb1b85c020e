// What keeps the config of a deleted job, and for how long.
#include "server/rpc/config_leases.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "server/base/errors.h"
#include "server/store/memory_store.h"
#include "tests/status_matchers.h"

namespace zerocast::rpc {
namespace {

using ::testing::HasSubstr;

constexpr char kJob[] = "jobs/0001";
const KeptConfig kConfig = {R"({"zero_optimization": {"stage": 3}, "x": 1e400})", "bf16", 3};

// Refuses writes when told to.
class FlakyStore : public StateStore {
 public:
  absl::StatusOr<StoreEntry> Get(absl::string_view key) const override { return store_.Get(key); }
  absl::StatusOr<std::vector<StoreEntry>> List(absl::string_view prefix, absl::string_view after,
                                               int64_t limit) const override {
    return store_.List(prefix, after, limit);
  }
  absl::StatusOr<std::vector<int64_t>> CommitAll(
      const std::vector<std::vector<StoreWrite>>& commits) override {
    if (broken) return WithReason(absl::UnavailableError("no disk"), "STORE_UNAVAILABLE");
    return store_.CommitAll(commits);
  }
  absl::StatusOr<int64_t> Revision() const override { return store_.Revision(); }
  absl::string_view kind() const override { return "flaky"; }

  bool broken = false;

 private:
  MemoryStore store_;
};

class ConfigLeasesTest : public ::testing::Test {
 protected:
  void SetUp() override { Start(); }

  // A new process on the same store.
  void Start() {
    leases_.reset();
    auto leases = ConfigLeases::Create(options_, &store_, &clock_);
    ASSERT_THAT(leases, IsOk());
    leases_ = *std::move(leases);
  }
  std::string Acquire(absl::Duration ttl = absl::Minutes(1), const std::string& job = kJob) {
    const auto lease = leases_->Acquire(job, kConfig, ttl, "");
    EXPECT_THAT(lease, IsOk());
    return lease.ok() ? lease->name : "";
  }
  bool Kept(const std::string& job = kJob) const {
    const auto kept = leases_->Find(job);
    return kept != nullptr && *kept == kConfig;
  }
  size_t NumRecords() const { return (*store_.List("", "", 1000)).size(); }

  ConfigLeases::Options options_ = {10, absl::ZeroDuration()};
  FlakyStore store_;
  FakeClock clock_;
  std::unique_ptr<ConfigLeases> leases_;
};

TEST_F(ConfigLeasesTest, KeepsTheConfigUntilTheLastLeaseIsReleased) {
  EXPECT_FALSE(Kept());
  const std::string first = Acquire(), second = Acquire();
  EXPECT_NE(first, second);
  EXPECT_TRUE(Kept());
  EXPECT_EQ(NumRecords(), 3u);
  ASSERT_THAT(leases_->Release(first), IsOk());
  EXPECT_TRUE(Kept());
  ASSERT_THAT(leases_->Release(second), IsOk());
  EXPECT_FALSE(Kept());
  EXPECT_EQ(leases_->num_configs(), 0);
  EXPECT_EQ(NumRecords(), 0u);
}

TEST_F(ConfigLeasesTest, ReleasingTwiceIsNoError) {
  const std::string lease = Acquire();
  EXPECT_THAT(leases_->Release(lease), IsOk());
  EXPECT_THAT(leases_->Release(lease), IsOk());
  EXPECT_THAT(leases_->Release("configLeases/other"), IsOk());
}

TEST_F(ConfigLeasesTest, ALeaseEndsByTheClockAndIsSwept) {
  Acquire(absl::Minutes(1));
  const std::string longer = Acquire(absl::Minutes(2));
  clock_.Advance(absl::Seconds(61));
  ASSERT_THAT(leases_->Sweep(), IsOk());
  EXPECT_EQ(leases_->num_leases(), 1);
  EXPECT_TRUE(Kept());
  clock_.Advance(absl::Seconds(60));
  // At once, not when somebody sweeps.
  EXPECT_FALSE(Kept());
  EXPECT_EQ(leases_->Renew(longer, {}).status().code(), absl::StatusCode::kNotFound);
  ASSERT_THAT(leases_->Sweep(), IsOk());
  EXPECT_EQ(leases_->num_configs(), 0);
  EXPECT_EQ(NumRecords(), 0u);
}

TEST_F(ConfigLeasesTest, ARenewalCountsFromNow) {
  const std::string lease = Acquire(absl::Minutes(1));
  clock_.Advance(absl::Seconds(50));
  ZC_ASSERT_OK_AND_ASSIGN(ConfigLease renewed, leases_->Renew(lease, {}));
  EXPECT_EQ(renewed.expire_time, clock_.Now() + absl::Minutes(1));
  clock_.Advance(absl::Seconds(50));
  EXPECT_TRUE(Kept());
  ASSERT_THAT(leases_->Renew(lease, absl::Seconds(5)), IsOk());
  clock_.Advance(absl::Seconds(5));
  EXPECT_FALSE(Kept());
}

TEST_F(ConfigLeasesTest, SurvivesARestartWithItsRemainingTime) {
  const std::string lease = Acquire(absl::Minutes(2));
  clock_.Advance(absl::Minutes(1));
  Start();
  EXPECT_TRUE(Kept());
  clock_.Advance(absl::Seconds(59));
  EXPECT_TRUE(Kept());
  clock_.Advance(absl::Seconds(1));
  EXPECT_FALSE(Kept());
  Start();
  ASSERT_THAT(leases_->Sweep(), IsOk());
  EXPECT_EQ(NumRecords(), 0u);
}

TEST_F(ConfigLeasesTest, TheSameRequestGetsTheSameLeaseAlsoAfterARestart) {
  ZC_ASSERT_OK_AND_ASSIGN(const ConfigLease lease,
                          leases_->Acquire(kJob, kConfig, absl::Minutes(1), "id"));
  ZC_ASSERT_OK_AND_ASSIGN(ConfigLease again,
                          leases_->Acquire(kJob, kConfig, absl::Minutes(1), "id"));
  EXPECT_EQ(again.name, lease.name);
  Start();
  ZC_ASSERT_OK_AND_ASSIGN(again, leases_->Acquire(kJob, kConfig, absl::Minutes(1), "id"));
  EXPECT_EQ(again.name, lease.name);
  EXPECT_THAT(leases_->Acquire("jobs/0002", kConfig, absl::Minutes(1), "id"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("jobs/0001")));
  // The id of a lease that has ended is free.
  clock_.Advance(absl::Minutes(2));
  ZC_ASSERT_OK_AND_ASSIGN(again, leases_->Acquire(kJob, kConfig, absl::Minutes(1), "id"));
  EXPECT_NE(again.name, lease.name);
}

TEST_F(ConfigLeasesTest, TheTtlHasBounds) {
  for (const absl::Duration ttl :
       {absl::ZeroDuration(), absl::Milliseconds(999), absl::Hours(24 * 7) + absl::Seconds(1),
        absl::InfiniteDuration(), -absl::Seconds(1)}) {
    EXPECT_THAT(leases_->Acquire(kJob, kConfig, ttl, ""),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("ttl")));
  }
  EXPECT_THAT(leases_->Renew(Acquire(), absl::ZeroDuration()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("ttl")));
}

TEST_F(ConfigLeasesTest, HasABoundThatExpiredLeasesDoNotFill) {
  for (int i = 0; i < 10; ++i) Acquire(absl::Minutes(1));
  EXPECT_EQ(leases_->Acquire(kJob, kConfig, absl::Minutes(1), "").status().code(),
            absl::StatusCode::kResourceExhausted);
  clock_.Advance(absl::Minutes(1));
  Acquire();
  EXPECT_EQ(leases_->num_leases(), 1);
}

TEST_F(ConfigLeasesTest, AnswersOnlyWhatTheStoreTook) {
  const std::string lease = Acquire(absl::Minutes(1));
  store_.broken = true;
  EXPECT_EQ(leases_->Acquire("jobs/0002", kConfig, absl::Minutes(1), "").status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_FALSE(Kept("jobs/0002"));
  EXPECT_EQ(leases_->Renew(lease, absl::Minutes(9)).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(leases_->Release(lease).code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(Kept());
  clock_.Advance(absl::Minutes(1));
  EXPECT_FALSE(Kept());
  EXPECT_EQ(leases_->Sweep().code(), absl::StatusCode::kUnavailable);
  store_.broken = false;
  EXPECT_THAT(leases_->Sweep(), IsOk());
  EXPECT_EQ(NumRecords(), 0u);
}

TEST_F(ConfigLeasesTest, ADamagedRecordIsNamed) {
  ASSERT_THAT(store_.Put("configLeases/1", R"({"format": 1, "job": 5})"), IsOk());
  EXPECT_THAT(ConfigLeases::Create(options_, &store_, &clock_),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("configLeases/1")));
}

}  // namespace
}  // namespace zerocast::rpc
