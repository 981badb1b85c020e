#ifndef ZEROCAST_SERVER_RPC_COMPILE_H_
#define ZEROCAST_SERVER_RPC_COMPILE_H_

#include <functional>
#include <vector>

#include "absl/strings/string_view.h"
#include "server/jobs/checkpoints.h"
#include "server/jobs/events.h"

namespace zerocast::rpc {

// What is registered for a load of this path and tag: CheckpointRegistry::OfLoad.
using RegisteredOf =
    std::function<std::vector<jobs::Checkpoint>(absl::string_view path, absl::string_view tag)>;

// Unpacks the manifest, compares a DeepSpeed checkpoint with what was registered, compiles and
// proves the plan, packs its input for the agents.  Pure but for `registered`; takes up to a second
// for the largest models.  Every error is in the event's status.
jobs::PlanCompiled CompileForLoad(const jobs::CompilePlanCommand& command,
                                  const RegisteredOf& registered);

}  // namespace zerocast::rpc

#endif  // ZEROCAST_SERVER_RPC_COMPILE_H_
