#include "kernels/device/unique_handle.h"

#include <type_traits>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace zerocast {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<int> destroyed;

struct Traits {
  using Handle = int;
  static constexpr Handle kNull = -1;
  static void Destroy(Handle handle) noexcept { destroyed.push_back(handle); }
};
using Handle = UniqueHandle<Traits>;

static_assert(!std::is_copy_constructible_v<Handle> && !std::is_copy_assignable_v<Handle>);
static_assert(std::is_nothrow_move_constructible_v<Handle>);
static_assert(std::is_nothrow_move_assignable_v<Handle>);

class UniqueHandleTest : public ::testing::Test {
 protected:
  void SetUp() override { destroyed.clear(); }
};

TEST_F(UniqueHandleTest, DestroysOnceAtItsEnd) {
  {
    const Handle handle(3);
    EXPECT_EQ(handle.get(), 3);
    EXPECT_FALSE(handle.empty());
  }
  EXPECT_THAT(destroyed, ElementsAre(3));
}

TEST_F(UniqueHandleTest, EmptyDestroysNothing) {
  { const Handle handle; }
  EXPECT_THAT(destroyed, IsEmpty());
}

TEST_F(UniqueHandleTest, MovingLeavesTheSourceEmpty) {
  {
    Handle first(3);
    const Handle second(std::move(first));
    EXPECT_TRUE(first.empty());  // NOLINT(bugprone-use-after-move): the state is promised
    EXPECT_EQ(second.get(), 3);
    EXPECT_THAT(destroyed, IsEmpty());
  }
  EXPECT_THAT(destroyed, ElementsAre(3));
}

TEST_F(UniqueHandleTest, AssigningDestroysWhatWasOwned) {
  Handle first(3);
  first = Handle(4);
  EXPECT_THAT(destroyed, ElementsAre(3));
  EXPECT_EQ(first.get(), 4);
}

TEST_F(UniqueHandleTest, AssigningToItselfKeepsTheHandle) {
  Handle handle(3);
  Handle& same = handle;
  handle = std::move(same);
  EXPECT_THAT(destroyed, IsEmpty());
  EXPECT_EQ(handle.get(), 3);
}

TEST_F(UniqueHandleTest, ReleaseGivesTheHandleAway) {
  {
    Handle handle(3);
    EXPECT_EQ(handle.Release(), 3);
    EXPECT_TRUE(handle.empty());
  }
  EXPECT_THAT(destroyed, IsEmpty());
}

TEST_F(UniqueHandleTest, ResetDestroysNow) {
  Handle handle(3);
  handle.Reset();
  handle.Reset();
  EXPECT_THAT(destroyed, ElementsAre(3));
}

}  // namespace
}  // namespace zerocast
