// As hand_over_fixture, with the shards in memory of devices.
//
//   device_hand_over_fixture SOCKET
//
// Rank r lies on device r, where there are so many, else on device 0.

#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "client/agent/cuda/shard_memory.h"
#include "kernels/base/status_macros.h"
#include "kernels/device/copy_to_device.h"
#include "kernels/device/devices.h"
#include "tests/client/python/fixture_shards.h"

namespace zerocast {
namespace {

absl::StatusOr<std::unique_ptr<ShardBook>> MakeBook(
    std::vector<std::unique_ptr<ShardMemoryMaker>>* makers) {
  ShardIndex index = FixtureIndex();
  index.for_devices = true;
  ZC_ASSIGN_OR_RETURN(const std::vector<DeviceInfo> devices, ListDevices());
  std::vector<Arena> arenas;
  for (size_t rank = 0; rank < 2; ++rank) {
    const DeviceInfo& device = devices[rank < devices.size() ? rank : 0];
    makers->push_back(std::make_unique<ShardMemoryMaker>(device));
    ZC_ASSIGN_OR_RETURN(std::unique_ptr<DeviceMemory> memory, makers->back()->Make(kFixtureBytes));
    std::vector<char> bytes;
    for (int k = 0; k < kFixtureBytes; ++k) bytes.push_back(FixtureByte(static_cast<int>(rank), k));
    ZC_RETURN_IF_ERROR(CopyToDevice(device.number, reinterpret_cast<std::byte*>(memory->data()),
                                    absl::MakeSpan(bytes.data(), bytes.size()), /*locked=*/nullptr,
                                    absl::Minutes(1)));
    arenas.push_back(Arena::OnDevice(std::move(memory)));
  }
  return std::make_unique<ShardBook>(std::move(index), "secret", 0,
                                     ShardCache().Add({}, 0, std::move(arenas)));
}

}  // namespace
}  // namespace zerocast

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  std::vector<std::unique_ptr<zerocast::ShardMemoryMaker>> makers;  // outlive their memory
  const auto book = zerocast::MakeBook(&makers);
  if (book.ok()) return zerocast::ServeFixture(argv[1], book->get());
  std::printf("no device: %s\n", std::string(book.status().message()).c_str());
  return 3;
}
