#ifndef ZEROCAST_SERVER_JOBS_PLACEMENT_H_
#define ZEROCAST_SERVER_JOBS_PLACEMENT_H_

#include <cstdint>
#include <vector>

namespace zerocast::jobs {

// The node of each rank: contiguous blocks, as launchers number ranks; where num_nodes does not
// divide world_size the first nodes hold one rank more.  Requires 1 <= num_nodes <= world_size.
std::vector<int32_t> PlaceRanks(int32_t world_size, int32_t num_nodes);

}  // namespace zerocast::jobs

#endif  // ZEROCAST_SERVER_JOBS_PLACEMENT_H_
