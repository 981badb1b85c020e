#include "client/agent/numa.h"

#include <algorithm>
#include <fstream>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace zerocast {
namespace {

constexpr char kNodesFolder[] = "/sys/devices/system/node";

std::string FirstLine(const std::string& path) {
  std::string line;
  std::ifstream file(path);
  std::getline(file, line);
  return line;
}

}  // namespace

cpu_set_t ParseCpuList(absl::string_view text) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const absl::string_view range : absl::StrSplit(text, ',', absl::SkipWhitespace())) {
    const std::pair<absl::string_view, absl::string_view> ends = absl::StrSplit(range, '-');
    int first = 0, last = 0;
    if (!absl::SimpleAtoi(ends.first, &first)) continue;
    if (!absl::SimpleAtoi(ends.second, &last)) last = first;
    for (int cpu = std::max(first, 0); cpu <= std::min(last, CPU_SETSIZE - 1); ++cpu) {
      CPU_SET(cpu, &set);
    }
  }
  return set;
}

cpu_set_t ProcessorsOfNumaNode(const std::string& root, int node, const cpu_set_t& allowed) {
  cpu_set_t cpus = ParseCpuList(FirstLine(absl::StrCat(root, "/node", node, "/cpulist")));
  CPU_AND(&cpus, &cpus, &allowed);
  return cpus;
}

cpu_set_t ProcessorsNear(int node) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (node < 0 || ::sched_getaffinity(0, sizeof(allowed), &allowed) != 0) CPU_ZERO(&allowed);
  return ProcessorsOfNumaNode(kNodesFolder, node, allowed);
}

ProcessorScope::ProcessorScope(const cpu_set_t& processors) {
  CPU_ZERO(&before_);
  if (CPU_COUNT(&processors) == 0) return;
  if (::sched_getaffinity(0, sizeof(before_), &before_) != 0 ||
      ::sched_setaffinity(0, sizeof(processors), &processors) != 0) {
    CPU_ZERO(&before_);
  }
}

ProcessorScope::~ProcessorScope() {
  if (CPU_COUNT(&before_) > 0) ::sched_setaffinity(0, sizeof(before_), &before_);
}

std::vector<cpu_set_t> NumaNodes(const std::string& root, const cpu_set_t& allowed) {
  std::vector<cpu_set_t> nodes;
  // The list of nodes has the form of a list of processors.
  const cpu_set_t online = ParseCpuList(FirstLine(absl::StrCat(root, "/online")));
  for (int node = 0; node < CPU_SETSIZE; ++node) {
    if (!CPU_ISSET(node, &online)) continue;
    const cpu_set_t cpus = ProcessorsOfNumaNode(root, node, allowed);
    if (CPU_COUNT(&cpus) > 0) nodes.push_back(cpus);
  }
  return nodes;
}

void StayOnNumaNode(size_t number) {
  cpu_set_t allowed;
  if (::sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
  const std::vector<cpu_set_t> nodes = NumaNodes(kNodesFolder, allowed);
  if (nodes.size() < 2) return;
  ::sched_setaffinity(0, sizeof(cpu_set_t), &nodes[number % nodes.size()]);
}

}  // namespace zerocast
