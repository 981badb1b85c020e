// The agent's hand-over socket with known shards, for tests in other languages.
//
//   hand_over_fixture SOCKET [--no-gpu]
//
// Serves ranks 0 and 1 of "loads/test" with the token "secret" until standard input ends; prints
// "ready", then "shared RANK" or "private RANK" for every acknowledged hand-over.  With --no-gpu
// they are of a load for devices, by an agent that opens none.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/client/python/fixture_shards.h"

namespace zerocast {
namespace {

std::unique_ptr<ShardBook> MakeBook(bool for_devices) {
  ShardIndex index = FixtureIndex();
  index.for_devices = for_devices;
  std::vector<Arena> arenas;
  for (int rank = 0; rank < 2; ++rank) {
    absl::StatusOr<Arena> arena = Arena::Create("fixture", kFixtureBytes);
    if (!arena.ok() || !arena->Seal().ok()) return nullptr;
    for (int k = 0; k < kFixtureBytes; ++k) arena->data()[k] = FixtureByte(rank, k);
    arenas.push_back(*std::move(arena));
  }
  return std::make_unique<ShardBook>(std::move(index), "secret", 0,
                                     ShardCache().Add({}, 0, std::move(arenas)));
}

}  // namespace
}  // namespace zerocast

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  const auto book = zerocast::MakeBook(argc > 2 && std::string(argv[2]) == "--no-gpu");
  return book == nullptr ? 1 : zerocast::ServeFixture(argv[1], book.get());
}
