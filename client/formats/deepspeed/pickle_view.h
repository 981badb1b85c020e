#ifndef ZEROCAST_CLIENT_FORMATS_DEEPSPEED_PICKLE_VIEW_H_
#define ZEROCAST_CLIENT_FORMATS_DEEPSPEED_PICKLE_VIEW_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/formats/torch_file.h"

namespace zerocast {

// The values of a file of torch.save by the types that are expected of them.  `what` is the value's
// name in errors ("param_shapes[0]").  Errors: DATA_LOSS, reason CHECKPOINT_CORRUPT, naming the
// file, what was expected and what was found; or that far more items were asked for than the file
// has values: a short pickle can name one dict a million times.  The file must outlive the view;
// one thread.
class PickleView {
 public:
  explicit PickleView(const TorchFile& file)
      : file_(file), graph_(file.graph()), items_left_(4096 + 4 * file.graph().num_nodes()) {}

  bool IsNone(PickleId id) const {
    return id == kNoValue || graph_.node(id).kind == PickleKind::kNone;
  }

  // A dict's entries whose keys are texts, in the order in which they were set first, each with its
  // last value.  Keys of other types, or that are no UTF-8, are an error.
  absl::StatusOr<std::vector<std::pair<std::string, PickleId>>> Dict(PickleId id,
                                                                     absl::string_view what) const;
  // The same of a dict whose keys are integers.
  absl::StatusOr<std::vector<std::pair<int64_t, PickleId>>> DictOfIntegers(
      PickleId id, absl::string_view what) const;
  // A list's or tuple's items.
  absl::StatusOr<std::vector<PickleId>> List(PickleId id, absl::string_view what) const;
  // An integer, or the one argument of the call that makes DeepSpeed's enumeration of stages.
  absl::StatusOr<int64_t> Integer(PickleId id, absl::string_view what) const;
  absl::StatusOr<std::vector<int64_t>> Integers(PickleId id, absl::string_view what) const;
  absl::StatusOr<std::string> Text(PickleId id, absl::string_view what) const;
  // torch.Size, or a tuple or list of up to 64 integers: none negative, their product an int64.
  absl::StatusOr<std::vector<int64_t>> Shape(PickleId id, absl::string_view what) const;

  // DATA_LOSS for value `id`.
  absl::Status Wrong(PickleId id, absl::string_view what, absl::string_view expected) const;

 private:
  // Counts items of `id` that are about to be copied.
  absl::Status Take(PickleId id, absl::string_view what, size_t num_items) const;

  const TorchFile& file_;
  const PickleGraph& graph_;
  mutable int64_t items_left_;
};

// Refuses a file that names a function by which a pickle takes a machine over ("os.system",
// "builtins.eval"), wherever it stands: nothing here runs it, but who loads the file with torch
// would, and a file that is made of this one would hold it, too.  Errors: DATA_LOSS, reason
// CHECKPOINT_CORRUPT, naming the file and the function.
absl::Status CheckHarmless(const TorchFile& file);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_FORMATS_DEEPSPEED_PICKLE_VIEW_H_
