#include "client/formats/deepspeed/zero_write.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/formats/deepspeed/reshard.h"
#include "client/formats/file.h"
#include "client/formats/torch_file.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/base/utf8.h"

namespace zerocast {
namespace {

absl::Status Refuse(const ZeroCheckpoint& checkpoint, absl::string_view why) {
  return WithReason(absl::UnimplementedError(absl::StrCat("write ", checkpoint.folder, "/",
                                                          checkpoint.tag, " anew: ", why)),
                    "UNSUPPORTED");
}

}  // namespace

absl::Status RefuseStates(const ZeroCheckpoint& checkpoint, const std::vector<std::string>& names) {
  return Refuse(checkpoint,
                absl::StrCat("the optimizer has ", EscapeControls(absl::StrJoin(names, ", ")),
                             ", which has not one element for each of the parameter's: nobody "
                             "knows how it is cut at another world size"));
}

absl::Status CheckWritable(const ZeroCheckpoint& checkpoint) {
  if (checkpoint.optimizer_file == nullptr) {
    return Refuse(checkpoint, "it holds no optimizer states, so nothing in it is partitioned");
  }
  if (!checkpoint.other_states.empty()) return RefuseStates(checkpoint, checkpoint.other_states);
  const PickleGraph& graph = checkpoint.optimizer_file->graph();
  const PickleId root = checkpoint.optimizer_file->root();
  for (const PickleId dict : {root, graph.Find(root, "optimizer_state_dict")}) {
    if (graph.Find(dict, "ds_zero_partition_groups") == kNoValue) continue;
    return Refuse(checkpoint,
                  "ds_zero_partition_groups says that its sub-groups are partitioned over "
                  "different ranks (AutoEP)");
  }
  return absl::OkStatus();
}

std::vector<int32_t> GroupsOfFlats(const ZeroCheckpoint& checkpoint) {
  std::vector<int32_t> groups(static_cast<size_t>(checkpoint.num_sub_groups), -1);
  for (const ZeroParameter& parameter : checkpoint.parameters) {
    if (parameter.is_trained) groups[static_cast<size_t>(parameter.sub_group)] = parameter.group;
  }
  return groups;
}

absl::Status WriteLatest(const std::string& path, const std::string& tag) {
  ZC_ASSIGN_OR_RETURN(OutputFile file, OutputFile::Create(path));
  ZC_RETURN_IF_ERROR(file.Append(tag));
  return file.Commit();
}

int64_t BytesToWrite(const ZeroCheckpoint& checkpoint) {
  int64_t bytes = 0;
  for (const ZeroParameter& parameter : checkpoint.parameters) {
    for (const ZeroSlice& slice : parameter.slices) {
      for (const ZeroExtent& state : checkpoint.flats[static_cast<size_t>(slice.flat)].states) {
        bytes += slice.num_elements * SizeOf(state.dtype);
      }
    }
    for (const ZeroPiece& piece : parameter.stored) {
      bytes += piece.from.num_elements * SizeOf(piece.from.dtype);
    }
  }
  return bytes;
}

}  // namespace zerocast
