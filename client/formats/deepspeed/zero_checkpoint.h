#ifndef ZEROCAST_CLIENT_FORMATS_DEEPSPEED_ZERO_CHECKPOINT_H_
#define ZEROCAST_CLIENT_FORMATS_DEEPSPEED_ZERO_CHECKPOINT_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/formats/deepspeed/zero_files.h"
#include "client/formats/file_observer.h"
#include "client/formats/torch_file.h"
#include "kernels/copy/dtype.h"

namespace zerocast {

// A file of the checkpoint.
struct ZeroFile {
  std::string path;  // relative to ZeroCheckpoint::folder: "global_step3/mp_rank_00_..."
  int64_t num_bytes = 0;
  int64_t mtime_ns = 0;
  uint64_t header_digest = 0;  // TorchFile::header_digest
};

// The bytes of a storage that torch.save wrote; its CRC is that of all of them.
struct ZeroStorage {
  int32_t file = 0;        // index in ZeroCheckpoint::files
  int64_t file_begin = 0;  // absolute, bytes
  int64_t num_bytes = 0;
  bool has_crc = false;  // false: the stream is a legacy one, or was written without
  uint32_t crc32 = 0;
};

// Elements one behind the other in a storage.
struct ZeroExtent {
  int32_t storage = -1;    // index in ZeroCheckpoint::storages; -1: there is none
  int64_t file_begin = 0;  // absolute, bytes
  int64_t num_elements = 0;
  DType dtype = DType::kInvalid;
};

// Elements of a parameter, flattened in C order, from `offset` on.
struct ZeroPiece {
  ZeroExtent from;
  int64_t offset = 0;
};

// The flat tensors of one rank and sub-group (stage 3), rank and group (stages 1 and 2), or
// parameter (universal), by state (ZeroCheckpoint::state_names); all are laid out alike.
struct ZeroFlat {
  int32_t rank = 0;  // 0 in the universal form
  std::vector<ZeroExtent> states;
};

// A parameter's elements [offset, offset + num_elements) lie in each state of `flat` from
// flat_offset on.
struct ZeroSlice {
  int32_t flat = 0;
  int64_t flat_offset = 0;
  int64_t offset = 0;
  int64_t num_elements = 0;
};

struct ZeroParameter {
  std::string name;
  std::vector<int64_t> shape;
  int64_t num_elements = 0;
  DType dtype = DType::kInvalid;     // in training; kInvalid: the files do not say
  std::vector<std::string> aliases;  // other names of the same weight
  bool is_trained = false;
  int32_t group = -1;      // the optimizer's; -1 for frozen ones
  int32_t sub_group = -1;  // stage 3: in the order of param_shapes; else as `group`
  // Of its states, ascending by offset, without gaps; empty for frozen ones and without optimizer.
  std::vector<ZeroSlice> slices;
  // Its value in `dtype`, where the files hold that: frozen ones, and all below stage 3.
  std::vector<ZeroPiece> stored;

  // Whether the files hold no value of it: exclude_frozen_parameters.
  bool is_absent() const { return num_elements > 0 && slices.empty() && stored.empty(); }
};

struct ZeroBuffer {
  std::string name;
  std::vector<int64_t> shape;
  ZeroExtent value;
};

// What of the DeepSpeed config decides how a checkpoint is laid out.
struct ZeroSettings {
  bool bf16 = false, fp16 = false;
  int64_t sub_group_size = 1000000000;
  bool round_robin_gradients = false;
  bool parameter_alignment = false;
};

// A DeepSpeed checkpoint of ZeRO stage 0 to 3, or a universal one: what is in it and where each
// element of each parameter, master and moment lies.  No tensor data is held.  Immutable.
struct ZeroCheckpoint {
  std::string folder, tag;
  int stage = 0;
  int32_t world_size = 0;
  bool is_universal = false;
  bool has_bf16_prefix = false;  // of the optimizer states' files
  int64_t global_steps = -1, global_samples = -1, skipped_steps = -1;  // -1: not said
  double optimizer_step = -1;                                          // -1: it has none
  std::string version;                                                 // of DeepSpeed
  ZeroSettings settings;

  std::vector<ZeroFile> files;
  std::vector<ZeroStorage> storages;
  // "fp32", the masters, first; then the moments, as the optimizer names them ("exp_avg"), sorted.
  // Empty without an optimizer (stage 0).
  std::vector<std::string> state_names;
  std::vector<std::string> other_states;  // of the optimizer, but not one element for each
  std::vector<ZeroFlat> flats;
  int32_t num_groups = 0;      // of the optimizer
  int32_t num_sub_groups = 0;  // stage 3; else num_groups
  // Trained ones in the order of param_shapes, which is that of the flat tensors; then frozen ones.
  std::vector<ZeroParameter> parameters;
  std::vector<ZeroBuffer> buffers;
  // It was saved with exclude_frozen_parameters: frozen parameters that the model may have are
  // named nowhere.  Stages 2 and 3; stage 1 does not tell.
  bool excludes_frozen = false;
  // All names of the model's state dict in its order: of parameters, aliases and buffers.
  std::vector<std::string> module_names;
  std::vector<std::string> other_values;  // in the state dict, but no tensors

  // Rank 0's files, for those who write the checkpoint anew: everything that is not read here stays
  // in their graphs.  optimizer_file is null without an optimizer; that of the universal form is
  // zero/optimizer_state.pt.
  std::shared_ptr<const TorchFile> model_file, optimizer_file;
};

// Reads tag `tag` of `folder`; "" is the tag that `folder` itself is, or that `latest` names.  Each
// file's pickle is read, and no tensor data but the optimizer's step.  `about_to` is told of every
// call to the file system.  With `problems` all that is wrong is added to it, file by file; the
// error is the first of them.  Errors:
//   NOT_FOUND           the folder, the tag, a rank's file; reason CHECKPOINT_NOT_FOUND
//   DATA_LOSS           a file contradicts itself or another file (truncated, another step, world
//                       size or shape); names both; reason CHECKPOINT_CORRUPT
//   UNIMPLEMENTED       what README.md refuses by name; reason UNSUPPORTED
//   as InputFile
absl::StatusOr<ZeroCheckpoint> ReadZeroCheckpoint(const std::string& folder, const std::string& tag,
                                                  const FileObserver& about_to = {},
                                                  std::vector<absl::Status>* problems = nullptr);

// Where parameter `parameter`'s elements of state `state` lie, ascending by offset, without gaps.
std::vector<ZeroPiece> StatePieces(const ZeroCheckpoint& checkpoint, const ZeroParameter& parameter,
                                   size_t state);

// Elements of a rank's partition: ceil(num_elements / world_size).
inline int64_t PartitionElements(int64_t num_elements, int64_t world_size) {
  return num_elements / world_size + (num_elements % world_size != 0 ? 1 : 0);
}

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_FORMATS_DEEPSPEED_ZERO_CHECKPOINT_H_
