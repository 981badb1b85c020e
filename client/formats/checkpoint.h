#ifndef ZEROCAST_CLIENT_FORMATS_CHECKPOINT_H_
#define ZEROCAST_CLIENT_FORMATS_CHECKPOINT_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/formats/file_observer.h"
#include "server/plan/manifest.h"

namespace zerocast {

// Reads the headers of a Hugging Face checkpoint folder: the first that is there of
// model.safetensors, the files named by model.safetensors.index.json, pytorch_model.bin, those
// named by pytorch_model.bin.index.json (the library's order of preference); and config.json where
// there is one.  As in the library every tensor of those files counts, whether the index names it
// or not; and a variant V is that of model.V.safetensors, model.safetensors.index.V.json,
// pytorch_model.V.bin, pytorch_model.bin.index.V.json alone.  Files that are no safetensors are
// ReadTorchWeights()'.  `about_to` is told of every call to the file system.
//
// Errors:
//   INVALID_ARGUMENT  the variant is none (IsVariant).
//   NOT_FOUND      the folder, all of these, a file that the index names, or what a link
//                  with one of these names leads to; reason CHECKPOINT_NOT_FOUND.
//   DATA_LOSS      a header, the index or config.json contradicts itself or the files; names the
//                  file and the offset or tensor; or there is no tensor at all; reason
//                  CHECKPOINT_CORRUPT.
//   UNIMPLEMENTED  a file of torch.save that holds more than weights; reason UNSUPPORTED.
//   PERMISSION_DENIED, UNAVAILABLE  from the file system.
absl::StatusOr<Manifest> ReadCheckpointManifest(const std::string& folder,
                                                const FileObserver& about_to = {},
                                                const std::string& variant = "");

// Checks that the files of `manifest` below `folder` are still what they were: size and header
// digest, and on the node that made the manifest the time of modification too (copies on other
// nodes have times of their own).  A checkpoint that is written over with the same shapes shows
// only there.  Errors: ABORTED, reason CHECKPOINT_CHANGED; and as above.
absl::Status CheckManifestFiles(const Manifest& manifest, const std::string& folder,
                                bool made_on_this_node, const FileObserver& about_to = {});

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_FORMATS_CHECKPOINT_H_
