#ifndef ZEROCAST_TESTS_SERVER_CONVERSION_NAIVE_OPS_H_
#define ZEROCAST_TESTS_SERVER_CONVERSION_NAIVE_OPS_H_

// The operations on real elements, one index after the other, written from Transformers' and
// torch's definitions.  Shares nothing with the code that lowers them to boxes.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "server/conversion/rule.h"

namespace zerocast {

struct NaiveTensor {
  std::vector<int64_t> shape;
  std::vector<int64_t> data;  // row-major
};

struct NaiveEntry {
  std::string name;
  bool is_list = false;
  std::vector<NaiveTensor> tensors;
};

using NaiveEntries = std::vector<NaiveEntry>;

struct NaiveContext {
  std::vector<std::string> sources, targets;
  std::string full_name;
  std::map<std::string, std::vector<int64_t>> model;  // shapes
  int64_t heads = 1;                                  // of the config
  int64_t count = 1;                                  // what count_attr names
};

// What 5.23.0 makes of `input`; nothing where it raises.  Sizes are >= 1.
std::optional<NaiveEntries> RunNaive(const Op& op, const NaiveEntries& input,
                                     const NaiveContext& context);

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_SERVER_CONVERSION_NAIVE_OPS_H_
