#ifndef ZEROCAST_SERVER_RPC_COMPILE_H_
#define ZEROCAST_SERVER_RPC_COMPILE_H_

#include "server/jobs/events.h"

namespace zerocast::rpc {

// Unpacks the manifest, compiles and proves the plan, packs its input for the agents.  Pure; takes
// up to a second for the largest models.  Every error is in the event's status.
jobs::PlanCompiled CompileForLoad(const jobs::CompilePlanCommand& command);

}  // namespace zerocast::rpc

#endif  // ZEROCAST_SERVER_RPC_COMPILE_H_
