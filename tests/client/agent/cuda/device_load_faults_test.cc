// Loads onto devices, as an agent makes them, in which something fails: every call of CUDA and NCCL
// in its turn, every kernel, every transfer; and in which something hangs.  On the stand-ins, two
// nodes of two devices each.

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <iostream>
#include <iterator>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/agent/devices.h"
#include "client/agent/identify_files.h"
#include "client/agent/links.h"
#include "client/agent/load_environment.h"
#include "client/agent/node_reading.h"
#include "client/agent/participants.h"
#include "kernels/base/status_macros.h"
#include "kernels/comm/map_rendezvous.h"
#include "tests/client/agent/load_fixture.h"
#include "tests/cuda_emu/cuda_emu.h"
#include "tests/status_matchers.h"
#include "tests/temp_dir.h"

namespace zerocast {
namespace {

using ::testing::AnyOf;
using ::testing::Contains;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr int kNodes = 2, kRanks = 2;  // a device each
constexpr absl::Duration kLong = absl::Seconds(60);

// One load of all nodes, on threads of this process.
class DeviceLoad {
 public:
  DeviceLoad(std::shared_ptr<const Plan> plan, std::string folder, absl::Duration stage_timeout)
      : plan_(std::move(plan)), folder_(std::move(folder)), stage_timeout_(stage_timeout) {
    environment_->reader = MakePosixReader({});
  }

  LoadEnvironment* environment() { return environment_.get(); }

  // By node.
  std::vector<absl::Status> Run() {
    std::vector<absl::Status> statuses(kNodes);
    std::vector<std::thread> threads;
    for (int32_t node = 0; node < kNodes; ++node) {
      threads.emplace_back([&, node] {
        statuses[static_cast<size_t>(node)] = RunNode(node);
        if (!statuses[static_cast<size_t>(node)].ok()) EndAll(node);
      });
    }
    for (std::thread& thread : threads) thread.join();
    return statuses;
  }

  // What is not as it must be; after a load that went well.
  std::vector<std::string> Different() const {
    return Differences(*plan_, arenas_, ExpectedPartitions(*plan_, folder_));
  }

 private:
  // What the server and the other agents do once they hear of a node that failed.
  void EndAll(int32_t failed) {
    const std::string why = absl::StrCat("node ", failed, " failed");
    cancelled_ = true;
    rendezvous_->Cancel(why);
    for (Links& links : links_) links.Abort(why);
  }

  absl::Status RunNode(int32_t node) {
    Links& links = links_[static_cast<size_t>(node)];
    ZC_ASSIGN_OR_RETURN(const std::shared_ptr<Devices> devices, FindCudaDevices(node, kNodes));
    NodeReadingOptions options;
    options.environment = environment_;
    options.devices = devices;
    options.command.checkpoint_path = folder_;
    options.command.stage_timeout = stage_timeout_;
    ZC_ASSIGN_OR_RETURN(options.participants, MakeParticipants(plan_, node));
    ZC_ASSIGN_OR_RETURN(options.arenas, MakeArenas(*devices));
    ZC_ASSIGN_OR_RETURN(options.identities, Identify(options.participants));
    options.num_threads = 1;
    options.chunk_bytes = 1 << 20;
    options.connect = [&](size_t k, const std::function<bool()>& cancelled) {
      return Connect(*devices, options.participants.numbers[k], static_cast<int>(k), cancelled,
                     &links);
    };
    options.abort = [&links](const std::string& why) { links.Abort(why); };
    options.cancelled = &cancelled_;
    options.on_progress = [] {};
    NodeProgress progress;
    const absl::Status status = ReadNode(options, &progress);
    links.Drop();
    if (!status.ok()) return status;
    return CopyArenas(node, *options.arenas);
  }

  absl::StatusOr<std::shared_ptr<const std::vector<Arena>>> MakeArenas(Devices& devices) const {
    auto arenas = std::make_shared<std::vector<Arena>>();
    for (int k = 0; k < kRanks; ++k) {
      ZC_ASSIGN_OR_RETURN(std::unique_ptr<DeviceMemory> memory,
                          devices.Allocate(k, plan_->arena_bytes));
      arenas->push_back(Arena::OnDevice(std::move(memory)));
    }
    return arenas;
  }

  absl::StatusOr<std::vector<FileIdentity>> Identify(const Participants& participants) const {
    std::vector<FileIdentity> all;
    for (const int32_t number : participants.numbers) {
      ZC_ASSIGN_OR_RETURN(std::vector<FileIdentity> identities,
                          IdentifyFiles(*participants.plan, *participants.schedule, number, folder_,
                                        environment_->reader.get()));
      if (all.empty()) all = identities;
      for (size_t k = 0; k < all.size(); ++k) {
        if (all[k].num_bytes < 0) all[k] = identities[k];
      }
    }
    return all;
  }

  absl::StatusOr<Communicator*> Connect(Devices& devices, int participant, int device,
                                        const std::function<bool()>& cancelled, Links* links) {
    CommunicatorRequest request;
    request.load = "loads/1";
    request.node = participant;
    request.num_nodes = kNodes * kRanks;
    request.rendezvous = rendezvous_;
    request.timeout = stage_timeout_;
    request.cancelled = cancelled;
    ZC_ASSIGN_OR_RETURN(std::unique_ptr<Communicator> communicator,
                        devices.Connect(device, request));
    return links->Keep(std::move(communicator));
  }

  absl::Status CopyArenas(int32_t node, const std::vector<Arena>& arenas) {
    for (int k = 0; k < kRanks; ++k) {
      ZC_ASSIGN_OR_RETURN(Arena host, Arena::Create("host", plan_->arena_bytes));
      const Arena& arena = arenas[static_cast<size_t>(k)];
      ZC_RETURN_IF_ERROR(arena.device()->CopyToHost(
          0, absl::MakeSpan(host.data(), static_cast<size_t>(host.num_bytes()))));
      arenas_[static_cast<size_t>(node * kRanks + k)] = std::move(host);
    }
    return absl::OkStatus();
  }

  const std::shared_ptr<const Plan> plan_;
  const std::string folder_;
  const absl::Duration stage_timeout_;
  const std::shared_ptr<LoadEnvironment> environment_ = std::make_shared<LoadEnvironment>();
  const std::shared_ptr<MapRendezvous> rendezvous_ = std::make_shared<MapRendezvous>();
  std::atomic<bool> cancelled_{false};
  Links links_[kNodes];
  std::vector<Arena> arenas_{kNodes * kRanks};  // copies on the host
};

struct Outcome {
  std::vector<absl::Status> statuses;
  bool failed = false;        // a call did
  uint64_t num_failures = 0;  // calls that did
  absl::Duration took;
  bool is_right = false;  // all nodes succeeded, with the right bytes
};

class DeviceLoadFaults : public ::testing::Test {
 protected:
  void SetUp() override {
    emu_ = cudaEmu();
    if (emu_ == nullptr) GTEST_SKIP() << "only the stand-ins fail on demand";
    WriteCheckpoint(dir_.path(), TestSeed());
    MoveBy(MoveMode::kScatter);
  }

  // How the loads from now on exchange.
  void MoveBy(MoveMode move) {
    Layout layout = MakeLayout(kNodes, kRanks);
    layout.device = LoadDevice::kCuda;
    layout.move_mode = move;
    layout.round_bytes = 5000;
    plan_ = MakePlan(dir_.path(), layout);
  }

  Outcome Load(const std::string& fault, absl::Duration stage_timeout = kLong,
               ExecutorHooks hooks = {}) {
    Outcome outcome;
    DeviceLoad load(plan_, dir_.path(), stage_timeout);
    load.environment()->hooks = std::move(hooks);
    emu_->fail(fault.c_str());
    const absl::Time begin = absl::Now();
    outcome.statuses = load.Run();
    outcome.took = absl::Now() - begin;
    outcome.num_failures = emu_->failures();
    outcome.failed = outcome.num_failures > 0;
    emu_->fail("");
    outcome.is_right = std::all_of(outcome.statuses.begin(), outcome.statuses.end(),
                                   [](const absl::Status& status) { return status.ok(); }) &&
                       load.Different().empty();
    return outcome;
  }

  // All of a load in which something failed: one error that says what, in time.
  void CheckFailed(const Outcome& outcome) {
    EXPECT_LT(outcome.took, kLong / 2);
    // What a destructor or a question meets may do no harm.
    if (outcome.is_right) return;
    EXPECT_THAT(outcome.statuses, Contains(Not(IsOk())));
    EXPECT_THAT(Messages(outcome), AnyOf(HasSubstr("cudaError"), HasSubstr("NCCL error")));
  }

  // A thread that reads may outlive its load for a moment, and keeps what it reads for.
  void CheckNothingIsLeft(uint64_t before) const {
    const absl::Time deadline = absl::Now() + kLong / 2;
    while (emu_->objectsAlive() != before && absl::Now() < deadline) {
      absl::SleepFor(absl::Milliseconds(1));
    }
    EXPECT_EQ(emu_->objectsAlive(), before);
  }

  // In a process of its own: 0 when `fault` came about, and ended the load as it must or did no
  // harm, 2 when it did not come about.
  [[noreturn]] void LoadAndExit(const std::string& fault) {
    const Outcome outcome = Load(fault);
    CheckFailed(outcome);
    std::cerr << Messages(outcome) << "\n";
    if (!outcome.failed && outcome.is_right) ::_exit(2);
    ::_exit(HasFailure() ? 1 : 0);
  }

  static std::string Messages(const Outcome& outcome) {
    return absl::StrJoin(outcome.statuses, "; and ",
                         [](std::string* out, const absl::Status& status) {
                           absl::StrAppend(out, status.ToString());
                         });
  }

  const TempDir dir_;
  const CudaEmu* emu_ = nullptr;
  std::shared_ptr<const Plan> plan_;
};

TEST_F(DeviceLoadFaults, WithoutAFaultAllIsRight) {
  const Outcome outcome = Load("");
  EXPECT_THAT(outcome.statuses, Each(IsOk()));
  EXPECT_TRUE(outcome.is_right);
}

struct Function {
  const char* name;
  // Only where nobody takes an error: what a destructor does not give back stays.
  bool gives_back = false;
  // Waiting asks as often as time goes by: the first calls stand for all.
  int at_most = 10000;
  MoveMode move = MoveMode::kScatter;
};
constexpr Function kFunctions[] = {
    {"cudaGetDeviceCount"},
    {"cudaGetDeviceProperties"},
    {"cudaDeviceGetPCIBusId"},
    {"cudaDeviceGetAttribute"},
    {"cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags"},
    {"cudaGetDevice"},
    {"cudaSetDevice"},
    {"cudaStreamCreateWithFlags"},
    {"cudaStreamWaitEvent"},
    {"cudaStreamDestroy", true},
    {"cudaEventCreateWithFlags"},
    {"cudaEventRecord"},
    {"cudaEventQuery", false, 60},
    {"cudaEventDestroy", true},
    {"cudaMalloc"},
    {"cudaFree", true},
    {"cudaHostAlloc"},
    {"cudaFreeHost", true},
    {"cudaMemsetAsync"},
    {"cudaMemcpyAsync"},
    {"cudaLaunchKernel"},
    {"cuDeviceGet"},
    {"cuDeviceGetAttribute"},
    {"cuMemGetAllocationGranularity"},
    {"cuMemCreate"},
    {"cuMemRelease", true},
    {"cuMemAddressReserve"},
    {"cuMemAddressFree", true},
    {"cuMemMap"},
    {"cuMemUnmap", true},
    {"cuMemSetAccess"},
    {"cuMemExportToShareableHandle"},
    {"ncclGetUniqueId"},
    {"ncclCommInitRankConfig"},
    {"ncclCommGetAsyncError", false, 60},
    {"ncclGroupStart"},
    {"ncclGroupEnd"},
    {"ncclSend"},
    {"ncclRecv"},
    {"ncclBroadcast", false, 10000, MoveMode::kBroadcast},
    {"ncclCommFinalize"},
    {"ncclCommDestroy", true},
};

class CallFaults : public DeviceLoadFaults, public ::testing::WithParamInterface<Function> {};

TEST_P(CallFaults, EachEndsAllNodesInTime) {
  const Function& function = GetParam();
  MoveBy(function.move);
  for (int call = 1; call <= function.at_most; ++call) {
    const uint64_t before = emu_->objectsAlive();
    const Outcome outcome = Load(absl::StrCat(function.name, ":", call));
    SCOPED_TRACE(absl::StrCat("call ", call, ": ", Messages(outcome)));
    if (!outcome.failed) {
      EXPECT_TRUE(outcome.is_right);
      EXPECT_GT(call, 1) << "never called";
      std::cout << call - 1 << " calls failed in turn\n";
      return;
    }
    CheckFailed(outcome);
    if (!function.gives_back) CheckNothingIsLeft(before);
    if (HasFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(All, CallFaults, ::testing::ValuesIn(kFunctions),
                         [](const auto& info) { return std::string(info.param.name); });

// Called once in a process, which keeps the result.
constexpr const char* kFirstCalls[] = {"cudaGetDriverEntryPointByVersion", "ncclGetVersion"};

class FirstCallFaults : public DeviceLoadFaults,
                        public ::testing::WithParamInterface<const char*> {};

TEST_P(FirstCallFaults, EachEndsAllNodesInTime) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  for (int call = 1, code = 0; code == 0; ++call) {
    const auto ends = [&code](int status) {
      code = WIFEXITED(status) ? WEXITSTATUS(status) : 1;
      return code == 0 || code == 2;
    };
    EXPECT_EXIT(LoadAndExit(absl::StrCat(GetParam(), ":", call)), ends, "");
    EXPECT_FALSE(code == 2 && call == 1) << "never called";
  }
}

INSTANTIATE_TEST_SUITE_P(All, FirstCallFaults, ::testing::ValuesIn(kFirstCalls),
                         [](const auto& info) { return std::string(info.param); });

// What ends a load that has failed already.
TEST_F(DeviceLoadFaults, EveryAbortThatFailsEndsAllNodesInTime) {
  for (int call = 1;; ++call) {
    const Outcome outcome = Load(absl::StrCat("ncclRecv:1,ncclCommAbort:", call));
    SCOPED_TRACE(absl::StrCat("abort ", call, ": ", Messages(outcome)));
    ASSERT_TRUE(outcome.failed);
    EXPECT_THAT(outcome.statuses, Each(Not(IsOk())));
    CheckFailed(outcome);
    if (HasFailure()) return;
    if (outcome.num_failures == 1) {
      EXPECT_GT(call, 1) << "never called";
      return;
    }
  }
}

// The lists are complete: whatever is called fails in its turn.
TEST_F(DeviceLoadFaults, NoFunctionIsCalledThatIsNotFailed) {
  std::set<std::string> known = {"ncclCommAbort"};
  for (const Function& function : kFunctions) known.insert(function.name);
  known.insert(std::begin(kFirstCalls), std::end(kFirstCalls));
  // What the stand-ins of others among them call.
  known.insert(
      {"cudaEventRecordWithFlags", "cudaFuncGetAttributes", "cudaStreamCreateWithPriority"});
  // They tell of errors, and have none.
  known.insert({"cudaGetLastError", "cudaGetErrorName", "cudaGetErrorString", "ncclGetErrorString",
                "ncclGetLastError"});
  for (const MoveMode move : {MoveMode::kScatter, MoveMode::kBroadcast}) {
    MoveBy(move);
    EXPECT_THAT(Load("").statuses, Each(IsOk()));
  }
  int num_called = 0;
  std::vector<std::string> unknown;
  for (const absl::string_view name : absl::StrSplit(emu_->called(), ',')) {
    ++num_called;
    if (known.count(std::string(name)) == 0) unknown.emplace_back(name);
  }
  EXPECT_GT(num_called, 20);
  EXPECT_THAT(unknown, IsEmpty());
}

// NCCL's own errors within a transfer: unhandled by CUDA, by the system, by a peer.
TEST_F(DeviceLoadFaults, EveryTransferThatFailsEndsAllNodesInTime) {
  int failed = 0;
  for (const int error : {1, 2, 6}) {
    for (int job = 1;; ++job) {
      const uint64_t before = emu_->objectsAlive();
      const Outcome outcome = Load(absl::StrCat("ncclAsync:", job, ":", error));
      SCOPED_TRACE(absl::StrCat("job ", job, ", error ", error, ": ", Messages(outcome)));
      if (!outcome.failed) break;
      ++failed;
      EXPECT_THAT(outcome.statuses, Each(Not(IsOk())));
      CheckFailed(outcome);
      CheckNothingIsLeft(before);
      if (HasFailure()) return;
    }
  }
  EXPECT_GE(failed, 3 * kNodes * kRanks);
}

// A kernel that fails leaves its process without a context: each has a process of its own.
class KernelFaults : public DeviceLoadFaults, public ::testing::WithParamInterface<int> {
 protected:
  static std::string Fault() { return absl::StrCat("kernel:", GetParam()); }
};

TEST_P(KernelFaults, EachEndsAllNodesInTime) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(LoadAndExit(Fault()), ::testing::ExitedWithCode(0), "cudaErrorIllegalAddress");
}

constexpr int kKernels = 24;
INSTANTIATE_TEST_SUITE_P(All, KernelFaults, ::testing::Range(1, kKernels + 1));

class NoMoreKernels : public KernelFaults {};
TEST_P(NoMoreKernels, AreInALoad) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(LoadAndExit(Fault()), ::testing::ExitedWithCode(2), "OK; and OK");
}
INSTANTIATE_TEST_SUITE_P(All, NoMoreKernels, ::testing::Values(kKernels + 1));

class Hangs : public DeviceLoadFaults {
 protected:
  void TearDown() override { ::unsetenv("EMU_NCCL_CONNECT_MS"); }
};

TEST_F(Hangs, OfNcclsConnectionsEndByTheDeadline) {
  ::setenv("EMU_NCCL_CONNECT_MS", "100000000", 1);
  const uint64_t before = emu_->objectsAlive();
  const Outcome outcome = Load("", absl::Seconds(1));
  SCOPED_TRACE(Messages(outcome));
  EXPECT_THAT(outcome.statuses, Each(Not(IsOk())));
  EXPECT_THAT(outcome.statuses, Contains(StatusIs(absl::StatusCode::kDeadlineExceeded,
                                                  HasSubstr("still waiting for participant"))));
  EXPECT_LT(outcome.took, kLong / 2);
  CheckNothingIsLeft(before);
}

TEST_F(Hangs, OfAReadEndsAllNodesByTheDeadline) {
  const uint64_t before = emu_->objectsAlive();
  std::atomic<bool> hangs{false};
  ExecutorHooks hooks;
  hooks.after_read = [&](int64_t, absl::Span<char>) {
    if (!hangs.exchange(true)) absl::SleepFor(absl::Seconds(3));
  };
  const Outcome outcome = Load("", absl::Seconds(1), hooks);
  SCOPED_TRACE(Messages(outcome));
  EXPECT_THAT(outcome.statuses, Each(Not(IsOk())));
  EXPECT_THAT(outcome.statuses, Contains(StatusIs(absl::StatusCode::kDeadlineExceeded,
                                                  HasSubstr("was not read within 1s"))));
  EXPECT_LT(outcome.took, kLong / 2);
  CheckNothingIsLeft(before);
}

}  // namespace
}  // namespace zerocast
