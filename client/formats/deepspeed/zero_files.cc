#include "client/formats/deepspeed/zero_files.h"

#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "client/formats/file.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/base/utf8.h"

namespace zerocast {
namespace {

constexpr int64_t kMaxTagBytes = 4096;
constexpr int kMaxRanks = 1 << 20;  // a larger rank in a file's name is no rank
constexpr absl::string_view kWholeModelStates = "mp_rank_00_model_states.pt";

absl::Status NotFound(absl::string_view message) {
  return WithReason(absl::NotFoundError(message), "CHECKPOINT_NOT_FOUND");
}

struct DirCloser {
  void operator()(DIR* dir) const { ::closedir(dir); }
};

bool IsFolder(const std::string& path) {
  struct stat info;
  return ::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

bool HoldsModelStates(const std::vector<std::string>& names) {
  return std::any_of(names.begin(), names.end(), [](const std::string& name) {
    return absl::EndsWith(name, "_model_states.pt");
  });
}

// The number that a tag ends with, "global_step120" 120; -1 without one.
int64_t NumberOf(absl::string_view tag) {
  absl::ConsumeSuffix(&tag, "_universal");
  size_t begin = tag.size();
  while (begin > 0 && absl::ascii_isdigit(static_cast<unsigned char>(tag[begin - 1]))) --begin;
  int64_t number = -1;
  return absl::SimpleAtoi(tag.substr(begin), &number) ? number : -1;
}

absl::string_view Parent(absl::string_view path) {
  const size_t slash = path.rfind('/');
  if (slash == absl::string_view::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

// What the name of a rank's file says.
struct RankName {
  bool has_bf16_prefix = false;
  int rank = -1;
  std::string model_rank;  // "00"
  bool is_optim = false;
};

// Of [bf16_]zero_pp_rank_R_mp_rank_MM[_]{model,optim}_states.pt; false for any other name.  Old
// releases left out the last underscore.
bool ParseRankName(absl::string_view name, RankName* parsed) {
  *parsed = RankName();
  parsed->has_bf16_prefix = absl::ConsumePrefix(&name, "bf16_");
  if (!absl::ConsumePrefix(&name, "zero_pp_rank_")) return false;
  const size_t end = name.find("_mp_rank_");
  if (end == absl::string_view::npos || !absl::SimpleAtoi(name.substr(0, end), &parsed->rank) ||
      parsed->rank < 0 || parsed->rank >= kMaxRanks) {
    return false;
  }
  name.remove_prefix(end + absl::string_view("_mp_rank_").size());
  if (absl::ConsumeSuffix(&name, "optim_states.pt")) {
    parsed->is_optim = true;
  } else if (!absl::ConsumeSuffix(&name, "model_states.pt")) {
    return false;
  }
  absl::ConsumeSuffix(&name, "_");
  parsed->model_rank = std::string(name);
  return !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_isdigit(static_cast<unsigned char>(c));
  });
}

// Which other kind of parallelism wrote a file of this name; "" for none.
std::string OtherParallelism(absl::string_view name) {
  if (absl::StartsWith(name, "expp_rank_") || absl::StartsWith(name, "expert_") ||
      (absl::StartsWith(name, "layer_") && absl::StrContains(name, "_expert_"))) {
    return "expert parallelism";
  }
  if (absl::StartsWith(name, "layer_")) return "pipeline parallelism";
  RankName parsed;
  if (ParseRankName(name, &parsed) && parsed.model_rank != "00") return "tensor parallelism";
  if (absl::StartsWith(name, "mp_rank_") && absl::EndsWith(name, "_model_states.pt") &&
      name != kWholeModelStates) {
    return "tensor parallelism";
  }
  return "";
}

absl::Status TwoSaves(const std::string& folder, absl::string_view one, absl::string_view other) {
  return WithReason(
      absl::DataLossError(absl::StrCat(
          folder, " holds files of two saves: ", one, " and ", other,
          "; DeepSpeed would mix them. Remove those that the last save did not write")),
      "CHECKPOINT_CORRUPT");
}

}  // namespace

bool NamesStates(absl::string_view name) {
  RankName parsed;
  return name == kWholeModelStates || ParseRankName(name, &parsed);
}

absl::StatusOr<std::vector<std::string>> ListNames(const std::string& folder,
                                                   const FileObserver& about_to) {
  const std::string what = absl::StrCat("list ", folder);
  ZC_RETURN_IF_ERROR(Observe(about_to, what));
  const std::unique_ptr<DIR, DirCloser> dir(::opendir(folder.c_str()));
  if (dir == nullptr) {
    if (errno == ENOENT) return NotFound(absl::StrCat("Directory '", folder, "' doesn't exist"));
    if (errno == ENOTDIR) {
      return absl::InvalidArgumentError(
          absl::StrCat(folder, " is a file; name the folder that engine.save_checkpoint wrote"));
    }
    return ErrnoStatus(errno, what);
  }
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry = ::readdir(dir.get())) {
    const absl::string_view name(entry->d_name);
    if (name != "." && name != "..") names.emplace_back(name);
  }
  if (errno != 0) return ErrnoStatus(errno, what);
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<ZeroFolder> ListZeroFolder(const std::string& folder, const FileObserver& about_to) {
  ZeroFolder result;
  std::string path(absl::StripSuffix(folder, "/"));
  if (path.empty()) path = "/";
  ZC_ASSIGN_OR_RETURN(std::vector<std::string> names, ListNames(path, about_to));
  if (HoldsModelStates(names)) {
    result.named_tag = path.substr(path.rfind('/') + 1);
    path = std::string(Parent(path));
    ZC_ASSIGN_OR_RETURN(names, ListNames(path, about_to));
  }
  result.folder = path;
  for (const std::string& name : names) {
    const std::string below = absl::StrCat(path, "/", name);
    if (absl::StartsWith(name, kAsidePrefix) || !IsFolder(below)) continue;
    const auto inside = ListNames(below, about_to);
    // One that may not be read is no tag that could be loaded; `tag` says why when it is named.
    if (inside.ok() && HoldsModelStates(*inside)) result.tags.push_back(name);
  }
  std::stable_sort(
      result.tags.begin(), result.tags.end(),
      [](const std::string& a, const std::string& b) { return NumberOf(a) < NumberOf(b); });
  for (const absl::string_view name : {"latest", "latest_universal"}) {
    if (!result.latest.empty() || !std::binary_search(names.begin(), names.end(), name)) continue;
    ZC_ASSIGN_OR_RETURN(const std::string text,
                        ReadTextFile(absl::StrCat(path, "/", name), kMaxTagBytes, about_to));
    result.latest = std::string(absl::StripAsciiWhitespace(text));
  }
  return result;
}

absl::StatusOr<std::string> ChooseZeroTag(const ZeroFolder& folder, const std::string& tag) {
  const std::string there =
      folder.tags.empty()
          ? "it holds no DeepSpeed checkpoint"
          : absl::StrCat("there are ", EscapeControls(absl::StrJoin(folder.tags, ", ")));
  const auto exists = [&](const std::string& name) {
    return std::find(folder.tags.begin(), folder.tags.end(), name) != folder.tags.end();
  };
  if (!tag.empty()) {
    if (exists(tag)) return tag;
    return NotFound(absl::StrCat("no checkpoint \"", EscapeControls(tag), "\" in ", folder.folder,
                                 "; ", there));
  }
  if (!folder.named_tag.empty()) return folder.named_tag;
  if (folder.latest.empty()) {
    return NotFound(absl::StrCat("Unable to find 'latest' file at ", folder.folder, "/latest; ",
                                 there, folder.tags.empty() ? "" : ", name one with --tag"));
  }
  if (exists(folder.latest)) return folder.latest;
  return NotFound(absl::StrCat(folder.folder, "/latest says \"", EscapeControls(folder.latest),
                               "\", which is not there; ", there));
}

absl::StatusOr<ZeroFiles> ListZeroFiles(const std::string& tag_folder,
                                        const FileObserver& about_to) {
  ZC_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListNames(tag_folder, about_to));
  ZeroFiles files;
  std::string plain, prefixed;  // a file of optimizer states of each kind
  for (const std::string& name : names) {
    if (const std::string other = OtherParallelism(name); !other.empty()) {
      return WithReason(absl::UnimplementedError(absl::StrCat(
                            "read ", tag_folder, "/", EscapeControls(name), ": a checkpoint of ",
                            other, "; only data-parallel ones (ZeRO stages 0 to 3) are read")),
                        "UNSUPPORTED");
    }
    if (name == "offloaded_tensors") {
      return WithReason(
          absl::UnimplementedError(absl::StrCat(
              "read ", tag_folder, "/", name,
              ": optimizer states that were left on NVMe (offload_optimizer.device \"nvme\"); "
              "load the checkpoint with DeepSpeed and save it with the optimizer in memory")),
          "UNSUPPORTED");
    }
    RankName parsed;
    if (name == kWholeModelStates) {
      files.whole_model_states = name;
    } else if (name == "zero" && IsFolder(absl::StrCat(tag_folder, "/zero"))) {
      files.is_universal = true;
    } else if (ParseRankName(name, &parsed)) {
      std::vector<std::string>& list = parsed.is_optim ? files.optim_states : files.model_states;
      const size_t rank = static_cast<size_t>(parsed.rank);
      if (list.size() <= rank) list.resize(rank + 1);
      if (!list[rank].empty()) return TwoSaves(tag_folder, list[rank], name);
      list[rank] = name;
      if (parsed.is_optim) (parsed.has_bf16_prefix ? prefixed : plain) = name;
    }
  }
  if (!plain.empty() && !prefixed.empty()) return TwoSaves(tag_folder, plain, prefixed);
  files.has_bf16_prefix = !prefixed.empty();
  if (files.whole_model_states.empty() && files.model_states.empty()) {
    return NotFound(absl::StrCat(tag_folder, " is no DeepSpeed checkpoint: it holds neither ",
                                 kWholeModelStates,
                                 " nor zero_pp_rank_0_mp_rank_00_model_states.pt"));
  }
  if (!files.whole_model_states.empty() && !files.model_states.empty()) {
    return TwoSaves(tag_folder, files.whole_model_states,
                    *std::find_if(files.model_states.begin(), files.model_states.end(),
                                  [](const std::string& name) { return !name.empty(); }));
  }
  if (files.is_universal) {
    const std::string zero = absl::StrCat(tag_folder, "/zero");
    ZC_ASSIGN_OR_RETURN(const std::vector<std::string> inside, ListNames(zero, about_to));
    for (const std::string& name : inside) {
      if (IsFolder(absl::StrCat(zero, "/", name))) files.universal_names.push_back(name);
    }
  }
  return files;
}

}  // namespace zerocast
