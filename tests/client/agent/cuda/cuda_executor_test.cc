// The executor with CUDA devices, and arenas on them or in host memory that they write to: on the
// stand-ins late and in random order, on a GPU as it is.

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "client/agent/cuda/cuda_copier.h"
#include "client/agent/memory_needs.h"
#include "kernels/comm/map_rendezvous.h"
#include "kernels/comm/nccl.h"
#include "kernels/device/buffer.h"
#include "kernels/device/copy_to_host.h"
#include "kernels/device/cuda_status.h"
#include "kernels/device/device_scope.h"
#include "tests/client/agent/load_fixture.h"
#include "tests/cuda_emu/cuda_emu.h"
#include "tests/status_matchers.h"
#include "tests/temp_dir.h"

namespace zerocast {
namespace {

using ::testing::Each;
using ::testing::IsEmpty;

// The arenas of one node's ranks in one allocation of a device, all zero.
class DeviceArenas {
 public:
  DeviceArenas(int device, int64_t arena_bytes, int32_t num_ranks)
      : arena_bytes_(arena_bytes),
        num_ranks_(num_ranks),
        buffer_(*DeviceBuffer::Create(device, arena_bytes * num_ranks)) {
    const DeviceScope scope = *DeviceScope::Enter(device);
    EXPECT_THAT(ToStatus(cudaMemset(buffer_.data(), 0, static_cast<size_t>(buffer_.num_bytes())),
                         "clear the arenas"),
                IsOk());
    EXPECT_THAT(ToStatus(cudaDeviceSynchronize(), "clear the arenas"), IsOk());
  }

  char* OfRank(int32_t k) const {
    return reinterpret_cast<char*>(buffer_.data()) + k * arena_bytes_;
  }
  int64_t num_bytes() const { return buffer_.num_bytes(); }
  ArenaMemory Memory(std::shared_ptr<const void> owner) const {
    ArenaMemory memory;
    for (int32_t k = 0; k < num_ranks_; ++k) memory.data.push_back(OfRank(k));
    memory.owner = std::move(owner);
    return memory;
  }
  // On the stream of nobody: only after everything is done.
  void CopyTo(absl::Span<Arena> arenas) const {
    const DeviceScope scope = *DeviceScope::Enter(buffer_.device());
    for (int32_t k = 0; k < num_ranks_; ++k) {
      EXPECT_THAT(ToStatus(cudaMemcpy(arenas[k].data(), OfRank(k),
                                      static_cast<size_t>(arena_bytes_), cudaMemcpyDeviceToHost),
                           "read an arena"),
                  IsOk());
    }
  }

 private:
  const int64_t arena_bytes_;
  const int32_t num_ranks_;
  const DeviceBuffer buffer_;
};

// Arenas in host memory, for a device to write to.  Keeps them.
class HostArenas {
 public:
  HostArenas(int device, const ArenaMemory& host, int64_t arena_bytes) : owner_(host.owner) {
    for (char* const data : host.data) {
      ranges_.push_back(*PinnedRange::Create(device, data, arena_bytes));
      on_device_.push_back(reinterpret_cast<char*>(*ranges_.back().AddressOn(device)));
    }
  }
  static ArenaMemory Memory(const std::shared_ptr<HostArenas>& arenas) {
    return {arenas->on_device_, arenas};
  }
  void Unlock() { ranges_.clear(); }

 private:
  const std::shared_ptr<const void> owner_;
  std::vector<char*> on_device_;
  std::vector<PinnedRange> ranges_;  // end before what they lock
};

class CudaExecutorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const absl::StatusOr<int> count = DeviceCount();
    if (!count.ok()) GTEST_SKIP() << count.status();
  }
};

struct Case {
  Layout layout;
  int num_threads = 2;
  bool in_host_memory = false;  // the arenas
  std::function<bool(CudaWait)> leaves_out;
  int64_t scale = 1;  // of the checkpoint
  // What buffers may take; 0: enough for chunks of chunk_bytes, which is not looked at.
  int64_t max_buffer_bytes = 0;
  int64_t chunk_bytes = 64 << 10;
  bool misaligned = false;  // every tensor of the checkpoint, in its file
};

// The participants of one load, each on a device of its own, in this process.
class DeviceCluster {
 public:
  DeviceCluster(const Case& wanted, const Plan& plan)
      : case_(wanted), plan_(plan), nodes_(static_cast<size_t>(plan.layout.num_nodes)) {}

  // On the node's own thread: NCCL connects all at once.
  void Prepare(int32_t node, ExecutorOptions* executor) {
    Node& own = nodes_[static_cast<size_t>(node)];
    CudaCopierOptions copier;
    copier.device = node;
    copier.num_threads = case_.num_threads;
    copier.leaves_out = case_.leaves_out;
    if (case_.max_buffer_bytes > 0) {
      own.budget = ComputeNodeBudget(plan_, *executor->schedule, node, case_.num_threads, 1,
                                     case_.max_buffer_bytes);
    }
    executor->chunk_bytes = case_.max_buffer_bytes > 0 ? own.budget.chunk_bytes : case_.chunk_bytes;
    copier.staging_bytes = StagingBytes(plan_, executor->chunk_bytes);
    if (nodes_.size() > 1) {
      NcclOptions nccl;
      nccl.device = node;
      nccl.rank = node;
      nccl.size = static_cast<int>(nodes_.size());
      nccl.rendezvous = rendezvous_;
      own.communicator = *NcclCommunicator::Create(nccl);
      executor->communicator = own.communicator.get();
      copier.exchange_stream = own.communicator->stream();
    }
    if (cudaEmu() != nullptr) own.before = cudaEmu()->allocated(node);
    std::unique_ptr<CudaCopier> device = *CudaCopier::Create(copier);
    EXPECT_THAT(device->Reserve(), IsOk());
    const std::shared_ptr<CudaCopier> shared = std::move(device);
    if (case_.max_buffer_bytes > 0) own.device = shared;
    executor->device = shared;
    executor->hooks.after_read = [&own, node](int64_t, absl::Span<char>) {
      if (cudaEmu() != nullptr && own.made == 0) own.made = cudaEmu()->allocated(node);
    };
    if (case_.in_host_memory) {
      own.host_arenas = std::make_shared<HostArenas>(node, executor->arenas, plan_.arena_bytes);
      executor->arenas = HostArenas::Memory(own.host_arenas);
      return;
    }
    own.arenas = std::make_shared<DeviceArenas>(node, plan_.arena_bytes,
                                                static_cast<int32_t>(executor->arenas.data.size()));
    executor->arenas = own.arenas->Memory(own.arenas);
  }
  void Finish(int32_t node, absl::Span<Arena> host) {
    Node& own = nodes_[static_cast<size_t>(node)];
    if (own.device != nullptr) {
      EXPECT_LE(own.budget.needs.buffers(), case_.max_buffer_bytes);
      EXPECT_LE(own.device->device_bytes(), own.budget.needs.buffers());
      EXPECT_GT(own.device->device_bytes(), own.budget.needs.buffers() / 2);
      if (cudaEmu() != nullptr) CheckAllocated(node);
      own.device.reset();
    }
    if (own.host_arenas == nullptr) return own.arenas->CopyTo(host);
    // As they are now: to unlock waits for kernels that should have been waited for.
    std::vector<std::string> now;
    for (const Arena& arena : host) now.emplace_back(arena.data(), plan_.arena_bytes);
    own.host_arenas->Unlock();
    for (size_t k = 0; k < host.size(); ++k) now[k].copy(host[k].data(), now[k].size());
  }

 private:
  // What the stand-in has counted for the device, arenas and communicator aside.
  void CheckAllocated(int32_t node) const {
    const Node& own = nodes_[static_cast<size_t>(node)];
    const uint64_t most = cudaEmu()->mostAllocated(node);
    EXPECT_LE(most - own.before - own.arenas->num_bytes(), case_.max_buffer_bytes);
    EXPECT_GT(own.made.load(), own.before);
    EXPECT_EQ(most, own.made.load()) << "something has grown since the first read";
  }

  struct Node {
    uint64_t before = 0;            // allocated before any staging place
    std::atomic<uint64_t> made{0};  // once there was all
    std::unique_ptr<NcclCommunicator> communicator;
    std::shared_ptr<DeviceArenas> arenas;
    std::shared_ptr<HostArenas> host_arenas;
    std::shared_ptr<CudaCopier> device;
    NodeBudget budget;
  };
  const Case& case_;
  const Plan& plan_;
  const std::shared_ptr<MapRendezvous> rendezvous_ = std::make_shared<MapRendezvous>();
  std::vector<Node> nodes_;
};

// What is not as it must be after a load, node k on device k.
std::vector<std::string> DifferencesOnDevices(const Case& wanted, uint64_t seed) {
  const TempDir dir;
  WriteCheckpoint(dir.path(), seed, wanted.scale);
  if (wanted.misaligned) MisalignCheckpoint(dir.path());
  if (cudaEmu() != nullptr) cudaEmu()->resetMostAllocated();
  ClusterOptions options;
  const auto plan = options.plan = MakePlan(dir.path(), wanted.layout, wanted.scale);
  options.folder = dir.path();
  options.num_threads = wanted.num_threads;
  DeviceCluster cluster(wanted, *plan);
  options.before_load = [&](int32_t node, ExecutorOptions* executor) {
    cluster.Prepare(node, executor);
  };
  options.after_load = [&](int32_t node, absl::Span<Arena> host) { cluster.Finish(node, host); };
  const ClusterRun run = RunCluster(std::move(options));
  EXPECT_THAT(run.statuses, Each(IsOk()));
  return Differences(*plan, run.arenas, ExpectedPartitions(*plan, dir.path()));
}

// Skips where there are fewer devices, with the reason.
void NeedDevices(int count) {
  if (*DeviceCount() < count) GTEST_SKIP() << "needs " << count << " devices";
}

// On the devices, and in host memory.
class PlacesTest : public CudaExecutorTest, public ::testing::WithParamInterface<bool> {};
INSTANTIATE_TEST_SUITE_P(All, PlacesTest, ::testing::Bool(), [](const auto& info) {
  return std::string(info.param ? "InHostMemory" : "OnDevices");
});

TEST_P(PlacesTest, EveryPartitionHoldsExactlyItsBytes) {
  const uint64_t seed = TestSeed();
  for (const int ranks : {1, 3}) {
    for (const DTypePolicy dtype :
         {DTypePolicy::kStored, DTypePolicy::kFloat32, DTypePolicy::kBFloat16}) {
      for (const int64_t round_bytes : {200, 5000, 32 << 20}) {
        Case wanted;
        wanted.in_host_memory = GetParam();
        wanted.layout = MakeLayout(1, ranks);
        wanted.layout.dtype = dtype;
        wanted.layout.round_bytes = round_bytes;
        EXPECT_THAT(DifferencesOnDevices(wanted, seed), IsEmpty())
            << ranks << " ranks, rounds of " << round_bytes;
      }
    }
  }
}

TEST_P(PlacesTest, EveryDeviceGetsWhatTheOthersRead) {
  const uint64_t seed = TestSeed();
  for (const int nodes : {2, 4}) {
    NeedDevices(nodes);
    if (IsSkipped()) return;
    for (const ReadMode read_mode : {ReadMode::kParallel, ReadMode::kLocal, ReadMode::kRank0}) {
      for (const MoveMode move_mode : {MoveMode::kScatter, MoveMode::kBroadcast}) {
        for (const int stage : {0, 3}) {
          Case wanted;
          wanted.in_host_memory = GetParam();
          wanted.layout = MakeLayout(nodes, 1);
          wanted.layout.read_mode = read_mode;
          wanted.layout.move_mode = move_mode;
          wanted.layout.zero_stage = stage;
          wanted.layout.round_bytes = 3000;
          EXPECT_THAT(DifferencesOnDevices(wanted, seed), IsEmpty())
              << nodes << " devices, read mode " << static_cast<int>(read_mode) << ", move mode "
              << static_cast<int>(move_mode) << ", stage " << stage;
        }
      }
    }
  }
}

TEST_P(PlacesTest, EverySchedulesBytesAreTheSame) {
  if (cudaEmu() == nullptr) GTEST_SKIP() << "a GPU has one schedule: its own";
  const uint64_t seed = TestSeed();
  Case wanted;
  wanted.in_host_memory = GetParam();
  for (int k = 0; k < 200 && !HasFailure(); ++k) {
    // On 1, 2 and 4 devices by turns.
    wanted.layout = MakeLayout(1 << k % 3, 2);
    wanted.layout.round_bytes = 1000;
    EXPECT_THAT(DifferencesOnDevices(wanted, seed), IsEmpty()) << "load " << k;
  }
}

// How many kernels a load takes that may use so much; its rounds have several chunks.
uint64_t LaunchesOfBoundedLoad(int devices, int64_t max_buffer_bytes, bool misaligned,
                               uint64_t seed) {
  Case wanted;
  wanted.layout = MakeLayout(devices, 1);
  wanted.layout.device = LoadDevice::kCuda;
  wanted.layout.round_bytes = devices == 1 ? 1 << 20 : 400000;
  wanted.scale = 16;
  wanted.num_threads = 1;
  wanted.max_buffer_bytes = max_buffer_bytes;
  wanted.misaligned = misaligned;
  const CudaEmu* const emu = cudaEmu();
  if (emu != nullptr) emu->resetStats(), emu->collectStats(1);
  EXPECT_THAT(DifferencesOnDevices(wanted, seed), IsEmpty());
  CudaEmuStats stats = {};
  if (emu != nullptr) emu->collectStats(0), emu->kernelStats("Kernel", &stats);
  return stats.launches;
}

TEST_F(CudaExecutorTest, MemoryBesideTheArenasKeepsToItsBound) {
  const uint64_t seed = TestSeed();
  for (const int devices : {1, 2}) {
    NeedDevices(devices);
    if (IsSkipped()) return;
    for (const int64_t mib : {2, 64}) {
      SCOPED_TRACE(absl::StrCat(devices, " devices, ", mib, " MiB"));
      const uint64_t aligned = LaunchesOfBoundedLoad(devices, mib << 20, false, seed);
      // Copies of what the file does not align lie beside the data: in turn, where room is short.
      const uint64_t misaligned = LaunchesOfBoundedLoad(devices, mib << 20, true, seed);
      std::cout << aligned << " launches, misaligned " << misaligned << "\n";
      if (cudaEmu() != nullptr && mib == 2) {
        EXPECT_GT(misaligned, aligned);
      }
    }
  }
}

// A place is given more descriptors than it has room for, again and again, while the device still
// works on what it held before.
TEST_F(CudaExecutorTest, APlaceTakesMoreThanItHasRoomFor) {
  constexpr int64_t kBoxes = 3000, kRounds = 6;  // descriptors of several hundred kB
  CudaCopierOptions options;
  options.staging_bytes = kBoxes * (2 + kRounds);
  ZC_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<CudaCopier> copier, CudaCopier::Create(options));
  ASSERT_THAT(copier->Reserve(), IsOk());
  std::vector<DeviceBuffer> targets;
  for (int64_t round = 0; round < kRounds; ++round) {
    const int64_t each = 2 + round, num_bytes = kBoxes * each;
    ZC_ASSERT_OK_AND_ASSIGN(DeviceBuffer target, DeviceBuffer::Create(0, num_bytes));
    ZC_ASSERT_OK_AND_ASSIGN(char* const data, copier->Acquire(0, num_bytes, absl::Seconds(20)));
    for (int64_t k = 0; k < num_bytes; ++k) data[k] = static_cast<char>(k / each + 7 * round);
    std::vector<BoxCopy> copies(kBoxes);  // in reverse order
    for (int64_t k = 0; k < kBoxes; ++k) {
      Box& box = copies[k].box;
      box.num_dims = 1;
      box.dims[0] = {each, 1, 1};
      box.source_offset = k * each;
      box.target_offset = (kBoxes - 1 - k) * each;
      copies[k].source = data;
      copies[k].target = reinterpret_cast<char*>(target.data());
      copies[k].source_dtype = copies[k].target_dtype = DType::kUInt8;
    }
    ASSERT_THAT(copier->Start(0, num_bytes, copies, absl::Seconds(20)), IsOk());
    targets.push_back(std::move(target));
  }
  ASSERT_THAT(copier->Finish(absl::Seconds(20)), IsOk());
  for (int64_t round = 0; round < kRounds; ++round) {
    const int64_t each = 2 + round;
    std::string expected, got(static_cast<size_t>(kBoxes * each), '\0');
    for (int64_t k = kBoxes; k-- > 0;) {
      expected.append(static_cast<size_t>(each), static_cast<char>(k + 7 * round));
    }
    ASSERT_THAT(CopyToHost(0, targets[round].data(), absl::MakeSpan(got.data(), got.size()),
                           absl::Seconds(20)),
                IsOk());
    EXPECT_TRUE(got == expected) << "round " << round;
  }
}

// Bytes that targets hold, all ranks together.
int64_t TargetBytes(const Layout& layout, uint64_t seed, int64_t scale) {
  const TempDir dir;
  WriteCheckpoint(dir.path(), seed, scale);
  const std::shared_ptr<const Plan> plan = MakePlan(dir.path(), layout, scale);
  int64_t num_bytes = 0;
  for (const Target& target : plan->targets) {
    num_bytes +=
        target.num_elements * SizeOf(target.dtype) * (target.partitioned ? 1 : layout.world_size);
  }
  return num_bytes;
}

TEST_F(CudaExecutorTest, EachByteCrossesToADeviceOnceAndIsMovedOnceByEachKernel) {
  const CudaEmu* const emu = cudaEmu();
  if (emu == nullptr) GTEST_SKIP() << "only the stand-ins count bytes";
  const uint64_t seed = TestSeed();
  for (const int devices : {1, 2, 4}) {
    SCOPED_TRACE(devices);
    Case wanted;
    wanted.layout = MakeLayout(devices, 1);
    wanted.scale = 32;
    wanted.chunk_bytes = 1 << 20;  // whose boxes are few for their bytes
    emu->resetStats();
    emu->collectStats(1);
    EXPECT_THAT(DifferencesOnDevices(wanted, seed), IsEmpty());
    emu->collectStats(0);
    CudaEmuStats moved = {};
    ASSERT_GT(emu->kernelStats("Kernel", &moved), 0);
    // All that is loaded ends in a target, and in its own dtype.
    const int64_t loaded = TargetBytes(MakeLayout(1, 1), seed, wanted.scale);
    EXPECT_GE(emu->bytesToDevices(), loaded);
    EXPECT_LT(emu->bytesToDevices(), 1.01 * loaded) << "descriptors";
    // What is written was read once, beside descriptors.
    EXPECT_GE(moved.load.usefulBytes, moved.store.usefulBytes);
    EXPECT_LT(moved.load.usefulBytes - moved.store.usefulBytes, 0.01 * 2 * moved.store.usefulBytes);
    // Once into its arena; what others need, besides, into and out of a message.
    const int64_t held = TargetBytes(wanted.layout, seed, wanted.scale);
    if (devices == 1) {
      EXPECT_EQ(moved.store.usefulBytes, held);
    } else {
      EXPECT_GE(moved.store.usefulBytes, held);
      EXPECT_LT(moved.store.usefulBytes, 2 * held);
    }
    EXPECT_EQ(moved.atomic.instructions, 0u);
    EXPECT_EQ(moved.localBytes, 0u);
  }
}

// Loads without one wait until one is spoilt: bytes are wrong, or a kernel ran on garbage.  Ends
// the process, whose device is of no more use then: 3 when that came about.
[[noreturn]] void LoadWithout(CudaWait left_out, bool in_host_memory, uint64_t seed) {
  Case wanted;
  wanted.in_host_memory = in_host_memory;
  wanted.layout = MakeLayout(left_out == CudaWait::kExchange ? 2 : 1, 2);
  wanted.layout.read_mode = ReadMode::kRank0;  // so that most of it is exchanged
  wanted.layout.round_bytes = 1000;
  wanted.leaves_out = [left_out](CudaWait wait) { return wait == left_out; };
  for (int k = 0; k < 100; ++k) {
    if (!DifferencesOnDevices(wanted, seed).empty() || ::testing::Test::HasFailure()) ::_exit(3);
  }
  ::_exit(0);
}

class CudaWaitTest : public CudaExecutorTest,
                     public ::testing::WithParamInterface<std::tuple<CudaWait, bool>> {};

TEST_P(CudaWaitTest, CannotBeLeftOut) {
  if (cudaEmu() == nullptr) GTEST_SKIP() << "a GPU may be quick enough not to show it";
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  // Kernels on garbage do anything: the process may not even live to say so.
  const auto is_spoilt = [](int status) { return !WIFEXITED(status) || WEXITSTATUS(status) != 0; };
  const auto [wait, in_host_memory] = GetParam();
  EXPECT_EXIT(LoadWithout(wait, in_host_memory, TestSeed()), is_spoilt, "");
}

INSTANTIATE_TEST_SUITE_P(All, CudaWaitTest,
                         ::testing::Combine(::testing::ValuesIn(kCudaWaits), ::testing::Bool()));

}  // namespace
}  // namespace zerocast
