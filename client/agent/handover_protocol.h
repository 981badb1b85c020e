#ifndef ZEROCAST_CLIENT_AGENT_HANDOVER_PROTOCOL_H_
#define ZEROCAST_CLIENT_AGENT_HANDOVER_PROTOCOL_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "client/agent/messages.h"
#include "client/agent/shards.h"

// The hand-over protocol's texts and frames; README.md describes them.

namespace zerocast {

inline constexpr uint32_t kMaxRequestBytes = 64 << 10;

struct AttachRequest {
  std::string load;
  int32_t rank = 0;
  std::string token;
  AttachMode mode = AttachMode::kPrivate;
};

// `text` may be hostile.  Errors: INVALID_ARGUMENT, naming the field.
absl::StatusOr<AttachRequest> ParseAttachRequest(absl::string_view text);
// True for {"op":"ack"}.
bool IsAck(absl::string_view text);
// What {"op":"cannot","why":..} says, at most 1000 bytes of it; nothing for another text.
std::optional<std::string> WhyItCannot(absl::string_view text);

std::string AttachAnswer(const ShardOffer& offer);
// `handle`, of a "cuda_ipc" shard, goes along unless it is empty.
std::string OkAnswer(absl::string_view handle = "");
std::string ErrorAnswer(const absl::Status& status);

// Both end by the deadline, or at once when `wake_fd`, unless it is -1, becomes readable
// (CANCELLED).  Errors:
// DEADLINE_EXCEEDED, UNAVAILABLE (the peer is gone), INVALID_ARGUMENT (a frame beyond `max_bytes`).
absl::StatusOr<std::string> ReadFrame(int socket, int wake_fd, uint32_t max_bytes,
                                      absl::Duration timeout);
// `fd_to_pass` goes along with the frame's first byte unless it is -1.
absl::Status WriteFrame(int socket, int wake_fd, absl::string_view text, int fd_to_pass,
                        absl::Duration timeout);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_HANDOVER_PROTOCOL_H_
