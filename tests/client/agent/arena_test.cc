#include "client/agent/arena.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "client/agent/fresh_memory.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::_;
using ::testing::HasSubstr;

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

// Large ones are unmapped by several threads.
TEST(Arena, LeavesItsBytesToWhoHasTheDescriptor) {
  constexpr int64_t kLarge = (int64_t{900} << 20) + 5;  // of which few pages are made
  constexpr int64_t kStep = int64_t{30} << 20;
  int descriptor = -1;
  {
    ZC_ASSERT_OK_AND_ASSIGN(const Arena arena, Arena::Create("test", kLarge));
    for (int64_t at = 0; at < kLarge; at += kStep) arena.data()[at] = 'x';
    arena.data()[kLarge - 1] = 'y';
    descriptor = ::dup(arena.fd());
  }
  ASSERT_GE(descriptor, 0);
  const auto byte_at = [&](int64_t at) {
    char byte = 0;
    EXPECT_EQ(::pread(descriptor, &byte, 1, at), 1) << at;
    return byte;
  };
  for (int64_t at = 0; at < kLarge; at += kStep) EXPECT_EQ(byte_at(at), 'x') << at;
  EXPECT_EQ(byte_at(kLarge - 1), 'y');
  std::ifstream maps("/proc/self/maps");
  std::stringstream text;
  text << maps.rdbuf();
  EXPECT_EQ(text.str().find("memfd:test"), std::string::npos);
  ::close(descriptor);
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

// What /proc/self/smaps says of the mapping that begins at `data`; empty where there is none.
std::map<std::string, std::string> MappingAt(const char* data) {
  std::map<std::string, std::string> fields;
  std::ostringstream begin;
  begin << std::hex << reinterpret_cast<uintptr_t>(data) << '-';
  std::ifstream smaps("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(smaps, line);) {
    const size_t colon = line.find(':');
    const bool is_field = colon != std::string::npos && line.find(' ') > colon;
    if (!is_field) {
      inside = line.rfind(begin.str(), 0) == 0;
    } else if (inside) {
      fields[line.substr(0, colon)] = line.substr(colon + 1);
    }
  }
  return fields;
}

// The word in brackets of a setting of the kernel; empty where it has none.
std::string Setting(const std::string& name) {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/" + name);
  std::string text;
  std::getline(file, text);
  const size_t begin = text.find('[');
  if (begin == std::string::npos) return "";
  return text.substr(begin + 1, text.find(']') - begin - 1);
}

TEST(Arena, AsksForHugePages) {
  if (Setting("enabled").empty()) {
    GTEST_SKIP() << "1 skipped: this kernel has no transparent huge pages";
  }
  ZC_ASSERT_OK_AND_ASSIGN(const Arena arena, Arena::Create("test", 8 << 20));
  EXPECT_THAT(MappingAt(arena.data())["VmFlags"] + " ", HasSubstr(" hg "));
}

TEST(Arena, LiesOnHugePagesWhereTheSystemGivesThemToSharedMemory) {
  // The setting of that size, newer than the other one, comes first.
  std::string setting = Setting("hugepages-2048kB/shmem_enabled");
  if (setting.empty() || setting == "inherit") setting = Setting("shmem_enabled");
  if (setting.empty() || setting == "never" || setting == "deny") {
    GTEST_SKIP() << "1 skipped: transparent_hugepage/shmem_enabled is \"" << setting << '"';
  }
  constexpr int64_t kHugeBytes = 64 << 20;
  ZC_ASSERT_OK_AND_ASSIGN(const Arena arena, Arena::Create("test", kHugeBytes));
  char* const data = arena.data();
  FreshMemory(absl::MakeConstSpan(&data, 1), {}, kHugeBytes).Make(data, kHugeBytes);
  std::memset(data, 1, kHugeBytes);  // whatever was not made
  EXPECT_GT(std::stol(MappingAt(data)["ShmemPmdMapped"]), 0);
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
