#ifndef ZEROCAST_CLIENT_AGENT_AGENT_H_
#define ZEROCAST_CLIENT_AGENT_AGENT_H_

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/agent/communicators.h"
#include "client/agent/devices.h"
#include "client/agent/memory_needs.h"
#include "client/agent/reader.h"
#include "server/base/clock.h"

namespace grpc {
class Channel;
}  // namespace grpc

namespace zerocast {

inline constexpr int kMostAgentThreads = 256;  // of one load

// The agent of a node.  Thread-safe.
struct AgentOptions {
  // Where the server is: an address ("dns:///host:port", "host:port", "unix:/path"), or a channel
  // that the caller made.
  std::string server_address;
  std::shared_ptr<grpc::Channel> channel;
  std::string node_name;  // unique in the cluster
  // Where training processes attach; "": no hand-over, shards stay until their load is cancelled.
  std::string socket_path;
  mode_t socket_mode = 0660;
  // Users that may attach besides the agent's own and root.
  std::vector<uid_t> allowed_uids;
  // Where the other agents reach this one for bulk data.
  std::string bulk_host = "127.0.0.1";
  // Absolute folders that checkpoints must lie in; empty: any folder this process may read.
  std::vector<std::string> roots;
  // At most this many loads at a time, held shards included.
  int max_loads = 64;
  // Shards that no process has taken this long after their load was ready are freed.  Infinite:
  // they stay until their load is cancelled.
  absl::Duration unclaimed_ttl = absl::Hours(1);
  // Shards of ended loads that were not handed over shared are kept for other loads of the same
  // checkpoint, up to this many bytes, the least recently used ones freed first.
  int64_t cache_bytes = 0;
  // The longest that one call to a file system may last at the start and for inspections; for the
  // files of a load its own timeout holds.
  absl::Duration file_timeout = absl::Seconds(60);
  // That read and copy for one load; 0: one a processor, at most 16.
  int num_threads = 0;
  IoMode io = IoMode::kAuto;
  // The most that the buffers of one load may take beyond its arenas; a load may allow less.
  int64_t max_buffer_bytes = kDefaultBufferBytes;
  // Of all loads together, bytes a second; 0: as fast as it goes.
  int64_t read_rate = 0;
  int64_t send_rate = 0;

  // How the nodes of a load are connected; null: Gloo on bulk_host.
  CommunicatorFactory communicators;
  // Finds the devices for shards that lie on some, when the first such load comes; null:
  // FindCudaDevices.
  DeviceFinder::Find find_devices;
  // Looks for them at the start, within file_timeout, and tells the server of them.
  bool tell_devices = false;
  // Opens none: shards for devices are made in host memory, and the processes that take them over
  // copy them.
  bool no_gpu = false;
  // Reads checkpoint data; null: the file system, confined to `roots`.
  std::shared_ptr<FileReader> reader;
  const Clock* clock = Clock::Real();
};

// Counters since the start and gauges of now.
struct AgentStats {
  bool registered = false;
  int64_t bytes_read = 0;
  int64_t bytes_sent = 0;
  int64_t bytes_received = 0;
  int64_t loads_ready = 0;
  int64_t loads_failed = 0;
  int64_t loads_cancelled = 0;
  int64_t loads_expired = 0;     // of which shards were freed because no process took them
  int64_t loads_held = 0;        // gauge: loads in work, or with shards not handed over
  int64_t arena_bytes = 0;       // gauge
  int64_t stuck_file_calls = 0;  // gauge: threads left behind in file systems that do not answer
  int64_t cache_bytes = 0;       // gauge: of shards that no load uses any more
  int64_t cache_hits = 0;        // shards that a load took from those that were here
  int64_t cache_misses = 0;      // shards that a load had to read, or fetch from other agents
  int64_t cache_evictions = 0;   // kept shards that were freed to make room
  // Shards handed over, by mode ("shared", "private") and way (HANDOVER.md).
  std::map<std::pair<std::string, std::string>, int64_t> handed_over;
};

class Agent {
 public:
  // Opens the socket and starts to dial the server, again and again until it is there.  Errors:
  //   INVALID_ARGUMENT     an option is wrong; all of them at once.
  //   ALREADY_EXISTS       another agent listens on socket_path.
  //   NOT_FOUND, PERMISSION_DENIED  the folder of socket_path, or a root.
  //   DEADLINE_EXCEEDED    the file system of a root does not answer within file_timeout.
  static absl::StatusOr<std::unique_ptr<Agent>> Start(AgentOptions options);

  // Stop().
  ~Agent();
  Agent(const Agent&) = delete;
  Agent& operator=(const Agent&) = delete;

  // True while the server has accepted this agent's stream.
  bool registered() const;
  // DEADLINE_EXCEEDED when that does not happen within `timeout`; says what the last try met.
  absl::Status WaitUntilRegistered(absl::Duration timeout);

  // Ends the stream, cancels every load, frees every shard, removes the socket.  Idempotent.
  void Stop();
  // The same, but memory of this process that others use ("cuda_ipc") stays until they have all
  // returned it, or `give_up`, which is asked several times a second, says so.
  void StopWhenReturned(const std::function<bool()>& give_up);

  AgentStats stats() const;

 private:
  struct Rep;
  explicit Agent(std::unique_ptr<Rep> rep);
  const std::unique_ptr<Rep> rep_;
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_AGENT_H_
