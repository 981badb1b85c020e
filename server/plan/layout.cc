#include "server/plan/layout.h"

#include <algorithm>

namespace zerocast {

std::vector<int32_t> PlaceRanks(int32_t world_size, int32_t num_nodes) {
  std::vector<int32_t> node_of_rank;
  node_of_rank.reserve(world_size);
  const int32_t base = world_size / num_nodes, more = world_size % num_nodes;
  for (int32_t node = 0; node < num_nodes; ++node) {
    node_of_rank.insert(node_of_rank.end(), base + (node < more ? 1 : 0), node);
  }
  return node_of_rank;
}

Layout ExchangeLayout(Layout layout) {
  if (layout.device == LoadDevice::kCpu) return layout;
  layout.num_nodes = layout.world_size;
  layout.node_of_rank = PlaceRanks(layout.world_size, layout.world_size);
  return layout;
}

int32_t SecondaryGroupSize(const Layout& layout) {
  if (layout.zero_stage != 3 || layout.hpz_partition_size <= 1) return 0;
  return std::min(layout.hpz_partition_size, layout.world_size);
}

}  // namespace zerocast
