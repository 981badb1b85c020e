#include "client/agent/identify_files.h"

#include "absl/strings/str_cat.h"
#include "client/formats/checkpoint.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

absl::Status CheckSize(const std::string& path, int64_t expected, int64_t found) {
  if (expected == found) return absl::OkStatus();
  return WithReason(
      absl::AbortedError(absl::StrCat("check ", path, ": it has ", found, " bytes, and had ",
                                      expected, " when its header was read: the file changed")),
      "CHECKPOINT_CHANGED");
}

}  // namespace

std::string PathOfFile(const std::string& checkpoint_path, const ManifestFile& file) {
  return absl::StrCat(checkpoint_path, "/", file.path);
}

absl::StatusOr<std::vector<FileIdentity>> IdentifyFiles(const Plan& plan, const Schedule& schedule,
                                                        int32_t node,
                                                        const std::string& checkpoint_path,
                                                        FileReader* reader,
                                                        const FileObserver& about_to) {
  FileIdentity unread;
  unread.num_bytes = -1;
  std::vector<FileIdentity> identities(plan.manifest->files.size(), unread);
  for (int64_t round = 0; round < schedule.num_rounds(); ++round) {
    for (const Extent& extent : schedule.Reads(round, node)) {
      const size_t k = static_cast<size_t>(extent.file);
      if (identities[k].num_bytes >= 0) continue;
      const ManifestFile& file = plan.manifest->files[k];
      const std::string path = PathOfFile(checkpoint_path, file);
      ZC_RETURN_IF_ERROR(Observe(about_to, absl::StrCat("stat ", path)));
      ZC_ASSIGN_OR_RETURN(identities[k], reader->IdentityOf(path));
      ZC_RETURN_IF_ERROR(CheckSize(path, file.num_bytes, identities[k].num_bytes));
    }
  }
  return identities;
}

absl::Status CheckSameFiles(const Plan& plan, const std::string& checkpoint_path,
                            const std::vector<FileIdentity>& identities, FileReader* reader,
                            const FileObserver& about_to) {
  for (size_t k = 0; k < identities.size(); ++k) {
    if (identities[k].num_bytes < 0) continue;
    const std::string path = PathOfFile(checkpoint_path, plan.manifest->files[k]);
    ZC_RETURN_IF_ERROR(Observe(about_to, absl::StrCat("stat ", path)));
    ZC_ASSIGN_OR_RETURN(const FileIdentity now, reader->IdentityOf(path));
    ZC_RETURN_IF_ERROR(CheckSameFile(path, identities[k], now));
    // Who writes into a file can set the time of modification back, but not this one. Links and
    // modes change it, too: what the file's header says of its contents decides.
    if (now.ctime_ns == identities[k].ctime_ns) continue;
    Manifest of_file;
    of_file.files.push_back(plan.manifest->files[k]);
    ZC_RETURN_IF_ERROR(CheckManifestFiles(of_file, checkpoint_path,
                                          /*made_on_this_node=*/false, about_to));
  }
  return absl::OkStatus();
}

}  // namespace zerocast
