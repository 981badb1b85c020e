#include "client/agent/digest.h"

#include <algorithm>
#include <memory>

#include "absl/types/span.h"
#include "client/agent/buffer.h"
#include "kernels/base/status_macros.h"
#include "kernels/base/xxh3.h"

namespace zerocast {
namespace {

// Brought back from a device at a time.
constexpr int64_t kPieceBytes = int64_t{16} << 20;

struct FreeState {
  void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};

// Digests ranges of a device's memory.
class DeviceDigester {
 public:
  explicit DeviceDigester(const DeviceMemory& memory)
      : memory_(memory), state_(XXH3_createState()) {}

  absl::StatusOr<uint64_t> Digest(int64_t begin, int64_t num_bytes) {
    XXH3_64bits_reset(state_.get());
    char* const piece = buffer_.Reserve(std::min(num_bytes, kPieceBytes));
    for (const int64_t end = begin + num_bytes; begin < end;) {
      const auto size = static_cast<size_t>(std::min(kPieceBytes, end - begin));
      ZC_RETURN_IF_ERROR(memory_.CopyToHost(begin, absl::MakeSpan(piece, size)));
      XXH3_64bits_update(state_.get(), piece, size);
      begin += static_cast<int64_t>(size);
    }
    return XXH3_64bits_digest(state_.get());
  }

 private:
  const DeviceMemory& memory_;
  const std::unique_ptr<XXH3_state_t, FreeState> state_;
  Buffer buffer_;
};

}  // namespace

std::vector<uint64_t> PartitionDigests(const Plan& plan, const char* arena) {
  std::vector<uint64_t> digests;
  digests.reserve(plan.targets.size());
  for (const Target& target : plan.targets) {
    const int64_t num_bytes = target.partition_elements * SizeOf(target.dtype);
    const char* const data = num_bytes > 0 ? arena + target.arena_offset : nullptr;
    digests.push_back(XXH3_64bits(data, static_cast<size_t>(num_bytes)));
  }
  return digests;
}

std::vector<uint64_t> SecondaryDigests(const Plan& plan, const char* arena) {
  std::vector<uint64_t> digests;
  for (const Target& target : plan.targets) {
    if (target.secondary_elements == 0) continue;
    digests.push_back(
        XXH3_64bits(arena + target.secondary_offset,
                    static_cast<size_t>(target.secondary_elements * SizeOf(target.dtype))));
  }
  return digests;
}

absl::StatusOr<ArenaDigests> DigestsOf(const Plan& plan, const Arena& arena) {
  if (arena.device() == nullptr) {
    return ArenaDigests{PartitionDigests(plan, arena.data()), SecondaryDigests(plan, arena.data())};
  }
  ArenaDigests digests;
  DeviceDigester digester(*arena.device());
  for (const Target& target : plan.targets) {
    const int64_t size = SizeOf(target.dtype);
    ZC_ASSIGN_OR_RETURN(const uint64_t digest,
                        digester.Digest(target.arena_offset, target.partition_elements * size));
    digests.partitions.push_back(digest);
    if (target.secondary_elements == 0) continue;
    ZC_ASSIGN_OR_RETURN(const uint64_t secondary,
                        digester.Digest(target.secondary_offset, target.secondary_elements * size));
    digests.secondary.push_back(secondary);
  }
  return digests;
}

}  // namespace zerocast
