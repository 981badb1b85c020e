#ifndef ZEROCAST_SERVER_PLAN_LAYOUT_H_
#define ZEROCAST_SERVER_PLAN_LAYOUT_H_

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace zerocast {

enum class ReadMode {
  kParallel,  // each byte is read by exactly one node of the cluster
  kLocal,     // each node reads what its own ranks need
  kRank0,     // the node of rank 0 reads everything and sends
};

enum class MoveMode {
  kScatter,    // a slice goes only to the rank that owns it
  kBroadcast,  // what is read goes whole to every node, which keeps its slices
};

// Who fills shards, and where they lie unless Placement says otherwise.
enum class LoadDevice {
  kCpu,   // host memory; who reads and exchanges is a node
  kCuda,  // a CUDA device for each rank; who reads and exchanges is a rank
};

// In which memory shards lie.
enum class Placement {
  kDevice,  // that of LoadDevice
  kHost,    // host memory: a CUDA device writes into it
};

enum class DTypePolicy {
  kStored,    // every target keeps the file's dtype
  kSpec,      // the dtype that the model spec names
  kBFloat16,  // ZeRO-3's rule: floating parameters in this dtype, buffers in their own
  kFloat16,
  kFloat32,
};

// Buffers of a node's part of a load take at most this much unless the load or its agent says
// otherwise; bytes.
inline constexpr int64_t kDefaultBufferBytes = int64_t{256} << 20;

// A round's bytes where a load does not say them.  A node has what it sends and what it gets in two
// rounds, and, where whole targets are broadcast, two broadcasts: six rounds' bytes where every
// node gets as much as it sends.  An eighth leaves room for those that get more, and to read.
inline int64_t DefaultRoundBytes(int64_t max_buffer_bytes) {
  return std::min(max_buffer_bytes / 8, int64_t{32} << 20);
}

// Where the ranks are and how they want the model.
struct Layout {
  int32_t world_size = 0;
  std::vector<int32_t> node_of_rank;  // world_size entries, each in [0, num_nodes), non-decreasing
  int32_t num_nodes = 0;
  int32_t zero_stage = 3;  // 3: parameters partitioned; 0, 1, 2: whole on every rank
  // zero_hpz_partition_size: with ZeRO-3, groups of this many neighbouring ranks hold all
  // parameters once more (Target::secondary_elements).  0 and 1: none.
  int32_t hpz_partition_size = 1;
  ReadMode read_mode = ReadMode::kParallel;
  MoveMode move_mode = MoveMode::kScatter;
  LoadDevice device = LoadDevice::kCpu;
  Placement placement = Placement::kDevice;
  DTypePolicy dtype = DTypePolicy::kStored;
  // At most this many bytes are read in one round by one node, or rank (LoadDevice).
  int64_t round_bytes = 32 << 20;
  std::vector<std::string> allow_missing;  // regular expressions, searched in names
  bool ignore_mismatched = false;
  // Which rules apply (RuleChoice): "" is the model spec's dialect, or 5.23.0; the built-in table.
  std::string dialect;
  std::string rule_table_json;
  // Of a checkpoint that a training engine saved the weights alone, without the optimizer's states.
  bool weights_only = false;
  // How the engine that takes the shards lays out the optimizer's flat tensors under ZeRO stages 1
  // and 2; unset: as the engine that saved them.
  std::optional<bool> round_robin_gradients = std::nullopt;
  std::optional<bool> parameter_alignment = std::nullopt;
};

// Whether shards lie in the memory of devices.
inline bool LieOnDevices(const Layout& layout) {
  return layout.device != LoadDevice::kCpu && layout.placement == Placement::kDevice;
}

// `layout` as those who read and exchange see it: where devices fill shards every rank is a node
// of its own, which schedule, messages and the numbers of participants are derived from.
Layout ExchangeLayout(Layout layout);

// Ranks that hold all parameters together in their secondary partitions: hpz_partition_size, at
// most world_size; 0 where there are no secondary partitions.
int32_t SecondaryGroupSize(const Layout& layout);

// The first rank from `first_rank` on whose secondary partitions are block `block` of `group_size`.
inline int64_t FirstRankOfBlock(int64_t block, int64_t group_size, int64_t first_rank) {
  return first_rank + ((block - first_rank) % group_size + group_size) % group_size;
}

// The node of each rank: contiguous blocks, as launchers number ranks; where num_nodes does not
// divide world_size the first nodes hold one rank more.  Requires 1 <= num_nodes <= world_size.
std::vector<int32_t> PlaceRanks(int32_t world_size, int32_t num_nodes);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_PLAN_LAYOUT_H_
