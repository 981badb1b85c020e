#include "client/agent/file_check.h"

#include <utility>

#include "client/agent/content_key.h"
#include "client/agent/path_policy.h"
#include "client/agent/round_reader.h"
#include "client/formats/checkpoint.h"
#include "kernels/base/status_macros.h"

namespace zerocast {

namespace {

// Of all files that some participant reads, as IdentifyFiles.
absl::StatusOr<std::vector<FileIdentity>> IdentifyAll(const Participants& participants,
                                                      const std::string& folder, FileReader* reader,
                                                      const FileObserver& about_to) {
  std::vector<FileIdentity> all;
  for (const int32_t number : participants.numbers) {
    ZC_ASSIGN_OR_RETURN(std::vector<FileIdentity> identities,
                        IdentifyFiles(*participants.plan, *participants.schedule, number, folder,
                                      reader, about_to));
    if (all.empty()) all = identities;
    for (size_t k = 0; k < all.size(); ++k) {
      if (all[k].num_bytes < 0) all[k] = identities[k];
    }
  }
  return all;
}

}  // namespace

bool NamesContent(const Layout& layout, int32_t node) {
  return node == 0 || layout.read_mode == ReadMode::kLocal;
}

absl::StatusOr<CheckedFiles> CheckFiles(const LoadEnvironment& environment,
                                        const std::shared_ptr<const Plan>& plan,
                                        const Participants& participants,
                                        const PrepareCommand& command,
                                        const std::atomic<bool>* cancelled) {
  const int32_t node = command.node;
  const bool names_content = NamesContent(plan->layout, node);
  if (participants.ReadBytes() == 0 && !names_content) {
    CheckedFiles none;
    ZC_ASSIGN_OR_RETURN(none.identities,
                        IdentifyAll(participants, "", environment.reader.get(), {}));
    return none;
  }
  // The thread may be left behind: it gets what it needs, and nothing of the load.
  const auto check = [roots = environment.roots, reader = environment.reader, plan, participants,
                      node, names_content, path = command.checkpoint_path](
                         const FileObserver& about_to) -> absl::StatusOr<CheckedFiles> {
    CheckedFiles checked;
    ZC_ASSIGN_OR_RETURN(checked.folder, ResolveCheckpoint(roots, path, about_to));
    ZC_ASSIGN_OR_RETURN(checked.identities,
                        IdentifyAll(participants, checked.folder, reader.get(), about_to));
    Manifest read_here;
    for (size_t k = 0; k < checked.identities.size(); ++k) {
      if (checked.identities[k].num_bytes < 0) continue;
      read_here.files.push_back(plan->manifest->files[k]);
    }
    // The node of rank 0 made the manifest.
    ZC_RETURN_IF_ERROR(CheckManifestFiles(read_here, checked.folder, node == 0, about_to));
    if (!names_content) return checked;
    std::vector<FileIdentity> named = checked.identities;
    if (plan->layout.read_mode != ReadMode::kLocal) {
      ZC_ASSIGN_OR_RETURN(
          named, IdentifyAllFiles(*plan, std::move(named), checked.folder, reader.get(), about_to));
    }
    checked.content_key = ContentKey(*plan, named, Mounts::Read());
    return checked;
  };
  return environment.file_work->Call<CheckedFiles>(command.checkpoint_path, command.stage_timeout,
                                                   cancelled, check);
}

}  // namespace zerocast
