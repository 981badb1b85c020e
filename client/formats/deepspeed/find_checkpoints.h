#ifndef ZEROCAST_CLIENT_FORMATS_DEEPSPEED_FIND_CHECKPOINTS_H_
#define ZEROCAST_CLIENT_FORMATS_DEEPSPEED_FIND_CHECKPOINTS_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/formats/deepspeed/zero_checkpoint.h"
#include "client/formats/file_observer.h"

namespace zerocast {

// A checkpoint as its files show it; no tensor data is read.
struct FoundZeroCheckpoint {
  std::string tag;
  int64_t step = -1;       // -1: neither its files nor its tag say it
  int32_t world_size = 0;  // 0: not known
  int32_t stage = -1;      // -1: not known
  // The first of what ReadZeroCheckpoint says is wrong, and how much else is.  OK: all files that
  // its world size asks for are there, end where their directories say and belong together.
  absl::Status problem;
  bool gone = false;      // there is no folder of this tag; with a problem
  std::string digest;     // ZeroDigest, where there is no problem
  int32_t num_files = 0;  // that were read
  int64_t num_bytes = 0;  // of these
  int64_t mtime_ns = 0;   // of the one that was written last; 0 without any
};

struct FoundZeroFolder {
  std::string latest;  // what the file `latest` says; "" without one
  std::vector<FoundZeroCheckpoint> checkpoints;
};

struct FindZeroOptions {
  // The tags to look at, besides the one that `latest` names.
  std::vector<std::string> tags;
  // Look at all that hold model states, too; of more than kMaxZeroTags at those of the greatest
  // numbers.
  bool all_tags = false;
  FileObserver about_to;  // told of every call to the file system
  // Asked before files are opened in a folder below the one that is looked at; its error is the
  // tag's problem.  May be empty.
  std::function<absl::Status(const std::string& folder)> allow;
};
inline constexpr size_t kMaxZeroTags = 1000;

// 32 hexadecimal digits over names and sizes of the files of a checkpoint that was read, and name,
// size and CRC of each of their entries; of a file without CRCs its time of modification instead.
// No tensor data is read.  Errors: those of ZipArchive::Read and of the file system.
absl::StatusOr<std::string> ZeroDigest(const ZeroCheckpoint& checkpoint,
                                       const FileObserver& about_to = {});

// What a folder that training saves to holds: one for each tag, sorted by number, then name.
// Errors: as ListZeroFolder; INVALID_ARGUMENT where it is the folder of a tag itself; that of
// about_to.
absl::StatusOr<FoundZeroFolder> FindZeroCheckpoints(const std::string& folder,
                                                    const FindZeroOptions& options);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_FORMATS_DEEPSPEED_FIND_CHECKPOINTS_H_
