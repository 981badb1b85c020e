#include "client/agent/content_key.h"

#include <xxhash.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"

namespace zerocast {

std::vector<int32_t> FilesOfPlan(const Plan& plan) {
  const std::vector<ManifestTensor>& tensors = plan.manifest->tensors;
  std::vector<bool> needed(plan.manifest->files.size());
  const auto need = [&](int32_t tensor) {
    needed[static_cast<size_t>(tensors[static_cast<size_t>(tensor)].file)] = true;
  };
  for (const Target& target : plan.targets) {
    for (const Box& box : target.boxes) need(box.source);
  }
  for (const SourceDecoder& decoder : plan.decoders) need(decoder.scale);
  std::vector<int32_t> files;
  for (size_t k = 0; k < needed.size(); ++k) {
    if (needed[k]) files.push_back(static_cast<int32_t>(k));
  }
  return files;
}

std::string ContentKey(const Plan& plan, const std::vector<FileIdentity>& identities,
                       const Mounts& mounts) {
  // Every part ends with a character that no number has, and names come with their length.
  std::string text = absl::StrCat(plan.digest, "\n");
  for (size_t k = 0; k < identities.size(); ++k) {
    const FileIdentity& identity = identities[k];
    if (identity.num_bytes < 0) continue;
    const std::string& name = plan.manifest->files[k].path;
    const std::string mount = mounts.NameOf(identity.device);
    absl::StrAppend(&text, name.size(), ":", name, "\n", identity.num_bytes, "\n",
                    identity.mtime_ns, "\n", identity.inode, "\n", mount.size(), ":", mount, "\n");
  }
  const XXH128_hash_t hash = XXH3_128bits(text.data(), text.size());
  return absl::StrFormat("%016x%016x", hash.high64, hash.low64);
}

absl::StatusOr<std::vector<FileIdentity>> IdentifyAllFiles(const Plan& plan,
                                                           std::vector<FileIdentity> known,
                                                           const std::string& folder,
                                                           FileReader* reader,
                                                           const FileObserver& about_to) {
  for (const int32_t file : FilesOfPlan(plan)) {
    const size_t k = static_cast<size_t>(file);
    if (known[k].num_bytes >= 0) continue;
    const ManifestFile& expected = plan.manifest->files[k];
    const std::string path = absl::StrCat(folder, "/", expected.path);
    ZC_RETURN_IF_ERROR(Observe(about_to, absl::StrCat("stat ", path)));
    ZC_ASSIGN_OR_RETURN(known[k], reader->IdentityOf(path));
    if (known[k].num_bytes != expected.num_bytes) {
      return WithReason(absl::AbortedError(absl::StrCat(
                            "check ", path, ": it has ", known[k].num_bytes, " bytes, and had ",
                            expected.num_bytes, " when its header was read: the file changed")),
                        "CHECKPOINT_CHANGED");
    }
  }
  return known;
}

}  // namespace zerocast
