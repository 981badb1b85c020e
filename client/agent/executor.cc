#include "client/agent/executor.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/agent/buffer.h"
#include "client/agent/copy_pool.h"
#include "client/agent/incoming.h"
#include "client/agent/memory_needs.h"
#include "client/agent/placement.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/plan/messages.h"
#include "server/plan/round_exchange.h"

namespace zerocast {
namespace {

// Adds the time from its creation to its destruction to `sum`.
class StageTimer {
 public:
  StageTimer(const Clock* clock, absl::Duration* sum)
      : clock_(clock), sum_(sum), start_(clock->Steady()) {}
  ~StageTimer() { *sum_ += clock_->Steady() - start_; }

 private:
  const Clock* const clock_;
  absl::Duration* const sum_;
  const absl::Duration start_;
};

class Executor {
 public:
  Executor(const ExecutorOptions& options, ExecutorProgress* progress)
      : options_(options),
        plan_(*options.plan),
        schedule_(*options.schedule),
        progress_(*progress),
        num_nodes_(NeedsExchange(plan_.layout) ? plan_.layout.num_nodes : 1),
        num_threads_(ReadingThreads(options.num_threads)) {
    destination_.plan = &plan_;
    destination_.arenas.first_rank = RanksOfNode(plan_.layout, options_.node).first;
    destination_.arenas.data = options_.arenas.data;
    destination_.device = options_.device.get();
    destination_.first_place = static_cast<size_t>(num_threads_ * kChunksUnderWay);
    destination_.timeout = options_.stage_timeout;
  }

  absl::Status Run();

 private:
  struct RoundMessages {
    std::vector<Incoming> by_node;
    Buffer buffer;  // of all of them
  };
  struct IncomingBroadcast {
    Incoming message;
    Buffer buffer;
  };

  absl::Status Check() const;
  absl::Status StartUnpacking();
  absl::Status ReserveMessages();
  absl::StatusOr<std::unique_ptr<RoundReader>> StartReading();
  absl::Status RunRound(int64_t round, RoundReader* reader);
  absl::StatusOr<std::vector<Message>> PlaceReceives(int64_t round,
                                                     absl::Span<const RoundExchange> exchanges);
  absl::StatusOr<char*> Reserve(size_t which, int64_t num_bytes, Buffer* buffer) const;
  // Puts what is exchanged next behind the copies before it.
  absl::Status OrderExchange() const;
  absl::Status ExchangeMessages(int64_t round, absl::Span<const RoundExchange> exchanges,
                                absl::Span<const OutgoingMessage> outgoing);
  absl::Status ExchangeBroadcasts(int64_t round, absl::Span<const RoundExchange> exchanges,
                                  absl::Span<const OutgoingMessage> outgoing);
  absl::Status StartUnpack(int64_t round, int32_t reader, Incoming* message);
  absl::Status WaitForUnpacking();
  void WaitToSend(int64_t num_bytes) const;
  absl::Status ExchangeError(const absl::Status& status) const;
  bool Cancelled() const { return options_.cancelled != nullptr && *options_.cancelled; }
  void UpdateProgress(const RoundReader& reader);

  const ExecutorOptions& options_;
  const Plan& plan_;
  const Schedule& schedule_;
  ExecutorProgress& progress_;
  const int32_t num_nodes_;  // that exchange; 1 when nothing is
  const int num_threads_;
  std::shared_ptr<FreshMemory> fresh_;
  Destination destination_;

  int64_t unpaid_ = 0;  // bytes that were broadcast, and not yet taken from the rate

  // Two of each: one is unpacked while the next comes.
  RoundMessages messages_[2];
  IncomingBroadcast broadcasts_[2];
  int64_t num_broadcasts_ = 0, num_unpacked_ = 0;
  // Behind what it works on: it ends first.
  std::unique_ptr<CopyPool> pool_;
};

absl::Status Executor::Check() const {
  const auto [first, last] = RanksOfNode(plan_.layout, options_.node);
  if (destination_.arenas.num_ranks() != last - first) {
    return absl::InternalError(absl::StrCat("run node ", options_.node, ": ",
                                            destination_.arenas.num_ranks(), " arenas for ",
                                            last - first, " ranks"));
  }
  if (num_nodes_ > 1 &&
      (options_.communicator == nullptr || options_.communicator->size() != num_nodes_ ||
       options_.communicator->rank() != options_.node)) {
    return absl::InternalError(absl::StrCat("run node ", options_.node, " of ", num_nodes_,
                                            ": the communicator is another node's"));
  }
  return absl::OkStatus();
}

absl::Status Executor::StartUnpacking() {
  if (num_nodes_ > 1) {
    for (RoundMessages& round : messages_) round.by_node.resize(static_cast<size_t>(num_nodes_));
  }
  if (options_.device != nullptr) return ReserveMessages();
  fresh_ =
      std::make_shared<FreshMemory>(options_.arenas.data, options_.arenas.fds, plan_.arena_bytes);
  destination_.fresh = fresh_.get();
  if (num_nodes_ == 1) return absl::OkStatus();
  ZC_ASSIGN_OR_RETURN(pool_, CopyPool::Create(num_threads_));
  destination_.pool = pool_.get();
  return absl::OkStatus();
}

// The most that any round needs: later to make room on a device could wait for the other nodes.
absl::Status Executor::ReserveMessages() {
  if (num_nodes_ == 1) return absl::OkStatus();
  const ExchangeBuffers most = ComputeExchangeBuffers(plan_, schedule_, options_.node);
  for (size_t k = 0; k < 2; ++k) {
    for (const auto& [which, num_bytes] : {std::pair(kOutgoingMessages, most.outgoing[k]),
                                           std::pair(kIncomingMessages, most.incoming[k]),
                                           std::pair(kIncomingBroadcasts, most.broadcasts[k])}) {
      ZC_RETURN_IF_ERROR(options_.device->ReserveMessages(which + k, num_bytes).status());
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<RoundReader>> Executor::StartReading() {
  RoundReaderOptions reader;
  reader.plan = options_.plan;
  reader.schedule = options_.schedule;
  reader.node = options_.node;
  reader.checkpoint_path = options_.checkpoint_path;
  reader.reader = options_.reader;
  reader.file_work =
      options_.file_work != nullptr ? options_.file_work : std::make_shared<FileWork>();
  reader.identities = options_.identities;
  reader.make_queue = options_.hooks.make_queue;
  reader.after_read = options_.hooks.after_read;
  reader.arenas = options_.arenas;
  reader.fresh = fresh_;
  reader.device = options_.device;
  reader.sends = num_nodes_ > 1;
  reader.num_threads = num_threads_;
  reader.chunk_bytes = options_.chunk_bytes > 0
                           ? options_.chunk_bytes
                           : ChunkBytes(plan_.layout, num_threads_, kDefaultBufferBytes);
  reader.read_limit = options_.read_limit;
  reader.io = options_.io;
  return RoundReader::Start(std::move(reader), options_.stage_timeout);
}

absl::Status Executor::Run() {
  ZC_RETURN_IF_ERROR(Check());
  progress_.num_rounds = schedule_.num_rounds();
  progress_.bytes_to_read = schedule_.ReadBytes(options_.node);
  ZC_RETURN_IF_ERROR(StartUnpacking());
  ZC_ASSIGN_OR_RETURN(const std::unique_ptr<RoundReader> reader, StartReading());
  for (int64_t round = 0; round < schedule_.num_rounds(); ++round) {
    const absl::Status status = RunRound(round, reader.get());
    UpdateProgress(*reader);
    if (!status.ok()) {
      return Annotate(status, absl::StrCat("round ", round, " of ", schedule_.num_rounds()));
    }
    progress_.round = round + 1;
    if (options_.on_progress != nullptr) options_.on_progress(progress_);
  }
  ZC_RETURN_IF_ERROR(WaitForUnpacking());
  // Whoever sends next waits for it.
  if (options_.send_limit != nullptr) options_.send_limit->Take(unpaid_);
  UpdateProgress(*reader);
  return reader->CheckUnchanged(options_.cancelled);
}

void Executor::UpdateProgress(const RoundReader& reader) {
  progress_.bytes_read = reader.bytes_read();
  progress_.io = reader.io();
  const RoundReaderTimes times = reader.times();
  progress_.read = times.read / num_threads_;
  progress_.copy = times.copy / num_threads_;
  if (pool_ != nullptr) progress_.copy += pool_->busy() / num_threads_;
  progress_.bytes_copied = times.bytes_copied;
  if (options_.communicator != nullptr) {
    progress_.bytes_sent = options_.communicator->bytes_sent();
    progress_.bytes_received = options_.communicator->bytes_received();
    if (options_.device == nullptr) progress_.bytes_copied += progress_.bytes_received;
  }
}

absl::Status Executor::RunRound(int64_t round, RoundReader* reader) {
  if (Cancelled()) return absl::CancelledError("load: it was cancelled");
  ZC_ASSIGN_OR_RETURN(const absl::Span<const OutgoingMessage> outgoing,
                      reader->Next(options_.stage_timeout, [this, reader] {
                        UpdateProgress(*reader);
                        if (options_.on_progress != nullptr) options_.on_progress(progress_);
                        return !Cancelled();
                      }));
  if (num_nodes_ == 1) return absl::OkStatus();
  std::vector<RoundExchange> exchanges;  // by node
  for (int32_t node = 0; node < num_nodes_; ++node) {
    exchanges.emplace_back(plan_, schedule_, round, node);
  }
  if (plan_.layout.move_mode == MoveMode::kScatter) {
    ZC_RETURN_IF_ERROR(ExchangeMessages(round, exchanges, outgoing));
  }
  return ExchangeBroadcasts(round, exchanges, outgoing);
}

absl::StatusOr<char*> Executor::Reserve(size_t which, int64_t num_bytes, Buffer* buffer) const {
  if (options_.device == nullptr) return buffer->Reserve(num_bytes);
  return options_.device->ReserveMessages(which, num_bytes);
}

absl::Status Executor::OrderExchange() const {
  return options_.device == nullptr ? absl::OkStatus() : options_.device->OrderExchange();
}

absl::StatusOr<std::vector<Message>> Executor::PlaceReceives(
    int64_t round, absl::Span<const RoundExchange> exchanges) {
  RoundMessages& messages = messages_[round % 2];
  int64_t total = 0;
  for (int32_t node = 0; node < num_nodes_; ++node) {
    if (node == options_.node) continue;
    Incoming& message = messages.by_node[static_cast<size_t>(node)];
    ZC_ASSIGN_OR_RETURN(std::vector<Piece>* const pieces, message.Reset(destination_));
    exchanges[static_cast<size_t>(node)].AppendMessagePieces(options_.node, pieces);
    total += AlignedMessage(message.Expect(destination_));
  }
  ZC_ASSIGN_OR_RETURN(char* place, Reserve(kIncomingMessages + static_cast<size_t>(round % 2),
                                           total, &messages.buffer));
  std::vector<Message> receives;
  for (int32_t node = 0; node < num_nodes_; ++node) {
    Incoming& message = messages.by_node[static_cast<size_t>(node)];
    const auto num_bytes = static_cast<int64_t>(message.data().size());
    if (num_bytes == 0) continue;
    message.Place(place);
    receives.push_back({node, place, num_bytes});
    place += AlignedMessage(num_bytes);
  }
  return receives;
}

absl::Status Executor::ExchangeMessages(int64_t round, absl::Span<const RoundExchange> exchanges,
                                        absl::Span<const OutgoingMessage> outgoing) {
  RoundMessages& messages = messages_[round % 2];
  std::vector<Message> sends;
  for (const OutgoingMessage& message : outgoing) {
    if (message.node >= 0) sends.push_back({message.node, message.data, message.num_bytes});
  }
  ZC_ASSIGN_OR_RETURN(const std::vector<Message> receives, PlaceReceives(round, exchanges));
  ZC_RETURN_IF_ERROR(OrderExchange());
  {
    StageTimer timer(options_.clock, &progress_.exchange);
    WaitToSend(
        std::accumulate(sends.begin(), sends.end(), int64_t{0},
                        [](int64_t sum, const Message& send) { return sum + send.num_bytes; }));
    const absl::Status status =
        options_.communicator->Exchange(sends, receives, options_.stage_timeout);
    if (!status.ok()) return ExchangeError(status);
  }
  for (const Message& receive : receives) {
    ZC_RETURN_IF_ERROR(
        StartUnpack(round, receive.peer, &messages.by_node[static_cast<size_t>(receive.peer)]));
  }
  return absl::OkStatus();
}

absl::Status Executor::ExchangeBroadcasts(int64_t round, absl::Span<const RoundExchange> exchanges,
                                          absl::Span<const OutgoingMessage> outgoing) {
  for (int32_t reader = 0; reader < num_nodes_; ++reader) {
    const std::vector<Piece>& pieces = exchanges[static_cast<size_t>(reader)].broadcast_pieces();
    if (pieces.empty()) continue;  // on all nodes alike
    if (Cancelled()) return absl::CancelledError("load: it was cancelled");
    const bool mine = reader == options_.node;
    const auto turn = static_cast<size_t>(num_broadcasts_++ % 2);
    auto& [incoming, buffer] = broadcasts_[turn];
    absl::Span<char> data;
    if (mine) {
      data = absl::MakeSpan(outgoing.back().data, static_cast<size_t>(outgoing.back().num_bytes));
    } else {
      ZC_ASSIGN_OR_RETURN(std::vector<Piece>* const expected, incoming.Reset(destination_));
      *expected = pieces;
      ZC_ASSIGN_OR_RETURN(char* const place, Reserve(kIncomingBroadcasts + turn,
                                                     incoming.Expect(destination_), &buffer));
      incoming.Place(place);
      data = incoming.data();
    }
    ZC_RETURN_IF_ERROR(OrderExchange());
    {
      StageTimer timer(options_.clock, &progress_.exchange);
      // Its reader sends it once at least; what else a node sends of it is known behind it.
      const int64_t ahead = mine ? static_cast<int64_t>(data.size()) : 0;
      WaitToSend(std::exchange(unpaid_, 0) + ahead);
      const int64_t before = options_.communicator->bytes_sent();
      const absl::Status status = options_.communicator->Broadcast(
          data.data(), static_cast<int64_t>(data.size()), reader, options_.stage_timeout);
      if (!status.ok()) return ExchangeError(status);
      unpaid_ = std::max<int64_t>(0, options_.communicator->bytes_sent() - before - ahead);
    }
    if (!mine) ZC_RETURN_IF_ERROR(StartUnpack(round, reader, &incoming));
  }
  return absl::OkStatus();
}

absl::Status Executor::StartUnpack(int64_t round, int32_t reader, Incoming* message) {
  if (options_.hooks.before_unpack != nullptr) {
    options_.hooks.before_unpack(round, reader, message->data());
  }
  return message->StartUnpack(destination_, num_unpacked_++);
}

void Executor::WaitToSend(int64_t num_bytes) const {
  if (options_.send_limit == nullptr) return;
  options_.send_limit->Wait(num_bytes, [this] { return Cancelled(); });
}

absl::Status Executor::WaitForUnpacking() {
  if (options_.device != nullptr) return options_.device->Finish(options_.stage_timeout);
  if (pool_ == nullptr) return absl::OkStatus();
  for (RoundMessages& round : messages_) {
    for (Incoming& message : round.by_node) ZC_RETURN_IF_ERROR(message.Wait(destination_));
  }
  for (IncomingBroadcast& broadcast : broadcasts_) {
    ZC_RETURN_IF_ERROR(broadcast.message.Wait(destination_));
  }
  return absl::OkStatus();
}

absl::Status Executor::ExchangeError(const absl::Status& status) const {
  if (Cancelled()) return absl::CancelledError("load: it was cancelled");
  absl::Status named = Annotate(status, "exchange with the other nodes");
  if (!options_.node_names.empty() && options_.node_names.size() <= 64) {
    absl::Status with_names(named.code(),
                            absl::StrCat(named.message(), " (participants from 0 on: ",
                                         absl::StrJoin(options_.node_names, ", "), ")"));
    named = with_names;
  }
  return WithReason(named, "EXCHANGE_FAILED");
}

}  // namespace

absl::Status ExecuteLoad(const ExecutorOptions& options, ExecutorProgress* progress) {
  ExecutorProgress own;
  Executor executor(options, progress != nullptr ? progress : &own);
  absl::Status status = executor.Run();
  if (status.code() == absl::StatusCode::kCancelled) status = WithReason(status, "CANCELLED");
  if (!status.ok() && options.communicator != nullptr) {
    options.communicator->Abort(status.message());
  }
  return status;
}

}  // namespace zerocast
