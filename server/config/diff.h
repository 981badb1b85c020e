#ifndef ZEROCAST_SERVER_CONFIG_DIFF_H_
#define ZEROCAST_SERVER_CONFIG_DIFF_H_

#include <string>
#include <vector>

#include "server/config/value.h"

namespace zerocast {

enum class DifferenceKind {
  kAdded,        // only the second config has the path
  kRemoved,      // only the first has it
  kChanged,      // both have it, with values of one Python type
  kTypeChanged,  // with values of two: 1 and 1.0 differ, as do 1 and true
};

struct ConfigDifference {
  std::string path;  // "optimizer.params.betas[1]"; "" for the two values themselves
  DifferenceKind kind = DifferenceKind::kChanged;
  // JSON text; "" where the config has no such path.
  std::string before, after;
};

// How `after` differs from `before`: the paths that both have in the order of `before`, removed
// ones among them, then the added ones, object by object.  Empty where and only where ContentHash
// is equal: the order of keys does not count.
//
// Objects are compared member by member, lists element by element where both have at most
// kMaxComparedElements; longer lists differ as a whole.  An added or removed object is one
// difference.  Where the answer would grow beyond kMaxDiffBytes (long keys above many values), a
// member of the top level differs as a whole.
inline constexpr size_t kMaxComparedElements = 16;
inline constexpr size_t kMaxDiffBytes = size_t{4} << 20;
std::vector<ConfigDifference> DiffConfigs(const ConfigValue& before, const ConfigValue& after);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONFIG_DIFF_H_
