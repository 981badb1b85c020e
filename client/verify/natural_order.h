#ifndef ZEROCAST_CLIENT_VERIFY_NATURAL_ORDER_H_
#define ZEROCAST_CLIENT_VERIFY_NATURAL_ORDER_H_

#include <cstddef>
#include <string>
#include <vector>

namespace zerocast::verify {

// Indexes into `keys` in the order in which Transformers visits them (core_model_loading.py,
// dot_natural_key): dots part a key; a part of digits compares as a number and before any text.
// With `numbers_in_texts` (5.23.0; not 5.1.0) a text with digits at its end compares by the text,
// then by the number.  Stable.
std::vector<size_t> NaturallySorted(const std::vector<std::string>& keys, bool numbers_in_texts);

}  // namespace zerocast::verify

#endif  // ZEROCAST_CLIENT_VERIFY_NATURAL_ORDER_H_
