#ifndef ZEROCAST_SERVER_CONVERSION_LOWER_H_
#define ZEROCAST_SERVER_CONVERSION_LOWER_H_

// Operations of conversion rules, lowered to boxes without any data.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kernels/copy/box.h"
#include "nlohmann/json.hpp"
#include "server/conversion/rule.h"
#include "server/conversion/source_tensor.h"

namespace zerocast {

// A target of more boxes than this is refused: it would no longer be one batched copy.
inline constexpr int64_t kMaxBoxesPerTarget = 4096;

// A tensor between two operations: its shape and the boxes that fill it, row-major.
struct Value {
  std::vector<int64_t> shape;
  std::vector<Box> boxes;
};

// What an operation gets or gives under one name: a list of tensors, or one tensor.
struct Entry {
  std::string name;
  bool is_list = false;
  std::vector<Value> values;  // exactly one where !is_list
};

// Ordered, names unique.
using Entries = std::vector<Entry>;

// The entry of that name; null where there is none.
const Entry* FindEntry(const Entries& entries, absl::string_view name);

// What operations look up.
struct OpContext {
  // The processed patterns of the rule.
  absl::Span<const std::string> sources;
  absl::Span<const std::string> targets;
  absl::string_view full_name;  // the renamed key that the tensors were collected under
  // The shape of a tensor of the model; null where the model has none of that name.
  absl::FunctionRef<const std::vector<int64_t>*(absl::string_view)> model_shape;
  bool model_known = true;                 // false: there is no spec, shapes cannot be looked up
  const nlohmann::json* config = nullptr;  // an object; null where there is none
  int generation = 2;                      // Dialect::generation
};

int64_t Product(absl::Span<const int64_t> shape);
// "[4, 3]"
std::string ShapeText(absl::Span<const int64_t> shape);

// The whole of source number `source`, its elements in row-major order.
Value WholeValue(int32_t source, std::vector<int64_t> shape);

// The same of a tensor as it is stored.  Errors:
//   INVALID_ARGUMENT  strides that CheckedReach() refuses.
//   UNIMPLEMENTED     more loops than a box holds.
absl::StatusOr<Value> StoredValue(int32_t source, const SourceTensor& tensor);

// Runs one operation, with the library's meaning of the operation's release.  Errors:
//   INVALID_ARGUMENT  the tensors do not fit the operation; the message is the library's where it
//                     has one.
//   UNIMPLEMENTED     more loops than a box holds, more than kMaxBoxesPerTarget boxes, or a lookup
//                     that needs the model where it is not known.
absl::StatusOr<Entries> ApplyOp(const Op& op, const Entries& input, const OpContext& context);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONVERSION_LOWER_H_
