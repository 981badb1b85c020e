#ifndef ZEROCAST_SERVER_CONVERSION_DECODERS_H_
#define ZEROCAST_SERVER_CONVERSION_DECODERS_H_

// The operations that decode quantised tensors, as decoders of a source: no data moves, a source is
// only seen otherwise.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kernels/copy/decode.h"
#include "kernels/copy/dtype.h"
#include "server/conversion/lower.h"
#include "server/conversion/rule.h"

namespace zerocast {

// A tensor of the checkpoint that is seen through a decoder.  Boxes that read it count its logical
// elements.
struct SourceDecoder {
  int32_t source = 0;  // the tensor of stored elements
  int32_t scale = 0;   // the tensor of their scales
  Decoder decoder;
  // What it decodes to where nobody asks for a dtype: that of the scales where it is a floating one
  // of two bytes or more, else bfloat16.
  DType dtype = DType::kInvalid;
};

inline bool operator==(const SourceDecoder& a, const SourceDecoder& b) {
  return a.source == b.source && a.scale == b.scale && a.decoder == b.decoder && a.dtype == b.dtype;
}

// The decoder of `source` among decoders that are ascending by source; null where it has none.
inline const SourceDecoder* FindDecoder(absl::Span<const SourceDecoder> decoders, int32_t source) {
  const auto found = std::lower_bound(
      decoders.begin(), decoders.end(), source,
      [](const SourceDecoder& decoder, int32_t wanted) { return decoder.source < wanted; });
  return found != decoders.end() && found->source == source ? &*found : nullptr;
}

// True for the operations of this file.
bool IsDecode(OpKind kind);
// True for a rule with such an operation: it has no reverse, as what was rounded to a quantised
// form cannot be rounded to it again.
bool Decodes(const Rule& rule);

// What they look up.
struct DecodeContext {
  absl::string_view full_name;  // the renamed key that the tensors were collected under
  absl::FunctionRef<DType(int32_t source)> source_dtype;
  int generation = 2;  // Dialect::generation
};

// Runs kFp8Dequantize or kMxfp4Dequantize with the library's meaning of the release: each weight
// that has a scale comes back in its logical shape, with its decoder appended to `decoders`; scales
// and activation scales are left out; other tensors pass.  Errors:
//   INVALID_ARGUMENT  tensors that do not go together; the message is the library's where it has
//                     one.
//   UNIMPLEMENTED     a value that is not one whole tensor of the checkpoint: decoding comes first.
absl::StatusOr<Entries> ApplyDecode(const Op& op, const Entries& input,
                                    const DecodeContext& context,
                                    std::vector<SourceDecoder>* decoders);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONVERSION_DECODERS_H_
