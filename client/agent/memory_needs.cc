#include "client/agent/memory_needs.h"

#include <algorithm>
#include <thread>

#include "absl/strings/str_cat.h"
#include "client/agent/posix_file.h"
#include "server/base/errors.h"

namespace zerocast {

int ReadingThreads(int wanted) {
  if (wanted > 0) return wanted;
  return static_cast<int>(
      std::clamp(std::thread::hardware_concurrency(), 1u, unsigned{kMostThreads}));
}

int64_t StagingBytes(const Plan& plan, int64_t chunk_bytes) {
  // O_DIRECT reads whole blocks at both ends.
  return chunk_bytes * (Transposes(plan) ? kTransposedChunks : 1) + 2 * kDirectAlignment;
}

absl::Status CheckBuffers(const MemoryNeeds& needs, const Layout& layout,
                          int64_t max_buffer_bytes) {
  if (needs.buffers() <= max_buffer_bytes) return absl::OkStatus();
  return WithReason(
      absl::ResourceExhaustedError(absl::StrCat(
          "plan the buffers: ", needs.buffers(), " bytes (", needs.reading, " to read, ",
          needs.sending, " to send, ", needs.receiving, " to receive, with rounds of ",
          layout.round_bytes, "), more than --max-buffer-memory ", max_buffer_bytes,
          "; allow more, or load with smaller rounds (--round-bytes, or a smaller "
          "--max-buffer-memory of the load)")),
      "RESOURCE_EXHAUSTED");
}

}  // namespace zerocast
