#ifndef ZEROCAST_CLIENT_AGENT_DIGEST_H_
#define ZEROCAST_CLIENT_AGENT_DIGEST_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "client/agent/arena.h"
#include "server/plan/plan.h"

namespace zerocast {

// XXH3-64 of each partition in `arena` (one rank's, plan.arena_bytes), padding included, in the
// plan's order of targets.
std::vector<uint64_t> PartitionDigests(const Plan& plan, const char* arena);

// The same of each secondary partition, of the targets that have one.
std::vector<uint64_t> SecondaryDigests(const Plan& plan, const char* arena);

// Of both kinds, of a finished arena, on a device or not.  Errors: those of
// DeviceMemory::CopyToHost.
struct ArenaDigests {
  std::vector<uint64_t> partitions;
  std::vector<uint64_t> secondary;
};
absl::StatusOr<ArenaDigests> DigestsOf(const Plan& plan, const Arena& arena);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_DIGEST_H_
