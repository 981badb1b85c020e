#include "server/conversion/decoders.h"

#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/copy/algebra.h"
#include "kernels/copy/decode_box.h"
#include "server/conversion/tensor_algebra.h"

namespace zerocast {
namespace {

// The tensor of the checkpoint that `value` is, whole.
absl::StatusOr<int32_t> WholeSource(const Value& value) {
  if (value.boxes.size() != 1 ||
      !(value.boxes[0] == WholeBox(value.boxes[0].source, Product(value.shape), 0))) {
    return absl::UnimplementedError(
        "only whole tensors of the checkpoint can be decoded, before any other operation, and only "
        "where their elements lie in the file in their order (torch: contiguous)");
  }
  return value.boxes[0].source;
}

// Appends the decoder and gives the value that boxes read through it.
absl::StatusOr<Value> Decoded(const SourceDecoder& decoder, std::vector<int64_t> shape,
                              const Value& weight, const Value& scale,
                              std::vector<SourceDecoder>* decoders) {
  if (!IsConsistent(decoder.decoder, Product(weight.shape), Product(scale.shape))) {
    return absl::InvalidArgumentError(
        absl::StrCat("scales of shape ", ShapeText(scale.shape), " and dtype ",
                     DTypeName(decoder.decoder.scale), " do not belong to a weight of shape ",
                     ShapeText(weight.shape), " and dtype ", DTypeName(decoder.decoder.stored)));
  }
  Value value = WholeValue(decoder.source, std::move(shape));
  decoders->push_back(decoder);
  return value;
}

// The size of a block, checked against the matrix.
struct Block {
  int64_t rows = 0, cols = 0;
};

// 5.1.0 takes it from quantization_config.weight_block_size, ...
absl::StatusOr<Block> ConfiguredBlock(const Op& op, int64_t rows, int64_t cols) {
  Block block{rows, cols};
  if (op.block.size() == 2) block = {op.block[0], op.block[1]};
  if (block.rows < 1 || block.cols < 1 || rows % block.rows != 0 || cols % block.cols != 0) {
    return absl::InvalidArgumentError(absl::StrCat("Matrix dimensions (", rows, ", ", cols,
                                                   ") must be divisible by block sizes (",
                                                   block.rows, ", ", block.cols, ")."));
  }
  return block;
}

// ... 5.23.0 from the grid of scales.
absl::StatusOr<Block> GridBlock(const std::vector<int64_t>& scale, int64_t rows, int64_t cols) {
  const size_t rank = scale.size();
  const int64_t grid_rows = rank < 2 ? 1 : scale[rank - 2];
  const int64_t grid_cols = rank < 2 ? 1 : scale[rank - 1];
  if (grid_rows < 1 || grid_cols < 1 || rows % grid_rows != 0 || cols % grid_cols != 0) {
    return absl::InvalidArgumentError(absl::StrCat("Weight shape (", rows, ", ", cols,
                                                   ") not divisible by scale grid (", grid_rows,
                                                   ", ", grid_cols, ")."));
  }
  return Block{rows / grid_rows, cols / grid_cols};
}

absl::StatusOr<Value> DecodeFp8(const Op& op, const Value& weight, const Value& scale,
                                const DecodeContext& context,
                                std::vector<SourceDecoder>* decoders) {
  std::vector<int64_t> shape = weight.shape;
  if (shape.size() < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("a weight of shape ", ShapeText(shape), " has no rows and columns"));
  }
  if (Product(shape) == 0) return weight;
  SourceDecoder decoder;
  ZC_ASSIGN_OR_RETURN(decoder.source, WholeSource(weight));
  ZC_ASSIGN_OR_RETURN(decoder.scale, WholeSource(scale));
  Decoder& form = decoder.decoder;
  form.stored = context.source_dtype(decoder.source);
  form.scale = context.source_dtype(decoder.scale);
  form.kind = DecoderKind::kFp8Block;
  if (form.stored == DType::kInt8 && context.generation > 1) {
    form.kind = DecoderKind::kFp4Block;
    shape.back() *= 2;
  }
  form.rows = shape[shape.size() - 2];
  form.cols = shape.back();
  ZC_ASSIGN_OR_RETURN(const Block block, context.generation == 1
                                             ? ConfiguredBlock(op, form.rows, form.cols)
                                             : GridBlock(scale.shape, form.rows, form.cols));
  form.block_rows = block.rows;
  form.block_cols = block.cols;
  const int64_t grid = form.rows / block.rows * (form.cols / block.cols);
  const bool is_shared = Product(scale.shape) == grid && Product(shape) != form.rows * form.cols;
  form.matrix_scales = is_shared ? 0 : grid;
  const bool keeps_scale = IsFloating(form.scale) && SizeOf(form.scale) >= 2;
  decoder.dtype = keeps_scale ? form.scale : DType::kBFloat16;
  return Decoded(decoder, std::move(shape), weight, scale, decoders);
}

Entry OneValue(absl::string_view name, Value value) {
  Entry entry;
  entry.name = std::string(name);
  entry.values.push_back(std::move(value));
  return entry;
}

// One weight alone, under the name of a general conversion.
absl::StatusOr<Entries> DecodeSingle(const Op& op, const Entry& weight, const Entry* scale,
                                     const DecodeContext& context,
                                     std::vector<SourceDecoder>* decoders) {
  const absl::string_view name = context.full_name.empty() ? "weight" : context.full_name;
  Entries result;
  if (scale != nullptr && !scale->values.empty()) {
    ZC_ASSIGN_OR_RETURN(Value value,
                        DecodeFp8(op, weight.values[0], scale->values[0], context, decoders));
    result.push_back(OneValue(name, std::move(value)));
  } else if (context.generation == 1) {
    result.push_back({std::string(name), weight.is_list, weight.values});
  } else {
    result.push_back(OneValue(name, weight.values[0]));
  }
  return result;
}

absl::StatusOr<Entries> DecodeFp8Entries(const Op& op, const Entries& input,
                                         const DecodeContext& context,
                                         std::vector<SourceDecoder>* decoders) {
  const Entry* const single = FindEntry(input, context.generation == 1 ? "weight$" : "weight");
  if (single != nullptr && !single->values.empty()) {
    return DecodeSingle(op, *single, FindEntry(input, "weight_scale_inv"), context, decoders);
  }
  if (context.generation == 1) {
    return absl::InvalidArgumentError("'weight$'");
  }
  Entries result;
  for (const Entry& entry : input) {
    if (absl::StrContains(entry.name, "activation_scale") ||
        absl::StrContains(entry.name, "weight_scale_inv")) {
      continue;
    }
    const Entry* const scales = FindEntry(input, absl::StrCat(entry.name, "_scale_inv"));
    if (scales == nullptr) {
      result.push_back(entry);
      continue;
    }
    if (entry.values.size() != scales->values.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("Fp8Dequantize: weight/scale count mismatch for ", entry.name, " (",
                       entry.values.size(), " weights vs ", scales->values.size(), " scales)."));
    }
    Entry decoded{entry.name, /*is_list=*/true, {}};
    for (size_t i = 0; i < entry.values.size(); ++i) {
      ZC_ASSIGN_OR_RETURN(Value value,
                          DecodeFp8(op, entry.values[i], scales->values[i], context, decoders));
      decoded.values.push_back(std::move(value));
    }
    result.push_back(std::move(decoded));
  }
  return result;
}

// torch.Size([2, 3])
std::string SizeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("torch.Size(", ShapeText(shape), ")");
}

absl::StatusOr<Entries> DecodeMxfp4(const Entries& input, const DecodeContext& context,
                                    std::vector<SourceDecoder>* decoders) {
  const std::string part = context.generation == 1                                ? ""
                           : absl::StrContains(context.full_name, "gate_up_proj") ? "gate_up_proj"
                                                                                  : "down_proj";
  const std::string names[] = {absl::StrCat(part, "_blocks"), absl::StrCat(part, "_scales")};
  const Value* found[2] = {};
  for (int i = 0; i < 2; ++i) {
    const Entry* const entry = FindEntry(input, names[i]);
    if (entry == nullptr || entry->values.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", names[i], "': the checkpoint has no tensor for it"));
    }
    found[i] = &entry->values[0];
  }
  const Value &blocks = *found[0], &scales = *found[1];
  std::vector<int64_t> shape = blocks.shape;
  if (shape.size() < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("blocks of shape ", ShapeText(shape), " are no groups of bytes"));
  }
  const int64_t bytes = shape.back();
  shape.pop_back();
  if (shape != scales.shape) {
    return absl::InvalidArgumentError(
        absl::StrCat("blocks.shape[:-1]=", SizeText(shape),
                     " does not match scales.shape=", SizeText(scales.shape)));
  }
  shape.back() *= 2 * bytes;
  Value value = WholeValue(0, shape);
  if (Product(blocks.shape) > 0) {
    SourceDecoder decoder;
    ZC_ASSIGN_OR_RETURN(decoder.source, WholeSource(blocks));
    ZC_ASSIGN_OR_RETURN(decoder.scale, WholeSource(scales));
    decoder.decoder.kind = DecoderKind::kMxfp4;
    decoder.decoder.stored = context.source_dtype(decoder.source);
    decoder.decoder.scale = context.source_dtype(decoder.scale);
    decoder.decoder.cols = decoder.decoder.block_cols = 2 * bytes;
    decoder.decoder.matrix_scales = 1;
    decoder.dtype = DType::kBFloat16;
    ZC_ASSIGN_OR_RETURN(value, Decoded(decoder, shape, blocks, scales, decoders));
  }
  ZC_ASSIGN_OR_RETURN(value, Transpose(value, 1, 2));
  Entries result;
  result.push_back(OneValue(context.full_name, std::move(value)));
  return result;
}

}  // namespace

bool IsDecode(OpKind kind) {
  return kind == OpKind::kFp8Dequantize || kind == OpKind::kMxfp4Dequantize;
}

bool Decodes(const Rule& rule) {
  return std::any_of(rule.ops.begin(), rule.ops.end(),
                     [](const Op& op) { return IsDecode(op.kind); });
}

absl::StatusOr<Entries> ApplyDecode(const Op& op, const Entries& input,
                                    const DecodeContext& context,
                                    std::vector<SourceDecoder>* decoders) {
  if (op.kind == OpKind::kMxfp4Dequantize) return DecodeMxfp4(input, context, decoders);
  return DecodeFp8Entries(op, input, context, decoders);
}

}  // namespace zerocast
