#ifndef ZEROCAST_CLIENT_FORMATS_DEEPSPEED_ZERO_MANIFEST_H_
#define ZEROCAST_CLIENT_FORMATS_DEEPSPEED_ZERO_MANIFEST_H_

#include <string>

#include "absl/status/statusor.h"
#include "client/formats/deepspeed/zero_checkpoint.h"
#include "client/formats/file_observer.h"
#include "server/plan/manifest.h"

namespace zerocast {

// The manifest of a checkpoint: its tensors are the flat tensors of the optimizer's states and what
// else has values, Manifest::engine says what the weights are made of.  `folder` is what the files'
// paths are relative to: checkpoint.folder, or the tag's own folder in it.
Manifest ZeroManifest(const ZeroCheckpoint& checkpoint, const std::string& folder);

struct CheckpointChoice {
  CheckpointFormat format = CheckpointFormat::kAny;
  std::string variant;  // of Hugging Face's weights: with one the folder is read as theirs
  std::string tag;      // of DeepSpeed's: with one the folder is read as its
};

// Reads the headers of a checkpoint's folder, whatever it is.  Where it holds both kinds and kAny
// decides, Manifest::note says so.  Errors: as ReadCheckpointManifest and ReadZeroCheckpoint, the
// latter in the words of the library's deepspeed_load_checkpoint ("Can't find a valid checkpoint at
// ...", "[deepspeed] failed to resume from checkpoint ..."); INVALID_ARGUMENT where the choice
// contradicts itself.  `digest`, unless null, gets the ZeroDigest of a DeepSpeed checkpoint, "" of
// others.
absl::StatusOr<Manifest> ReadFolderManifest(const std::string& folder,
                                            const CheckpointChoice& choice,
                                            const FileObserver& about_to = {},
                                            std::string* digest = nullptr);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_FORMATS_DEEPSPEED_ZERO_MANIFEST_H_
