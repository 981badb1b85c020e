#include "client/agent/shard_cache.h"

#include <sys/mman.h>

#include <utility>

#include "server/base/errors.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr int64_t kBytes = 4096;
const ShardContent kContent = {"plan", "key"};

Arena MakeArena() { return *Arena::Create("test", kBytes); }

bool CanBeMappedForWriting(const Arena& arena) {
  void* const place = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, arena.fd(), 0);
  if (place == MAP_FAILED) return false;
  ::munmap(place, kBytes);
  return true;
}

// "key/rank" of each.
std::vector<std::string> Names(const std::vector<ShardLease>& leases) {
  std::vector<std::string> names;
  for (const ShardLease& lease : leases) {
    names.push_back(lease.content().content_key + "/" + std::to_string(lease.rank()));
  }
  return names;
}

TEST(ShardCache, FindsWhatALoadHolds) {
  ShardCache cache;
  ShardLease first = cache.AddOne(kContent, 3, MakeArena());
  std::vector<ShardLease> found = cache.Find("plan");
  ASSERT_THAT(Names(found), ElementsAre("key/3"));
  EXPECT_EQ(&found[0].arena(), &first.arena());
  EXPECT_THAT(cache.Find("another"), IsEmpty());
}

TEST(ShardCache, KeepsNothingWithoutASize) {
  const int64_t before = Arena::TotalBytes();
  ShardCache cache;
  ShardLease first = cache.AddOne(kContent, 0, MakeArena());
  std::vector<ShardLease> second = cache.Find("plan");
  first.Release();
  EXPECT_EQ(Arena::TotalBytes(), before + kBytes);  // the other load still uses it
  second.clear();
  EXPECT_EQ(Arena::TotalBytes(), before);
  EXPECT_THAT(cache.Find("plan"), IsEmpty());
}

TEST(ShardCache, KeepsTheLatestUsedAndSealsThem) {
  ShardCache cache(2 * kBytes);
  for (int rank = 0; rank < 2; ++rank) cache.AddOne(kContent, rank, MakeArena());
  EXPECT_EQ(cache.stats().bytes, 2 * kBytes);
  cache.Find("plan")[0].Release();  // and the others, too, in their order
  {
    std::vector<ShardLease> used = cache.Find("plan");
    EXPECT_EQ(cache.stats().bytes, 0);
    used[1].Release();  // before rank 0
  }
  cache.AddOne(kContent, 2, MakeArena());
  std::vector<ShardLease> found = cache.Find("plan");
  ASSERT_THAT(Names(found), ElementsAre("key/0", "key/2"));
  EXPECT_FALSE(CanBeMappedForWriting(found[0].arena()));
  EXPECT_EQ(cache.stats().evictions, 1);
}

TEST(ShardCache, DoesNotKeepWhatIsLargerThanItself) {
  ShardCache cache(kBytes - 1);
  cache.AddOne(kContent, 0, MakeArena());
  EXPECT_THAT(cache.Find("plan"), IsEmpty());
}

TEST(ShardCache, KeepsOnlyOneOfTheSame) {
  ShardCache cache(10 * kBytes);
  cache.AddOne(kContent, 0, MakeArena());
  cache.AddOne(kContent, 0, MakeArena());
  EXPECT_EQ(cache.stats().bytes, kBytes);
}

TEST(ShardCache, WhatIsInUseIsNeverEvicted) {
  ShardCache cache(kBytes);
  cache.AddOne(kContent, 0, MakeArena());
  const std::vector<ShardLease> used = cache.Find("plan");
  cache.AddOne(kContent, 1, MakeArena());
  EXPECT_THAT(Names(cache.Find("plan")), ElementsAre("key/0", "key/1"));
}

TEST(ShardCache, WithoutAContentKeyNothingIsFoundOrKept) {
  ShardCache cache(kBytes);
  ShardLease lease = cache.AddOne({"plan", ""}, 0, MakeArena());
  EXPECT_THAT(cache.Find("plan"), IsEmpty());
  EXPECT_THAT(cache.Inventory(), IsEmpty());
  lease.Release();
  EXPECT_EQ(cache.stats().bytes, 0);
}

TEST(ShardCache, WhatIsTakenOutIsGoneForOthers) {
  ShardCache cache(kBytes);
  ShardLease lease = cache.AddOne(kContent, 0, MakeArena());
  ASSERT_THAT(lease.TakeOut(), IsOk());
  EXPECT_THAT(cache.Find("plan"), IsEmpty());
  EXPECT_THAT(cache.Inventory(), IsEmpty());
  lease.PutBack();
  EXPECT_THAT(cache.Find("plan"), SizeIs(1));
  ASSERT_THAT(lease.TakeOut(), IsOk());
  lease.Release();
  EXPECT_EQ(cache.stats().bytes, 0);
}

TEST(ShardCache, WhatOthersUseOrUsedCannotBeTakenOut) {
  ShardCache cache;
  ShardLease lease = cache.AddOne(kContent, 0, MakeArena());
  {
    const std::vector<ShardLease> other = cache.Find("plan");
    const absl::Status status = lease.TakeOut();
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("private")));
    EXPECT_EQ(ReasonOf(status), "WRONG_STATE");
  }
  // The other had only looked.
  EXPECT_THAT(lease.TakeOut(), IsOk());
  lease.PutBack();
  ASSERT_THAT(cache.Find("plan")[0].SealForSharing(), IsOk());
  EXPECT_THAT(lease.TakeOut(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("sealed")));
}

TEST(ShardCache, PrefersTheOneThatIsShared) {
  ShardCache cache;
  ShardLease first = cache.AddOne(kContent, 0, MakeArena());
  ShardLease second = cache.AddOne(kContent, 0, MakeArena());
  ASSERT_THAT(second.SealForSharing(), IsOk());
  const std::vector<ShardLease> found = cache.Find("plan");
  ASSERT_THAT(found, SizeIs(1));
  EXPECT_EQ(&found[0].arena(), &second.arena());
  EXPECT_THAT(first.TakeOut(), IsOk());
}

TEST(ShardCache, TellsOfEveryChangeOfItsInventory) {
  ShardCache cache;
  int changes = 0;
  cache.SetListener([&changes] { ++changes; });
  ShardLease lease = cache.AddOne(kContent, 1, MakeArena());
  ShardLease other = cache.AddOne(kContent, 0, MakeArena());
  EXPECT_EQ(changes, 2);
  const std::vector<HeldShards> inventory = cache.Inventory();
  ASSERT_THAT(inventory, SizeIs(1));
  EXPECT_EQ(inventory[0].plan_digest, "plan");
  EXPECT_EQ(inventory[0].content_key, "key");
  EXPECT_THAT(inventory[0].ranks, ElementsAre(0, 1));
  other.Release();
  EXPECT_EQ(changes, 3);
  cache.SetListener(nullptr);
  lease.Release();
  EXPECT_EQ(changes, 3);
}

TEST(ShardCache, TellsOfWhatItKeeps) {
  ShardCache cache(kBytes);
  ShardLease lease = cache.AddOne(kContent, 0, MakeArena());
  int changes = 0;
  cache.SetListener([&changes] { ++changes; });
  lease.Release();
  EXPECT_EQ(changes, 1);
  std::vector<ShardLease> used = cache.Find("plan");
  EXPECT_EQ(changes, 2);
  cache.Find("plan");
  EXPECT_EQ(changes, 2);
}

TEST(ShardCache, ALeaseOutlivesTheCache) {
  const int64_t before = Arena::TotalBytes();
  ShardLease lease;
  {
    ShardCache cache;
    lease = cache.AddOne(kContent, 0, MakeArena());
  }
  EXPECT_NE(lease.arena().data(), nullptr);
  lease.Release();
  EXPECT_EQ(Arena::TotalBytes(), before);
}

}  // namespace
}  // namespace zerocast
