#include "client/agent/participants.h"

#include <utility>

#include "client/agent/placement.h"
#include "kernels/base/status_macros.h"

namespace zerocast {

int64_t Participants::ReadBytes() const {
  int64_t num_bytes = 0;
  for (const int32_t number : numbers) num_bytes += schedule->ReadBytes(number);
  return num_bytes;
}

absl::StatusOr<Participants> MakeParticipants(const std::shared_ptr<const Plan>& plan,
                                              int32_t node) {
  Participants participants;
  participants.plan = ExchangePlan(plan);
  ZC_ASSIGN_OR_RETURN(Schedule schedule, Schedule::Create(*participants.plan));
  // The schedule refers to the plan: whoever holds it holds both.
  participants.schedule = std::shared_ptr<const Schedule>(
      new Schedule(std::move(schedule)),
      [kept = participants.plan](const Schedule* owned) { delete owned; });
  if (plan->layout.device == LoadDevice::kCpu) {
    participants.numbers = {node};
    return participants;
  }
  const auto [first, last] = RanksOfNode(plan->layout, node);
  for (int32_t rank = first; rank < last; ++rank) participants.numbers.push_back(rank);
  return participants;
}

}  // namespace zerocast
