#include "client/agent/read_queue.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <liburing.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "server/base/errors.h"
#include "tests/status_matchers.h"
#include "tests/temp_dir.h"

namespace zerocast {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int kDepth = 3;

struct Free {
  void operator()(char* data) const { std::free(data); }
};
using AlignedBytes = std::unique_ptr<char, Free>;

AlignedBytes Aligned(int64_t num_bytes) {
  return AlignedBytes(
      static_cast<char*>(std::aligned_alloc(kDirectAlignment, static_cast<size_t>(num_bytes))));
}

std::string Content(size_t num_bytes) {
  std::string content(num_bytes, '\0');
  for (size_t i = 0; i < num_bytes; ++i) content[i] = static_cast<char>(i * 31 + i / 509);
  return content;
}

class QueueTest : public ::testing::Test {
 protected:
  // A file with that content, open.
  PosixFile* Open(const std::string& content) {
    const std::string path = dir_.Write("file", content);
    file_ = std::make_unique<PosixFile>(state_, path, ::open(path.c_str(), O_RDONLY));
    return file_.get();
  }

  ReadRequest Request(int64_t offset, std::string* bytes) {
    ReadRequest request;
    request.file = file_.get();
    request.offset = offset;
    request.pieces = {{bytes->data(), bytes->size()}};
    request.needed = static_cast<int64_t>(bytes->size());
    return request;
  }

  ReadRequest DirectRequest(int64_t offset, char* memory, size_t num_bytes, int64_t needed) {
    ReadRequest request;
    request.file = file_.get();
    request.direct = true;
    request.offset = offset;
    request.pieces = {{memory, num_bytes}};
    request.needed = needed;
    return request;
  }

  // Ten rounds of as many reads at once as the queue has, of `content` (3 MiB), which end in
  // another order than they began.
  void ReadInTurn(const std::string& content) {
    for (int round = 0; round < 10; ++round) {
      std::string bytes[kDepth];
      ReadRequest requests[kDepth];
      for (int k = 0; k < kDepth; ++k) {
        bytes[k].assign(1 << 20, '\0');
        requests[k] = Request((k << 20) - k * round, &bytes[k]);
        queue_->Start(k, requests[k]);
      }
      for (const int k : {1, 2, 0}) {
        EXPECT_THAT(queue_->Wait(k), IsOk());
        EXPECT_TRUE(bytes[k] ==
                    content.substr(static_cast<size_t>((k << 20) - k * round), 1 << 20));
      }
    }
  }

  const TempDir dir_;
  const std::shared_ptr<PosixReaderState> state_ = std::make_shared<PosixReaderState>();
  std::unique_ptr<PosixFile> file_;
  std::unique_ptr<ReadQueue> queue_;
};

class ReadQueueTest : public QueueTest, public ::testing::WithParamInterface<const char*> {
 protected:
  void SetUp() override {
    queue_ =
        GetParam() == std::string("preadv") ? MakeWaitingQueue(kDepth) : ReadQueue::Create(kDepth);
    if (queue_->name() != GetParam()) GTEST_SKIP() << "1 skipped: no " << GetParam() << " here";
  }
};
INSTANTIATE_TEST_SUITE_P(Kinds, ReadQueueTest, ::testing::Values("preadv", "io_uring"));

TEST_P(ReadQueueTest, FillsMorePiecesThanOneCallTakes) {
  const std::string content = Content(5000);
  Open(content);
  std::string bytes(4000, '\0');
  ReadRequest request = Request(7, &bytes);
  request.pieces.clear();
  for (size_t at = 0; at < bytes.size(); at += 5) request.pieces.push_back({&bytes[at], 5});
  request.pieces.insert(request.pieces.begin(), {nullptr, 0});
  queue_->Start(0, request);
  EXPECT_THAT(queue_->Wait(0), IsOk());
  EXPECT_TRUE(bytes == content.substr(7, 4000));
  EXPECT_EQ(state_->bytes_read, 4000);
}

TEST_P(ReadQueueTest, SeveralAreUnderWayAndAreAwaitedInAnyOrder) {
  const std::string content = Content(3 << 20);
  Open(content);
  ReadInTurn(content);
}

TEST_P(ReadQueueTest, AFileThatEndsTooEarlyIsNamedWithItsOffset) {
  Open(Content(1000));
  std::string bytes(900, '\0');
  const ReadRequest request = Request(500, &bytes);
  queue_->Start(2, request);
  const absl::Status status = queue_->Wait(2);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kDataLoss,
                               AllOf(HasSubstr(file_->path()), HasSubstr("offset 1000"),
                                     HasSubstr("400 bytes before the end"))));
  EXPECT_EQ(ReasonOf(status), "CHECKPOINT_CORRUPT");
}

TEST_P(ReadQueueTest, AnErrorOfTheSystemIsNamedWithItsOffset) {
  // A folder is not to be read.
  file_ = std::make_unique<PosixFile>(state_, dir_.path(), ::open(dir_.path().c_str(), O_RDONLY));
  std::string bytes(10, '\0');
  const ReadRequest request = Request(3, &bytes);
  queue_->Start(0, request);
  EXPECT_THAT(queue_->Wait(0), StatusIs(absl::StatusCode::kUnavailable,
                                        AllOf(HasSubstr(dir_.path()), HasSubstr("offset 3"),
                                              HasSubstr("directory"))));
}

TEST_P(ReadQueueTest, WhatNobodyWaitsForIsNotWrittenToAfterwards) {
  Open(Content(8 << 20));
  auto bytes = std::make_unique<std::string>(8 << 20, '\0');
  const ReadRequest request = Request(0, bytes.get());
  queue_->Start(0, request);
  queue_.reset();
  bytes.reset();  // a sanitizer sees who writes now
}

TEST_P(ReadQueueTest, ReadsPastThePageCacheUpToTheEndOfTheFile) {
  const std::string content = Content(10000);
  Open(content);
  if (const auto direct = file_->DirectFd(); !direct.ok()) {
    GTEST_SKIP() << "1 skipped: " << direct.status();
  }
  const AlignedBytes bytes = Aligned(8192);
  ReadRequest request = DirectRequest(4096, bytes.get(), 8192, 10000 - 4096);
  queue_->Start(0, request);
  const absl::Status status = queue_->Wait(0);
  if (absl::IsUnimplemented(status)) GTEST_SKIP() << "1 skipped: " << status;
  EXPECT_THAT(status, IsOk());
  EXPECT_TRUE(std::string(bytes.get(), 10000 - 4096) == content.substr(4096));
  EXPECT_EQ(state_->bytes_read, 10000 - 4096);
  request.needed = 10001 - 4096;
  queue_->Start(0, request);
  EXPECT_THAT(queue_->Wait(0), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("offset 10000")));
}

TEST_P(ReadQueueTest, ADirectReadThatTheFileSystemRefusesIsUnimplemented) {
  Open(Content(10000));
  if (const auto direct = file_->DirectFd(); !direct.ok()) {
    GTEST_SKIP() << "1 skipped: " << direct.status();
  }
  const AlignedBytes bytes = Aligned(8192);
  const ReadRequest request = DirectRequest(1, bytes.get() + 1, 4095, 4095);
  queue_->Start(0, request);
  const absl::Status status = queue_->Wait(0);
  if (status.ok()) GTEST_SKIP() << "1 skipped: this file system reads anything directly";
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnimplemented,
                               AllOf(HasSubstr(file_->path()), HasSubstr("EINVAL"))));
}

// What the kernel answers to a submission, and whether it takes it.
using Submission = std::function<int(int call, struct io_uring* ring)>;

class SubmitTest : public QueueTest {
 protected:
  void UseSubmission(const Submission& submission) {
    queue_ = MakeUringQueue(
        kDepth, [this, submission](struct io_uring* ring) { return submission(calls_++, ring); });
    if (queue_ == nullptr) GTEST_SKIP() << "1 skipped: no io_uring here";
  }

  int calls_ = 0;
};
// By what io_uring_submit returns.
class RefusedSubmitTest : public SubmitTest, public ::testing::WithParamInterface<int> {};
INSTANTIATE_TEST_SUITE_P(Results, RefusedSubmitTest,
                         ::testing::Values(0, -EAGAIN, -EBUSY, -ENOMEM));

TEST_P(RefusedSubmitTest, AReadThatTheKernelDoesNotTakeIsMadeAtOnceAndNeverAgain) {
  const std::string content = Content(3 << 20);
  Open(content);
  UseSubmission([](int call, struct io_uring* ring) {
    return call % 2 == 0 ? GetParam() : ::io_uring_submit(ring);
  });
  if (queue_ == nullptr) return;
  for (int round = 0; round < 4 * kDepth; ++round) {
    std::string refused(1 << 20, '\0'), taken(1 << 20, '\0');
    const ReadRequest first = Request(round, &refused);
    queue_->Start(0, first);
    EXPECT_THAT(queue_->Wait(0), IsOk());
    EXPECT_TRUE(refused == content.substr(static_cast<size_t>(round), 1 << 20));
    // Its memory is its owner's again.
    refused.assign(1 << 20, 'x');
    const ReadRequest second = Request((1 << 20) + round, &taken);
    queue_->Start(1, second);
    EXPECT_THAT(queue_->Wait(1), IsOk());
    EXPECT_TRUE(taken == content.substr(static_cast<size_t>((1 << 20) + round), 1 << 20));
    EXPECT_TRUE(refused == std::string(1 << 20, 'x'));
  }
  EXPECT_EQ(queue_->name(), "io_uring");
  EXPECT_EQ(calls_, 8 * kDepth);
}

TEST_P(RefusedSubmitTest, ARefusedReadAmongOthersHindersNone) {
  const std::string content = Content(3 << 20);
  Open(content);
  UseSubmission([](int call, struct io_uring* ring) {
    return call % kDepth == 1 ? GetParam() : ::io_uring_submit(ring);
  });
  if (queue_ == nullptr) return;
  ReadInTurn(content);
}

TEST_F(SubmitTest, AnInterruptedSubmissionIsMadeAgain) {
  const std::string content = Content(1 << 20);
  Open(content);
  UseSubmission(
      [](int call, struct io_uring* ring) { return call < 3 ? -EINTR : ::io_uring_submit(ring); });
  if (queue_ == nullptr) return;
  std::string bytes(1 << 20, '\0');
  const ReadRequest request = Request(0, &bytes);
  queue_->Start(0, request);
  EXPECT_EQ(calls_, 4);
  EXPECT_THAT(queue_->Wait(0), IsOk());
  EXPECT_TRUE(bytes == content);
}

TEST_F(SubmitTest, ARingThatIsOfNoUseAnyMoreIsGivenUp) {
  const std::string content = Content(3 << 20);
  Open(content);
  UseSubmission([](int call, struct io_uring* ring) {
    return call == 0 ? ::io_uring_submit(ring) : -EBADFD;
  });
  if (queue_ == nullptr) return;
  std::string bytes[kDepth];
  ReadRequest requests[kDepth];
  for (int k = 0; k < kDepth; ++k) {
    bytes[k].assign(1 << 20, '\0');
    requests[k] = Request(k << 20, &bytes[k]);
    queue_->Start(k, requests[k]);
  }
  EXPECT_EQ(queue_->name(), "preadv");
  for (int k = 0; k < kDepth; ++k) {
    EXPECT_THAT(queue_->Wait(k), IsOk());
    EXPECT_TRUE(bytes[k] == content.substr(static_cast<size_t>(k) << 20, 1 << 20));
  }
  EXPECT_EQ(calls_, 2);
}

TEST(PosixFile, KnowsWhatIsCached) {
  const TempDir dir;
  const std::string path = dir.Write("file", Content(1 << 20));
  const int fd = ::open(path.c_str(), O_RDONLY);
  PosixFile file(std::make_shared<PosixReaderState>(), path, fd);
  EXPECT_EQ(file.ResidencyOf(0, 1 << 20), Residency::kCached);
  ::fdatasync(fd);
  ASSERT_EQ(::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
  if (file.ResidencyOf(0, 1 << 20) != Residency::kNotCached)
    GTEST_SKIP() << "1 skipped: this file system is memory";
  std::string bytes(1 << 20, '\0');
  const struct iovec piece = {bytes.data(), bytes.size()};
  EXPECT_THAT(file.ReadAt(0, absl::MakeConstSpan(&piece, 1)), IsOk());
  EXPECT_EQ(file.ResidencyOf(0, 1 << 20), Residency::kCached);
}

}  // namespace
}  // namespace zerocast
