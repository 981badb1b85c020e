#include "server/plan/flat_group.h"

#include <algorithm>
#include <numeric>

#include "server/plan/shape.h"

namespace zerocast {

std::vector<int32_t> FlatOrder(int32_t size, int64_t world_size, bool round_robin_gradients) {
  std::vector<int32_t> order;
  order.reserve(static_cast<size_t>(size));
  const int64_t step = round_robin_gradients ? world_size : 1;
  for (int64_t first = 0; first < std::min<int64_t>(step, size); ++first) {
    for (int64_t place = first; place < size; place += step) {
      order.push_back(static_cast<int32_t>(place));
    }
  }
  return order;
}

int64_t FlatAlignment(bool parameter_alignment, int64_t element_bytes) {
  constexpr int64_t kParameterBytes = 16;
  if (!parameter_alignment || element_bytes < 1) return 1;
  return kParameterBytes / std::gcd(kParameterBytes, element_bytes);
}

bool LayOutFlatGroup(absl::Span<const int64_t> sizes, const FlatGroupOptions& options,
                     FlatGroup* group) {
  group->offsets.assign(sizes.size(), 0);
  int64_t end = 0;
  const auto pad = [&end](int64_t multiple) {
    end += (multiple - end % multiple) % multiple;
    return end < kTooManyBytes;
  };
  const std::vector<int32_t> order = FlatOrder(static_cast<int32_t>(sizes.size()),
                                               options.world_size, options.round_robin_gradients);
  for (size_t k = 0; k < order.size(); ++k) {
    const auto place = static_cast<size_t>(order[k]);
    group->offsets[place] = end;
    if (sizes[place] < 0 || sizes[place] >= kTooManyBytes) return false;
    end += sizes[place];
    if (end >= kTooManyBytes) return false;
    if (k + 1 < order.size() && !pad(options.alignment)) return false;
  }
  if (!pad(2 * options.world_size)) return false;
  group->num_elements = end;
  return true;
}

}  // namespace zerocast
