#ifndef ZEROCAST_TESTS_CLIENT_PYTHON_FIXTURE_SHARDS_H_
#define ZEROCAST_TESTS_CLIENT_PYTHON_FIXTURE_SHARDS_H_

#include <cstdio>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "client/agent/handover.h"
#include "client/agent/shards.h"

// What the partners for tests in other languages have in common: ranks 0 and 1 of "loads/test",
// with the token "secret".

namespace zerocast {

inline constexpr char kFixtureLoad[] = "loads/test";
inline constexpr int64_t kFixtureBytes = 256;

inline ShardIndex::Entry FixtureEntry(const char* name, std::vector<int64_t> shape, DType dtype,
                                      int64_t offset, int64_t elements, int64_t num_elements) {
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

// Byte k of rank r's arena, which no offset or width leaves unchanged.
inline char FixtureByte(int rank, int k) { return static_cast<char>((k + 100 * rank) % 251); }

inline ShardIndex FixtureIndex() {
  ShardIndex index;
  index.load = kFixtureLoad;
  index.world_size = 2;
  index.plan_digest = "0123456789abcdef0123456789abcdef";
  index.targets = {FixtureEntry("bf16", {3, 5}, DType::kBFloat16, 0, 8, 15),
                   FixtureEntry("fp32", {4}, DType::kFloat32, 64, 2, 4),
                   FixtureEntry("fp8", {10}, DType::kFloat8E4M3, 128, 5, 10),
                   FixtureEntry("positions", {5}, DType::kInt64, 192, 5, 5),
                   FixtureEntry("empty", {0, 4}, DType::kFloat16, 256, 0, 0),
                   FixtureEntry("unfilled", {8}, DType::kFloat32, 240, 4, 8)};
  index.secondary_group_size = 2;
  index.targets[1].secondary_offset = 96;
  index.targets[1].secondary_elements = 4;
  index.targets[0].aliases = {"tied"};
  index.targets[3].is_buffer = true;
  index.targets[5].is_filled = false;
  index.targets[5].aliases = {"unfilled.tied"};
  return index;
}

// Serves `book` on `socket_path` until standard input ends; prints "ready", then "MODE RANK" for
// every acknowledged hand-over.  The exit status.
inline int ServeFixture(const char* socket_path, ShardBook* book) {
  HandOverOptions options;
  options.socket_path = socket_path;
  options.offer = [&](const std::string& load, int32_t rank, const std::string& token,
                      AttachMode mode,
                      const std::function<bool()>& stopped) -> absl::StatusOr<ShardOffer> {
    if (load != kFixtureLoad) return absl::NotFoundError("attach: no such load");
    return book->Offer(rank, token, mode, stopped);
  };
  options.offer_copy = [&](const ShardOffer& offer, const std::string& why,
                           const std::function<bool()>& stopped) {
    return book->OfferCopy(offer, why, stopped);
  };
  options.settle = [&](const ShardOffer& offer, bool acknowledged) {
    const absl::Status settled =
        book->Settle(offer.rank, offer.mode, acknowledged, offer.lent.get());
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

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_CLIENT_PYTHON_FIXTURE_SHARDS_H_
