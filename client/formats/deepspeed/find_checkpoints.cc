#include "client/formats/deepspeed/find_checkpoints.h"

#include <sys/stat.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/formats/deepspeed/zero_checkpoint.h"
#include "client/formats/deepspeed/zero_files.h"
#include "client/formats/deepspeed/zero_reader.h"
#include "client/formats/file.h"
#include "client/formats/zip_archive.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

// "global_step120" 120; -1 for a tag of another form: who named it did not promise a step.
int64_t StepOf(absl::string_view tag) {
  constexpr absl::string_view kPrefix = "global_step";
  int64_t step = -1;
  const bool counts = absl::StartsWith(tag, kPrefix) && tag.size() > kPrefix.size() &&
                      absl::ascii_isdigit(static_cast<unsigned char>(tag[kPrefix.size()])) &&
                      absl::SimpleAtoi(tag.substr(kPrefix.size()), &step);
  return counts ? step : -1;
}

// Whether there is a folder of this tag; else why not.
absl::Status FindTag(const std::string& folder, const std::string& tag,
                     const FileObserver& about_to) {
  const std::string path = absl::StrCat(folder, "/", tag);
  ZC_RETURN_IF_ERROR(Observe(about_to, absl::StrCat("stat ", path)));
  struct stat info;
  if (::stat(path.c_str(), &info) != 0) {
    return WithReason(ErrnoStatus(errno, absl::StrCat("find checkpoint ", path)),
                      "CHECKPOINT_NOT_FOUND");
  }
  if (!S_ISDIR(info.st_mode)) {
    return WithReason(
        absl::NotFoundError(absl::StrCat("find checkpoint ", path, ": it is no folder")),
        "CHECKPOINT_NOT_FOUND");
  }
  return absl::OkStatus();
}

// What tells the content of a file without reading it all.  Names come with their length.
absl::Status AppendIdentity(const std::string& path, const FileObserver& about_to,
                            std::string* text) {
  ZC_ASSIGN_OR_RETURN(const InputFile file, InputFile::Open(path, about_to));
  absl::StrAppend(text, file.num_bytes(), "\n");
  ZC_ASSIGN_OR_RETURN(const std::string head, file.Read(0, std::min<int64_t>(file.num_bytes(), 4)));
  if (LooksLikeZip(head)) {
    ZC_ASSIGN_OR_RETURN(const ZipArchive archive, ZipArchive::Read(file));
    if (archive.has_crcs()) {
      for (const ZipEntry& entry : archive.entries()) {
        absl::StrAppend(text, entry.name.size(), ":", entry.name, "\n", entry.num_bytes, "\n",
                        entry.crc32, "\n");
      }
      return absl::OkStatus();
    }
  }
  absl::StrAppend(text, "mtime ", file.mtime_ns(), "\n");
  return absl::OkStatus();
}

// Folders below `folder` in which files of a tag lie.
absl::Status AllowAll(const std::string& folder, const FindZeroOptions& options) {
  if (options.allow == nullptr) return absl::OkStatus();
  ZC_RETURN_IF_ERROR(options.allow(folder));
  absl::StatusOr<ZeroFiles> files = ListZeroFiles(folder, options.about_to);
  // What is wrong with it is told where it is read.
  if (!files.ok() || !files->is_universal) return absl::OkStatus();
  ZC_RETURN_IF_ERROR(options.allow(absl::StrCat(folder, "/zero")));
  for (const std::string& name : files->universal_names) {
    ZC_RETURN_IF_ERROR(options.allow(absl::StrCat(folder, "/zero/", name)));
  }
  return absl::OkStatus();
}

FoundZeroCheckpoint Find(const std::string& folder, const std::string& tag,
                         const FindZeroOptions& options) {
  FoundZeroCheckpoint found;
  found.tag = tag;
  found.step = StepOf(tag);
  found.problem = FindTag(folder, tag, options.about_to);
  found.gone = absl::IsNotFound(found.problem);
  if (!found.problem.ok()) return found;
  const std::string tag_folder = absl::StrCat(folder, "/", tag);
  found.problem = AllowAll(tag_folder, options);
  if (!found.problem.ok()) return found;
  std::vector<absl::Status> problems;
  ZeroReader reader(options.about_to, &problems);
  reader.ReadTag(folder, tag);
  const ZeroCheckpoint read = reader.TakeResult();
  found.world_size = read.world_size;
  if (read.world_size > 0) found.stage = read.stage;
  if (read.global_steps >= 0) found.step = read.global_steps;
  for (const ZeroFile& file : read.files) {
    ++found.num_files;
    found.num_bytes += file.num_bytes;
    found.mtime_ns = std::max(found.mtime_ns, file.mtime_ns);
  }
  if (problems.empty()) {
    absl::StatusOr<std::string> digest = ZeroDigest(read, options.about_to);
    if (digest.ok()) found.digest = *std::move(digest);
    found.problem = digest.status();
    return found;
  }
  found.problem = problems[0];
  if (problems.size() > 1) {
    found.problem = WithMessage(found.problem, absl::StrCat(found.problem.message(), "; and ",
                                                            problems.size() - 1, " more"));
  }
  return found;
}

}  // namespace

absl::StatusOr<std::string> ZeroDigest(const ZeroCheckpoint& checkpoint,
                                       const FileObserver& about_to) {
  // Without the tag: a folder that was renamed holds the same.
  const std::string prefix = absl::StrCat(checkpoint.tag, "/");
  std::vector<std::string> names;
  for (const ZeroFile& file : checkpoint.files) names.push_back(file.path);
  std::sort(names.begin(), names.end());
  std::string text = "zerocast checkpoint 1\n";
  for (const std::string& name : names) {
    const absl::string_view inside = absl::StartsWith(name, prefix)
                                         ? absl::string_view(name).substr(prefix.size())
                                         : absl::string_view(name);
    absl::StrAppend(&text, inside.size(), ":", inside, "\n");
    ZC_RETURN_IF_ERROR(AppendIdentity(absl::StrCat(checkpoint.folder, "/", name), about_to, &text));
  }
  const XXH128_hash_t hash = XXH3_128bits(text.data(), text.size());
  return absl::StrFormat("%016x%016x", hash.high64, hash.low64);
}

absl::StatusOr<FoundZeroFolder> FindZeroCheckpoints(const std::string& folder,
                                                    const FindZeroOptions& options) {
  ZC_ASSIGN_OR_RETURN(const ZeroFolder listed, ListZeroFolder(folder, options.about_to));
  if (!listed.named_tag.empty()) {
    return InvalidFields(
        {{"path", absl::StrCat(folder, " is the folder of a tag: name ", listed.folder,
                               " and the tag ", listed.named_tag)}});
  }
  std::vector<std::string> tags = options.tags;
  if (!listed.latest.empty()) tags.push_back(listed.latest);
  if (options.all_tags) {
    const size_t skipped = listed.tags.size() - std::min(listed.tags.size(), kMaxZeroTags);
    tags.insert(tags.end(), listed.tags.begin() + static_cast<ptrdiff_t>(skipped),
                listed.tags.end());
  }
  // Each once, in the folder's order; those that it has not at the end.
  std::sort(tags.begin(), tags.end());
  tags.erase(std::unique(tags.begin(), tags.end()), tags.end());
  const auto place = [&listed](const std::string& tag) {
    return std::find(listed.tags.begin(), listed.tags.end(), tag) - listed.tags.begin();
  };
  std::stable_sort(tags.begin(), tags.end(), [&place](const std::string& a, const std::string& b) {
    return place(a) < place(b);
  });
  FoundZeroFolder result;
  result.latest = listed.latest;
  for (const std::string& tag : tags) {
    // Its error ends the work; that of a tag's files does not.
    ZC_RETURN_IF_ERROR(Observe(options.about_to, absl::StrCat("look at ", folder, "/", tag)));
    result.checkpoints.push_back(Find(folder, tag, options));
  }
  return result;
}

}  // namespace zerocast
