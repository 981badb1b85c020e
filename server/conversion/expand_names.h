#ifndef ZEROCAST_SERVER_CONVERSION_EXPAND_NAMES_H_
#define ZEROCAST_SERVER_CONVERSION_EXPAND_NAMES_H_

#include "absl/strings/string_view.h"
#include "server/conversion/lower.h"

namespace zerocast {

// Operations name their results by target patterns; the renamed key `name` says what surrounds
// them.  Puts that around every name; where no name is part of the key they stay as they are.
void ExpandNames(absl::string_view name, int generation, Entries* entries);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONVERSION_EXPAND_NAMES_H_
