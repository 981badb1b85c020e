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

// The processors of NUMA node `node` that `allowed` has; none where `root`, as above, does not tell
// of that node.
cpu_set_t ProcessorsOfNumaNode(const std::string& root, int node, const cpu_set_t& allowed);
// The same of this system, and what the calling thread may run on.  None, too, for node -1.
cpu_set_t ProcessorsNear(int node);

// As long as it lives the calling thread keeps to some processors; then it may run again where it
// might before.  Threads that it starts meanwhile keep to them for good.
class [[nodiscard]] ProcessorScope {
 public:
  // Does nothing where `processors` is empty, or the system refuses.
  explicit ProcessorScope(const cpu_set_t& processors);
  ~ProcessorScope();
  ProcessorScope(const ProcessorScope&) = delete;
  ProcessorScope& operator=(const ProcessorScope&) = delete;

 private:
  cpu_set_t before_;  // empty: there is nothing to go back to
};

// "0-3,8" as a set; processors beyond what cpu_set_t holds are left out.
cpu_set_t ParseCpuList(absl::string_view text);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_NUMA_H_
