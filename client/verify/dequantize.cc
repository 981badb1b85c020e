#include "client/verify/dequantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/verify/cast.h"
#include "kernels/base/status_macros.h"

namespace zerocast::verify {
namespace {

using Results = std::vector<NamedTensors>;
using absl::InvalidArgumentError;

constexpr uint32_t kQuietBit = 0x400000;

uint32_t BitsOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

float FromBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

std::vector<float> Floats(const std::string& bytes) {
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  return values;
}

// Sign, two bits of exponent, one of mantissa.
float E2M1(int bits) {
  const int exponent = bits >> 1 & 3, mantissa = bits & 1;
  const double magnitude =
      exponent == 0 ? mantissa * 0.5 : std::ldexp(1.0 + mantissa * 0.5, exponent - 1);
  return static_cast<float>((bits & 8) != 0 ? -magnitude : magnitude);
}

// Two numbers a byte, the low half first.
std::vector<float> Unpacked(const std::string& bytes) {
  std::vector<float> values;
  values.reserve(2 * bytes.size());
  for (const char c : bytes) {
    const int byte = static_cast<unsigned char>(c);
    values.push_back(E2M1(byte % 16));
    values.push_back(E2M1(byte / 16));
  }
  return values;
}

absl::StatusOr<std::vector<float>> ScaleValues(const Tensor& scales) {
  if (IsFloating(scales.dtype)) {
    ZC_ASSIGN_OR_RETURN(const std::string bytes,
                        CastBytes(scales.bytes, scales.dtype, DType::kFloat32));
    return Floats(bytes);
  }
  if (scales.dtype != DType::kUInt8 && scales.dtype != DType::kFloat8E8M0) {
    return InvalidArgumentError(absl::StrCat("scales of dtype ", DTypeName(scales.dtype)));
  }
  std::vector<float> values;
  for (const char c : scales.bytes) {
    const int byte = static_cast<unsigned char>(c);
    const bool is_nan = byte == 255 && scales.dtype == DType::kFloat8E8M0;
    // The byte 255 is a power that only a double holds.
    values.push_back(is_nan        ? FromBits(0x7f800001)
                     : byte == 255 ? HUGE_VALF
                                   : static_cast<float>(std::ldexp(1.0, byte - 127)));
  }
  return values;
}

// The product as torch has it: of two NaNs the scale's.
float Product(float value, float scale) {
  if (std::isnan(scale)) return FromBits(BitsOf(scale) | kQuietBit);
  if (std::isnan(value)) return FromBits(BitsOf(value) | kQuietBit);
  const double product = static_cast<double>(value) * static_cast<double>(scale);
  if (std::isnan(product)) return FromBits(0xffc00000);
  return static_cast<float>(product);
}

Tensor FromFloats(Shape shape, const std::vector<float>& values) {
  Tensor tensor;
  tensor.dtype = DType::kFloat32;
  tensor.shape = std::move(shape);
  tensor.bytes.assign(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  return tensor;
}

bool IsScale(const std::string& pattern) {
  return absl::StrContains(pattern, "weight_scale_inv") ||
         absl::StrContains(pattern, "activation_scale");
}

// What a pair decodes to where nobody asks for a dtype.
DType OwnDType(const Tensor& scales) {
  return IsFloating(scales.dtype) && SizeOf(scales.dtype) > 1 ? scales.dtype : DType::kBFloat16;
}

// The dtype of all weights of an operation together where none is asked for: pieces that are joined
// later are promoted, and must not be rounded before.
DType CommonDType(const Results& input) {
  DType common = DType::kInvalid;
  for (const NamedTensors& named : input) {
    if (IsScale(named.pattern)) continue;
    const NamedTensors* scales = Under(input, named.pattern + "_scale_inv");
    for (size_t i = 0; i < named.tensors.size(); ++i) {
      const DType own = scales != nullptr && i < scales->tensors.size()
                            ? OwnDType(scales->tensors[i])
                            : named.tensors[i].dtype;
      common = common == DType::kInvalid ? own : PromotedDType(common, own);
    }
  }
  return common;
}

absl::StatusOr<Tensor> Rounded(Tensor tensor, DType dtype) {
  ZC_ASSIGN_OR_RETURN(tensor.bytes, CastBytes(std::move(tensor.bytes), tensor.dtype, dtype));
  tensor.dtype = dtype;
  return tensor;
}

NamedTensors One(std::string pattern, Tensor tensor) {
  NamedTensors named{std::move(pattern), {}, /*single=*/true};
  named.tensors.push_back(std::move(tensor));
  return named;
}

absl::StatusOr<Tensor> DecodePair(const Tensor& weight, const Tensor& scales, DType dtype) {
  ZC_ASSIGN_OR_RETURN(Tensor decoded, DequantizeBlocks(weight, scales));
  return Rounded(std::move(decoded), dtype == DType::kInvalid ? OwnDType(scales) : dtype);
}

// 5.1.0: the size of a block comes from the config, and the grid from that.
absl::StatusOr<Tensor> InConfiguredGrid(const Op& op, const Tensor& weight, Tensor scales) {
  const size_t rank = weight.shape.size();
  if (rank < 2) return InvalidArgumentError("a weight without rows and columns");
  const int64_t rows = weight.shape[rank - 2], cols = weight.shape[rank - 1];
  const int64_t block_rows = op.block.size() == 2 ? op.block[0] : rows;
  const int64_t block_cols = op.block.size() == 2 ? op.block[1] : cols;
  if (block_rows < 1 || block_cols < 1 || rows % block_rows != 0 || cols % block_cols != 0) {
    return InvalidArgumentError(absl::StrCat("a matrix of ", rows, " x ", cols,
                                             " has no blocks of ", block_rows, " x ", block_cols));
  }
  const int64_t grid_rows = rows / block_rows, grid_cols = cols / block_cols;
  const int64_t count = NumElements(scales.shape);
  if (count % (grid_rows * grid_cols) != 0) {
    return InvalidArgumentError(absl::StrCat("scales of shape ", ShapeText(scales.shape)));
  }
  scales.shape = {count / (grid_rows * grid_cols), grid_rows, grid_cols};
  return scales;
}

absl::StatusOr<Results> FirstGenerationFp8(const Op& op, const Results& input,
                                           const OperationContext& context) {
  const NamedTensors* const weight = Under(input, "weight$");
  const NamedTensors* const scales = Under(input, "weight_scale_inv");
  if (weight == nullptr) return InvalidArgumentError("no weight");
  Results results;
  if (scales == nullptr) {
    results.push_back(One(context.full_name, weight->tensors[0]));
    return results;
  }
  ZC_ASSIGN_OR_RETURN(const Tensor grid,
                      InConfiguredGrid(op, weight->tensors[0], scales->tensors[0]));
  ZC_ASSIGN_OR_RETURN(Tensor decoded, DecodePair(weight->tensors[0], grid, context.decode_to));
  results.push_back(One(context.full_name, std::move(decoded)));
  return results;
}

absl::StatusOr<Results> Fp8(const Results& input, const OperationContext& context) {
  const DType dtype = context.decode_to != DType::kInvalid ? context.decode_to : CommonDType(input);
  Results results;
  // A weight alone goes on under the whole name.
  if (const NamedTensors* weight = Under(input, "weight"); weight != nullptr) {
    const std::string name = context.full_name.empty() ? "weight" : context.full_name;
    const NamedTensors* const scales = Under(input, "weight_scale_inv");
    if (scales == nullptr) {
      results.push_back(One(name, weight->tensors[0]));
      return results;
    }
    ZC_ASSIGN_OR_RETURN(Tensor decoded, DecodePair(weight->tensors[0], scales->tensors[0], dtype));
    results.push_back(One(name, std::move(decoded)));
    return results;
  }
  for (const NamedTensors& named : input) {
    if (IsScale(named.pattern)) continue;
    const NamedTensors* const scales = Under(input, named.pattern + "_scale_inv");
    if (scales == nullptr) {
      results.push_back(named);
      continue;
    }
    if (scales->tensors.size() != named.tensors.size()) {
      return InvalidArgumentError(absl::StrCat(named.pattern, " has ", named.tensors.size(),
                                               " weights and ", scales->tensors.size(), " scales"));
    }
    NamedTensors decoded{named.pattern, {}, /*single=*/false};
    for (size_t i = 0; i < named.tensors.size(); ++i) {
      ZC_ASSIGN_OR_RETURN(Tensor tensor, DecodePair(named.tensors[i], scales->tensors[i], dtype));
      decoded.tensors.push_back(std::move(tensor));
    }
    results.push_back(std::move(decoded));
  }
  return results;
}

absl::StatusOr<Results> Mxfp4(const Results& input, const OperationContext& context) {
  const bool is_first_generation = Under(input, "_blocks") != nullptr;
  const std::string part = is_first_generation                                    ? ""
                           : absl::StrContains(context.full_name, "gate_up_proj") ? "gate_up_proj"
                                                                                  : "down_proj";
  const NamedTensors* const blocks = Under(input, part + "_blocks");
  const NamedTensors* const scales = Under(input, part + "_scales");
  if (blocks == nullptr || scales == nullptr) {
    return InvalidArgumentError(absl::StrCat("no blocks or no scales of ", part));
  }
  ZC_ASSIGN_OR_RETURN(Tensor decoded, DequantizeMxfp4(blocks->tensors[0], scales->tensors[0]));
  ZC_ASSIGN_OR_RETURN(decoded, Rounded(std::move(decoded), context.decode_to == DType::kInvalid
                                                               ? DType::kBFloat16
                                                               : context.decode_to));
  Results results;
  results.push_back(One(context.full_name, std::move(decoded)));
  return results;
}

}  // namespace

absl::StatusOr<Tensor> DequantizeBlocks(const Tensor& weight, const Tensor& scales) {
  Shape shape = weight.shape;
  if (shape.size() < 2) return InvalidArgumentError("a weight without rows and columns");
  std::vector<float> values;
  if (IsFloat8(weight.dtype)) {
    ZC_ASSIGN_OR_RETURN(const std::string bytes,
                        CastBytes(weight.bytes, weight.dtype, DType::kFloat32));
    values = Floats(bytes);
  } else if (weight.dtype == DType::kInt8) {
    values = Unpacked(weight.bytes);
    shape.back() *= 2;
  } else {
    return InvalidArgumentError(
        absl::StrCat("a weight of dtype ", DTypeName(weight.dtype), " is not quantised"));
  }
  const int64_t rows = shape[shape.size() - 2], cols = shape.back();
  const size_t rank = scales.shape.size();
  const int64_t grid_rows = rank < 2 ? 1 : scales.shape[rank - 2];
  const int64_t grid_cols = rank < 2 ? 1 : scales.shape[rank - 1];
  if (grid_rows == 0 || grid_cols == 0 || rows % grid_rows != 0 || cols % grid_cols != 0) {
    return InvalidArgumentError(absl::StrCat("a matrix of ", rows, " x ", cols, " is no grid of ",
                                             grid_rows, " x ", grid_cols, " blocks"));
  }
  if (values.empty()) return FromFloats(std::move(shape), values);
  ZC_ASSIGN_OR_RETURN(const std::vector<float> factors, ScaleValues(scales));
  const int64_t matrices = NumElements(shape) / (rows * cols);
  const auto num_factors = static_cast<int64_t>(factors.size());
  const bool is_shared = num_factors == grid_rows * grid_cols;
  if (!is_shared && num_factors != matrices * grid_rows * grid_cols) {
    return InvalidArgumentError(
        absl::StrCat("scales of shape ", ShapeText(scales.shape), " for ", matrices, " matrices"));
  }
  size_t at = 0;
  for (int64_t m = 0; m < matrices; ++m) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c, ++at) {
        const int64_t grid_row = r / (rows / grid_rows), grid_col = c / (cols / grid_cols);
        const int64_t matrix = is_shared ? 0 : m;
        values[at] =
            Product(values[at], factors[(matrix * grid_rows + grid_row) * grid_cols + grid_col]);
      }
    }
  }
  return FromFloats(std::move(shape), values);
}

absl::StatusOr<Tensor> DequantizeMxfp4(const Tensor& blocks, const Tensor& scales) {
  Shape shape = blocks.shape;
  if (shape.size() < 2 || SizeOf(blocks.dtype) != 1 || scales.dtype != DType::kUInt8) {
    return InvalidArgumentError("blocks and scales are not groups of bytes");
  }
  const int64_t group_bytes = shape.back();
  shape.pop_back();
  if (shape != scales.shape) {
    return InvalidArgumentError(absl::StrCat("blocks of shape ", ShapeText(blocks.shape),
                                             " and scales of shape ", ShapeText(scales.shape)));
  }
  std::vector<float> values = Unpacked(blocks.bytes);
  for (size_t i = 0; i < values.size(); ++i) {
    const auto scale =
        static_cast<unsigned char>(scales.bytes[i / static_cast<size_t>(2 * group_bytes)]);
    values[i] = static_cast<float>(std::ldexp(static_cast<double>(values[i]), scale - 127));
  }
  shape.back() *= 2 * group_bytes;
  return TransposeTensor(FromFloats(std::move(shape), values), 1, 2);
}

absl::StatusOr<std::vector<NamedTensors>> RunDequantize(const Op& op,
                                                        const std::vector<NamedTensors>& input,
                                                        const OperationContext& context) {
  if (op.kind == OpKind::kMxfp4Dequantize) return Mxfp4(input, context);
  // The two releases differ in how their rules name the weight.
  if (std::find(context.sources.begin(), context.sources.end(), "weight$") !=
      context.sources.end()) {
    return FirstGenerationFp8(op, input, context);
  }
  return Fp8(input, context);
}

}  // namespace zerocast::verify
