#ifndef ZEROCAST_SERVER_CONVERSION_QUANTIZATION_H_
#define ZEROCAST_SERVER_CONVERSION_QUANTIZATION_H_

// Checkpoints whose weights are quantised: which can be loaded, and the rules that decode them.

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "server/conversion/rule.h"

namespace zerocast {

struct SourceTensor;
struct SpecTensor;

enum class Quantization {
  kNone,
  kFp8,    // "fp8", "mxfp8": 8-bit floats (also packed e2m1), a weight_scale_inv a block
  kMxfp4,  // "mxfp4": two e2m1 numbers a byte, an exponent a group
};

struct QuantizationConfig {
  Quantization method = Quantization::kNone;
  // kFp8, weight_block_size: rows and columns of a block; empty: one block.  Only 5.1.0 uses it.
  std::vector<int64_t> block;
};

// What the config.json of a checkpoint says about it, at the top or of the text model;
// `config_json` may be "" or hostile.  Errors:
//   INVALID_ARGUMENT  the text is not a JSON object.
//   UNIMPLEMENTED     a method that is not decoded here, by its name, with what to do; reason
//                     UNSUPPORTED.
absl::StatusOr<QuantizationConfig> ReadQuantization(absl::string_view config_json);

// The rules that load such a checkpoint into a model that is not quantised, as the library's
// quantizer of the dialect's release makes them of the model's own.  5.23.0 (quantizers/base.py,
// update_weight_conversions): conversions of weights collect their scales too and decode first;
// what no conversion takes is decoded alone.  5.1.0: only the latter.  Rules that already decode
// are kept as they are.  `model` may be empty.
std::vector<Rule> QuantizedRules(const QuantizationConfig& quantization, const Dialect& dialect,
                                 std::vector<Rule> rules, absl::Span<const SpecTensor> model);

// Refuses what would load wrong values unseen.  Errors: FAILED_PRECONDITION, reason UNSUPPORTED:
// the model itself has the scales of a quantised checkpoint as parameters; or the checkpoint has
// 8-bit floats with scales beside them and its config.json does not say how they are quantised.
absl::Status CheckQuantized(Quantization quantization, absl::Span<const SourceTensor> sources,
                            absl::Span<const SpecTensor> model);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONVERSION_QUANTIZATION_H_
