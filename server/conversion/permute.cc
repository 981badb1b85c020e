#include "server/conversion/permute.h"

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/copy/algebra.h"
#include "server/conversion/tensor_algebra.h"

namespace zerocast {
namespace {

// `parts` times two axes of `first` and `second` runs of `run` elements change places.
absl::StatusOr<Value> SwapPairs(const Value& value, int64_t parts, int64_t first, int64_t second,
                                int64_t run) {
  Value result;
  result.shape = value.shape;
  if (parts * first * second * run == 0) return result;
  const BoxDim dims[] = {
      {parts, first * second * run, first * second * run},
      {second, run, first * run},
      {first, second * run, run},
      {run, 1, 1},
  };
  ZC_ASSIGN_OR_RETURN(const Box outer, MakeBox(0, 0, 0, dims));
  ZC_RETURN_IF_ERROR(Compose(value.boxes, {&outer, 1}, kMaxBoxesPerTarget, &result.boxes));
  return result;
}

}  // namespace

absl::StatusOr<Value> Interleave(const Value& value, int64_t dim, bool inverse) {
  const auto rank = static_cast<int64_t>(value.shape.size());
  // A negative axis fails in the library too, which slices the shape by it.
  if (dim < 0 || dim >= rank || value.shape[dim] % 2 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("interleave needs an even size along axis ", dim,
                                                   ", the shape is ", ShapeText(value.shape)));
  }
  const absl::Span<const int64_t> shape = value.shape;
  const int64_t half = shape[dim] / 2;
  return SwapPairs(value, Product(shape.subspan(0, dim)), inverse ? 2 : half, inverse ? half : 2,
                   Product(shape.subspan(dim + 1)));
}

absl::StatusOr<Value> PermuteRope(const Value& value, int64_t heads, bool inverse) {
  if (value.shape.empty()) {
    return absl::InvalidArgumentError("a tensor without axes has no attention heads");
  }
  if (value.shape.size() != 1 && value.shape.size() != 2) return value;
  const int64_t rows = value.shape[0];
  const int64_t half = rows / heads / 2;
  if (heads * half * 2 != rows) {
    return absl::InvalidArgumentError(
        absl::StrCat("shape '[", heads, ", ", inverse ? 2 : half, ", ", inverse ? half : 2,
                     value.shape.size() == 2 ? absl::StrCat(", ", value.shape[1]) : "",
                     "]' is invalid for input of size ", Product(value.shape)));
  }
  const int64_t run = value.shape.size() == 2 ? value.shape[1] : 1;
  return SwapPairs(value, heads, inverse ? 2 : half, inverse ? half : 2, run);
}

absl::StatusOr<int64_t> AttentionHeads(const Op& op, const OpContext& context) {
  const nlohmann::json* config = context.config;
  if (config == nullptr) {
    return absl::InvalidArgumentError(
        "the rotary permutation needs num_attention_heads; give the checkpoint's config.json");
  }
  if (!op.subconfig.empty()) {
    const auto part = config->find(op.subconfig);
    if (part != config->end() && part->is_object()) config = &*part;
  }
  // The names that configs use for it.
  for (const char* name : {"num_attention_heads", "num_heads", "n_heads", "n_head"}) {
    const auto heads = config->find(name);
    if (heads == config->end()) continue;
    if (heads->is_number_integer() && heads->get<int64_t>() > 0) return heads->get<int64_t>();
    return absl::InvalidArgumentError(
        absl::StrCat("the config's ", name, " must be an integer > 0"));
  }
  return 1;
}

}  // namespace zerocast
