#include "client/agent/session.h"

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>
#include <grpcpp/support/sync_stream.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "client/agent/log.h"
#include "client/agent/session_outbox.h"
#include "client/agent/session_wire.h"
#include "client/agent/threads.h"
#include "kernels/base/mutex.h"
#include "kernels/base/status_macros.h"
#include "kernels/comm/deadline.h"
#include "server/base/clock.h"
#include "server/base/errors.h"
#include "server/wire/status.h"
#include "zerocast/v1/agent.grpc.pb.h"

namespace zerocast {
namespace {

// A plan's input is at most a few MB; this is only a bound.
constexpr int kMaxMessageBytes = 256 << 20;
// Until the server says how often: soon, so that the first is in time however short that is.
constexpr absl::Duration kFirstHeartbeat = absl::Milliseconds(50);
constexpr absl::Duration kMinHeartbeat = absl::Milliseconds(10);

using Stream = grpc::ClientReaderWriter<v1::SessionRequest, v1::SessionResponse>;

std::shared_ptr<grpc::Channel> Dial(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetMaxSendMessageSize(-1);
  // The session has its own, shorter, pauses.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 200);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  // A server that is gone without a word is noticed; the server allows a ping every 5 s.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 20000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

template <typename Message>
LoadKey KeyOf(const Message& message) {
  return {message.load(), message.epoch()};
}

}  // namespace

std::shared_ptr<AgentEvents> MakeSessionEvents(const std::string& socket_path) {
  return std::make_shared<SessionOutbox>(socket_path);
}

struct Session::Rep {
  Rep(SessionOptions options, std::shared_ptr<SessionOutbox> outbox, LoadTable* table,
      FolderLooks* looks)
      : options(std::move(options)), outbox(std::move(outbox)), table(table), looks(looks) {}

  void Run();
  grpc::Status RunStream();
  void Write(Stream* stream, grpc::ClientContext* context);
  void Dispatch(const v1::SessionResponse& response);
  void OnRegistered(const v1::Registered& registered);
  void SetRegistered(bool value, const std::string& error);
  v1::SessionRequest Register() const;

  const SessionOptions options;
  const std::shared_ptr<SessionOutbox> outbox;
  LoadTable* const table;
  FolderLooks* const looks;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<v1::AgentService::Stub> stub;
  std::thread thread;
  std::atomic<int64_t> heartbeat_ns{0};

  Mutex mutex;
  CondVar changed;
  bool stopped ABSL_GUARDED_BY(mutex) = false;
  bool is_registered ABSL_GUARDED_BY(mutex) = false;
  std::string last_error ABSL_GUARDED_BY(mutex) = "no try has ended yet";
  grpc::ClientContext* context ABSL_GUARDED_BY(mutex) = nullptr;
};

void Session::Rep::SetRegistered(bool value, const std::string& error) {
  MutexLock lock(&mutex);
  is_registered = value;
  if (!value) last_error = error;
  changed.SignalAll();
}

void Session::Rep::Run() {
  std::mt19937_64 random(std::random_device{}());
  absl::Duration backoff = options.min_backoff;
  std::string logged;
  while (true) {
    {
      MutexLock lock(&mutex);
      if (stopped) return;
    }
    const absl::Duration began = Clock::Real()->Steady();
    const grpc::Status status = RunStream();
    const std::string error = ForLog(FromGrpc(status));
    bool was_registered;
    {
      MutexLock lock(&mutex);
      was_registered = is_registered;
      if (stopped) return;
    }
    SetRegistered(false, error);
    // A session that ends at once (two agents of one name, a server in trouble) is a failed try,
    // too: its pauses keep growing, and it is logged once.
    const bool lasted = was_registered && Clock::Real()->Steady() - began >= options.max_backoff;
    if (lasted) backoff = options.min_backoff;
    if (lasted || error != logged) {
      spdlog::warn("session with {}: {}; dialing again", options.server_address, error);
      logged = error;
    }
    const double chance = std::uniform_real_distribution<double>(0.75, 1.25)(random);
    const Deadline deadline(backoff * chance);
    backoff = std::min(backoff * 2, options.max_backoff);
    MutexLock lock(&mutex);
    while (!stopped && !deadline.Passed()) {
      changed.WaitWithTimeout(&mutex, deadline.Remaining());
    }
  }
}

v1::SessionRequest Session::Rep::Register() const {
  v1::SessionRequest request;
  v1::Register* const message = request.mutable_register_();
  message->set_node_name(options.node_name);
  message->set_incarnation(options.incarnation);
  message->set_version(options.version);
  message->set_socket_path(options.socket_path);
  message->set_bulk_host(options.bulk_host);
  message->set_max_buffer_bytes(options.max_buffer_bytes);
  message->set_num_threads(options.num_threads);
  for (const DeviceSummary& device : options.devices) {
    v1::Gpu* const gpu = message->add_gpus();
    gpu->set_uuid(device.uuid);
    gpu->set_name(device.name);
    gpu->set_memory_bytes(device.memory_bytes);
  }
  message->set_no_gpus_because(options.no_devices_because);
  message->set_looks_at_folders(true);
  for (const LoadKey& key : table->Held()) {
    v1::HeldLoad* const held = message->add_held_loads();
    held->set_load(key.load);
    held->set_epoch(key.epoch);
  }
  *message->mutable_held_shards() =
      InventoryToProto(table->Inventory(), table->cache_stats().bytes);
  return request;
}

grpc::Status Session::Rep::RunStream() {
  grpc::ClientContext stream_context;
  {
    MutexLock lock(&mutex);
    if (stopped) return grpc::Status::CANCELLED;
    context = &stream_context;
  }
  heartbeat_ns = absl::ToInt64Nanoseconds(kFirstHeartbeat);
  const std::unique_ptr<Stream> stream = stub->Session(&stream_context);
  outbox->Open();
  absl::StatusOr<std::thread> writer =
      StartThread([this, &stream, &stream_context] { Write(stream.get(), &stream_context); });
  if (!writer.ok()) stream_context.TryCancel();
  v1::SessionResponse response;
  while (stream->Read(&response)) Dispatch(response);
  outbox->Close();
  if (writer.ok()) writer->join();
  grpc::Status status = stream->Finish();
  MutexLock lock(&mutex);
  context = nullptr;
  if (status.ok()) {
    status = grpc::Status(grpc::StatusCode::UNAVAILABLE, "the server ended the stream");
  }
  return status;
}

// Sends Register, then events as they come, and heartbeats.
void Session::Rep::Write(Stream* stream, grpc::ClientContext* stream_context) {
  const Deadline register_deadline(options.register_timeout);
  if (!stream->Write(Register())) return;
  Deadline next_heartbeat(kFirstHeartbeat);
  while (true) {
    v1::SessionRequest message;
    switch (outbox->Next(next_heartbeat.Remaining(), &message)) {
      case SessionOutbox::Taken::kClosed:
        return;
      case SessionOutbox::Taken::kMessage:
        if (!stream->Write(message)) return;
        break;
      case SessionOutbox::Taken::kInventory:
        *message.mutable_held_shards_report() =
            InventoryToProto(table->Inventory(), table->cache_stats().bytes);
        if (!stream->Write(message)) return;
        break;
      case SessionOutbox::Taken::kIdle:
        break;
    }
    {
      MutexLock lock(&mutex);
      if (!is_registered && register_deadline.Passed()) stream_context->TryCancel();
    }
    if (!next_heartbeat.Passed()) continue;
    v1::SessionRequest heartbeat;
    heartbeat.mutable_heartbeat();
    if (!stream->Write(heartbeat)) return;
    next_heartbeat = Deadline(absl::Nanoseconds(heartbeat_ns.load()));
  }
}

void Session::Rep::OnRegistered(const v1::Registered& registered) {
  const absl::Duration interval = absl::Seconds(registered.heartbeat_interval().seconds()) +
                                  absl::Nanoseconds(registered.heartbeat_interval().nanos());
  if (interval > absl::ZeroDuration()) {
    heartbeat_ns = absl::ToInt64Nanoseconds(std::max(interval, kMinHeartbeat));
  }
  spdlog::info("registered as {} with {} (version {}), heartbeat every {}", options.node_name,
               options.server_address, registered.server_version(), absl::FormatDuration(interval));
  SetRegistered(true, "");
}

void Session::Rep::Dispatch(const v1::SessionResponse& response) {
  switch (response.message_case()) {
    case v1::SessionResponse::kRegistered:
      return OnRegistered(response.registered());
    case v1::SessionResponse::kInspectCheckpoint:
      return table->Inspect(KeyOf(response.inspect_checkpoint()),
                            InspectFromProto(response.inspect_checkpoint()));
    case v1::SessionResponse::kPreparePlan:
      return table->Prepare(KeyOf(response.prepare_plan()),
                            PrepareFromProto(response.prepare_plan()));
    case v1::SessionResponse::kStartLoad:
      return table->Start(KeyOf(response.start_load()), StartFromProto(response.start_load()));
    case v1::SessionResponse::kDonateShards:
      return table->Donate(KeyOf(response.donate_shards()),
                           DonateFromProto(response.donate_shards()));
    case v1::SessionResponse::kRendezvousEntry:
      return table->AddRendezvous(KeyOf(response.rendezvous_entry()),
                                  response.rendezvous_entry().key(),
                                  response.rendezvous_entry().value());
    case v1::SessionResponse::kCancelLoad:
      return table->Cancel(KeyOf(response.cancel_load()), response.cancel_load().why());
    case v1::SessionResponse::kLookAtFolder:
      return looks->Look(response.look_at_folder().look(),
                         LookFromProto(response.look_at_folder()));
    case v1::SessionResponse::MESSAGE_NOT_SET:
      // Of a newer server: it must not depend on an answer.
      spdlog::warn("session: a message of a kind that this version does not know");
  }
}

Session::Session(SessionOptions options, const std::shared_ptr<AgentEvents>& events,
                 LoadTable* table, FolderLooks* looks)
    : rep_(std::make_unique<Rep>(std::move(options),
                                 std::static_pointer_cast<SessionOutbox>(events), table, looks)) {}

Session::~Session() { Stop(); }

absl::Status Session::Start() {
  Rep* const rep = rep_.get();
  rep->channel =
      rep->options.channel != nullptr ? rep->options.channel : Dial(rep->options.server_address);
  rep->stub = v1::AgentService::NewStub(rep->channel);
  ZC_ASSIGN_OR_RETURN(rep->thread, StartThread([rep] { rep->Run(); }));
  return absl::OkStatus();
}

bool Session::registered() const {
  MutexLock lock(&rep_->mutex);
  return rep_->is_registered;
}

absl::Status Session::WaitUntilRegistered(absl::Duration timeout) {
  const Deadline deadline(timeout);
  MutexLock lock(&rep_->mutex);
  while (!rep_->is_registered && !rep_->stopped && !deadline.Passed()) {
    rep_->changed.WaitWithTimeout(&rep_->mutex, deadline.Remaining());
  }
  if (rep_->is_registered) return absl::OkStatus();
  return WithReason(absl::DeadlineExceededError(absl::StrCat(
                        "register with ", rep_->options.server_address, ": not within ",
                        absl::FormatDuration(timeout), "; the last try: ", rep_->last_error)),
                    "DEADLINE_EXCEEDED");
}

void Session::Stop() {
  {
    MutexLock lock(&rep_->mutex);
    rep_->stopped = true;
    if (rep_->context != nullptr) rep_->context->TryCancel();
    rep_->changed.SignalAll();
  }
  if (rep_->thread.joinable()) rep_->thread.join();
  MutexLock lock(&rep_->mutex);
  rep_->is_registered = false;
}

}  // namespace zerocast
