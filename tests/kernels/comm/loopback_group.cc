#include "kernels/comm/loopback.h"
#include "tests/kernels/comm/group.h"

namespace zerocast {

std::string WhyNoGroup(int) { return ""; }

Group MakeGroup(int size) { return MakeLoopbackGroup(size); }

}  // namespace zerocast
