#ifndef ZEROCAST_CLIENT_AGENT_CONTENT_KEY_H_
#define ZEROCAST_CLIENT_AGENT_CONTENT_KEY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/agent/mounts.h"
#include "client/agent/reader.h"
#include "client/formats/file_observer.h"
#include "server/plan/plan.h"

namespace zerocast {

// The files that fill the plan's targets, scales of decoded sources included: ascending indices of
// Manifest::files.  Pure.
std::vector<int32_t> FilesOfPlan(const Plan& plan);

// What the shards of a plan hold, told without reading them: 32 hexadecimal digits over the plan's
// digest and name, size, modification time, inode and file system (as `mounts` names it) of every
// file that has an identity (num_bytes >= 0).  Element k is of Manifest::files[k].  Without the
// file system two images whose times were set alike would be taken for one another; by its device
// number each node would give a network mount a key of its own.  Pure.
std::string ContentKey(const Plan& plan, const std::vector<FileIdentity>& identities,
                       const Mounts& mounts);

// `known`, from IdentifyFiles, and the identity of every other file of the plan, too: the node that
// names the content of all shards does not read all of their files.  Errors: those of
// FileReader::IdentityOf; ABORTED, reason CHECKPOINT_CHANGED, when a size is not the manifest's.
absl::StatusOr<std::vector<FileIdentity>> IdentifyAllFiles(const Plan& plan,
                                                           std::vector<FileIdentity> known,
                                                           const std::string& folder,
                                                           FileReader* reader,
                                                           const FileObserver& about_to = {});

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_CONTENT_KEY_H_
