#ifndef ZEROCAST_CLIENT_AGENT_SESSION_H_
#define ZEROCAST_CLIENT_AGENT_SESSION_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/agent/devices.h"
#include "client/agent/folder_looks.h"
#include "client/agent/load_table.h"
#include "client/agent/messages.h"

namespace grpc {
class Channel;
}  // namespace grpc

namespace zerocast {

struct SessionOptions {
  std::string server_address;
  std::shared_ptr<grpc::Channel> channel;  // instead of server_address
  std::string node_name;
  std::string socket_path;
  std::string bulk_host;
  int64_t max_buffer_bytes = 0;  // of one load, beyond its arenas
  int num_threads = 0;           // of one load
  std::string version;
  uint64_t incarnation = 0;
  std::vector<DeviceSummary> devices;
  std::string no_devices_because;
  // The pause before the next try grows from the first to the second, with some chance in it, so
  // that a thousand agents do not return to a new server at once.  It starts anew after a session
  // that lasted max_backoff.
  absl::Duration min_backoff = absl::Milliseconds(200);
  absl::Duration max_backoff = absl::Seconds(5);
  // The longest that connecting and registering may last.
  absl::Duration register_timeout = absl::Seconds(20);
};

// What is reported to the server goes through here; made before the session, so that loads can be.
std::shared_ptr<AgentEvents> MakeSessionEvents(const std::string& socket_path);

// The stream to the server: dials, registers, sends heartbeats and events, hands commands to the
// load table or to `looks`; dials again when it breaks, naming the loads that the table holds.
// Thread-safe.
class Session {
 public:
  // `events` come from MakeSessionEvents; `table` and `looks` must outlive the session.
  Session(SessionOptions options, const std::shared_ptr<AgentEvents>& events, LoadTable* table,
          FolderLooks* looks);
  // Stop().
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Starts the thread.  RESOURCE_EXHAUSTED when there is none.
  absl::Status Start();

  bool registered() const;
  // DEADLINE_EXCEEDED when the server has not accepted the stream within `timeout`; says what the
  // last try met.
  absl::Status WaitUntilRegistered(absl::Duration timeout);

  // Ends the stream.  Idempotent.
  void Stop();

 private:
  struct Rep;
  const std::unique_ptr<Rep> rep_;
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_SESSION_H_
