#include "client/agent/io_choice.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <map>
#include <memory>
#include <string>

#include "client/agent/posix_file.h"
#include "tests/status_matchers.h"
#include "tests/temp_dir.h"

namespace zerocast {
namespace {

constexpr int64_t kPart = 1 << 20;

class IoChoiceTest : public ::testing::Test {
 protected:
  IoChoiceTest() {
    const std::string path = dir_.Write("file", std::string(kPart, 'x'));
    file_ = std::make_unique<PosixFile>(std::make_shared<PosixReaderState>(), path,
                                        ::open(path.c_str(), O_RDWR));
  }

  // False where the page cache is all there is.
  bool MakeCold() {
    ::fdatasync(file_->fd());
    ::posix_fadvise(file_->fd(), 0, 0, POSIX_FADV_DONTNEED);
    return file_->ResidencyOf(0, kPart) == Residency::kNotCached;
  }

  // How often each way is chosen for `count` cold parts, where they have these rates.
  std::map<IoWay, int> Ways(IoChoice* choice, int count, double filled_rate, double direct_rate) {
    std::map<IoWay, int> ways;
    for (int k = 0; k < count; ++k) {
      MakeCold();
      const IoWay way = choice->Choose(*file_, 0, kPart);
      ++ways[way];
      const double rate = way == IoWay::kDirect ? direct_rate : filled_rate;
      choice->Record(way, kPart, absl::Seconds(static_cast<double>(kPart) / rate));
    }
    return ways;
  }

  const TempDir dir_;
  std::unique_ptr<PosixFile> file_;
};

TEST_F(IoChoiceTest, WhatIsCachedIsReadFromThereUnlessDirectReadsAreAskedFor) {
  ASSERT_EQ(file_->ResidencyOf(0, kPart), Residency::kCached);
  EXPECT_EQ(IoChoice(IoMode::kAuto).Choose(*file_, 0, kPart), IoWay::kCached);
  EXPECT_EQ(IoChoice(IoMode::kCached).Choose(*file_, 0, kPart), IoWay::kCached);
  EXPECT_EQ(IoChoice(IoMode::kDirect).Choose(*file_, 0, kPart), IoWay::kDirect);
}

TEST_F(IoChoiceTest, TriesBothWaysFromTheDiskAndTakesTheFaster) {
  if (!MakeCold()) GTEST_SKIP() << "1 skipped: this file system is memory";
  IoChoice direct_is_faster(IoMode::kAuto), filled_is_faster(IoMode::kAuto);
  EXPECT_GE(Ways(&direct_is_faster, 100, 1e9, 2e9)[IoWay::kDirect], 95);
  EXPECT_GE(Ways(&filled_is_faster, 100, 2e9, 1e9)[IoWay::kFilled], 95);
  EXPECT_EQ(filled_is_faster.direct_bytes(), 4 * kPart);
}

TEST(IoChoice, WhereTheFileSystemDoesNotTellTheFasterWayIsTakenToo) {
  const std::string path = "/dev/shm/zerocast_io_choice_test_" + std::to_string(::getpid());
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600);
  ASSERT_GE(fd, 0) << path;
  ::unlink(path.c_str());
  ASSERT_EQ(::ftruncate(fd, kPart), 0);
  const PosixFile file(std::make_shared<PosixReaderState>(), path, fd);
  if (file.ResidencyOf(0, kPart) != Residency::kUnknown) {
    GTEST_SKIP() << "1 skipped: tmpfs tells what is cached here";
  }
  EXPECT_EQ(IoChoice(IoMode::kCached).Choose(file, 0, kPart), IoWay::kCached);
  for (const bool direct_is_faster : {false, true}) {
    IoChoice choice(IoMode::kAuto);
    std::map<IoWay, int> ways;
    for (int k = 0; k < 100; ++k) {
      const IoWay way = choice.Choose(file, 0, kPart);
      ++ways[way];
      const bool fast = (way == IoWay::kDirect) == direct_is_faster;
      choice.Record(way, kPart, fast ? absl::Milliseconds(1) : absl::Milliseconds(3));
    }
    EXPECT_GE(ways[direct_is_faster ? IoWay::kDirect : IoWay::kCached], 95);
    EXPECT_EQ(ways[IoWay::kFilled], 0);
  }
}

TEST_F(IoChoiceTest, FollowsADiskWhoseSpeedChanges) {
  if (!MakeCold()) GTEST_SKIP() << "1 skipped: this file system is memory";
  IoChoice choice(IoMode::kAuto);
  EXPECT_GE(Ways(&choice, 50, 1e9, 2e9)[IoWay::kDirect], 45);
  EXPECT_GE(Ways(&choice, 100, 1e9, 0.2e9)[IoWay::kFilled], 60);
}

TEST_F(IoChoiceTest, ARefusalEndsDirectReadsAndIsKept) {
  if (!MakeCold()) GTEST_SKIP() << "1 skipped: this file system is memory";
  for (const IoMode mode : {IoMode::kAuto, IoMode::kDirect}) {
    IoChoice choice(mode);
    EXPECT_THAT(choice.refusal(), IsOk());
    choice.RefuseDirect(absl::UnimplementedError("read it: EINVAL"));
    choice.RefuseDirect(absl::UnimplementedError("later"));
    EXPECT_EQ(Ways(&choice, 20, 1, 1e9)[IoWay::kFilled], 20);
    EXPECT_THAT(choice.refusal(), StatusIs(absl::StatusCode::kUnimplemented, "read it: EINVAL"));
  }
}

}  // namespace
}  // namespace zerocast
