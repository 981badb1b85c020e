#ifndef ZEROCAST_CLIENT_AGENT_THREADS_H_
#define ZEROCAST_CLIENT_AGENT_THREADS_H_

#include <functional>
#include <system_error>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "server/base/errors.h"

namespace zerocast {

// A thread that runs `body`; RESOURCE_EXHAUSTED when the system has none left.
inline absl::StatusOr<std::thread> StartThread(std::function<void()> body) {
  try {
    return std::thread(std::move(body));
  } catch (const std::system_error& error) {
    return WithReason(absl::ResourceExhaustedError(absl::StrCat("start a thread: ", error.what())),
                      "RESOURCE_EXHAUSTED");
  }
}

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_THREADS_H_
