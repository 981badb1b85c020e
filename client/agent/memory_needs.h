#ifndef ZEROCAST_CLIENT_AGENT_MEMORY_NEEDS_H_
#define ZEROCAST_CLIENT_AGENT_MEMORY_NEEDS_H_

#include "server/plan/check_buffers.h"
#include "server/plan/node_memory.h"
#include "server/plan/plan.h"

namespace zerocast {

// Threads that read and copy for one load: `wanted`, or, where that is 0, one for each processor,
// at most kMostThreads.
int ReadingThreads(int wanted);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_MEMORY_NEEDS_H_
