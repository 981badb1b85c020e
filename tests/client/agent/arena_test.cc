#include "client/agent/arena.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::_;

constexpr int64_t kBytes = 10000;

size_t OpenDescriptors() {
  size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    (void)entry;
    ++count;
  }
  return count;
}

TEST(Arena, IsZeroAndCounted) {
  const int64_t before = Arena::TotalBytes();
  {
    ZC_ASSERT_OK_AND_ASSIGN(const Arena arena, Arena::Create("test", kBytes));
    EXPECT_EQ(Arena::TotalBytes(), before + kBytes);
    EXPECT_EQ(std::string(arena.data(), kBytes), std::string(kBytes, '\0'));
  }
  EXPECT_EQ(Arena::TotalBytes(), before);
}

TEST(Arena, OfNoBytesIsAllowedAndOfNegativeIsNot) {
  ZC_ASSERT_OK_AND_ASSIGN(Arena arena, Arena::Create("test", 0));
  EXPECT_EQ(arena.data(), nullptr);
  EXPECT_GE(arena.fd(), 0);
  EXPECT_THAT(arena.SealForSharing(), IsOk());
  EXPECT_THAT(Arena::Create("test", -1), StatusIs(absl::StatusCode::kInvalidArgument, _));
}

TEST(Arena, HasOneOwner) {
  const int64_t before = Arena::TotalBytes();
  ZC_ASSERT_OK_AND_ASSIGN(Arena first, Arena::Create("first", kBytes));
  ZC_ASSERT_OK_AND_ASSIGN(Arena second, Arena::Create("second", kBytes));
  char* const data = first.data();
  second = std::move(first);
  EXPECT_EQ(second.data(), data);
  EXPECT_EQ(first.data(), nullptr);  // NOLINT(bugprone-use-after-move): the state is promised
  EXPECT_EQ(first.fd(), -1);
  EXPECT_EQ(Arena::TotalBytes(), before + kBytes);
  EXPECT_THAT(first.Seal(), StatusIs(absl::StatusCode::kFailedPrecondition, _));
}

TEST(Arena, SealedKeepsItsSizeAndCanBeWritten) {
  ZC_ASSERT_OK_AND_ASSIGN(Arena arena, Arena::Create("test", kBytes));
  ASSERT_THAT(arena.Seal(), IsOk());
  EXPECT_EQ(::ftruncate(arena.fd(), kBytes - 1), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::ftruncate(arena.fd(), kBytes + 1), -1);
  void* const shared = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, arena.fd(), 0);
  ASSERT_NE(shared, MAP_FAILED);
  std::memset(shared, 7, kBytes);
  EXPECT_EQ(arena.data()[kBytes - 1], 7);
  ::munmap(shared, kBytes);
}

TEST(Arena, SealedForSharingCannotBeWrittenByOthers) {
  ZC_ASSERT_OK_AND_ASSIGN(Arena arena, Arena::Create("test", kBytes));
  ASSERT_THAT(arena.SealForSharing(), IsOk());
  ASSERT_THAT(arena.SealForSharing(), IsOk());
  EXPECT_EQ(::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, arena.fd(), 0), MAP_FAILED);
  EXPECT_EQ(::pwrite(arena.fd(), "x", 1, 0), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::fallocate(arena.fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kBytes), -1);

  void* const own = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, arena.fd(), 0);
  ASSERT_NE(own, MAP_FAILED);
  std::memset(own, 7, kBytes);
  EXPECT_EQ(arena.data()[0], 0);
  ::munmap(own, kBytes);
}

TEST(Arena, LeavesNoDescriptor) {
  const size_t before = OpenDescriptors();
  for (int k = 0; k < 50; ++k) {
    ZC_ASSERT_OK_AND_ASSIGN(const Arena arena, Arena::Create("test", kBytes));
  }
  EXPECT_EQ(OpenDescriptors(), before);
}

}  // namespace
}  // namespace zerocast
