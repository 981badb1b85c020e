#include "client/agent/session_wire.h"

#include <google/protobuf/duration.pb.h>
#include <google/protobuf/util/time_util.h>

#include "server/wire/plan_wire.h"
#include "server/wire/status.h"

namespace zerocast {
namespace {

using ::google::protobuf::util::TimeUtil;

// What a wait lasts when the server does not say.
constexpr absl::Duration kDefaultStageTimeout = absl::Seconds(60);

template <typename Message>
Message* WithKey(const LoadKey& key, Message* message) {
  message->set_load(key.load);
  message->set_epoch(key.epoch);
  return message;
}

absl::Duration FromProto(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

void ToProto(const NodeProgress& progress, v1::NodeProgress* out) {
  out->set_node(progress.node);
  out->set_node_name(progress.node_name);
  out->set_stage(static_cast<v1::NodeStage>(progress.stage));
  out->set_bytes_read(progress.bytes_read);
  out->set_bytes_to_read(progress.bytes_to_read);
  out->set_bytes_sent(progress.bytes_sent);
  out->set_bytes_received(progress.bytes_received);
  out->set_bytes_copied(progress.bytes_copied);
  out->set_arena_bytes(progress.arena_bytes);
  out->set_transport(progress.transport);
  out->set_round(progress.round);
  out->set_num_rounds(progress.num_rounds);
  out->set_buffer_bytes(progress.buffer_bytes);
  out->set_read_calls(progress.read_calls);
  out->set_direct_bytes(progress.direct_bytes);
  out->set_direct_refusal(progress.direct_refusal);
  out->set_source(static_cast<v1::LoadSource>(progress.source));
  out->set_device_arena_bytes(progress.device_arena_bytes);
  out->set_device_buffer_bytes(progress.device_buffer_bytes);
  out->set_hand_over_way(progress.hand_over_way);
  out->set_hand_over_because(progress.hand_over_because);
  v1::StageSeconds* const seconds = out->mutable_seconds();
  seconds->set_prepare(absl::ToDoubleSeconds(progress.seconds.prepare));
  seconds->set_connect(absl::ToDoubleSeconds(progress.seconds.connect));
  seconds->set_read(absl::ToDoubleSeconds(progress.seconds.read));
  seconds->set_copy(absl::ToDoubleSeconds(progress.seconds.copy));
  seconds->set_exchange(absl::ToDoubleSeconds(progress.seconds.exchange));
  seconds->set_finish(absl::ToDoubleSeconds(progress.seconds.finish));
  seconds->set_total(absl::ToDoubleSeconds(progress.seconds.total));
}

void ToProto(const HeldShards& shards, v1::HeldShards* out) {
  out->set_plan_digest(shards.plan_digest);
  out->set_content_key(shards.content_key);
  out->mutable_ranks()->Add(shards.ranks.begin(), shards.ranks.end());
}

PeerTransfers FromProto(const v1::PeerTransfers& message) {
  PeerTransfers peers;
  peers.participants.assign(message.participants().begin(), message.participants().end());
  peers.participant = message.participant();
  for (const v1::ShardTransfer& transfer : message.transfers()) {
    peers.transfers.push_back({transfer.rank(), transfer.donor(), transfer.taker()});
  }
  return peers;
}

static_assert(static_cast<int>(LoadSource::kFiles) == v1::LOAD_SOURCE_FILES);
static_assert(static_cast<int>(LoadSource::kCache) == v1::LOAD_SOURCE_CACHE);
static_assert(static_cast<int>(LoadSource::kPeers) == v1::LOAD_SOURCE_PEERS);
static_assert(static_cast<int>(NodeStage::kPreparing) == v1::NODE_STAGE_PREPARING);
static_assert(static_cast<int>(NodeStage::kConnecting) == v1::NODE_STAGE_CONNECTING);
static_assert(static_cast<int>(NodeStage::kLoading) == v1::NODE_STAGE_LOADING);
static_assert(static_cast<int>(NodeStage::kFinishing) == v1::NODE_STAGE_FINISHING);
static_assert(static_cast<int>(NodeStage::kDone) == v1::NODE_STAGE_DONE);

}  // namespace

v1::SessionRequest ManifestMessage(const LoadKey& key,
                                   const absl::StatusOr<InspectedCheckpoint>& checkpoint) {
  v1::SessionRequest request;
  v1::ManifestReport* const report = WithKey(key, request.mutable_manifest_report());
  if (checkpoint.ok()) {
    report->set_compressed_manifest(checkpoint->compressed_manifest);
    report->set_checkpoint_digest(checkpoint->digest);
  } else {
    *report->mutable_failure() = FailureFromStatus(checkpoint.status());
  }
  return request;
}

v1::SessionRequest PlanMessage(const LoadKey& key, const absl::StatusOr<PreparedPlan>& plan) {
  v1::SessionRequest request;
  v1::PlanReport* const report = WithKey(key, request.mutable_plan_report());
  if (!plan.ok()) {
    *report->mutable_failure() = FailureFromStatus(plan.status());
    return request;
  }
  report->set_plan_digest(plan->digest);
  report->set_content_key(plan->content_key);
  for (const HeldShards& shards : plan->held) ToProto(shards, report->add_held_shards());
  return request;
}

v1::SessionRequest RendezvousMessage(const LoadKey& key, const std::string& name,
                                     const std::string& value) {
  v1::SessionRequest request;
  v1::RendezvousEntry* const entry = WithKey(key, request.mutable_rendezvous_entry());
  entry->set_key(name);
  entry->set_value(value);
  return request;
}

v1::SessionRequest ProgressMessage(const LoadKey& key, const NodeProgress& progress) {
  v1::SessionRequest request;
  ToProto(progress, WithKey(key, request.mutable_progress_report())->mutable_progress());
  return request;
}

v1::SessionRequest NodeMessage(const LoadKey& key, const NodeResult& result,
                               const std::string& socket_path) {
  v1::SessionRequest request;
  v1::NodeReport* const report = WithKey(key, request.mutable_node_report());
  ToProto(result.progress, report->mutable_progress());
  if (!result.status.ok()) *report->mutable_failure() = FailureFromStatus(result.status);
  for (const ShardReport& shard : result.shards) {
    v1::Shard* const out = report->add_shards();
    out->set_rank(shard.rank);
    out->set_node_name(result.progress.node_name);
    out->set_agent_socket(socket_path);
    out->set_arena_bytes(shard.arena_bytes);
    for (const NamedDigest& digest : shard.digests) {
      v1::PartitionDigest* const one = out->add_digests();
      one->set_target(digest.target);
      one->set_xxh3(digest.xxh3);
      one->set_secondary(digest.secondary);
    }
  }
  return request;
}

v1::SessionRequest HandOverMessage(const LoadKey& key, const HandOver& hand_over) {
  v1::SessionRequest request;
  v1::HandOverReport* const report = WithKey(key, request.mutable_hand_over_report());
  report->set_rank(hand_over.rank);
  report->set_mode(std::string(AttachModeName(hand_over.mode)));
  report->set_way(hand_over.way);
  report->set_because(hand_over.because);
  return request;
}

v1::SessionRequest ShardsFreedMessage(const LoadKey& key, const std::vector<int32_t>& ranks,
                                      const absl::Status& why) {
  v1::SessionRequest request;
  v1::ShardsFreedReport* const report = WithKey(key, request.mutable_shards_freed_report());
  report->mutable_ranks()->Add(ranks.begin(), ranks.end());
  *report->mutable_why() = FailureFromStatus(why);
  return request;
}

v1::SessionRequest DonationMessage(const LoadKey& key, const absl::StatusOr<DonationStep>& step) {
  v1::SessionRequest request;
  v1::DonationReport* const report = WithKey(key, request.mutable_donation_report());
  if (step.ok()) {
    report->set_done(*step == DonationStep::kDone);
  } else {
    *report->mutable_failure() = FailureFromStatus(step.status());
  }
  return request;
}

v1::SessionRequest FolderMessage(const std::string& look,
                                 const absl::StatusOr<FoundZeroFolder>& folder) {
  v1::SessionRequest request;
  v1::FolderReport* const report = request.mutable_folder_report();
  report->set_look(look);
  if (!folder.ok()) {
    *report->mutable_failure() = FailureFromStatus(folder.status());
    return request;
  }
  report->set_latest_tag(folder->latest);
  for (const FoundZeroCheckpoint& found : folder->checkpoints) {
    v1::FoundCheckpoint* const out = report->add_checkpoints();
    out->set_tag(found.tag);
    if (found.step >= 0) out->set_step(found.step);
    out->set_world_size(found.world_size);
    out->set_zero_stage(found.stage);
    if (!found.problem.ok()) *out->mutable_problem() = FailureFromStatus(found.problem);
    out->set_gone(found.gone);
    out->set_digest(found.digest);
    out->set_num_files(found.num_files);
    out->set_num_bytes(found.num_bytes);
    if (found.mtime_ns > 0) {
      *out->mutable_save_time() = TimeUtil::NanosecondsToTimestamp(found.mtime_ns);
    }
  }
  return request;
}

v1::HeldShardsReport InventoryToProto(const std::vector<HeldShards>& inventory,
                                      int64_t cache_bytes) {
  v1::HeldShardsReport report;
  for (const HeldShards& shards : inventory) ToProto(shards, report.add_shards());
  report.set_cache_bytes(cache_bytes);
  return report;
}

InspectCommand InspectFromProto(const v1::InspectCheckpoint& message) {
  // A format that is not known is that of a newer server; what the folder is decides.
  const absl::StatusOr<CheckpointFormat> format =
      CheckpointFormatFromProto(message.checkpoint_format());
  return {message.checkpoint_path(),
          message.has_timeout() ? FromProto(message.timeout()) : absl::InfiniteDuration(),
          message.variant(),
          format.value_or(CheckpointFormat::kAny),
          message.checkpoint_tag(),
          message.wants_digest()};
}

LookCommand LookFromProto(const v1::LookAtFolder& message) {
  return {message.path(),
          {message.tags().begin(), message.tags().end()},
          message.all_tags(),
          message.has_timeout() ? FromProto(message.timeout()) : absl::InfiniteDuration()};
}

PrepareCommand PrepareFromProto(const v1::PreparePlan& message) {
  PrepareCommand command;
  command.checkpoint_path = message.checkpoint_path();
  command.compressed_plan_input = message.compressed_plan_input();
  command.plan_digest = message.plan_digest();
  command.node = message.node();
  command.compute_digests = message.compute_digests();
  command.attach_token = message.attach_token();
  command.stage_timeout = FromProto(message.stage_timeout());
  if (command.stage_timeout <= absl::ZeroDuration()) command.stage_timeout = kDefaultStageTimeout;
  command.max_buffer_bytes = message.max_buffer_bytes();
  command.node_names.assign(message.node_names().begin(), message.node_names().end());
  return command;
}

StartCommand StartFromProto(const v1::StartLoad& message) {
  StartCommand command;
  // Of a server of another version: what is not known here comes from the files.
  if (message.source() == v1::LOAD_SOURCE_CACHE || message.source() == v1::LOAD_SOURCE_PEERS) {
    command.source = static_cast<LoadSource>(message.source());
  }
  command.content_key = message.content_key();
  command.peers = FromProto(message.peers());
  return command;
}

DonateCommand DonateFromProto(const v1::DonateShards& message) {
  DonateCommand command;
  command.plan_digest = message.plan_digest();
  command.content_key = message.content_key();
  command.peers = FromProto(message.peers());
  command.arena_bytes = message.arena_bytes();
  command.round_bytes = message.round_bytes();
  command.nonce = message.nonce();
  command.stage_timeout = FromProto(message.stage_timeout());
  if (command.stage_timeout <= absl::ZeroDuration()) command.stage_timeout = kDefaultStageTimeout;
  return command;
}

}  // namespace zerocast
