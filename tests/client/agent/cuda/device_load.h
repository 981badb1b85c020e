#ifndef ZEROCAST_TESTS_CLIENT_AGENT_CUDA_DEVICE_LOAD_H_
#define ZEROCAST_TESTS_CLIENT_AGENT_CUDA_DEVICE_LOAD_H_

// Loads that devices fill, as an agent makes them, in which something fails: on the stand-ins, two
// nodes of two devices each.

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <iostream>
#include <iterator>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/agent/devices.h"
#include "client/agent/identify_files.h"
#include "client/agent/links.h"
#include "client/agent/load_environment.h"
#include "client/agent/node_reading.h"
#include "client/agent/participants.h"
#include "kernels/base/mutex.h"
#include "kernels/base/status_macros.h"
#include "kernels/comm/map_rendezvous.h"
#include "tests/client/agent/load_fixture.h"
#include "tests/cuda_emu/cuda_emu.h"
#include "tests/status_matchers.h"
#include "tests/temp_dir.h"

namespace zerocast {

inline constexpr int kNodes = 2, kRanks = 2;  // a device each
inline constexpr absl::Duration kLong = absl::Seconds(60);

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

  // Where some could not be unlocked: no other memory may come to their place.
  void KeepHostArenas() {
    static auto* const kept = new std::vector<std::shared_ptr<const std::vector<Arena>>>;
    MutexLock lock(&mutex_);
    kept->insert(kept->end(), host_arenas_.begin(), host_arenas_.end());
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
    if (!LieOnDevices(plan_->layout)) {
      MutexLock lock(&mutex_);
      host_arenas_.push_back(options.arenas);
    }
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
      if (!LieOnDevices(plan_->layout)) {
        ZC_ASSIGN_OR_RETURN(Arena arena, Arena::Create("host", plan_->arena_bytes));
        arenas->push_back(std::move(arena));
        continue;
      }
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
      const auto bytes = absl::MakeSpan(host.data(), static_cast<size_t>(host.num_bytes()));
      if (arena.device() == nullptr) {
        std::copy_n(arena.data(), bytes.size(), bytes.data());
      } else {
        ZC_RETURN_IF_ERROR(arena.device()->CopyToHost(0, bytes));
      }
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
  Mutex mutex_;
  std::vector<std::shared_ptr<const std::vector<Arena>>> host_arenas_ ABSL_GUARDED_BY(mutex_);
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
    Lay(MoveMode::kScatter);
  }

  // How the loads from now on exchange, and where their shards lie.
  void Lay(MoveMode move, Placement placement = Placement::kDevice) {
    Layout layout = MakeLayout(kNodes, kRanks);
    layout.device = LoadDevice::kCuda;
    layout.move_mode = move;
    layout.placement = placement;
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
    if (absl::StartsWith(fault, "cudaHostUnregister")) load.KeepHostArenas();
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
    EXPECT_THAT(outcome.statuses, ::testing::Contains(::testing::Not(IsOk())));
    EXPECT_THAT(Messages(outcome), ::testing::AnyOf(::testing::HasSubstr("cudaError"),
                                                    ::testing::HasSubstr("NCCL error")));
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

  // Functions that were called in this process, but those that these tests, or `more`, know.
  std::vector<std::string> CalledBesides(std::set<std::string> more) const;

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

struct Function {
  const char* name;
  // Only where nobody takes an error: what a destructor does not give back stays.
  bool gives_back = false;
  // Waiting asks as often as time goes by: the first calls stand for all.
  int at_most = 10000;
  MoveMode move = MoveMode::kScatter;
};
// That a load onto devices calls.
inline constexpr Function kFunctions[] = {
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

// Called once in a process, which keeps the result.
inline constexpr const char* kFirstCalls[] = {"cudaGetDriverEntryPointByVersion", "ncclGetVersion"};

class CallFaults : public DeviceLoadFaults, public ::testing::WithParamInterface<Function> {
 protected:
  // Some are called hundreds of times. A sanitizer, under which each load takes ten times as long,
  // sees a sample of these: what it looks for does not depend on the number of the call.
  static int StepFrom(int call) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return std::max(1, call / 4);
#else
    (void)call;
    return 1;
#endif
  }

  void EachEndsAllNodesInTime(Placement placement) {
    const Function& function = GetParam();
    Lay(function.move, placement);
    int num_failed = 0;
    for (int call = 1; call <= function.at_most; call += StepFrom(call)) {
      const uint64_t before = emu_->objectsAlive();
      const Outcome outcome = Load(absl::StrCat(function.name, ":", call));
      SCOPED_TRACE(absl::StrCat("call ", call, ": ", Messages(outcome)));
      if (!outcome.failed) {
        EXPECT_TRUE(outcome.is_right);
        EXPECT_GT(call, 1) << "never called";
        std::cout << num_failed << " calls failed in turn\n";
        return;
      }
      ++num_failed;
      CheckFailed(outcome);
      if (!function.gives_back) CheckNothingIsLeft(before);
      if (HasFailure()) return;
    }
  }
};

inline std::vector<std::string> DeviceLoadFaults::CalledBesides(std::set<std::string> more) const {
  std::set<std::string> known = std::move(more);
  known.insert("ncclCommAbort");
  for (const Function& function : kFunctions) known.insert(function.name);
  known.insert(std::begin(kFirstCalls), std::end(kFirstCalls));
  // What the stand-ins of others among them call.
  known.insert(
      {"cudaEventRecordWithFlags", "cudaFuncGetAttributes", "cudaStreamCreateWithPriority"});
  // They tell of errors, and have none.
  known.insert({"cudaGetLastError", "cudaGetErrorName", "cudaGetErrorString", "ncclGetErrorString",
                "ncclGetLastError"});
  int num_called = 0;
  std::vector<std::string> unknown;
  for (const absl::string_view name : absl::StrSplit(emu_->called(), ',')) {
    ++num_called;
    if (known.count(std::string(name)) == 0) unknown.emplace_back(name);
  }
  EXPECT_GT(num_called, 20);
  return unknown;
}

inline std::string NameOf(const ::testing::TestParamInfo<Function>& info) {
  return info.param.name;
}

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_CLIENT_AGENT_CUDA_DEVICE_LOAD_H_
