#include "server/jobs/types.h"

namespace zerocast::jobs {

bool IsFinal(JobState state) { return state != JobState::kActive; }

const char* JobStateName(JobState state) {
  switch (state) {
    case JobState::kActive:
      return "ACTIVE";
    case JobState::kCancelled:
      return "CANCELLED";
    case JobState::kDone:
      return "DONE";
    case JobState::kExpired:
      return "EXPIRED";
  }
  return "UNKNOWN";
}

bool IsFinal(LoadState state) {
  return state == LoadState::kReady || state == LoadState::kFailed ||
         state == LoadState::kCancelled;
}

const char* LoadStateName(LoadState state) {
  switch (state) {
    case LoadState::kPending:
      return "PENDING";
    case LoadState::kInspecting:
      return "INSPECTING";
    case LoadState::kPreparing:
      return "PREPARING";
    case LoadState::kLoading:
      return "LOADING";
    case LoadState::kReady:
      return "READY";
    case LoadState::kFailed:
      return "FAILED";
    case LoadState::kCancelled:
      return "CANCELLED";
  }
  return "UNKNOWN";
}

}  // namespace zerocast::jobs
