#ifndef ZEROCAST_SERVER_CONVERSION_DIGIT_BLIND_H_
#define ZEROCAST_SERVER_CONVERSION_DIGIT_BLIND_H_

// When keys that differ only in numbers may share the work of matching.
//
// A number is a part between dots that has digits only.  Two keys have the same shape when they are
// equal but for the digits of their numbers, number for number as long.  An expression that tests
// every such digit only as "a digit", "a word character" or "any character" matches both or
// neither, at the same places.

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace zerocast {

// Puts '0' for every digit of every number: keys of one shape become the same text.
void WithoutNumbers(std::string* key);

bool HasDigit(absl::string_view text);

// True when the PCRE2 expression cannot tell keys of one shape apart.  A digit in the expression is
// no test of a number's digit where a plain letter stands right before it ("w1"): the part then has
// a letter.  False where in doubt.
bool IsDigitBlindPattern(absl::string_view pattern);

// The first place from `begin` on where `part` occurs in `text` if any digit equals any digit; npos
// for none.
size_t FindAnyDigits(absl::string_view text, absl::string_view part, size_t begin);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONVERSION_DIGIT_BLIND_H_
