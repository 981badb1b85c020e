#ifndef ZEROCAST_CLIENT_VERIFY_TORCH_PICKLE_H_
#define ZEROCAST_CLIENT_VERIFY_TORCH_PICKLE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace zerocast::verify {

// A value of a pickle.  Nothing is made of it: a call is what it would call, and with what.
struct PickledValue {
  enum class Kind {
    kOther,
    kNone,
    kBool,
    kNumber,
    kText,
    kGlobal,
    kTuple,
    kList,
    kDict,
    kCall,
    kId
  };
  Kind kind = Kind::kOther;
  int64_t number = 0;      // kNumber, kBool
  std::string text;        // kText; kGlobal: "module name"; kNumber of more than 8 bytes: those
  std::vector<int> items;  // kTuple, kList, kDict (key, value, ...), kCall (function, arguments,
                           // then key, value, ... that it is given), kId (the one value)
};

// The values of some pickles by number.
using PickledValues = std::vector<PickledValue>;

// Reads the pickle at byte *at of `stream` and moves *at behind it: the opcodes that torch.save
// writes.  The number of its value among `values`.  Errors: DATA_LOSS for anything else, naming
// `path`.
absl::StatusOr<int> ReadPickled(absl::string_view path, absl::string_view stream, size_t* at,
                                PickledValues* values);

}  // namespace zerocast::verify

#endif  // ZEROCAST_CLIENT_VERIFY_TORCH_PICKLE_H_
