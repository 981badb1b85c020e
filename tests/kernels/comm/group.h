#ifndef ZEROCAST_TESTS_KERNELS_COMM_GROUP_H_
#define ZEROCAST_TESTS_KERNELS_COMM_GROUP_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/comm/communicator.h"

namespace zerocast {

using Group = std::vector<std::unique_ptr<Communicator>>;

// Memory that the transport under test moves bytes from and to, and that host code may touch: each
// conformance binary links its own.  Never null.
void* NewGroupMemory(size_t num_bytes);
void DeleteGroupMemory(void* memory);

template <typename T>
struct GroupAllocator {
  using value_type = T;
  GroupAllocator() = default;
  template <typename U>
  explicit GroupAllocator(const GroupAllocator<U>&) {}
  T* allocate(size_t n) { return static_cast<T*>(NewGroupMemory(n * sizeof(T))); }
  void deallocate(T* memory, size_t) { DeleteGroupMemory(memory); }
  bool operator==(const GroupAllocator&) const { return true; }
  bool operator!=(const GroupAllocator&) const { return false; }
};
using Bytes = std::vector<unsigned char, GroupAllocator<unsigned char>>;

// Whether the sender of a message learns that its receiver expects another size.
extern const bool kSenderLearnsOfSizes;

// A connected group of the transport under test: each conformance binary links its own.
Group MakeGroup(int size);

// Why there can be no group of that size on this machine; empty where there can.
std::string WhyNoGroup(int size);

// Declares a connected group, or skips the test where there can be none.
#define ZC_MAKE_GROUP(group, size)                                                 \
  if (const std::string why = WhyNoGroup(size); !why.empty()) GTEST_SKIP() << why; \
  Group group = MakeGroup(size)

// Runs `body(r)` for r = 0 .. size - 1, each in its own thread, and returns what they returned.
std::vector<absl::Status> RunAll(int size, const std::function<absl::Status(int)>& body);

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_KERNELS_COMM_GROUP_H_
