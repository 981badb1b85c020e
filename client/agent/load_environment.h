#ifndef ZEROCAST_CLIENT_AGENT_LOAD_ENVIRONMENT_H_
#define ZEROCAST_CLIENT_AGENT_LOAD_ENVIRONMENT_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "client/agent/communicators.h"
#include "client/agent/devices.h"
#include "client/agent/executor.h"
#include "client/agent/file_work.h"
#include "client/agent/memory_needs.h"
#include "client/agent/messages.h"
#include "client/agent/rate_limit.h"
#include "client/agent/reader.h"
#include "client/agent/shard_cache.h"
#include "server/base/clock.h"

namespace zerocast {

// What every load of an agent uses.  Shared with worker threads.
struct LoadEnvironment {
  std::string node_name;
  std::string bulk_host;
  std::vector<std::string> roots;  // resolved
  CommunicatorFactory communicators;
  // For loads onto devices.
  std::shared_ptr<DeviceFinder> devices =
      std::make_shared<DeviceFinder>([] { return FindCudaDevices(); });
  bool opens_gpus = true;  // false: shards for devices are made in host memory
  std::shared_ptr<FileReader> reader;
  std::shared_ptr<FileWork> file_work = std::make_shared<FileWork>();
  // The finished shards of all loads.
  std::shared_ptr<ShardCache> cache = std::make_shared<ShardCache>();
  // The longest that one call to the file system may last where no load says it: for inspections,
  // which also have a time for all of their calls.
  absl::Duration file_timeout = absl::Seconds(60);
  int num_threads = 0;  // that read and copy for one load; 0: ExecutorOptions' default
  IoMode io = IoMode::kAuto;
  int64_t max_buffer_bytes = kDefaultBufferBytes;  // of one load, beyond its arenas
  // Of all loads together.
  std::shared_ptr<RateLimit> read_limit = std::make_shared<RateLimit>(0);
  std::shared_ptr<RateLimit> send_limit = std::make_shared<RateLimit>(0);
  std::shared_ptr<AgentEvents> events;
  const Clock* clock = Clock::Real();
  // A node that lost its peer waits this long for the server's cancel before it reports that: the
  // peer's own error, which explains it, should come first.
  absl::Duration root_cause_grace = absl::Seconds(1);
  ExecutorHooks hooks;  // for tests
  // Sums over all loads.
  std::atomic<int64_t> bytes_sent{0};
  std::atomic<int64_t> bytes_received{0};
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_LOAD_ENVIRONMENT_H_
