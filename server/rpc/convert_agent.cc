// The messages of the agents' stream, and loads from their records.
#include <google/protobuf/util/time_util.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/rpc/convert.h"
#include "server/wire/bulk_nonce.h"
#include "server/wire/plan_wire.h"
#include "server/wire/report_wire.h"
#include "server/wire/status.h"

namespace zerocast::rpc {
namespace {

// A rendezvous value holds addresses, never data.
constexpr size_t kMaxKeyBytes = 1024, kMaxValueBytes = size_t{1} << 20;
constexpr size_t kMaxNodeNameBytes = 253;  // of a DNS name
constexpr size_t kMaxTextBytes = 4096;     // of a path, host or version
// Of an agent: one a plan and content, and it holds at most some hundred loads.
constexpr int kMaxHeldShards = 65536;
constexpr int kMaxGpus = 1024;  // of one agent; instances of MIG count

static_assert(static_cast<int>(jobs::LoadSource::kFiles) == v1::LOAD_SOURCE_FILES);
static_assert(static_cast<int>(jobs::LoadSource::kCache) == v1::LOAD_SOURCE_CACHE);
static_assert(static_cast<int>(jobs::LoadSource::kPeers) == v1::LOAD_SOURCE_PEERS);

jobs::NodeProgress ProgressFromProto(const v1::NodeProgress& progress) {
  jobs::NodeProgress out;
  out.node_name = progress.node_name();
  // A stage of a newer agent is not known here.
  if (v1::NodeStage_IsValid(progress.stage())) {
    out.stage = static_cast<jobs::NodeStage>(progress.stage());
  }
  out.bytes_read = progress.bytes_read();
  out.bytes_to_read = progress.bytes_to_read();
  out.bytes_sent = progress.bytes_sent();
  out.bytes_received = progress.bytes_received();
  out.arena_bytes = progress.arena_bytes();
  out.bytes_copied = progress.bytes_copied();
  out.transport = progress.transport();
  const v1::StageSeconds& seconds = progress.seconds();
  out.seconds = {seconds.prepare(),  seconds.connect(), seconds.read(), seconds.copy(),
                 seconds.exchange(), seconds.finish(),  seconds.total()};
  out.round = progress.round();
  out.num_rounds = progress.num_rounds();
  out.buffer_bytes = progress.buffer_bytes();
  out.read_calls = progress.read_calls().substr(0, kMaxTextBytes);
  out.direct_bytes = progress.direct_bytes();
  out.direct_refusal = progress.direct_refusal().substr(0, kMaxTextBytes);
  if (v1::LoadSource_IsValid(progress.source())) {
    out.source = static_cast<jobs::LoadSource>(progress.source());
  }
  out.device_arena_bytes = progress.device_arena_bytes();
  out.device_buffer_bytes = progress.device_buffer_bytes();
  out.hand_over_way = progress.hand_over_way().substr(0, kMaxTextBytes);
  out.hand_over_because = progress.hand_over_because().substr(0, kMaxTextBytes);
  return out;
}

jobs::Shard ShardFromProto(const v1::Shard& shard) {
  jobs::Shard out;
  out.rank = shard.rank();
  out.node_name = shard.node_name();
  out.agent_socket = shard.agent_socket();
  out.arena_bytes = shard.arena_bytes();
  out.digests.reserve(shard.digests_size());
  for (const v1::PartitionDigest& digest : shard.digests()) {
    out.digests.push_back({digest.target(), digest.xxh3(), digest.secondary()});
  }
  out.handed_over = shard.handed_over();
  out.way = shard.way().substr(0, kMaxTextBytes);
  out.way_because = shard.way_because().substr(0, kMaxTextBytes);
  out.freed = StatusFromFailure(shard.freed());
  return out;
}

template <typename Shards>
absl::StatusOr<std::vector<jobs::HeldShards>> HeldFromProto(const Shards& shards) {
  if (shards.size() > kMaxHeldShards) {
    return InvalidFields(
        {{"held_shards", absl::StrCat("must be at most ", kMaxHeldShards, " of them")}});
  }
  std::vector<jobs::HeldShards> out;
  for (const v1::HeldShards& each : shards) {
    out.push_back(
        {each.plan_digest(), each.content_key(), {each.ranks().begin(), each.ranks().end()}});
  }
  return out;
}

absl::StatusOr<jobs::Event> PlanReportFromProto(const v1::PlanReport& m, jobs::SessionId session) {
  jobs::PlanReport event{session,         m.load(),
                         m.epoch(),       StatusFromFailure(m.failure()),
                         m.plan_digest(), {m.content_key(), {}}};
  ZC_ASSIGN_OR_RETURN(event.shards.held, HeldFromProto(m.held_shards()));
  return event;
}

absl::StatusOr<jobs::Event> HeldReportFromProto(const v1::HeldShardsReport& m,
                                                jobs::SessionId session) {
  jobs::HeldShardsReport event{session, {}, m.cache_bytes()};
  ZC_ASSIGN_OR_RETURN(event.shards, HeldFromProto(m.shards()));
  return event;
}

absl::StatusOr<jobs::Event> EntryFromProto(const v1::RendezvousEntry& entry,
                                           jobs::SessionId session) {
  if (entry.key().size() > kMaxKeyBytes || entry.value().size() > kMaxValueBytes) {
    return InvalidFields(
        {{"rendezvous_entry", absl::StrCat("must have a key of at most ", kMaxKeyBytes,
                                           " and a value of at most ", kMaxValueBytes, " bytes")}});
  }
  return jobs::RendezvousEntry{session, entry.load(), entry.epoch(), entry.key(), entry.value()};
}

bool IsNodeName(const std::string& name) {
  return !name.empty() && name.size() <= kMaxNodeNameBytes &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '-' || c == '.' || c == '_';
         });
}

// Every message to an agent is about a load at an epoch.
template <typename Command, typename Message>
Message* About(const Command& m, Message* to) {
  to->set_load(m.load);
  to->set_epoch(m.epoch);
  return to;
}

void Fill(const jobs::InspectCheckpoint& m, absl::Duration now, v1::SessionResponse* out) {
  v1::InspectCheckpoint* const to = About(m, out->mutable_inspect_checkpoint());
  to->set_checkpoint_path(m.checkpoint_path);
  to->set_variant(m.variant);
  to->set_checkpoint_format(CheckpointFormatToProto(m.checkpoint_format));
  to->set_checkpoint_tag(m.checkpoint_tag);
  *to->mutable_timeout() = DurationToProto(std::max(m.deadline - now, absl::ZeroDuration()));
}

void Fill(const jobs::PreparePlan& m, absl::Duration, v1::SessionResponse* out) {
  v1::PreparePlan* const to = About(m, out->mutable_prepare_plan());
  to->set_checkpoint_path(m.job->checkpoint_path);
  to->set_compressed_plan_input(*m.compressed_plan_input);
  to->set_plan_digest(m.plan_digest);
  to->set_node(m.node);
  to->set_compute_digests(m.job->compute_digests);
  *to->mutable_stage_timeout() = DurationToProto(m.job->stage_timeout);
  to->set_attach_token(m.job->attach_token);
  to->set_max_buffer_bytes(m.job->max_buffer_bytes);
  for (const std::string& name : m.node_names) to->add_node_names(name);
}

void Fill(const jobs::PeerTransfers& peers, v1::PeerTransfers* out) {
  for (const std::string& name : peers.participants) out->add_participants(name);
  out->set_participant(peers.participant);
  for (const jobs::ShardTransfer& transfer : peers.transfers) {
    v1::ShardTransfer* const to = out->add_transfers();
    to->set_rank(transfer.rank);
    to->set_donor(transfer.donor);
    to->set_taker(transfer.taker);
  }
}

void Fill(const jobs::StartLoad& m, absl::Duration, v1::SessionResponse* out) {
  v1::StartLoad* const to = About(m, out->mutable_start_load());
  to->set_source(static_cast<v1::LoadSource>(m.source));
  to->set_content_key(m.content_key);
  if (m.source == jobs::LoadSource::kPeers) Fill(m.peers, to->mutable_peers());
}

void Fill(const jobs::DonateShards& m, absl::Duration, v1::SessionResponse* out) {
  v1::DonateShards* const to = About(m, out->mutable_donate_shards());
  to->set_plan_digest(m.plan_digest);
  to->set_content_key(m.content_key);
  Fill(m.peers, to->mutable_peers());
  to->set_arena_bytes(m.arena_bytes);
  to->set_round_bytes(m.job->layout.round_bytes);
  *to->mutable_stage_timeout() = DurationToProto(m.job->stage_timeout);
  to->set_nonce(BulkNonce(m.load, m.epoch, m.plan_digest, m.job->attach_token));
}

void Fill(const jobs::RelayEntry& m, absl::Duration, v1::SessionResponse* out) {
  v1::RendezvousEntry* const to = About(m, out->mutable_rendezvous_entry());
  to->set_key(m.key);
  to->set_value(m.value);
}

void Fill(const jobs::CancelLoad& m, absl::Duration, v1::SessionResponse* out) {
  About(m, out->mutable_cancel_load())->set_why(m.why);
}

}  // namespace

jobs::Load LoadFromProto(const v1::Load& load) {
  jobs::Load out;
  out.name = load.name();
  out.epoch = load.epoch();
  out.state = static_cast<jobs::LoadState>(static_cast<int>(load.state()) - 1);
  if (load.has_failure()) out.failure = StatusFromFailure(load.failure());
  if (load.has_plan()) {
    out.plan = jobs::PlanSummary{
        load.plan().digest(),
        load.plan().num_targets(),
        load.plan().num_boxes(),
        load.plan().arena_bytes(),
        load.plan().num_rounds(),
        {load.plan().read_bytes_by_node().begin(), load.plan().read_bytes_by_node().end()},
        /*memory_by_node=*/{},
        load.plan().placement() == v1::PLACEMENT_DEVICE,
        load.plan().placement_reason(),
        load.plan().zero_stage(),
        load.plan().zero_stage_reason()};
  }
  if (load.has_report()) out.report = ReportFromProto(load.report());
  for (const v1::NodeProgress& node : load.nodes()) out.nodes.push_back(ProgressFromProto(node));
  for (const v1::Shard& shard : load.shards()) out.shards.push_back(ShardFromProto(shard));
  out.create_time = absl::FromUnixNanos(
      google::protobuf::util::TimeUtil::TimestampToNanoseconds(load.create_time()));
  out.elapsed = DurationFromProto(load.elapsed());
  return out;
}

absl::StatusOr<jobs::AgentRegistered> RegistrationFromProto(const v1::SessionRequest& request,
                                                            jobs::SessionId session) {
  if (!request.has_register_()) {
    return InvalidFields({{"register", "must be the first message of a stream"}});
  }
  const v1::Register& message = request.register_();
  std::vector<FieldViolation> violations;
  if (!IsNodeName(message.node_name())) {
    violations.push_back(
        {"register.node_name", "must be 1 to 253 letters, digits, '-', '.' and '_'"});
  }
  for (const auto& [field, text] : {std::make_pair("version", &message.version()),
                                    std::make_pair("socket_path", &message.socket_path()),
                                    std::make_pair("bulk_host", &message.bulk_host())}) {
    if (text->size() > kMaxTextBytes) {
      violations.push_back({absl::StrCat("register.", field),
                            absl::StrCat("must have at most ", kMaxTextBytes, " bytes")});
    }
  }
  if (message.max_buffer_bytes() < 0) {
    violations.push_back({"register.max_buffer_bytes", "must not be negative"});
  }
  if (message.num_threads() < 0) {
    violations.push_back({"register.num_threads", "must not be negative"});
  }
  if (message.gpus_size() > kMaxGpus) {
    violations.push_back({"register.gpus", absl::StrCat("must be at most ", kMaxGpus)});
  }
  ZC_RETURN_IF_ERROR(InvalidFields(violations));
  jobs::AgentRegistered event;
  event.session = session;
  event.node_name = message.node_name();
  event.incarnation = message.incarnation();
  event.version = message.version();
  event.socket_path = message.socket_path();
  event.bulk_host = message.bulk_host();
  for (const v1::HeldLoad& held : message.held_loads()) {
    event.held_loads.push_back({held.load(), held.epoch()});
  }
  ZC_ASSIGN_OR_RETURN(event.held_shards, HeldFromProto(message.held_shards().shards()));
  event.cache_bytes = message.held_shards().cache_bytes();
  event.limits = {message.max_buffer_bytes(), message.num_threads()};
  for (const v1::Gpu& gpu : message.gpus()) {
    event.gpus.push_back({gpu.uuid().substr(0, kMaxTextBytes), gpu.name().substr(0, kMaxTextBytes),
                          gpu.memory_bytes()});
  }
  event.no_gpus_because = message.no_gpus_because().substr(0, kMaxTextBytes);
  event.looks_at_folders = message.looks_at_folders();
  return event;
}

absl::StatusOr<jobs::Event> EventFromProto(const v1::SessionRequest& request,
                                           jobs::SessionId session) {
  switch (request.message_case()) {
    case v1::SessionRequest::kHeartbeat:
      return jobs::Heartbeat{session};
    case v1::SessionRequest::kManifestReport: {
      const v1::ManifestReport& m = request.manifest_report();
      return jobs::ManifestReport{session,
                                  m.load(),
                                  m.epoch(),
                                  StatusFromFailure(m.failure()),
                                  m.compressed_manifest(),
                                  m.checkpoint_digest().substr(0, kMaxTextBytes)};
    }
    case v1::SessionRequest::kPlanReport:
      return PlanReportFromProto(request.plan_report(), session);
    case v1::SessionRequest::kHeldShardsReport:
      return HeldReportFromProto(request.held_shards_report(), session);
    case v1::SessionRequest::kDonationReport: {
      const v1::DonationReport& m = request.donation_report();
      return jobs::DonationReport{session, m.load(), m.epoch(), StatusFromFailure(m.failure()),
                                  m.done()};
    }
    case v1::SessionRequest::kRendezvousEntry:
      return EntryFromProto(request.rendezvous_entry(), session);
    case v1::SessionRequest::kProgressReport: {
      const v1::ProgressReport& m = request.progress_report();
      return jobs::ProgressReport{session, m.load(), m.epoch(), ProgressFromProto(m.progress())};
    }
    case v1::SessionRequest::kNodeReport: {
      const v1::NodeReport& m = request.node_report();
      jobs::NodeReport event{session,
                             m.load(),
                             m.epoch(),
                             StatusFromFailure(m.failure()),
                             ProgressFromProto(m.progress()),
                             {}};
      for (const v1::Shard& shard : m.shards()) event.shards.push_back(ShardFromProto(shard));
      return event;
    }
    case v1::SessionRequest::kHandOverReport: {
      const v1::HandOverReport& m = request.hand_over_report();
      return jobs::HandOverReport{session,
                                  m.load(),
                                  m.epoch(),
                                  m.rank(),
                                  m.mode(),
                                  m.way().substr(0, kMaxTextBytes),
                                  m.because().substr(0, kMaxTextBytes)};
    }
    case v1::SessionRequest::kShardsFreedReport: {
      const v1::ShardsFreedReport& m = request.shards_freed_report();
      return jobs::ShardsFreedReport{session,
                                     m.load(),
                                     m.epoch(),
                                     {m.ranks().begin(), m.ranks().end()},
                                     StatusFromFailure(m.why())};
    }
    case v1::SessionRequest::kRegister:
      return InvalidFields({{"register", "comes once, as the first message of a stream"}});
    case v1::SessionRequest::kFolderReport:
      // For Core::NoteFolderReport; to the machine it only says that the agent is there.
      return jobs::Heartbeat{session};
    case v1::SessionRequest::MESSAGE_NOT_SET:
      // Of a newer agent: it must not depend on an answer.  It shows that the agent is there.
      if (request.ByteSizeLong() > 0) return jobs::Heartbeat{session};
      break;
  }
  return InvalidFields({{"message", "must be one that this server knows"}});
}

v1::SessionResponse MessageToProto(const jobs::AgentMessage& message, absl::Duration now) {
  v1::SessionResponse out;
  std::visit([&out, now](const auto& m) { Fill(m, now, &out); }, message);
  return out;
}

}  // namespace zerocast::rpc
