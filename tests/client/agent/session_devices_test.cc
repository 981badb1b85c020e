// What an agent says of GPUs, and what it does without.
#include "tests/client/agent/session_fixture.h"

namespace zerocast {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class NamedDevices : public Devices {
 public:
  int count() const override { return 1; }
  std::vector<DeviceSummary> List() const override { return {{"GPU-1", "A GPU", 5 << 20}}; }
  std::string Describe(int) const override { return "GPU-1"; }
  cpu_set_t NearProcessors(int) const override { return {}; }
  absl::StatusOr<std::unique_ptr<DeviceMemory>> Allocate(int, int64_t) override {
    return absl::UnimplementedError("allocate");
  }
  absl::StatusOr<std::unique_ptr<LockedMemory>> Lock(int, char*, int64_t) override {
    return absl::UnimplementedError("lock");
  }
  absl::StatusOr<std::unique_ptr<Communicator>> Connect(int, const CommunicatorRequest&) override {
    return absl::UnimplementedError("connect");
  }
  absl::StatusOr<std::shared_ptr<DeviceCopier>> MakeCopier(int, int, int64_t,
                                                           Communicator*) override {
    return absl::UnimplementedError("copy");
  }
};

TEST_F(SessionTest, NamesItsGpus) {
  FakeServer server(address_);
  find_devices_ = [] { return std::make_shared<NamedDevices>(); };
  StartAgent();
  const v1::Register message = server.Next(v1::SessionRequest::kRegister).register_();
  ASSERT_EQ(message.gpus_size(), 1);
  EXPECT_EQ(message.gpus(0).uuid(), "GPU-1");
  EXPECT_EQ(message.gpus(0).name(), "A GPU");
  EXPECT_EQ(message.gpus(0).memory_bytes(), 5 << 20);
  EXPECT_EQ(message.no_gpus_because(), "");
}

TEST_F(SessionTest, SaysWhyItHasNoGpus) {
  FakeServer server(address_);
  find_devices_ = []() -> absl::StatusOr<std::shared_ptr<Devices>> {
    return absl::FailedPreconditionError("the driver is too old");
  };
  StartAgent();
  EXPECT_THAT(server.Next(v1::SessionRequest::kRegister).register_().no_gpus_because(),
              HasSubstr("the driver is too old"));
}

TEST_F(SessionTest, WithoutGpusShardsForDevicesAreMadeInHostMemory) {
  const uint64_t seed = TestSeed();
  WriteCheckpoint(checkpoint_.path(), seed);
  FakeServer server(address_);
  no_gpu_ = true;
  find_devices_ = []() -> absl::StatusOr<std::shared_ptr<Devices>> {
    ADD_FAILURE() << "it looks for GPUs";
    return absl::InternalError("");
  };
  device_ = LoadDevice::kCuda;
  StartAgent();
  EXPECT_THAT(server.Next(v1::SessionRequest::kRegister).register_().no_gpus_because(),
              HasSubstr("--no-gpu"));
  const v1::NodeReport done = Load(&server, "loads/a");
  ASSERT_THAT(StatusFromFailure(done.failure()), IsOk());
  EXPECT_EQ(done.progress().hand_over_way(), "host_copy");
  EXPECT_THAT(done.progress().hand_over_because(), HasSubstr("--no-gpu"));
  EXPECT_EQ(done.progress().device_arena_bytes(), 0);
  Layout layout = MakeLayout(1, 2);
  layout.device = LoadDevice::kCuda;
  const auto expected = ExpectedDigests(*MakePlan(checkpoint_.path(), layout), checkpoint_.path());
  ASSERT_EQ(done.shards_size(), 2);
  for (int rank = 0; rank < 2; ++rank) {
    std::vector<uint64_t> digests;
    for (const v1::PartitionDigest& digest : done.shards(rank).digests()) {
      digests.push_back(digest.xxh3());
    }
    EXPECT_EQ(digests, expected[static_cast<size_t>(rank)]) << "rank " << rank;
  }
  AttachClient client(dir_.File("agent.sock"));
  const auto answer = client.Attach("loads/a", 1, "secret", "private");
  EXPECT_EQ(answer["way"], "host_copy");
  EXPECT_EQ(answer["mode"], "private");
  EXPECT_THAT(answer["because"].get<std::string>(), HasSubstr("--no-gpu"));
  client.Acknowledge();
  EXPECT_EQ(client.Receive()["ok"], true);
  EXPECT_EQ(server.Next(v1::SessionRequest::kHandOverReport).hand_over_report().way(), "host_copy");
  EXPECT_EQ(agent_->stats().handed_over.at({"private", "host_copy"}), 1);
}

TEST_F(SessionTest, WithoutGpusOffloadedShardsGoOverAsOfAHost) {
  WriteCheckpoint(checkpoint_.path(), TestSeed());
  FakeServer server(address_);
  no_gpu_ = true;
  device_ = LoadDevice::kCuda;
  placement_ = Placement::kHost;
  StartAgent();
  const v1::NodeReport done = Load(&server, "loads/a");
  ASSERT_THAT(StatusFromFailure(done.failure()), IsOk());
  EXPECT_EQ(done.progress().hand_over_way(), "memfd");
  EXPECT_EQ(done.progress().hand_over_because(), "");
  EXPECT_EQ(done.progress().device_arena_bytes(), 0);
  EXPECT_EQ(done.progress().device_buffer_bytes(), 0);
  AttachClient client(dir_.File("agent.sock"));
  EXPECT_EQ(client.Attach("loads/a", 1, "secret", "private")["way"], "memfd");
}

}  // namespace
}  // namespace zerocast
