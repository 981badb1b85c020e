#include "client/agent/digest.h"

#include "kernels/base/xxh3.h"

namespace zerocast {

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

}  // namespace zerocast
