#include "server/rpc/convert.h"

#include <google/protobuf/util/time_util.h>
#include <xxhash.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "server/base/errors.h"
#include "server/wire/report_wire.h"
#include "server/wire/status.h"

namespace zerocast::rpc {
namespace {

using ::google::protobuf::util::TimeUtil;

// Groups of shards that a load's `freed` names; a cluster may have thousands of nodes.
constexpr size_t kMaxFreedGroups = 8;

template <typename Time>
google::protobuf::Timestamp TimeToProto(Time time) {
  return TimeUtil::NanosecondsToTimestamp(absl::ToUnixNanos(time));
}

static_assert(static_cast<int>(jobs::JobState::kActive) + 1 == v1::JOB_STATE_ACTIVE);
static_assert(static_cast<int>(jobs::JobState::kCancelled) + 1 == v1::JOB_STATE_CANCELLED);
static_assert(static_cast<int>(jobs::JobState::kDone) + 1 == v1::JOB_STATE_DONE);
static_assert(static_cast<int>(jobs::JobState::kExpired) + 1 == v1::JOB_STATE_EXPIRED);
static_assert(static_cast<int>(jobs::LoadState::kPending) + 1 == v1::LOAD_STATE_PENDING);
static_assert(static_cast<int>(jobs::LoadState::kReady) + 1 == v1::LOAD_STATE_READY);
static_assert(static_cast<int>(jobs::LoadState::kCancelled) + 1 == v1::LOAD_STATE_CANCELLED);
static_assert(static_cast<int>(jobs::NodeStage::kNone) == v1::NODE_STAGE_UNSPECIFIED);
static_assert(static_cast<int>(jobs::NodeStage::kDone) == v1::NODE_STAGE_DONE);

v1::NodeProgress ProgressToProto(const jobs::NodeProgress& progress, int32_t node) {
  v1::NodeProgress out;
  out.set_node(node);
  out.set_node_name(progress.node_name);
  out.set_stage(static_cast<v1::NodeStage>(progress.stage));
  out.set_bytes_read(progress.bytes_read);
  out.set_bytes_to_read(progress.bytes_to_read);
  out.set_bytes_sent(progress.bytes_sent);
  out.set_bytes_received(progress.bytes_received);
  out.set_bytes_copied(progress.bytes_copied);
  out.set_arena_bytes(progress.arena_bytes);
  out.set_transport(progress.transport);
  v1::StageSeconds* seconds = out.mutable_seconds();
  seconds->set_prepare(progress.seconds.prepare);
  seconds->set_connect(progress.seconds.connect);
  seconds->set_read(progress.seconds.read);
  seconds->set_copy(progress.seconds.copy);
  seconds->set_exchange(progress.seconds.exchange);
  seconds->set_finish(progress.seconds.finish);
  seconds->set_total(progress.seconds.total);
  out.set_round(progress.round);
  out.set_num_rounds(progress.num_rounds);
  out.set_buffer_bytes(progress.buffer_bytes);
  out.set_read_calls(progress.read_calls);
  out.set_direct_bytes(progress.direct_bytes);
  out.set_direct_refusal(progress.direct_refusal);
  out.set_source(static_cast<v1::LoadSource>(progress.source));
  out.set_device_arena_bytes(progress.device_arena_bytes);
  out.set_device_buffer_bytes(progress.device_buffer_bytes);
  out.set_hand_over_way(progress.hand_over_way);
  out.set_hand_over_because(progress.hand_over_because);
  return out;
}

v1::Shard ShardToProto(const jobs::Shard& shard, Digests digests) {
  v1::Shard out;
  out.set_rank(shard.rank);
  out.set_node_name(shard.node_name);
  out.set_agent_socket(shard.agent_socket);
  out.set_arena_bytes(shard.arena_bytes);
  if (digests == Digests::kKeep) {
    for (const jobs::PartitionDigest& digest : shard.digests) {
      v1::PartitionDigest* to = out.add_digests();
      to->set_target(digest.target);
      to->set_xxh3(digest.xxh3);
      to->set_secondary(digest.secondary);
    }
  }
  out.set_handed_over(shard.handed_over);
  out.set_way(shard.way);
  out.set_way_because(shard.way_because);
  if (!shard.freed.ok()) *out.mutable_freed() = FailureFromStatus(shard.freed);
  return out;
}

// "ranks 0, 1 of node a: no process took it ...; ranks ..." with the code and reason of the first;
// OK where no shard is freed.
absl::Status Freed(const jobs::Load& load) {
  struct Group {
    const jobs::Shard* first;
    std::vector<int32_t> ranks;
  };
  std::vector<Group> groups;
  size_t unnamed = 0;
  for (const jobs::Shard& shard : load.shards) {
    if (shard.freed.ok()) continue;
    const auto same = std::find_if(groups.begin(), groups.end(), [&shard](const Group& group) {
      return group.first->node_name == shard.node_name && group.first->freed == shard.freed;
    });
    if (same != groups.end()) {
      same->ranks.push_back(shard.rank);
    } else if (groups.size() < kMaxFreedGroups) {
      groups.push_back({&shard, {shard.rank}});
    } else {
      ++unnamed;
    }
  }
  if (groups.empty()) return absl::OkStatus();
  std::vector<std::string> texts;
  for (const Group& group : groups) {
    texts.push_back(absl::StrCat(group.ranks.size() == 1 ? "rank " : "ranks ",
                                 absl::StrJoin(group.ranks, ", "), " of node ",
                                 group.first->node_name, ": ", group.first->freed.message()));
  }
  if (unnamed > 0) texts.push_back(absl::StrCat("and ", unnamed, " shards of other nodes"));
  return WithMessage(groups.front().first->freed, absl::StrJoin(texts, "; "));
}

v1::Placement PlacementOf(bool lie_on_devices) {
  return lie_on_devices ? v1::PLACEMENT_DEVICE : v1::PLACEMENT_HOST;
}

}  // namespace

google::protobuf::Duration DurationToProto(absl::Duration duration) {
  return TimeUtil::NanosecondsToDuration(absl::ToInt64Nanoseconds(duration));
}

absl::Duration DurationFromProto(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

v1::Job JobToProto(const jobs::Job& job) {
  v1::Job out;
  out.set_name(job.name);
  if (!out.mutable_spec()->ParseFromString(job.spec_bytes)) out.clear_spec();
  out.set_state(static_cast<v1::JobState>(static_cast<int>(job.state) + 1));
  out.set_resolved_config_json(job.resolved_config_json);
  out.set_config_dtype(job.config_dtype);
  out.set_zero_stage(job.layout.zero_stage);
  out.set_hpz_partition_size(job.layout.hpz_partition_size);
  out.set_zero_stage_reason(job.zero_stage_reason);
  out.set_offload_param_device(job.offload_param_device);
  out.set_offload_optimizer_device(job.offload_optimizer_device);
  out.set_placement(PlacementOf(LieOnDevices(job.layout)));
  out.set_placement_reason(job.placement_reason);
  *out.mutable_create_time() = TimeToProto(job.create_time);
  if (job.lease > absl::ZeroDuration()) *out.mutable_lease() = DurationToProto(job.lease);
  if (jobs::IsFinal(job.state)) *out.mutable_end_time() = TimeToProto(job.end_time);
  out.set_etag(Hash64(out.SerializeAsString()));
  return out;
}

v1::PlanSummary PlanSummaryToProto(const jobs::PlanSummary& plan) {
  v1::PlanSummary out;
  out.set_digest(plan.digest);
  out.set_num_targets(plan.num_targets);
  out.set_num_boxes(plan.num_boxes);
  out.set_arena_bytes(plan.arena_bytes);
  AddMemory(plan.memory_by_node, &out);
  out.mutable_read_bytes_by_node()->Add(plan.read_bytes_by_node.begin(),
                                        plan.read_bytes_by_node.end());
  out.set_num_rounds(plan.num_rounds);
  // A load that an older server ended does not say it.
  if (!plan.placement_reason.empty()) out.set_placement(PlacementOf(plan.lie_on_devices));
  out.set_placement_reason(plan.placement_reason);
  if (!plan.zero_stage_reason.empty()) out.set_zero_stage(plan.zero_stage);
  out.set_zero_stage_reason(plan.zero_stage_reason);
  return out;
}

v1::Load LoadToProto(const jobs::Load& load, absl::Duration elapsed, Digests digests) {
  v1::Load out;
  out.set_name(load.name);
  if (load.job != nullptr) out.set_job(load.job->name);
  out.set_epoch(load.epoch);
  out.set_state(static_cast<v1::LoadState>(static_cast<int>(load.state) + 1));
  if (!load.failure.ok()) *out.mutable_failure() = FailureFromStatus(load.failure);
  if (load.plan.has_value()) *out.mutable_plan() = PlanSummaryToProto(*load.plan);
  if (load.report.has_value()) *out.mutable_report() = ReportToProto(*load.report);
  for (size_t node = 0; node < load.nodes.size(); ++node) {
    *out.add_nodes() = ProgressToProto(load.nodes[node], static_cast<int32_t>(node));
  }
  for (const jobs::Shard& shard : load.shards) *out.add_shards() = ShardToProto(shard, digests);
  if (const absl::Status freed = Freed(load); !freed.ok()) {
    *out.mutable_freed() = FailureFromStatus(freed);
  }
  *out.mutable_create_time() = TimeToProto(load.create_time);
  // Digests come with READY and never change: the etag is the same with and without them.
  out.set_etag(digests == Digests::kKeep ? LoadToProto(load, elapsed, Digests::kDrop).etag()
                                         : Hash64(out.SerializeAsString()));
  *out.mutable_elapsed() = DurationToProto(jobs::IsFinal(load.state) ? load.elapsed : elapsed);
  return out;
}

std::string Hash64(absl::string_view bytes) {
  return absl::StrFormat("%016x", XXH3_64bits(bytes.data(), bytes.size()));
}

std::string Hash128(absl::string_view bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return absl::StrFormat("%016x%016x", hash.high64, hash.low64);
}

}  // namespace zerocast::rpc
