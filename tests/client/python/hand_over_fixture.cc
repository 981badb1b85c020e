// The agent's hand-over socket with known shards, for tests in other languages.
//
//   hand_over_fixture SOCKET
//
// Serves ranks 0 and 1 of "loads/test" with the token "secret" until standard input ends; prints
// "ready", then "shared RANK" or "private RANK" for every acknowledged hand-over.

#include <cstdio>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "client/agent/handover.h"
#include "client/agent/shards.h"

namespace zerocast {
namespace {

constexpr char kLoad[] = "loads/test";

ShardIndex::Entry Entry(const char* name, std::vector<int64_t> shape, DType dtype, int64_t offset,
                        int64_t elements, int64_t num_elements) {
  ShardIndex::Entry entry;
  entry.name = name;
  entry.shape = std::move(shape);
  entry.dtype = dtype;
  entry.offset = offset;
  entry.elements = elements;
  entry.num_elements = num_elements;
  entry.partitioned = elements != num_elements;
  entry.is_filled = true;
  return entry;
}

// Byte k of rank r's arena is (k + 100 r) mod 251, which no offset or width leaves unchanged.
std::unique_ptr<ShardBook> MakeBook() {
  ShardIndex index;
  index.load = kLoad;
  index.world_size = 2;
  index.plan_digest = "0123456789abcdef0123456789abcdef";
  index.targets = {Entry("bf16", {3, 5}, DType::kBFloat16, 0, 8, 15),
                   Entry("fp32", {4}, DType::kFloat32, 64, 2, 4),
                   Entry("fp8", {10}, DType::kFloat8E4M3, 128, 5, 10),
                   Entry("positions", {5}, DType::kInt64, 192, 5, 5),
                   Entry("empty", {0, 4}, DType::kFloat16, 256, 0, 0),
                   Entry("unfilled", {8}, DType::kFloat32, 240, 4, 8)};
  index.secondary_group_size = 2;
  index.targets[1].secondary_offset = 96;
  index.targets[1].secondary_elements = 4;
  index.targets[0].aliases = {"tied"};
  index.targets[3].is_buffer = true;
  index.targets[5].is_filled = false;
  index.targets[5].aliases = {"unfilled.tied"};
  std::vector<Arena> arenas;
  for (int rank = 0; rank < 2; ++rank) {
    absl::StatusOr<Arena> arena = Arena::Create("fixture", 256);
    if (!arena.ok() || !arena->Seal().ok()) return nullptr;
    for (int k = 0; k < 256; ++k) arena->data()[k] = static_cast<char>((k + 100 * rank) % 251);
    arenas.push_back(*std::move(arena));
  }
  return std::make_unique<ShardBook>(std::move(index), "secret", 0,
                                     ShardCache().Add({}, 0, std::move(arenas)));
}

int Main(const char* socket_path) {
  const std::unique_ptr<ShardBook> book = MakeBook();
  if (book == nullptr) return 1;
  HandOverOptions options;
  options.socket_path = socket_path;
  options.offer = [&](const std::string& load, int32_t rank, const std::string& token,
                      AttachMode mode) -> absl::StatusOr<ShardOffer> {
    if (load != kLoad) return absl::NotFoundError("attach: no such load");
    return book->Offer(rank, token, mode);
  };
  options.settle = [&](const ShardOffer& offer, bool acknowledged) {
    const absl::Status settled = book->Settle(offer.rank, offer.mode, acknowledged);
    if (!acknowledged || !settled.ok()) return settled;
    std::printf("%s %d\n", std::string(AttachModeName(offer.mode)).c_str(), offer.rank);
    std::fflush(stdout);
    return settled;
  };
  const auto server = HandOverServer::Start(std::move(options));
  if (!server.ok()) {
    std::fprintf(stderr, "%s\n", server.status().ToString().c_str());
    return 1;
  }
  std::printf("ready\n");
  std::fflush(stdout);
  while (std::getchar() != EOF) {
  }
  return 0;
}

}  // namespace
}  // namespace zerocast

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  return zerocast::Main(argv[1]);
}
