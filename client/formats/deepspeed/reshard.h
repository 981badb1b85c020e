#ifndef ZEROCAST_CLIENT_FORMATS_DEEPSPEED_RESHARD_H_
#define ZEROCAST_CLIENT_FORMATS_DEEPSPEED_RESHARD_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "client/formats/deepspeed/piece_copier.h"
#include "client/formats/deepspeed/zero_checkpoint.h"
#include "client/formats/output_folder.h"

namespace zerocast {

// What was written.
struct WrittenCheckpoint {
  std::string tag;
  int64_t num_files = 0;
  int64_t num_bytes = 0;  // of tensors
};

// Writes `checkpoint`, of any form, as an engine of `world_size` ranks saves it: the tag's folder
// and `latest`, in `folder`, which the caller commits.  RESHARD.md says what is kept.  Errors:
//   as LayOutShards, PieceCopier, OutputFolder
//   UNIMPLEMENTED  states of the optimizer that are not one element for each of the parameter's,
//                  by name; reason UNSUPPORTED
absl::StatusOr<WrittenCheckpoint> ReshardCheckpoint(const ZeroCheckpoint& checkpoint,
                                                    int64_t world_size, const OutputFolder& folder,
                                                    const PieceCopier::Options& options);

// Writes `checkpoint`, not a universal one, in the universal form, as above: what ds_to_universal
// makes of it, and latest_universal.  Errors: as above, and UNIMPLEMENTED where a parameter's name
// cannot be that of a folder; INVALID_ARGUMENT where the form is universal.
absl::StatusOr<WrittenCheckpoint> WriteUniversalCheckpoint(const ZeroCheckpoint& checkpoint,
                                                           const OutputFolder& folder,
                                                           const PieceCopier::Options& options);

// About the bytes of tensors that either writes, for those who show progress.
int64_t BytesToWrite(const ZeroCheckpoint& checkpoint);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_FORMATS_DEEPSPEED_RESHARD_H_
