#ifndef ZEROCAST_CLIENT_FORMATS_DEEPSPEED_ZERO_FILES_H_
#define ZEROCAST_CLIENT_FORMATS_DEEPSPEED_ZERO_FILES_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/formats/file_observer.h"

namespace zerocast {

// Whether an engine gives its files of model states or optimizer states such a name.
bool NamesStates(absl::string_view name);

// What the names of tags' folders begin with that remove_tag.h has set aside.
inline constexpr char kAsidePrefix[] = ".zerocast_removed_";

// What lies beside each other in a folder of DeepSpeed checkpoints.
struct ZeroFolder {
  std::string folder;  // as named, or its parent where a tag's own folder was named
  // Sub-folders that hold model states and were not set aside; by number, then name.
  std::vector<std::string> tags;
  std::string latest;     // what the file `latest` says; "" without one
  std::string named_tag;  // the tag, where a tag's own folder was named
};

// Lists `folder`.  A folder that holds model states itself stands for its tag.  Errors: NOT_FOUND
// (it does not exist; reason CHECKPOINT_NOT_FOUND), INVALID_ARGUMENT (it is a file),
// PERMISSION_DENIED, UNAVAILABLE.
absl::StatusOr<ZeroFolder> ListZeroFolder(const std::string& folder,
                                          const FileObserver& about_to = {});

// The tag to read: `tag`, else the one whose folder was named, else what `latest` says.  Errors:
// NOT_FOUND, naming the tags that there are; reason CHECKPOINT_NOT_FOUND.
absl::StatusOr<std::string> ChooseZeroTag(const ZeroFolder& folder, const std::string& tag);

// The files of one tag by what they are; names relative to the tag's folder.
struct ZeroFiles {
  // "mp_rank_00_model_states.pt" of stages 0 to 2; "" where there is none.
  std::string whole_model_states;
  std::vector<std::string> model_states;  // stage 3: by rank; "" where one is missing
  std::vector<std::string> optim_states;  // by rank; "" where one is missing
  bool has_bf16_prefix = false;           // of optim_states
  // The folder `zero` of the universal form: the names of its sub-folders, sorted.
  bool is_universal = false;
  std::vector<std::string> universal_names;
};

// The names in a folder but "." and "..", sorted.  Errors: NOT_FOUND (reason CHECKPOINT_NOT_FOUND),
// INVALID_ARGUMENT (it is a file), PERMISSION_DENIED, UNAVAILABLE.
absl::StatusOr<std::vector<std::string>> ListNames(const std::string& folder,
                                                   const FileObserver& about_to = {});

// Lists the files of a tag's folder.  Errors: NOT_FOUND (no model states: "... is no DeepSpeed
// checkpoint"; reason CHECKPOINT_NOT_FOUND), UNIMPLEMENTED (files of other kinds of parallelism;
// reason UNSUPPORTED), DATA_LOSS (files of two saves: with and without the prefix, of stage 3 and
// of others; reason CHECKPOINT_CORRUPT), and from the file system.
absl::StatusOr<ZeroFiles> ListZeroFiles(const std::string& tag_folder,
                                        const FileObserver& about_to = {});

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_FORMATS_DEEPSPEED_ZERO_FILES_H_
