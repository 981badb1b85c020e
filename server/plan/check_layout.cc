#include "server/plan/check_layout.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "kernels/copy/dtype.h"
#include "server/base/errors.h"
#include "server/conversion/pattern.h"

namespace zerocast {
namespace {

class Violations {
 public:
  void Add(absl::string_view field, std::string description) {
    list_.push_back({absl::StrCat("layout.", field), std::move(description)});
  }
  absl::Status ToStatus() const { return WithReason(InvalidFields(list_), "INVALID_FIELDS"); }

 private:
  std::vector<FieldViolation> list_;
};

void CheckNodes(const Layout& layout, Violations* violations) {
  const std::vector<int32_t>& nodes = layout.node_of_rank;
  if (static_cast<int64_t>(nodes.size()) != layout.world_size) {
    violations->Add("node_of_rank", absl::StrCat("must have one entry for each of the ",
                                                 layout.world_size, " ranks, has ", nodes.size()));
  }
  for (size_t rank = 0; rank < nodes.size(); ++rank) {
    if (nodes[rank] < 0 || nodes[rank] >= layout.num_nodes) {
      violations->Add(absl::StrCat("node_of_rank[", rank, "]"),
                      absl::StrCat("must be in [0, ", layout.num_nodes, "), was ", nodes[rank]));
      return;
    }
  }
  if (!std::is_sorted(nodes.begin(), nodes.end())) {
    violations->Add("node_of_rank", "must not decrease: the ranks of a node are neighbours");
  } else if (!nodes.empty() && nodes[0] != 0) {
    violations->Add("node_of_rank[0]", absl::StrCat("rank 0 must be on node 0, was ", nodes[0]));
  }
}

void CheckEnums(const Layout& layout, bool has_spec, Violations* violations) {
  if (layout.read_mode < ReadMode::kParallel || layout.read_mode > ReadMode::kRank0) {
    violations->Add("read_mode",
                    absl::StrCat("is no read mode: ", static_cast<int>(layout.read_mode)));
  }
  if (layout.move_mode < MoveMode::kScatter || layout.move_mode > MoveMode::kBroadcast) {
    violations->Add("move_mode",
                    absl::StrCat("is no move mode: ", static_cast<int>(layout.move_mode)));
  }
  if (layout.device < LoadDevice::kCpu || layout.device > LoadDevice::kCuda) {
    violations->Add("device", absl::StrCat("is no device: ", static_cast<int>(layout.device)));
  }
  if (layout.placement < Placement::kDevice || layout.placement > Placement::kHost) {
    violations->Add("placement",
                    absl::StrCat("is no placement: ", static_cast<int>(layout.placement)));
  }
  if (layout.dtype < DTypePolicy::kStored || layout.dtype > DTypePolicy::kFloat32) {
    violations->Add("dtype", absl::StrCat("is no dtype policy: ", static_cast<int>(layout.dtype)));
  } else if (layout.dtype == DTypePolicy::kSpec && !has_spec) {
    violations->Add("dtype", "'spec' needs a model spec, and none was given");
  }
}

}  // namespace

absl::Status CheckLayout(const Layout& layout, bool has_spec) {
  Violations violations;
  if (layout.world_size < 1) {
    violations.Add("world_size", absl::StrCat("must be at least 1, was ", layout.world_size));
  }
  if (layout.num_nodes < 1) {
    violations.Add("num_nodes", absl::StrCat("must be at least 1, was ", layout.num_nodes));
  }
  if (layout.world_size >= 1 && layout.num_nodes >= 1) CheckNodes(layout, &violations);
  if (layout.zero_stage < 0 || layout.zero_stage > 3) {
    violations.Add("zero_stage", absl::StrCat("must be 0 to 3, was ", layout.zero_stage));
  }
  const int32_t group = SecondaryGroupSize(layout);
  if (layout.hpz_partition_size < 0 || (group > 0 && layout.world_size % group != 0)) {
    violations.Add("hpz_partition_size", absl::StrCat("must divide the ", layout.world_size,
                                                      " ranks, was ", layout.hpz_partition_size));
  }
  if (layout.round_bytes < SizeOf(DType::kFloat64)) {
    violations.Add("round_bytes",
                   absl::StrCat("must hold an element of any dtype (", SizeOf(DType::kFloat64),
                                " bytes), was ", layout.round_bytes));
  }
  CheckEnums(layout, has_spec, &violations);
  for (size_t i = 0; i < layout.allow_missing.size(); ++i) {
    if (const auto regex = Regex::Compile(layout.allow_missing[i]); !regex.ok()) {
      violations.Add(absl::StrCat("allow_missing[", i, "]"), std::string(regex.status().message()));
    }
  }
  return violations.ToStatus();
}

}  // namespace zerocast
