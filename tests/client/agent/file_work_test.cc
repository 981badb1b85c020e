#include "client/agent/file_work.h"

#include <unistd.h>

#include "kernels/base/mutex.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "tests/client/agent/gate.h"
#include "tests/client/agent/stuck_calls.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::_;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr char kFolder[] = "/ckpt";
constexpr absl::Duration kShort = absl::Milliseconds(50), kLong = absl::Seconds(20);

absl::Status Hang(FileWork* work, const std::shared_ptr<Gate>& gate, const std::string& folder) {
  return work->Call(folder, kShort, nullptr, [gate, folder](const FileObserver& about_to) {
    ZC_RETURN_IF_ERROR(about_to("open " + folder + "/file"));
    gate->Wait();
    return absl::OkStatus();
  });
}

TEST(FileWork, GivesWhatTheWorkReturns) {
  FileWork work;
  EXPECT_THAT(work.Call<int>(kFolder, kLong, nullptr,
                             [](const FileObserver&) -> absl::StatusOr<int> { return 7; }),
              ::testing::AllOf(IsOk(), ::testing::ResultOf([](const auto& v) { return *v; }, 7)));
  EXPECT_THAT(work.Call(kFolder, kLong, nullptr,
                        [](const FileObserver&) { return absl::NotFoundError("x"); }),
              StatusIs(absl::StatusCode::kNotFound, "x"));
  EXPECT_EQ(work.num_stuck(), 0);
}

TEST(FileWork, ACallThatHangsIsNamedAtTheDeadlineAndCounted) {
  FileWork work;
  const auto gate = std::make_shared<Gate>();
  const absl::Status status = Hang(&work, gate, kFolder);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kDeadlineExceeded, StartsWith("open /ckpt/file")));
  EXPECT_EQ(ReasonOf(status), "DEADLINE_EXCEEDED");
  EXPECT_EQ(work.num_stuck(), 1);
  gate->Open();
  ExpectStuck(work, 0);
}

TEST(FileWork, TheDeadlineIsOfEachCallNotOfAll) {
  FileWork work;
  // 20 calls of 10 ms each: together far more than the deadline of one.
  EXPECT_THAT(work.Call(kFolder, absl::Milliseconds(150), nullptr,
                        [](const FileObserver& about_to) {
                          for (int k = 0; k < 20; ++k) {
                            ZC_RETURN_IF_ERROR(about_to("read"));
                            ::usleep(10000);
                          }
                          return absl::OkStatus();
                        }),
              IsOk());
}

TEST(FileWork, TheTimeForAllCallsEndsThemBetweenTwoOfThem) {
  FileWork work;
  const auto gate = std::make_shared<Gate>();
  const auto last = std::make_shared<absl::Status>();
  // No call is slow, but they do not come to an end by themselves.
  const absl::Status status = work.Call(
      kFolder, kLong, nullptr,
      [gate, last](const FileObserver& about_to) {
        for (int k = 0; last->ok(); ++k) {
          *last = about_to("read /ckpt/file");
          ::usleep(1000);
        }
        gate->Open();
        return *last;
      },
      kShort);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kDeadlineExceeded,
                               AllOf(StartsWith("read /ckpt/file: "), HasSubstr("50ms"))));
  EXPECT_EQ(ReasonOf(status), "DEADLINE_EXCEEDED");
  gate->Wait();
  EXPECT_THAT(*last, StatusIs(absl::StatusCode::kCancelled, HasSubstr("nobody waits")));
  ExpectStuck(work, 0);
}

TEST(FileWork, CancellingEndsTheWait) {
  FileWork work;
  const auto gate = std::make_shared<Gate>();
  std::atomic<bool> cancelled{false};
  EXPECT_THAT(work.Call(kFolder, absl::Hours(1), &cancelled,
                        [gate, &cancelled](const FileObserver&) {
                          cancelled = true;
                          gate->Wait();
                          return absl::OkStatus();
                        }),
              StatusIs(absl::StatusCode::kCancelled, _));
  gate->Open();
  ExpectStuck(work, 0);
}

TEST(FileWork, AFolderThatHangsIsRefusedAndOthersAreNot) {
  FileWork work;
  const auto gate = std::make_shared<Gate>();
  for (int k = 0; k < 2; ++k) {
    EXPECT_THAT(Hang(&work, gate, kFolder), StatusIs(absl::StatusCode::kDeadlineExceeded, _));
  }
  const absl::Status refused = Hang(&work, gate, kFolder);
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kUnavailable,
                                AllOf(HasSubstr("/ckpt"), HasSubstr("open /ckpt/file"))));
  EXPECT_EQ(ReasonOf(refused), "IO_ERROR");
  EXPECT_EQ(work.num_stuck(), 2);
  EXPECT_THAT(
      work.Call("/other", kLong, nullptr, [](const FileObserver&) { return absl::OkStatus(); }),
      IsOk());
  gate->Open();
  ExpectStuck(work, 0);
  EXPECT_THAT(
      work.Call(kFolder, kLong, nullptr, [](const FileObserver&) { return absl::OkStatus(); }),
      IsOk());
}

TEST(FileWork, NeverHasMoreThreadsThanItMay) {
  FileWork::Options options;
  options.max_threads = 3;
  FileWork work(options);
  const auto gate = std::make_shared<Gate>();
  for (const char* folder : {"/a", "/b", "/c"}) {
    EXPECT_THAT(Hang(&work, gate, folder), StatusIs(absl::StatusCode::kDeadlineExceeded, _));
  }
  const absl::Status refused = Hang(&work, gate, "/d");
  EXPECT_THAT(refused,
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("3 of them stuck")));
  EXPECT_EQ(ReasonOf(refused), "RESOURCE_EXHAUSTED");
  gate->Open();
  ExpectStuck(work, 0);
}

TEST(FileWork, MayGoBeforeItsThreads) {
  const auto gate = std::make_shared<Gate>();
  const auto ended = std::make_shared<Gate>();
  {
    FileWork work;
    EXPECT_THAT(work.Call(kFolder, kShort, nullptr,
                          [gate, ended](const FileObserver& about_to) {
                            gate->Wait();
                            const absl::Status refused = about_to("read on");
                            ended->Open();
                            return refused;
                          }),
                StatusIs(absl::StatusCode::kDeadlineExceeded, _));
  }
  gate->Open();
  ended->Wait();
}

}  // namespace
}  // namespace zerocast
