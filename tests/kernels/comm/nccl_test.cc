// The communicator between GPUs, beyond the conformance suite: device memory of several devices,
// order between streams, refusals, and every call of CUDA and NCCL failing in turn.  On the
// stand-ins.

#include "kernels/comm/nccl.h"

#include <cuda_runtime_api.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/base/status_macros.h"
#include "kernels/comm/map_rendezvous.h"
#include "kernels/device/buffer.h"
#include "kernels/device/cuda_status.h"
#include "kernels/device/event.h"
#include "kernels/device/stream.h"
#include "tests/cuda_emu/cuda_emu.h"
#include "tests/kernels/comm/group.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr absl::Duration kLong = absl::Seconds(60);

class NcclTest : public ::testing::Test {
 protected:
  void SetUp() override {
    emu_ = cudaEmu();
    if (emu_ == nullptr) GTEST_SKIP() << "only the stand-ins fail on demand";
  }

  NcclOptions Options(int rank, int size) const {
    NcclOptions options;
    options.device = rank;
    options.rank = rank;
    options.size = size;
    options.rendezvous = rendezvous_;
    options.connect_timeout = kLong;
    return options;
  }

  const CudaEmu* emu_ = nullptr;
  std::shared_ptr<MapRendezvous> rendezvous_ = std::make_shared<MapRendezvous>();
};

// What a participant needs besides the communicator.  Made before it and destroyed after it:
// freeing waits for the others' transfers.
struct Things {
  Stream stream;
  Event event;
  DeviceBuffer out;
  DeviceBuffer in;
  PinnedBuffer host;

  static absl::StatusOr<Things> Create(int device, int64_t num_bytes) {
    ZC_ASSIGN_OR_RETURN(Stream stream, Stream::Create(device));
    ZC_ASSIGN_OR_RETURN(Event event, Event::Create(device));
    ZC_ASSIGN_OR_RETURN(DeviceBuffer out, DeviceBuffer::Create(device, num_bytes));
    ZC_ASSIGN_OR_RETURN(DeviceBuffer in, DeviceBuffer::Create(device, num_bytes));
    ZC_ASSIGN_OR_RETURN(PinnedBuffer host, PinnedBuffer::Create(device, num_bytes));
    return Things{std::move(stream), std::move(event), std::move(out), std::move(in),
                  std::move(host)};
  }
};

// Fills device memory by a stream of its own, late, and sends it; receives, and broadcasts.
absl::Status Work(NcclCommunicator& self, const Things& things, absl::Duration timeout) {
  const auto& [stream, event, out, in, host] = things;
  const int64_t num_bytes = out.num_bytes();
  const int next = (self.rank() + 1) % self.size();
  const int previous = (self.rank() + self.size() - 1) % self.size();
  ZC_RETURN_IF_ERROR(
      ToStatus(cudaMemsetAsync(out.data(), self.rank() + 1, num_bytes, stream.get()), "fill"));
  ZC_RETURN_IF_ERROR(event.Record(stream.get()));
  ZC_RETURN_IF_ERROR(ToStatus(cudaStreamWaitEvent(self.stream(), event.get(), 0), "order"));
  ZC_RETURN_IF_ERROR(
      self.Exchange({{next, out.data(), num_bytes}}, {{previous, in.data(), num_bytes}}, timeout));
  ZC_RETURN_IF_ERROR(self.Broadcast(out.data(), num_bytes, 0, timeout));
  const DeviceBuffer* const buffers[] = {&in, &out};
  const int wants[] = {previous + 1, 1};
  for (int i = 0; i < 2; ++i) {
    ZC_RETURN_IF_ERROR(ToStatus(cudaMemcpyAsync(host.data(), buffers[i]->data(), num_bytes,
                                                cudaMemcpyDeviceToHost, stream.get()),
                                "download from the device"));
    ZC_RETURN_IF_ERROR(event.Record(stream.get()));
    ZC_RETURN_IF_ERROR(event.Wait(kLong));
    for (const std::byte byte : host.span()) {
      if (byte != static_cast<std::byte>(wants[i])) return absl::InternalError("wrong bytes");
    }
  }
  return absl::OkStatus();
}

// All of it at one participant; one that cannot even begin ends the others by the rendezvous, as
// the server does.
absl::Status Participate(const NcclOptions& options, MapRendezvous* rendezvous, int64_t num_bytes) {
  absl::StatusOr<Things> things = Things::Create(options.device, num_bytes);
  if (!things.ok()) {
    rendezvous->Cancel(things.status().message());
    return things.status();
  }
  ZC_ASSIGN_OR_RETURN(const auto self, NcclCommunicator::Create(options));
  return Work(*self, *things, kLong);
}

TEST_F(NcclTest, MovesMemoryOfSeveralDevicesInTheOrderOfEvents) {
  for (const absl::Status& status : RunAll(
           4, [&](int rank) { return Participate(Options(rank, 4), rendezvous_.get(), 300001); })) {
    EXPECT_THAT(status, IsOk());
  }
}

TEST_F(NcclTest, KnowsItsDevice) {
  NcclOptions options = Options(0, 1);
  options.device = 3;
  ZC_ASSERT_OK_AND_ASSIGN(const auto self, NcclCommunicator::Create(options));
  EXPECT_EQ(self->transport(), "nccl");
  EXPECT_EQ(self->device(), 3);
  EXPECT_NE(self->stream(), nullptr);
}

TEST_F(NcclTest, PageableMemoryIsRefused) {
  const auto statuses = RunAll(2, [&](int rank) {
    ZC_ASSIGN_OR_RETURN(const auto self, NcclCommunicator::Create(Options(rank, 2)));
    std::vector<unsigned char> bytes(1000);
    return self->Broadcast(bytes.data(), 1000, 0, absl::Seconds(5));
  });
  for (const absl::Status& status : statuses) EXPECT_THAT(status, Not(IsOk()));
}

TEST_F(NcclTest, RefusesOptionsThatAreWrong) {
  NcclOptions options = Options(2, 2);
  EXPECT_THAT(NcclCommunicator::Create(options).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("participant 2 of 2")));
  options = Options(0, 2);
  options.rendezvous = nullptr;
  EXPECT_THAT(NcclCommunicator::Create(options).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no rendezvous")));
  options = Options(0, 1);
  options.device = 17;
  EXPECT_THAT(NcclCommunicator::Create(options).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("device 17")));
}

TEST_F(NcclTest, TwoParticipantsOnOneDeviceAreRefused) {
  const auto statuses = RunAll(2, [&](int rank) {
    NcclOptions options = Options(rank, 2);
    options.device = 1;
    return NcclCommunicator::Create(options).status();
  });
  int refused = 0;
  for (const absl::Status& status : statuses) {
    EXPECT_THAT(status, Not(IsOk()));
    refused += absl::IsFailedPrecondition(status);
  }
  EXPECT_GE(refused, 1) << statuses[0] << statuses[1];
}

TEST_F(NcclTest, AbsentParticipantsAreNamed) {
  const auto statuses = RunAll(2, [&](int rank) {
    NcclOptions options = Options(2 * rank, 4);
    options.connect_timeout = absl::Milliseconds(300);
    return NcclCommunicator::Create(options).status();
  });
  for (const absl::Status& status : statuses) {
    if (absl::IsUnavailable(status)) continue;  // the other one gave up a moment before
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kDeadlineExceeded,
                                 HasSubstr("waiting for participants 1, 3 after 300ms")));
  }
  EXPECT_FALSE(absl::IsUnavailable(statuses[0]) && absl::IsUnavailable(statuses[1]));
}

TEST_F(NcclTest, ConnectingEndsWhenItIsCancelled) {
  NcclOptions options = Options(0, 2);
  options.cancelled = [] { return true; };
  EXPECT_THAT(NcclCommunicator::Create(options).status(),
              StatusIs(absl::StatusCode::kCancelled, HasSubstr("cancelled")));
  // The reason is there for the others.
  EXPECT_THAT(NcclCommunicator::Create(Options(1, 2)).status(),
              StatusIs(absl::StatusCode::kUnavailable,
                       AllOf(HasSubstr("gone: participant 0"), HasSubstr("cancelled"))));
  rendezvous_ = std::make_shared<MapRendezvous>();
  rendezvous_->Cancel("the load ended");
  EXPECT_THAT(NcclCommunicator::Create(Options(0, 2)).status(),
              StatusIs(absl::StatusCode::kCancelled, HasSubstr("the load ended")));
}

TEST_F(NcclTest, OtherReleasesOfNcclAreNamed) {
  ASSERT_THAT(rendezvous_->Put("nccl/here/1", "21805"), IsOk());
  EXPECT_THAT(
      NcclCommunicator::Create(Options(0, 2)).status(),
      StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("participant 1 another release")));
}

TEST_F(NcclTest, OneThatFailsBeforeItConnectsEndsTheOthers) {
  const absl::Time begin = absl::Now();
  const auto statuses = RunAll(3, [&](int rank) {
    NcclOptions options = Options(rank, 3);
    if (rank == 1) options.device = 17;
    return NcclCommunicator::Create(options).status();
  });
  EXPECT_THAT(statuses[1], StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("device 17")));
  for (const int rank : {0, 2}) {
    EXPECT_THAT(statuses[rank], StatusIs(absl::StatusCode::kUnavailable,
                                         AllOf(HasSubstr("participant"), HasSubstr("device 17"))));
  }
  EXPECT_LT(absl::Now() - begin, kLong / 2);
}

TEST_F(NcclTest, AnErrorOfNcclWithinATransferEndsAllParticipants) {
  for (const char* error : {"ncclAsync:1:2", "ncclAsync:2:6", "ncclAsync:1:3"}) {
    SCOPED_TRACE(error);
    rendezvous_ = std::make_shared<MapRendezvous>();
    const uint64_t before = emu_->objectsAlive();
    emu_->fail(error);
    const absl::Time begin = absl::Now();
    const auto statuses =
        RunAll(2, [&](int rank) { return Participate(Options(rank, 2), rendezvous_.get(), 1000); });
    emu_->fail("");
    for (const absl::Status& status : statuses) {
      EXPECT_THAT(status, Not(IsOk()));
      EXPECT_THAT(std::string(status.message()), HasSubstr("participant"));
    }
    EXPECT_LT(absl::Now() - begin, kLong / 2);
    EXPECT_EQ(emu_->objectsAlive(), before);
  }
}

// NCCL connects to a peer when it first has something for it, in the background.
class Connecting : public NcclTest {
 protected:
  void TearDown() override { unsetenv("EMU_NCCL_CONNECT_MS"); }
  static void TakesMillis(const char* number) { setenv("EMU_NCCL_CONNECT_MS", number, 1); }
};

TEST_F(Connecting, IsWaitedFor) {
  TakesMillis("100");
  for (const absl::Status& status : RunAll(
           2, [&](int rank) { return Participate(Options(rank, 2), rendezvous_.get(), 1000); })) {
    EXPECT_THAT(status, IsOk());
  }
}

TEST_F(Connecting, ThatHangsEndsByTheDeadlineOrByAbort) {
  TakesMillis("100000000");
  const uint64_t before = emu_->objectsAlive();
  const absl::Time begin = absl::Now();
  {
    Things things[] = {*Things::Create(0, 1000), *Things::Create(1, 1000)};
    std::unique_ptr<NcclCommunicator> communicators[2];
    RunAll(2, [&](int rank) {
      communicators[rank] = *NcclCommunicator::Create(Options(rank, 2));
      return absl::OkStatus();
    });
    std::atomic<int> calling{0};
    const auto statuses = RunAll(3, [&](int r) {
      if (r == 2) {
        while (calling < 2) std::this_thread::yield();
        communicators[1]->Abort("enough");
        return absl::OkStatus();
      }
      ++calling;
      return Work(*communicators[r], things[r], absl::Milliseconds(r == 0 ? 300 : 60000));
    });
    EXPECT_THAT(statuses[0], AnyOf(StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("1")),
                                   StatusIs(absl::StatusCode::kUnavailable, HasSubstr("enough"))));
    EXPECT_THAT(statuses[1], StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("enough")));
    // And by the deadline, where nobody says anything.
    rendezvous_ = std::make_shared<MapRendezvous>();
    RunAll(2, [&](int rank) {
      communicators[rank] = *NcclCommunicator::Create(Options(rank, 2));
      return absl::OkStatus();
    });
    EXPECT_THAT(
        Work(*communicators[0], things[0], absl::Milliseconds(300)),
        StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("waiting for participant 1")));
    communicators[0].reset();
    communicators[1].reset();
  }
  EXPECT_LT(absl::Now() - begin, kLong / 2);
  EXPECT_EQ(emu_->objectsAlive(), before);
}

struct Function {
  const char* name;
  // Its failure may go unnoticed (a destructor, a clean-up), and then leaves something behind.
  bool gives_back;
  int at_most;  // calls that wait ask as often as time goes by; the first ones stand for all
};
constexpr Function kFunctions[] = {
    {"ncclGetUniqueId", false, 9},
    {"ncclCommInitRankConfig", false, 9},
    {"ncclCommGetAsyncError", false, 12},
    {"ncclGroupStart", false, 9},
    {"ncclGroupEnd", false, 9},
    {"ncclSend", false, 9},
    {"ncclRecv", false, 9},
    {"ncclBroadcast", false, 9},
    {"ncclCommFinalize", false, 9},
    {"ncclCommDestroy", true, 9},
    {"cudaMemsetAsync", false, 9},
    {"cudaMemcpyAsync", false, 9},
    {"cudaStreamWaitEvent", false, 9},
    {"cudaStreamCreateWithFlags", false, 9},
    {"cudaEventCreateWithFlags", false, 9},
    {"cudaEventRecord", false, 20},
    {"cudaEventQuery", false, 12},
    {"cudaGetDevice", false, 100},
    {"cudaSetDevice", false, 100},
    {"cudaStreamDestroy", true, 9},
    {"cudaEventDestroy", true, 9},
};

// The participants of one process: whichever fails, both end, in time and with their own reasons.
TEST_F(NcclTest, EveryCallThatFailsEndsAllParticipantsInTime) {
  int failed_calls = 0;
  for (const Function& function : kFunctions) {
    for (int call = 1; call <= function.at_most; ++call) {
      rendezvous_ = std::make_shared<MapRendezvous>();
      const uint64_t before = emu_->objectsAlive();
      emu_->fail(absl::StrCat(function.name, ":", call).c_str());
      const absl::Time begin = absl::Now();
      const auto statuses = RunAll(
          2, [&](int rank) { return Participate(Options(rank, 2), rendezvous_.get(), 1000); });
      const bool failed = emu_->failures() > 0;
      emu_->fail("");
      SCOPED_TRACE(absl::StrCat(function.name, " ", call, ": ", statuses[0].ToString(), " and ",
                                statuses[1].ToString()));
      EXPECT_LT(absl::Now() - begin, kLong / 2);
      if (!failed) {
        EXPECT_GT(call, 1) << "never called";
        break;
      }
      ++failed_calls;
      if (!function.gives_back) {
        EXPECT_EQ(emu_->objectsAlive(), before);
      }
      for (const absl::Status& status : statuses) {
        EXPECT_TRUE(status.ok() || status.message().size() > 30) << "hardly says what";
      }
    }
  }
  std::cout << failed_calls << " calls failed in turn\n";
}

}  // namespace
}  // namespace zerocast
