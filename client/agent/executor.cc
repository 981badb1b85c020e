#include "client/agent/executor.h"

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

// What one node gives another in a round.
struct PeerMessage {
  std::vector<Piece> pieces;
  int64_t num_bytes = 0;
  Buffer buffer;
};

class Executor {
 public:
  Executor(const ExecutorOptions& options, ExecutorProgress* progress)
      : options_(options),
        plan_(*options.plan),
        schedule_(*options.schedule),
        progress_(*progress),
        num_nodes_(NeedsExchange(plan_.layout) ? plan_.layout.num_nodes : 1) {
    arenas_.first_rank = RanksOfNode(plan_.layout, options_.node).first;
    arenas_.data = options_.arenas;
    for (int32_t node = 0; node < plan_.layout.num_nodes; ++node) {
      first_ranks_.push_back(RanksOfNode(plan_.layout, node).first);
    }
  }

  absl::Status Run();

 private:
  absl::Status Check() const;
  absl::Status RunRound(int64_t round, RoundReader* reader);
  absl::Status Scatter(int64_t round, const LoadedRound& loaded);
  absl::Status PackSends(int64_t round, const LoadedRound& loaded, std::vector<Message>* sends);
  void PlanReceives(int64_t round, std::vector<Message>* receives);
  absl::Status UnpackReceives(int64_t round);
  absl::Status CopyLocal(int64_t round, const LoadedRound& loaded);
  absl::Status Broadcast(int64_t round, const LoadedRound& loaded);
  absl::Status BroadcastFrom(int64_t round, int32_t reader, const LoadedRound& loaded);
  absl::Status ExchangeError(const absl::Status& status) const;
  bool Cancelled() const { return options_.cancelled != nullptr && *options_.cancelled; }
  void UpdateProgress(const RoundReader& reader);

  const ExecutorOptions& options_;
  const Plan& plan_;
  const Schedule& schedule_;
  ExecutorProgress& progress_;
  const int32_t num_nodes_;  // that exchange; 1 when nothing is
  NodeArenas arenas_;
  std::vector<int32_t> first_ranks_;  // by node

  // Used again in every round.
  std::vector<PeerMessage> outgoing_, incoming_;  // by node
  std::vector<Piece> pieces_;
};

absl::Status Executor::Check() const {
  const auto [first, last] = RanksOfNode(plan_.layout, options_.node);
  if (static_cast<int32_t>(options_.arenas.size()) != last - first) {
    return absl::InternalError(absl::StrCat("run node ", options_.node, ": ",
                                            options_.arenas.size(), " arenas for ", last - first,
                                            " ranks"));
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
  outgoing_.resize(static_cast<size_t>(num_nodes_));
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
  if (options_.communicator != nullptr) {
    progress_.bytes_sent = options_.communicator->bytes_sent();
    progress_.bytes_received = options_.communicator->bytes_received();
  }
}

absl::Status Executor::RunRound(int64_t round, RoundReader* reader) {
  if (Cancelled()) return absl::CancelledError("load: it was cancelled");
  LoadedRound loaded;
  loaded.extents = schedule_.Reads(round, options_.node);
  {
    StageTimer timer(options_.clock, &progress_.read_wait);
    ZC_ASSIGN_OR_RETURN(const absl::Span<const char> data, reader->Next(options_.stage_timeout));
    loaded.data = data.data();
  }
  if (num_nodes_ > 1 && plan_.layout.move_mode == MoveMode::kBroadcast) {
    return Broadcast(round, loaded);
  }
  return Scatter(round, loaded);
}

absl::Status Executor::Scatter(int64_t round, const LoadedRound& loaded) {
  if (num_nodes_ > 1) {
    std::vector<Message> sends, receives;
    {
      StageTimer timer(options_.clock, &progress_.copy);
      ZC_RETURN_IF_ERROR(PackSends(round, loaded, &sends));
      PlanReceives(round, &receives);
    }
    {
      StageTimer timer(options_.clock, &progress_.exchange);
      const absl::Status status =
          options_.communicator->Exchange(sends, receives, options_.stage_timeout);
      if (!status.ok()) return ExchangeError(status);
    }
    StageTimer timer(options_.clock, &progress_.copy);
    ZC_RETURN_IF_ERROR(UnpackReceives(round));
  }
  StageTimer timer(options_.clock, &progress_.copy);
  return CopyLocal(round, loaded);
}

absl::Status Executor::PackSends(int64_t round, const LoadedRound& loaded,
                                 std::vector<Message>* sends) {
  for (int32_t node = 0; node < num_nodes_; ++node) {
    if (node == options_.node) continue;
    PeerMessage& message = outgoing_[static_cast<size_t>(node)];
    const int32_t first_rank = first_ranks_[static_cast<size_t>(node)];
    message.pieces.clear();
    schedule_.Pieces(round, options_.node, node, &message.pieces);
    message.num_bytes = MessageBytes(plan_, message.pieces, first_rank);
    if (message.num_bytes == 0) continue;
    char* const data = message.buffer.Reserve(message.num_bytes);
    ZC_RETURN_IF_ERROR(PackMessage(plan_, loaded, message.pieces, first_rank, data));
    sends->push_back({node, data, message.num_bytes});
  }
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

absl::Status Executor::UnpackReceives(int64_t round) {
  for (int32_t node = 0; node < num_nodes_; ++node) {
    PeerMessage& message = incoming_[static_cast<size_t>(node)];
    if (node == options_.node || message.num_bytes == 0) continue;
    char* const data = message.buffer.Reserve(message.num_bytes);
    if (options_.hooks.before_unpack != nullptr) {
      options_.hooks.before_unpack(round, node,
                                   absl::MakeSpan(data, static_cast<size_t>(message.num_bytes)));
    }
    ZC_RETURN_IF_ERROR(UnpackMessage(plan_, data, message.pieces, arenas_));
  }
  return absl::OkStatus();
}

absl::Status Executor::CopyLocal(int64_t round, const LoadedRound& loaded) {
  pieces_.clear();
  schedule_.Pieces(round, options_.node, options_.node, &pieces_);
  for (const Piece& piece : pieces_) {
    ZC_RETURN_IF_ERROR(CopyToArena(plan_, loaded, piece, arenas_));
  }
  return absl::OkStatus();
}

absl::Status Executor::Broadcast(int64_t round, const LoadedRound& loaded) {
  for (int32_t reader = 0; reader < num_nodes_; ++reader) {
    if (Cancelled()) return absl::CancelledError("load: it was cancelled");
    ZC_RETURN_IF_ERROR(BroadcastFrom(round, reader, loaded));
  }
  return absl::OkStatus();
}

absl::Status Executor::BroadcastFrom(int64_t round, int32_t reader, const LoadedRound& loaded) {
  pieces_.clear();
  schedule_.WholePieces(round, reader, &pieces_);
  const int64_t num_bytes = BroadcastBytes(plan_, pieces_);
  if (num_bytes == 0) return absl::OkStatus();  // on all nodes alike
  const bool mine = reader == options_.node;
  char* const data = incoming_[0].buffer.Reserve(num_bytes);
  if (mine) {
    StageTimer timer(options_.clock, &progress_.copy);
    ZC_RETURN_IF_ERROR(PackBroadcast(plan_, loaded, pieces_, data));
  }
  {
    StageTimer timer(options_.clock, &progress_.exchange);
    const absl::Status status =
        options_.communicator->Broadcast(data, num_bytes, reader, options_.stage_timeout);
    if (!status.ok()) return ExchangeError(status);
  }
  StageTimer timer(options_.clock, &progress_.copy);
  if (mine) return CutToArenas(plan_, loaded, pieces_, arenas_);
  if (options_.hooks.before_unpack != nullptr) {
    options_.hooks.before_unpack(round, reader,
                                 absl::MakeSpan(data, static_cast<size_t>(num_bytes)));
  }
  return UnpackBroadcast(plan_, data, pieces_, arenas_);
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
