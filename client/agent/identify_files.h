#ifndef ZEROCAST_CLIENT_AGENT_IDENTIFY_FILES_H_
#define ZEROCAST_CLIENT_AGENT_IDENTIFY_FILES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/agent/file_work.h"
#include "client/agent/reader.h"
#include "server/plan/plan.h"
#include "server/plan/schedule.h"

namespace zerocast {

// The identity of every file of the manifest that this node reads; files it does not read have
// num_bytes -1.  `about_to` is told of every call to the file system.  Errors: those of
// FileReader::Open; ABORTED, reason CHECKPOINT_CHANGED, when a size is not the manifest's.
absl::StatusOr<std::vector<FileIdentity>> IdentifyFiles(const Plan& plan, const Schedule& schedule,
                                                        int32_t node,
                                                        const std::string& checkpoint_path,
                                                        FileReader* reader,
                                                        const FileObserver& about_to = {});

std::string PathOfFile(const std::string& checkpoint_path, const ManifestFile& file);

// ABORTED, reason CHECKPOINT_CHANGED, when a file is not the one, or not in the state, that
// IdentifyFiles saw, or was touched since and has another header than the plan's; other errors as
// there, and as CheckManifestFiles.
absl::Status CheckSameFiles(const Plan& plan, const std::string& checkpoint_path,
                            const std::vector<FileIdentity>& identities, FileReader* reader,
                            const FileObserver& about_to);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_IDENTIFY_FILES_H_
