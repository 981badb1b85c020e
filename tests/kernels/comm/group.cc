#include "tests/kernels/comm/group.h"

#include <thread>

namespace zerocast {

std::vector<absl::Status> RunAll(int size, const std::function<absl::Status(int)>& body) {
  std::vector<absl::Status> statuses(size);
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r) {
    threads.emplace_back([&statuses, &body, r] { statuses[r] = body(r); });
  }
  for (std::thread& thread : threads) thread.join();
  return statuses;
}

}  // namespace zerocast
