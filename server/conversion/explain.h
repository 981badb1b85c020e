#ifndef ZEROCAST_SERVER_CONVERSION_EXPLAIN_H_
#define ZEROCAST_SERVER_CONVERSION_EXPLAIN_H_

// Words for what is wrong with the tensors that a conversion collected.

#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "nlohmann/json.hpp"
#include "server/conversion/convert.h"

namespace zerocast {

// The tensors of one source pattern, in natural order.
struct CollectedTensors {
  absl::string_view pattern;
  std::vector<const SourceTensor*> tensors;
};

// The names that would complete the numbering: a number between the lowest and the highest that no
// list has ("experts.1" between "experts.0" and "experts.2").  Empty where names differ in more
// than one number, or in more than numbers.
std::vector<std::string> MissingBetween(absl::Span<const CollectedTensors> lists);

// False where `config` (config.json, an object) says how many experts there are, and nowhere that
// they are `count`.
bool MayHaveExperts(const nlohmann::json& config, size_t count);

// What stands out, "; "-separated and abridged: a pattern of `patterns` that no tensor has, a
// number that one list has and another has not, a number missing between, a shape that differs from
// most of its list.  "" where nothing does.  `describe` names a tensor that is there.
std::string Oddities(absl::Span<const std::string> patterns,
                     absl::Span<const CollectedTensors> lists,
                     absl::FunctionRef<std::string(const SourceTensor&)> describe);

// "a, b and 3 more"
std::string Abridged(absl::Span<const std::string> texts, absl::string_view separator,
                     size_t most = 3);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONVERSION_EXPLAIN_H_
