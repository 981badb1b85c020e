#include "client/agent/executor.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/agent/buffer.h"
#include "client/agent/placement.h"
#include "client/agent/round_reader.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"

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

// What this node gets from another in a round.
struct PeerMessage {
  std::vector<Piece> pieces;
  int64_t num_bytes = 0;
  Buffer buffer;
};

int DefaultThreads() {
  constexpr unsigned kMost = 16;
  return static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, kMost));
}

class Executor {
 public:
  Executor(const ExecutorOptions& options, ExecutorProgress* progress)
      : options_(options),
        plan_(*options.plan),
        schedule_(*options.schedule),
        progress_(*progress),
        num_nodes_(NeedsExchange(plan_.layout) ? plan_.layout.num_nodes : 1),
        num_threads_(options.num_threads > 0 ? options.num_threads : DefaultThreads()) {
    arenas_.first_rank = RanksOfNode(plan_.layout, options_.node).first;
    arena_data_ = DataOf(*options.arenas);
    arenas_.data = arena_data_;
  }

  absl::Status Run();

 private:
  absl::Status Check() const;
  absl::Status RunRound(int64_t round, RoundReader* reader);
  absl::Status Scatter(int64_t round, absl::Span<const OutgoingMessage> outgoing);
  void PlanReceives(int64_t round, std::vector<Message>* receives);
  void UnpackReceives(int64_t round);
  absl::Status Broadcast(int64_t round, absl::Span<const OutgoingMessage> outgoing);
  absl::Status BroadcastFrom(int64_t round, int32_t reader,
                             absl::Span<const OutgoingMessage> outgoing);
  absl::Status ExchangeError(const absl::Status& status) const;
  bool Cancelled() const { return options_.cancelled != nullptr && *options_.cancelled; }
  void UpdateProgress(const RoundReader& reader);

  const ExecutorOptions& options_;
  const Plan& plan_;
  const Schedule& schedule_;
  ExecutorProgress& progress_;
  const int32_t num_nodes_;  // that exchange; 1 when nothing is
  const int num_threads_;
  std::vector<char*> arena_data_;
  NodeArenas arenas_;
  absl::Duration unpack_;

  // Used again in every round.
  std::vector<PeerMessage> incoming_;  // by node
  std::vector<Piece> pieces_;
};

absl::Status Executor::Check() const {
  const auto [first, last] = RanksOfNode(plan_.layout, options_.node);
  if (arenas_.num_ranks() != last - first) {
    return absl::InternalError(absl::StrCat("run node ", options_.node, ": ", arenas_.num_ranks(),
                                            " arenas for ", last - first, " ranks"));
  }
  if (num_nodes_ > 1 &&
      (options_.communicator == nullptr || options_.communicator->size() != num_nodes_ ||
       options_.communicator->rank() != options_.node)) {
    return absl::InternalError(absl::StrCat("run node ", options_.node, " of ", num_nodes_,
                                            ": the communicator is another node's"));
  }
  return absl::OkStatus();
}

absl::Status Executor::Run() {
  ZC_RETURN_IF_ERROR(Check());
  incoming_.resize(static_cast<size_t>(num_nodes_));
  progress_.num_rounds = schedule_.num_rounds();
  progress_.bytes_to_read = schedule_.ReadBytes(options_.node);

  RoundReaderOptions reader_options;
  reader_options.plan = options_.plan;
  reader_options.schedule = options_.schedule;
  reader_options.node = options_.node;
  reader_options.checkpoint_path = options_.checkpoint_path;
  reader_options.reader = options_.reader;
  reader_options.file_work =
      options_.file_work != nullptr ? options_.file_work : std::make_shared<FileWork>();
  reader_options.identities = options_.identities;
  reader_options.after_read = options_.hooks.after_read;
  reader_options.arenas = options_.arenas;
  reader_options.sends = num_nodes_ > 1;
  reader_options.num_threads = num_threads_;
  reader_options.chunk_bytes = options_.chunk_bytes;
  ZC_ASSIGN_OR_RETURN(const std::unique_ptr<RoundReader> reader,
                      RoundReader::Start(std::move(reader_options), options_.stage_timeout));
  for (int64_t round = 0; round < schedule_.num_rounds(); ++round) {
    const absl::Status status = RunRound(round, reader.get());
    UpdateProgress(*reader);
    if (!status.ok()) {
      return Annotate(status, absl::StrCat("round ", round, " of ", schedule_.num_rounds()));
    }
    progress_.round = round + 1;
    if (options_.on_progress != nullptr) options_.on_progress(progress_);
  }
  return reader->CheckUnchanged(options_.cancelled);
}

void Executor::UpdateProgress(const RoundReader& reader) {
  progress_.bytes_read = reader.bytes_read();
  const RoundReaderTimes times = reader.times();
  progress_.read = times.read / num_threads_;
  progress_.copy = times.copy / num_threads_ + unpack_;
  if (options_.communicator != nullptr) {
    progress_.bytes_sent = options_.communicator->bytes_sent();
    progress_.bytes_received = options_.communicator->bytes_received();
  }
}

absl::Status Executor::RunRound(int64_t round, RoundReader* reader) {
  if (Cancelled()) return absl::CancelledError("load: it was cancelled");
  ZC_ASSIGN_OR_RETURN(const absl::Span<const OutgoingMessage> outgoing,
                      reader->Next(options_.stage_timeout));
  if (num_nodes_ == 1) return absl::OkStatus();
  return plan_.layout.move_mode == MoveMode::kBroadcast ? Broadcast(round, outgoing)
                                                        : Scatter(round, outgoing);
}

absl::Status Executor::Scatter(int64_t round, absl::Span<const OutgoingMessage> outgoing) {
  std::vector<Message> sends, receives;
  for (const OutgoingMessage& message : outgoing) {
    sends.push_back({message.node, message.data, message.num_bytes});
  }
  PlanReceives(round, &receives);
  {
    StageTimer timer(options_.clock, &progress_.exchange);
    const absl::Status status =
        options_.communicator->Exchange(sends, receives, options_.stage_timeout);
    if (!status.ok()) return ExchangeError(status);
  }
  StageTimer timer(options_.clock, &unpack_);
  UnpackReceives(round);
  return absl::OkStatus();
}

void Executor::PlanReceives(int64_t round, std::vector<Message>* receives) {
  for (int32_t node = 0; node < num_nodes_; ++node) {
    if (node == options_.node) continue;
    PeerMessage& message = incoming_[static_cast<size_t>(node)];
    message.pieces.clear();
    schedule_.Pieces(round, node, options_.node, &message.pieces);
    message.num_bytes = MessageBytes(plan_, message.pieces, arenas_.first_rank);
    if (message.num_bytes == 0) continue;
    receives->push_back({node, message.buffer.Reserve(message.num_bytes), message.num_bytes});
  }
}

void Executor::UnpackReceives(int64_t round) {
  for (int32_t node = 0; node < num_nodes_; ++node) {
    PeerMessage& message = incoming_[static_cast<size_t>(node)];
    if (node == options_.node || message.num_bytes == 0) continue;
    char* const data = message.buffer.Reserve(message.num_bytes);
    if (options_.hooks.before_unpack != nullptr) {
      options_.hooks.before_unpack(round, node,
                                   absl::MakeSpan(data, static_cast<size_t>(message.num_bytes)));
    }
    UnpackMessage(plan_, data, message.pieces, arenas_);
  }
}

absl::Status Executor::Broadcast(int64_t round, absl::Span<const OutgoingMessage> outgoing) {
  for (int32_t reader = 0; reader < num_nodes_; ++reader) {
    if (Cancelled()) return absl::CancelledError("load: it was cancelled");
    ZC_RETURN_IF_ERROR(BroadcastFrom(round, reader, outgoing));
  }
  return absl::OkStatus();
}

absl::Status Executor::BroadcastFrom(int64_t round, int32_t reader,
                                     absl::Span<const OutgoingMessage> outgoing) {
  const bool mine = reader == options_.node;
  char* data = nullptr;
  int64_t num_bytes = 0;
  if (mine) {
    if (!outgoing.empty()) data = outgoing.front().data;
    if (!outgoing.empty()) num_bytes = outgoing.front().num_bytes;
  } else {
    pieces_.clear();
    schedule_.WholePieces(round, reader, &pieces_);
    num_bytes = BroadcastBytes(plan_, pieces_);
    data = incoming_[0].buffer.Reserve(num_bytes);
  }
  if (num_bytes == 0) return absl::OkStatus();  // on all nodes alike
  {
    StageTimer timer(options_.clock, &progress_.exchange);
    const absl::Status status =
        options_.communicator->Broadcast(data, num_bytes, reader, options_.stage_timeout);
    if (!status.ok()) return ExchangeError(status);
  }
  if (mine) return absl::OkStatus();
  StageTimer timer(options_.clock, &unpack_);
  if (options_.hooks.before_unpack != nullptr) {
    options_.hooks.before_unpack(round, reader,
                                 absl::MakeSpan(data, static_cast<size_t>(num_bytes)));
  }
  UnpackBroadcast(plan_, data, pieces_, arenas_);
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

bool NeedsExchange(const Layout& layout) {
  return layout.num_nodes > 1 && layout.read_mode != ReadMode::kLocal;
}

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
