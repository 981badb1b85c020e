#ifndef ZEROCAST_CLIENT_AGENT_NUMA_H_
#define ZEROCAST_CLIENT_AGENT_NUMA_H_

#include <sched.h>

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace zerocast {

// The processors of each NUMA node that this process may run on, nodes without any left out.
// Empty where `root`, which is /sys/devices/system/node but for tests, tells of none.
std::vector<cpu_set_t> NumaNodes(const std::string& root, const cpu_set_t& allowed);

// Keeps the calling thread, the `number`-th of its kind, on the processors of one node: threads in
// turn on one node each, so that memory that a thread touches first is near to it as long as it
// lives.  Nothing where there is one node only, or where the system refuses.
void StayOnNumaNode(size_t number);

// "0-3,8" as a set; processors beyond what cpu_set_t holds are left out.
cpu_set_t ParseCpuList(absl::string_view text);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_NUMA_H_
