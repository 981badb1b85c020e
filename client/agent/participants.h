#ifndef ZEROCAST_CLIENT_AGENT_PARTICIPANTS_H_
#define ZEROCAST_CLIENT_AGENT_PARTICIPANTS_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "server/plan/plan.h"
#include "server/plan/schedule.h"

namespace zerocast {

// Who of a node takes part in its load: the node itself, or, where shards lie on devices, each of
// its ranks, with the device of that number: the node's first rank has device 0.
struct Participants {
  // As those who read and exchange see it (ExchangePlan).
  std::shared_ptr<const Plan> plan;
  std::shared_ptr<const Schedule> schedule;  // of that plan, which it keeps
  std::vector<int32_t> numbers;              // ascending; of the plan's nodes

  // Bytes that they read over all rounds.
  int64_t ReadBytes() const;
};

// Errors: those of Schedule::Create.
absl::StatusOr<Participants> MakeParticipants(const std::shared_ptr<const Plan>& plan,
                                              int32_t node);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_PARTICIPANTS_H_
