#include "client/agent/locked_arenas.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/mutex.h"
#include "server/base/errors.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int64_t kBytes = (int64_t{64} << 20) + 5000;
constexpr int64_t kShift = 1 << 20;  // between what the host and what a device sees

// What is locked at this moment.
struct Books {
  Mutex mutex;
  std::set<std::pair<int, char*>> locked ABSL_GUARDED_BY(mutex);
  std::set<std::pair<int, char*>> Locked() {
    MutexLock lock(&mutex);
    return locked;
  }
};

class FakeLock : public LockedMemory {
 public:
  FakeLock(std::shared_ptr<Books> books, int device, char* memory)
      : books_(std::move(books)), device_(device), memory_(memory) {
    MutexLock lock(&books_->mutex);
    books_->locked.insert({device_, memory_});
  }
  ~FakeLock() override {
    MutexLock lock(&books_->mutex);
    books_->locked.erase({device_, memory_});
    // It is still there.
    EXPECT_EQ(memory_[kBytes - 1], 0);
  }
  char* on_device() const override { return memory_ + kShift; }

 private:
  const std::shared_ptr<Books> books_;
  const int device_;
  char* const memory_;
};

class FakeDevices : public Devices {
 public:
  int count() const override { return 3; }
  std::vector<DeviceSummary> List() const override { return {}; }
  std::string Describe(int device) const override { return absl::StrCat("GPU-", device); }
  cpu_set_t NearProcessors(int) const override { return {}; }
  absl::StatusOr<std::unique_ptr<DeviceMemory>> Allocate(int, int64_t) override {
    return absl::UnimplementedError("allocate");
  }
  absl::StatusOr<std::unique_ptr<LockedMemory>> Lock(int device, char* memory,
                                                     int64_t num_bytes) override {
    EXPECT_EQ(num_bytes, kBytes);
    if (device == fails) return failure;
    return std::make_unique<FakeLock>(books, device, memory);
  }
  absl::StatusOr<std::unique_ptr<Communicator>> Connect(int, const CommunicatorRequest&) override {
    return absl::UnimplementedError("connect");
  }
  absl::StatusOr<std::shared_ptr<DeviceCopier>> MakeCopier(int, int, int64_t,
                                                           Communicator*) override {
    return absl::UnimplementedError("copy");
  }

  const std::shared_ptr<Books> books = std::make_shared<Books>();
  int fails = -1;
  absl::Status failure;
};

class LockedArenasTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto arenas = std::make_shared<std::vector<Arena>>();
    for (const int64_t num_bytes : {kBytes, int64_t{0}, kBytes}) {
      arenas->push_back(*Arena::Create("test", num_bytes));
    }
    arenas_ = std::move(arenas);
  }
  absl::StatusOr<std::shared_ptr<LockedArenas>> Lock(const std::atomic<bool>* cancelled = nullptr) {
    return LockedArenas::Create(arenas_, &devices_, /*first_rank=*/6, /*num_threads=*/3, cancelled);
  }

  FakeDevices devices_;
  std::shared_ptr<const std::vector<Arena>> arenas_;
};

TEST_F(LockedArenasTest, EachIsLockedForItsDeviceUntilUnlocked) {
  ZC_ASSERT_OK_AND_ASSIGN(const std::shared_ptr<LockedArenas> locked, Lock());
  const std::set<std::pair<int, char*>> both = {{0, (*arenas_)[0].data()},
                                                {2, (*arenas_)[2].data()}};
  EXPECT_EQ(devices_.books->Locked(), both);
  const ArenaMemory memory = LockedArenas::MemoryOf(locked, 2);
  ASSERT_EQ(memory.data.size(), 1);
  EXPECT_EQ(memory.data[0], (*arenas_)[2].data() + kShift) << "as the device sees it";
  EXPECT_EQ(LockedArenas::MemoryOf(locked, 1).data[0], nullptr) << "there is nothing to lock";
  locked->Unlock();
  EXPECT_THAT(devices_.books->Locked(), IsEmpty());
}

TEST_F(LockedArenasTest, WhoeverHoldsOneKeepsThemAllLocked) {
  ArenaMemory kept;
  {
    ZC_ASSERT_OK_AND_ASSIGN(const std::shared_ptr<LockedArenas> locked, Lock());
    kept = LockedArenas::MemoryOf(locked, 0);
  }
  arenas_ = nullptr;
  EXPECT_EQ(devices_.books->Locked().size(), 2);
  kept.owner = nullptr;
  EXPECT_THAT(devices_.books->Locked(), IsEmpty());
}

TEST_F(LockedArenasTest, WhatTheSystemDoesNotLockNamesRankDeviceAndRemedy) {
  devices_.fails = 2;
  devices_.failure = absl::ResourceExhaustedError("page-lock it: out of memory");
  const absl::Status status = Lock().status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted,
                               AllOf(HasSubstr("rank 8"), HasSubstr("GPU-2"),
                                     HasSubstr("page-lock it: out of memory"),
                                     HasSubstr("offloads parameters"), HasSubstr("ulimit -l"))));
  EXPECT_EQ(ReasonOf(status), "RESOURCE_EXHAUSTED");
  EXPECT_THAT(devices_.books->Locked(), IsEmpty()) << "the others are unlocked";
  devices_.failure = absl::InternalError("the device is lost");
  EXPECT_THAT(Lock(), StatusIs(absl::StatusCode::kInternal,
                               AllOf(HasSubstr("rank 8"), HasSubstr("the device is lost"))));
}

TEST_F(LockedArenasTest, ACancelledLoadLocksNothing) {
  const std::atomic<bool> cancelled{true};
  EXPECT_THAT(Lock(&cancelled), StatusIs(absl::StatusCode::kCancelled, HasSubstr("rank 6")));
  EXPECT_THAT(devices_.books->Locked(), IsEmpty());
}

}  // namespace
}  // namespace zerocast
