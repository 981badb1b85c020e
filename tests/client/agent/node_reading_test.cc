// Ranks that read side by side, each for a device of its own.

#include "client/agent/node_reading.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "client/agent/buffer.h"
#include "client/agent/identify_files.h"
#include "client/agent/load_environment.h"
#include "client/agent/numa.h"
#include "kernels/base/mutex.h"
#include "kernels/comm/loopback.h"
#include "tests/client/agent/load_fixture.h"
#include "tests/status_matchers.h"
#include "tests/temp_dir.h"

namespace zerocast {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int kRanks = 2;

std::vector<int> Processors() {
  cpu_set_t set;
  std::vector<int> members;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return members;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) members.push_back(cpu);
  }
  return members;
}

// Where the work for each device was done.
class Places {
 public:
  void Note(int device) {
    MutexLock lock(&mutex_);
    seen_[device].insert(Processors());
  }
  std::set<std::vector<int>> Of(int device) {
    MutexLock lock(&mutex_);
    return seen_[device];
  }

 private:
  Mutex mutex_;
  std::map<int, std::set<std::vector<int>>> seen_ ABSL_GUARDED_BY(mutex_);
};

// A device whose memory is the host's: it does at once what it is asked.
class HostCopier : public DeviceCopier {
 public:
  HostCopier(int device, Places* places) : device_(device), places_(places) {}

  absl::StatusOr<char*> Acquire(size_t place, int64_t num_bytes, absl::Duration) override {
    places_->Note(device_);
    MutexLock lock(&mutex_);
    return staging_[place].Reserve(num_bytes + 1);
  }
  absl::Status Start(size_t, int64_t, absl::Span<const BoxCopy> copies, absl::Duration) override {
    for (const BoxCopy& copy : copies) RunBoxCopy(copy);
    return absl::OkStatus();
  }
  absl::StatusOr<char*> ReserveMessages(size_t which, int64_t num_bytes) override {
    MutexLock lock(&mutex_);
    return messages_[which].Reserve(num_bytes + 1);
  }
  absl::Status OrderExchange() override { return absl::OkStatus(); }
  absl::Status Finish(absl::Duration) override { return absl::OkStatus(); }

 private:
  const int device_;
  Places* const places_;
  Mutex mutex_;
  std::map<size_t, Buffer> staging_ ABSL_GUARDED_BY(mutex_);
  std::map<size_t, Buffer> messages_ ABSL_GUARDED_BY(mutex_);
};

// Counts what is locked.
class CountedLock : public LockedMemory {
 public:
  CountedLock(std::atomic<int>* count, char* memory) : count_(count), memory_(memory) { ++*count_; }
  ~CountedLock() override { --*count_; }
  char* on_device() const override { return memory_; }

 private:
  std::atomic<int>* const count_;
  char* const memory_;
};

// Device k is near to the k-th of the processors.
class HostDevices : public Devices {
 public:
  explicit HostDevices(std::vector<int> processors) : processors_(std::move(processors)) {}

  int count() const override { return kRanks; }
  std::vector<DeviceSummary> List() const override { return {}; }
  std::string Describe(int) const override { return "the host"; }
  cpu_set_t NearProcessors(int device) const override {
    cpu_set_t near;
    CPU_ZERO(&near);
    if (!processors_.empty()) CPU_SET(processors_[static_cast<size_t>(device)], &near);
    return near;
  }
  absl::StatusOr<std::unique_ptr<DeviceMemory>> Allocate(int, int64_t) override {
    return absl::UnimplementedError("allocate");
  }
  absl::StatusOr<std::unique_ptr<LockedMemory>> Lock(int device, char* memory, int64_t) override {
    places.Note(device);
    return std::make_unique<CountedLock>(&locked, memory);
  }
  absl::StatusOr<std::unique_ptr<Communicator>> Connect(int, const CommunicatorRequest&) override {
    return absl::UnimplementedError("connect");
  }
  absl::StatusOr<std::shared_ptr<DeviceCopier>> MakeCopier(int device, int, int64_t,
                                                           Communicator*) override {
    places.Note(device);  // it makes the page-locked memory
    return std::make_shared<HostCopier>(device, &places);
  }

  Places places;
  std::atomic<int> locked{0};

 private:
  const std::vector<int> processors_;
};

class NodeReadingTest : public ::testing::Test {
 protected:
  void SetUp() override {
    WriteCheckpoint(dir_.path(), TestSeed());
    Place(Placement::kDevice);
  }

  void Place(Placement placement) {
    Layout layout = MakeLayout(1, kRanks);
    layout.device = LoadDevice::kCuda;
    layout.placement = placement;
    layout.round_bytes = 1000;
    plan_ = MakePlan(dir_.path(), layout);
  }

  // Loads onto devices of which each is near one of these processors, a rank its own.
  void ExpectEachNearItsDevice(const std::vector<int>& processors) {
    const auto devices = std::make_shared<HostDevices>(processors);
    EXPECT_THAT(Load(devices), IsEmpty());
    for (int k = 0; k < kRanks; ++k) {
      EXPECT_THAT(devices->places.Of(k),
                  ElementsAre(std::vector<int>{processors[static_cast<size_t>(k)]}));
    }
    EXPECT_EQ(Processors(), processors) << "the thread that called";
  }

  // What is not as it must be after a load onto those devices.
  std::vector<std::string> Load(const std::shared_ptr<HostDevices>& devices) {
    auto group = MakeLoopbackGroup(kRanks);
    NodeReadingOptions options;
    options.environment = std::make_shared<LoadEnvironment>();
    options.environment->reader = MakePosixReader({});
    options.devices = devices;
    options.participants = *MakeParticipants(plan_, 0);
    options.command.checkpoint_path = dir_.path();
    options.command.stage_timeout = absl::Seconds(20);
    const Participants& all = options.participants;
    for (const int32_t number : all.numbers) {
      const auto identities = *IdentifyFiles(*all.plan, *all.schedule, number, dir_.path(),
                                             options.environment->reader.get());
      options.identities.resize(identities.size());
      for (size_t k = 0; k < identities.size(); ++k) {
        if (identities[k].num_bytes >= 0) options.identities[k] = identities[k];
      }
    }
    auto arenas = std::make_shared<std::vector<Arena>>();
    for (int k = 0; k < kRanks; ++k) {
      arenas->push_back(*Arena::Create("test", plan_->arena_bytes));
    }
    options.arenas = arenas;
    options.num_threads = 2;
    options.chunk_bytes = 1 << 20;
    options.connect = [&](size_t k, const std::function<bool()>&) {
      // All of them, before anybody waits for another.
      EXPECT_EQ(devices->locked, LieOnDevices(plan_->layout) ? 0 : kRanks);
      return group[k].get();
    };
    options.abort = [&](const std::string& why) {
      for (const auto& communicator : group) communicator->Abort(why);
    };
    const std::atomic<bool> cancelled{false};
    options.cancelled = &cancelled;
    options.on_progress = [] {};
    NodeProgress progress;
    EXPECT_THAT(ReadNode(options, &progress), IsOk());
    EXPECT_EQ(devices->locked, 0);
    return Differences(*plan_, *arenas, ExpectedPartitions(*plan_, dir_.path()));
  }

  const TempDir dir_;
  std::shared_ptr<const Plan> plan_;
};

TEST_F(NodeReadingTest, TheThreadsOfARankKeepNearItsDevice) {
  const std::vector<int> before = Processors();
  if (before.size() < kRanks) GTEST_SKIP() << "needs two processors";
  ExpectEachNearItsDevice(before);
}

TEST_F(NodeReadingTest, ArenasInHostMemoryAreLockedNearTheirDevice) {
  const std::vector<int> before = Processors();
  if (before.size() < kRanks) GTEST_SKIP() << "needs two processors";
  Place(Placement::kHost);
  ExpectEachNearItsDevice(before);
}

TEST_F(NodeReadingTest, WhereNothingSaysWhatIsNearTheyRunWhereTheyMay) {
  const std::vector<int> before = Processors();
  const auto devices = std::make_shared<HostDevices>(std::vector<int>{});
  EXPECT_THAT(Load(devices), IsEmpty());
  // Where memory has several nodes, reading threads take them in turn.
  const bool one_node = NumaNodes("/sys/devices/system/node", ParseCpuList("0-1023")).size() < 2;
  for (int k = 0; k < kRanks; ++k) {
    if (one_node) {
      EXPECT_THAT(devices->places.Of(k), ElementsAre(before));
    } else {
      EXPECT_THAT(devices->places.Of(k), Contains(before));
    }
  }
}

}  // namespace
}  // namespace zerocast
