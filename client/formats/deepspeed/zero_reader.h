#ifndef ZEROCAST_CLIENT_FORMATS_DEEPSPEED_ZERO_READER_H_
#define ZEROCAST_CLIENT_FORMATS_DEEPSPEED_ZERO_READER_H_

#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/formats/deepspeed/zero_checkpoint.h"
#include "client/formats/deepspeed/zero_states.h"

namespace zerocast {

// Puts a checkpoint together from its files; ReadZeroCheckpoint's parts.  Used once.
class ZeroReader {
 public:
  ZeroReader(FileObserver about_to, std::vector<absl::Status>* problems)
      : about_to_(std::move(about_to)), problems_(*problems) {}

  // Fills the result; what is wrong is in `problems`.
  void Read(const std::string& folder, const std::string& tag);
  // The same of the tag of this name, without a look at the others; `folder` holds its folder.
  void ReadTag(const std::string& folder, const std::string& tag);
  // With problems it is what could be read.
  ZeroCheckpoint TakeResult() { return std::move(result_); }

 private:
  // A file that was opened and is in result_.files.
  struct Opened {
    int32_t index = 0;
    InputFile file;
  };
  absl::StatusOr<Opened> Open(const std::string& name);
  void NoteDigest(const Opened& opened, const TorchFile& file) {
    result_.files[static_cast<size_t>(opened.index)].header_digest = file.header_digest();
  }

  // What `name`, in the tag's folder, says; the problem is noted, and false returned, where it says
  // nothing that can be used.
  bool ReadModel(const std::string& name, ModelStates* states, int32_t* file);
  bool ReadOptim(const std::string& name, OptimStates* states, int32_t* file);

  void ReadRanks();
  void ReadOptimRanks();
  // Whether a rank's file is the same save's as rank 0's.
  absl::Status CheckSameSave(const ModelStates& states, int rank) const;
  absl::Status CheckSameOptimizer(const OptimStates& states, int rank) const;

  // An extent of all elements of `tensor`; `what` names it in errors.
  absl::StatusOr<ZeroExtent> Extent(const TorchFile& file, int32_t index, const TorchTensor& tensor,
                                    absl::string_view what);
  absl::Status AddFlats(const OptimStates& states, int32_t file, int rank);

  // zero_layout.cc: result_.parameters and what else follows from rank 0's model states.
  void LayOut();
  absl::Status AddParameters();
  absl::Status AddParameter(const NamedShape& named, int32_t group, int32_t sub_group);
  absl::Status FindGroups(std::vector<int32_t>* group_of) const;
  absl::Status SliceStage3();
  absl::Status SliceStage12();
  // All states of `flat` must have `needed` elements, or, padded, `whole`.
  absl::Status CheckFlat(size_t flat, int64_t needed, int64_t whole) const;
  absl::Status TooManyElements(int32_t group) const;
  absl::Status AddFrozenOfStage3();
  // What of the state dict has values: buffers, and the parameters below stage 3.
  absl::Status AddModule();
  absl::Status AddModuleTensor(const NamedTensor& named);
  void FindTies();
  void AddAliases();

  // zero_universal.cc
  void ReadUniversal();
  void ReadUniversalOptimizer();
  absl::Status ReadUniversalParameter(ZeroParameter* parameter);
  // The tensor of `name`, a file in zero/, which must have `num_elements`.
  absl::StatusOr<ZeroExtent> ReadUniversalState(const std::string& name, int64_t num_elements);

  void Note(absl::Status problem) { problems_.push_back(std::move(problem)); }
  absl::Status Corrupt(absl::string_view file, absl::string_view what) const;
  // The file of `rank` that is not there; `known` is why it should be.
  absl::Status MissingFile(const std::string& name, int64_t rank, absl::string_view known) const;
  // The path of a file of rank `rank` for messages.
  std::string PathOf(const std::string& name) const;

  const FileObserver about_to_;
  std::vector<absl::Status>& problems_;
  ZeroCheckpoint result_;
  ZeroFiles names_;
  ModelStates model_;  // rank 0's
  std::string model_name_;
  int32_t model_index_ = 0;
  OptimStates optim_;  // of the first rank whose file can be read
  std::string optim_name_;
  std::map<std::pair<int32_t, int32_t>, int32_t> storage_of_;  // by file, storage in it
  // By name of a frozen parameter: its fragments by rank, ascending.
  std::unordered_map<std::string, std::vector<std::pair<int64_t, ZeroExtent>>> fragments_;
  std::unordered_map<std::string, int32_t> parameter_of_;  // by name
  bool has_steps_ = false;  // of the universal form: parameters have a step.pt
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_FORMATS_DEEPSPEED_ZERO_READER_H_
