#ifndef ZEROCAST_CLIENT_AGENT_FILE_CHECK_H_
#define ZEROCAST_CLIENT_AGENT_FILE_CHECK_H_

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/agent/load_environment.h"
#include "client/agent/messages.h"
#include "client/agent/participants.h"
#include "client/agent/reader.h"
#include "server/plan/plan.h"

namespace zerocast {

// What the look at the files of a load brings.
struct CheckedFiles {
  std::string folder;                    // resolved; "" where this node looks at no file
  std::vector<FileIdentity> identities;  // as IdentifyFiles: of the files that this node reads
  std::string content_key;               // "" unless this node names the content
};

// Whether `node` names the content of its shards (ContentKey): the node of rank 0, whose key holds
// for the whole load, and with local files every node for itself.
bool NamesContent(const Layout& layout, int32_t node);

// Looks at the files that the node of `command` reads, or names the content by; others it may not
// have at all.  Errors: as Load::Prepare's about files.
absl::StatusOr<CheckedFiles> CheckFiles(const LoadEnvironment& environment,
                                        const std::shared_ptr<const Plan>& plan,
                                        const Participants& participants,
                                        const PrepareCommand& command,
                                        const std::atomic<bool>* cancelled);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_FILE_CHECK_H_
