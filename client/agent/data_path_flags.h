#ifndef ZEROCAST_CLIENT_AGENT_DATA_PATH_FLAGS_H_
#define ZEROCAST_CLIENT_AGENT_DATA_PATH_FLAGS_H_

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/agent/agent.h"

namespace zerocast {

// The flags of an agent's data path: its own command has them, and one that runs agents in its
// process.
class DataPathFlags {
 public:
  // Adds --threads, --io, --read-rate and --send-rate to `command`, in the group `group` of its
  // help
  // ("": among the others).  This must outlive `command`.
  void AddTo(CLI::App* command, const std::string& group);

  // The flags that were given: "--threads", ...
  std::vector<std::string> Given() const;

  // Puts them into `options`.  Errors: INVALID_ARGUMENT with every wrong one.
  absl::Status Apply(AgentOptions* options) const;

 private:
  int threads_ = 0;
  std::string io_ = "auto", read_rate_, send_rate_;
  std::vector<const CLI::Option*> flags_;
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_DATA_PATH_FLAGS_H_
