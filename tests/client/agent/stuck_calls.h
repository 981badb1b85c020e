#ifndef ZEROCAST_TESTS_CLIENT_AGENT_STUCK_CALLS_H_
#define ZEROCAST_TESTS_CLIENT_AGENT_STUCK_CALLS_H_

#include <gtest/gtest.h>
#include <unistd.h>

#include "client/agent/file_work.h"

namespace zerocast {

// Waits, for 20 seconds at most, until `count` threads of `work` are left behind in calls to file
// systems.
inline void ExpectStuck(const FileWork& work, int count) {
  for (int k = 0; k < 20000 && work.num_stuck() != count; ++k) ::usleep(1000);
  EXPECT_EQ(work.num_stuck(), count);
}

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_CLIENT_AGENT_STUCK_CALLS_H_
