#include "kernels/comm/gloo.h"
#include "kernels/comm/map_rendezvous.h"
#include "tests/kernels/comm/group.h"
#include "tests/status_matchers.h"

namespace zerocast {

std::string WhyNoGroup(int) { return ""; }

Group MakeGroup(int size) {
  MapRendezvous rendezvous;
  Group group(size);
  const auto statuses = RunAll(size, [&](int r) {
    GlooOptions options;
    options.rank = r;
    options.size = size;
    options.nonce = 20240607;
    options.rendezvous = &rendezvous;
    absl::StatusOr<std::unique_ptr<Communicator>> made = MakeGlooCommunicator(options);
    if (made.ok()) group[r] = *std::move(made);
    return made.status();
  });
  for (const absl::Status& status : statuses) EXPECT_THAT(status, IsOk());
  return group;
}

}  // namespace zerocast
