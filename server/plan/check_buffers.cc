#include "server/plan/check_buffers.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

constexpr double kMib = 1 << 20;

// What is read into does not grow with what is allowed before it fits, what is exchanged may grow
// as fast.
std::string Help(const MemoryNeeds& needs, int64_t max_buffer_bytes) {
  const double exchanged =
      static_cast<double>(needs.sending + needs.receiving) / static_cast<double>(max_buffer_bytes);
  if (exchanged >= 0.9) return "load with smaller rounds (--round-bytes, or leave that out)";
  const double enough = std::ceil(static_cast<double>(needs.reading) / (1 - exchanged) / kMib);
  return absl::StrCat("allow ", static_cast<int64_t>(enough),
                      "M there, or use fewer --threads or smaller rounds (--round-bytes)");
}

}  // namespace

absl::Status CheckBuffers(const MemoryNeeds& needs, const Layout& layout,
                          int64_t max_buffer_bytes) {
  if (needs.buffers() <= max_buffer_bytes) return absl::OkStatus();
  return WithReason(
      absl::ResourceExhaustedError(absl::StrCat(
          "plan the buffers: ", needs.buffers(), " bytes (", needs.reading, " to read, ",
          needs.sending, " to send, ", needs.receiving, " to receive, with rounds of ",
          layout.round_bytes, "), more than the ", max_buffer_bytes,
          " of --max-buffer-memory, the load's or its agent's; ", Help(needs, max_buffer_bytes))),
      "RESOURCE_EXHAUSTED");
}

absl::Status CheckBuffersOfNodes(const std::vector<MemoryNeeds>& memory, const Layout& layout,
                                 const std::vector<AgentLimits>& agents, int64_t max_buffer_bytes) {
  for (size_t k = 0; k < memory.size(); ++k) {
    const size_t node =
        layout.device == LoadDevice::kCpu ? k : static_cast<size_t>(layout.node_of_rank[k]);
    if (node >= agents.size() || agents[node].num_threads == 0) continue;
    const int64_t own = agents[node].max_buffer_bytes;
    const int64_t limit = own > 0 ? std::min(own, max_buffer_bytes) : max_buffer_bytes;
    const absl::Status status = CheckBuffers(memory[k], layout, limit);
    if (!status.ok()) return Annotate(status, absl::StrCat("node ", node));
  }
  return absl::OkStatus();
}

}  // namespace zerocast
