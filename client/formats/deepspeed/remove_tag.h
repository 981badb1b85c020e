#ifndef ZEROCAST_CLIENT_FORMATS_DEEPSPEED_REMOVE_TAG_H_
#define ZEROCAST_CLIENT_FORMATS_DEEPSPEED_REMOVE_TAG_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/formats/file_observer.h"

namespace zerocast {

// A tag as who decided that it may go knows it: FoundZeroCheckpoint's fields.
struct ExpectedTag {
  std::string tag;
  std::string digest;  // "" of one that is not complete
  int32_t num_files = 0;
  int64_t num_bytes = 0;
  int64_t mtime_ns = 0;
};

// The removal of a tag's folder: first it is renamed within the folder that it lies in, to a name
// that nobody takes for a tag, from which it can be put back; then it is removed.  Who is killed in
// between leaves it there, and FindLeft finds it.  Nothing else is touched, `latest` least of all.
class TagRemoval {
 public:
  // Looks whether the folder of `expected` in `folder` may be removed; changes nothing.  Errors:
  //   NOT_FOUND            there is no such folder; reason CHECKPOINT_NOT_FOUND.
  //   FAILED_PRECONDITION  `latest` or `latest_universal` names it, it is a link, or it holds
  //                        something that DeepSpeed does not write there; reason WRONG_STATE.
  //   ABORTED              it is not what was expected; reason CHECKPOINT_CHANGED.
  //   from the file system.
  static absl::StatusOr<TagRemoval> Check(const std::string& folder, const ExpectedTag& expected,
                                          const FileObserver& about_to = {});
  // What an earlier removal of `tag` has set aside and left.  Errors: NOT_FOUND, where there is
  // none; FAILED_PRECONDITION as of Check.
  static absl::StatusOr<TagRemoval> FindLeft(const std::string& folder, const std::string& tag,
                                             const FileObserver& about_to = {});

  // Its path while it is set aside.
  const std::string& aside() const { return aside_; }
  // What removing it frees: the sizes of its files that have no other name.
  int64_t num_bytes() const { return num_bytes_; }

  // Renames it; nothing, where it was found there.  Errors: NOT_FOUND, ALREADY_EXISTS (what an
  // earlier removal has left), PERMISSION_DENIED, UNAVAILABLE.
  absl::Status SetAside();
  // Undoes SetAside; nothing, where it was found there.
  absl::Status PutBack();
  // After SetAside.
  absl::Status Remove();

 private:
  TagRemoval(const std::string& folder, const std::string& tag);
  std::string path_, aside_;
  int64_t num_bytes_ = 0;
  bool was_aside_ = false;
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_FORMATS_DEEPSPEED_REMOVE_TAG_H_
