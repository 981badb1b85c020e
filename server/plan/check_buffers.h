#ifndef ZEROCAST_SERVER_PLAN_CHECK_BUFFERS_H_
#define ZEROCAST_SERVER_PLAN_CHECK_BUFFERS_H_

// Whether a load's buffers fit into what it may use, known before a byte is read.  Functions.

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "server/plan/layout.h"
#include "server/plan/node_memory.h"

namespace zerocast {

// RESOURCE_EXHAUSTED where the buffers need more than `max_buffer_bytes`; says what would do.
absl::Status CheckBuffers(const MemoryNeeds& needs, const Layout& layout, int64_t max_buffer_bytes);

// The same for what MemoryOfNodes() gave for these arguments, naming the node.  A node whose agent
// does not say how many threads it has is not looked at.
absl::Status CheckBuffersOfNodes(const std::vector<MemoryNeeds>& memory, const Layout& layout,
                                 const std::vector<AgentLimits>& agents, int64_t max_buffer_bytes);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_PLAN_CHECK_BUFFERS_H_
