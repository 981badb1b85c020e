#ifndef ZEROCAST_SERVER_CONVERSION_CONVERT_H_
#define ZEROCAST_SERVER_CONVERSION_CONVERT_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/copy/box.h"
#include "kernels/copy/dtype.h"
#include "server/conversion/decoders.h"
#include "server/conversion/model_spec.h"
#include "server/conversion/quantization.h"
#include "server/conversion/rule.h"
#include "server/conversion/source_tensor.h"

namespace zerocast {

// Which rules turn the checkpoint's names into the model's.
struct ConversionRules {
  std::vector<Rule> rules;  // in order; legacy rules included
  Dialect dialect;
  std::string base_model_prefix;
  bool has_base_model_prefix = false;
  std::string
      config_json;  // the checkpoint's config.json, for operations that look values up; may be ""
  // Of the checkpoint; `rules` are then QuantizedRules().
  Quantization quantization = Quantization::kNone;
};

// A tensor of the model as the rules make it from the checkpoint.
struct ConvertedTensor {
  std::string name;  // the model's name
  std::vector<int64_t> shape;
  // Of the sources, a decoded one's SourceDecoder::dtype; the promoted one where they differ.
  DType dtype = DType::kInvalid;
  // Box::source indexes ConversionInput.sources, in logical elements of a decoded source;
  // canonical, merged.
  std::vector<Box> boxes;
  std::vector<int32_t> sources;  // every source whose elements went in, ascending; no scales
  int32_t rule = -1;  // the conversion that made it, index in the rules; -1: it was only renamed
  // Where the shape is not the model's: by what rule it was made, from which sources in which
  // files, and what is odd about them.  Else "".
  std::string origin;
};

struct ConversionError {
  std::string target;
  std::vector<std::string> sources;  // checkpoint names
  std::string message;               // names the rule, the sources (abridged) and their files
};

struct Conversion {
  std::vector<ConvertedTensor> tensors;  // only those that the model has, in the order of the model
  std::vector<std::string> unexpected;   // renamed names, in the order in which they were met
  std::vector<ConversionError> errors;
  std::vector<SourceDecoder> decoders;  // ascending by source, each source once
  std::vector<bool> used_rules;         // by rule: whether it matched a key
};

// Runs the renaming and lowers every operation to boxes: the generic loader's meaning
// (reference: Transformers' core_model_loading, convert_and_load_state_dict_in_model), with no
// tensor data at all.
//
// Pure.  `model` holds every name of the model (parameters, buffers and tied aliases) with its
// shape; without a spec it is empty and `any_name` is true: then every renamed key is taken as the
// model's.  Errors:
//   INVALID_ARGUMENT  a rule that does not compile, or whose form is not allowed, naming the rule;
//                     a pattern that reached the match limit, naming rule, key and file.
//   UNIMPLEMENTED     an operation not covered, or a chain needing more than kMaxBoxDims loops or
//                     4096 boxes, naming rule, target, sources and files.
// Failures of single targets (shapes that do not fit) are in Conversion::errors, not a status.
struct ConversionInput {
  absl::Span<const SourceTensor> sources;
  const ConversionRules* rules = nullptr;
  absl::Span<const SpecTensor> model;
  bool any_name = false;
  // The name of the file that holds a source, for messages; may be null: then none is named.
  std::function<std::string(int32_t)> file_of;
};
absl::StatusOr<Conversion> Convert(const ConversionInput& input);

// The rules for a checkpoint from the built-in catalogue by class name, else by model type, legacy
// rules last.  An unknown type gives the legacy rules alone.  Errors: INVALID_ARGUMENT for a
// dialect other than "5.23.0" or "5.1.0".
absl::StatusOr<std::vector<Rule>> CatalogueRules(absl::string_view architecture,
                                                 absl::string_view model_type,
                                                 absl::string_view dialect);
absl::StatusOr<Dialect> CatalogueDialect(absl::string_view dialect);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONVERSION_CONVERT_H_
