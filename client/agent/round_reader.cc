#include "client/agent/round_reader.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/agent/buffer.h"
#include "client/agent/chunk_reader.h"
#include "client/agent/chunks.h"
#include "client/agent/memory_needs.h"
#include "client/agent/numa.h"
#include "client/agent/placement.h"
#include "kernels/base/mutex.h"
#include "kernels/base/status_macros.h"
#include "kernels/comm/deadline.h"
#include "server/base/clock.h"
#include "server/base/errors.h"
#include "server/plan/round_exchange.h"

namespace zerocast {
namespace {

constexpr absl::Duration kPoll = absl::Milliseconds(50);  // how often Next() asks whether to go on
// The calls of a cancelled load have so long to return, all together: less than an agent to stop.
constexpr absl::Duration kCancelledTimeout = absl::Seconds(5);

// One round on its way.
struct Slot {
  RoundMoves moves;
  Buffer buffer;  // of all messages
  std::vector<OutgoingMessage> messages;
  Buffer scales;

  // Guarded by the reader's mutex.
  int64_t round = -1;               // that it is prepared for
  std::vector<size_t> next_chunks;  // by group of moves.groups(), the next that nobody has taken
  size_t num_done = 0;              // chunks

  // The next chunk for thread number `number`: of its own group, else of the one that has most.
  // Null when all are taken.
  const Extent* NextChunk(size_t number);
};

const Extent* Slot::NextChunk(size_t number) {
  const auto& groups = moves.groups();
  const auto left = [&](size_t group) { return groups[group].second - next_chunks[group]; };
  if (groups.empty()) return nullptr;
  size_t group = number % groups.size();
  if (left(group) == 0) {
    for (size_t other = 0; other < groups.size(); ++other) {
      if (left(other) > left(group)) group = other;
    }
  }
  return left(group) == 0 ? nullptr : &moves.chunks()[next_chunks[group]++];
}

}  // namespace

// Shared with the threads, which may outlive the RoundReader.
struct RoundReader::State {
  State(RoundReaderOptions o, absl::Duration timeout)
      : reading(std::move(o), timeout), options(reading.options) {
    num_rounds = options.schedule->num_rounds();
    waits.resize(static_cast<size_t>(options.num_threads));
    // Beyond the round that is taken and the next one, so many that no thread waits for the last
    // chunk of another; each more has messages of its own.
    slots.resize(options.sends ? 2 : 2 + static_cast<size_t>(options.num_threads));
    arenas.first_rank = RanksOfNode(options.plan->layout, options.node).first;
    arenas.data = options.arenas.data;
    const Layout& layout = options.plan->layout;
    for (int32_t node = 0; node < layout.num_nodes; ++node) {
      first_ranks.push_back(RanksOfNode(layout, node).first);
    }
  }

  // What thread number `number` does.
  void Run(size_t number, const FileObserver& observer);
  // Takes the next chunk to read; false after the last one, when there is nothing to do any more,
  // and, unless `may_wait`, when there is nothing to do now.
  bool TakeChunk(bool may_wait, ChunkReader* reader, Slot** slot, Chunk* chunk);
  absl::Status Prepare(int64_t round, ChunkReader* reader, Slot* slot) const;
  absl::Status AddMessages(int64_t round, Slot* slot, std::vector<Move>* moves) const;
  absl::StatusOr<char*> ReserveMessages(int64_t round, int64_t num_bytes, Slot* slot) const;
  absl::Status ReadScales(int64_t round, ChunkReader* reader, Slot* slot) const;
  void DoneWithChunk(const absl::Status& result, Slot* slot);
  Slot& SlotOf(int64_t round) { return slots[static_cast<size_t>(round) % slots.size()]; }
  bool IsDone(const Slot& slot, int64_t round) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    return slot.round == round && slot.num_done == slot.moves.chunks().size();
  }

  Reading reading;
  const RoundReaderOptions& options;  // reading's
  int64_t num_rounds = 0;
  NodeArenas arenas;
  std::vector<int32_t> first_ranks;  // by node

  Mutex mutex;
  CondVar changed;
  std::vector<Slot> slots;                          // round r is in SlotOf(r)
  int64_t num_released ABSL_GUARDED_BY(mutex) = 0;  // rounds whose slots are free again
  int64_t next_round ABSL_GUARDED_BY(mutex) = 0;    // whose chunks are taken
  bool preparing ABSL_GUARDED_BY(mutex) = false;    // some thread prepares next_round
  std::vector<bool> waits ABSL_GUARDED_BY(mutex);   // by thread: it is in no call
  absl::Status status ABSL_GUARDED_BY(mutex);       // the first error
};

void RoundReader::State::Run(size_t number, const FileObserver& observer) {
  StayOnNumaNode(number);
  ChunkReader reader(number, observer, &reading);
  Slot* slots_of[kChunksUnderWay] = {};  // whose chunks are under way
  int64_t started = 0, finished = 0;
  while (true) {
    // Who has a chunk under way does not wait for another: others wait for that one.
    while (started - finished < kChunksUnderWay) {
      const int place = static_cast<int>(started % kChunksUnderWay);
      Chunk chunk;
      if (!TakeChunk(started == finished, &reader, &slots_of[place], &chunk)) break;
      ++started;
      if (const absl::Status begun = reader.Start(place, chunk); !begun.ok()) {
        DoneWithChunk(begun, slots_of[place]);
        return;
      }
      if (reader.IsReadInFinish(place)) break;
    }
    if (started == finished) return;
    const int place = static_cast<int>(finished++ % kChunksUnderWay);
    DoneWithChunk(reader.Finish(place), slots_of[place]);
  }
}

void RoundReader::State::DoneWithChunk(const absl::Status& result, Slot* slot) {
  MutexLock lock(&mutex);
  if (!result.ok()) {
    if (status.ok()) status = result;
    changed.SignalAll();
  } else if (++slot->num_done == slot->moves.chunks().size()) {
    changed.SignalAll();
  }
}

bool RoundReader::State::TakeChunk(bool may_wait, ChunkReader* reader, Slot** of, Chunk* chunk) {
  MutexLock lock(&mutex);
  while (!reading.stop && status.ok() && next_round < num_rounds) {
    Slot& slot = SlotOf(next_round);
    if (slot.round == next_round) {
      if (const Extent* const next = slot.NextChunk(reader->number()); next != nullptr) {
        *of = &slot;
        *chunk = {&slot.moves, slot.scales.data(), slot.round, *next};
        return true;
      }
      ++next_round;
    } else if (preparing || next_round >= num_released + static_cast<int64_t>(slots.size())) {
      if (!may_wait) return false;
      waits[reader->number()] = true;
      changed.Wait(&mutex);
      waits[reader->number()] = false;
    } else {
      preparing = true;
      const int64_t round = next_round;
      mutex.Unlock();
      const absl::Status result = Prepare(round, reader, &slot);
      mutex.Lock();
      preparing = false;
      slot.round = round;
      slot.num_done = 0;
      slot.next_chunks.clear();
      for (const auto& [first, end] : slot.moves.groups()) slot.next_chunks.push_back(first);
      if (!result.ok() && status.ok()) status = result;
      changed.SignalAll();
    }
  }
  if (may_wait) waits[reader->number()] = true;  // it has ended
  return false;
}

absl::Status RoundReader::State::Prepare(int64_t round, ChunkReader* reader, Slot* slot) const {
  std::vector<Piece> pieces;
  std::vector<Move> moves;
  options.schedule->Pieces(round, options.node, options.node, &pieces);
  AppendArenaMoves(*options.plan, pieces, arenas, &moves);
  slot->messages.clear();
  if (options.sends) ZC_RETURN_IF_ERROR(AddMessages(round, slot, &moves));
  ZC_ASSIGN_OR_RETURN(
      slot->moves, RoundMoves::Create(*options.plan, options.schedule->Reads(round, options.node),
                                      moves, options.chunk_bytes));
  return ReadScales(round, reader, slot);
}

absl::StatusOr<char*> RoundReader::State::ReserveMessages(int64_t round, int64_t num_bytes,
                                                          Slot* slot) const {
  if (options.device == nullptr) return slot->buffer.Reserve(num_bytes);
  // That of two rounds before has left: its round was released after its exchange.
  return options.device->ReserveMessages(kOutgoingMessages + static_cast<size_t>(round % 2),
                                         num_bytes);
}

absl::Status RoundReader::State::AddMessages(int64_t round, Slot* slot,
                                             std::vector<Move>* moves) const {
  const Plan& plan = *options.plan;
  const RoundExchange exchange(plan, *options.schedule, round, options.node);
  std::vector<std::vector<Piece>> pieces(first_ranks.size());  // by node
  int64_t total = 0;
  for (int32_t node = 0; node < plan.layout.num_nodes; ++node) {
    if (node == options.node) continue;
    auto& of_node = pieces[static_cast<size_t>(node)];
    exchange.AppendMessagePieces(node, &of_node);
    const int64_t num_bytes = MessageBytes(plan, of_node, first_ranks[static_cast<size_t>(node)]);
    if (num_bytes > 0) slot->messages.push_back({node, nullptr, num_bytes});
    total += AlignedMessage(num_bytes);
  }
  const int64_t broadcast_bytes = BroadcastBytes(plan, exchange.broadcast_pieces());
  ZC_ASSIGN_OR_RETURN(char* place, ReserveMessages(round, total + broadcast_bytes, slot));
  for (OutgoingMessage& message : slot->messages) {
    message.data = place;
    AppendMessageMoves(plan, pieces[static_cast<size_t>(message.node)],
                       first_ranks[static_cast<size_t>(message.node)], place, moves);
    place += AlignedMessage(message.num_bytes);
  }
  if (broadcast_bytes == 0) return absl::OkStatus();
  AppendBroadcastMoves(plan, exchange.broadcast_pieces(), place, moves);
  slot->messages.push_back({-1, place, broadcast_bytes});
  return absl::OkStatus();
}

absl::Status RoundReader::State::ReadScales(int64_t round, ChunkReader* reader, Slot* slot) const {
  char* place = slot->scales.Reserve(TotalBytes(slot->moves.scales()));
  for (const Extent& extent : slot->moves.scales()) {
    const struct iovec piece = {place, static_cast<size_t>(extent.end - extent.begin)};
    ZC_RETURN_IF_ERROR(reader->Read(extent, absl::MakeConstSpan(&piece, 1)));
    if (options.after_read != nullptr) {
      options.after_read(round, absl::MakeSpan(place, piece.iov_len));
    }
    place += piece.iov_len;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<RoundReader>> RoundReader::Start(RoundReaderOptions options,
                                                                absl::Duration call_timeout) {
  const int num_threads = options.num_threads;
  auto state = std::make_shared<State>(std::move(options), call_timeout);
  std::unique_ptr<RoundReader> reader(new RoundReader(state, call_timeout));
  for (int i = 0; i < num_threads; ++i) {
    ZC_ASSIGN_OR_RETURN(std::unique_ptr<FileWork::Task> task,
                        state->options.file_work->Start(state->options.checkpoint_path,
                                                        [state, i](const FileObserver& observer) {
                                                          state->Run(static_cast<size_t>(i),
                                                                     observer);
                                                        }));
    reader->tasks_.push_back(std::move(task));
  }
  return reader;
}

RoundReader::RoundReader(std::shared_ptr<State> state, absl::Duration call_timeout)
    : state_(std::move(state)), call_timeout_(call_timeout), end_timeout_(call_timeout) {}

RoundReader::~RoundReader() {
  {
    MutexLock lock(&state_->mutex);
    state_->reading.stop = true;
    state_->changed.SignalAll();
  }
  // They end with the calls that they are in; who has waited for that in vain waits no more.
  if (given_up_) return;
  const Deadline end(end_timeout_);
  for (const auto& task : tasks_) task->Wait(call_timeout_, nullptr, end.Remaining()).IgnoreError();
}

absl::StatusOr<absl::Span<const OutgoingMessage>> RoundReader::Next(
    absl::Duration timeout, const std::function<bool()>& go_on) {
  const absl::Duration began = Clock::Real()->Steady();
  const int64_t round = num_taken_;
  State& state = *state_;
  Slot& slot = state.SlotOf(round);
  MutexLock lock(&state.mutex);
  if (round >= state.num_rounds) {
    return absl::InternalError(absl::StrCat("read round ", round, ": there is no such round"));
  }
  state.num_released = round;
  state.changed.SignalAll();
  while (!state.IsDone(slot, round)) {
    if (!state.status.ok()) return state.status;
    // The file system has its time anew after each wait for the rate.
    if (Clock::Real()->Steady() - std::max(began, state.reading.rate_waits.LastEnd()) >= timeout) {
      given_up_ = true;
      // One that waits is not what the round waits for.
      const auto found = std::find(state.waits.begin(), state.waits.end(), false);
      const auto at_work =
          static_cast<size_t>(found == state.waits.end() ? 0 : found - state.waits.begin());
      return WithReason(absl::DeadlineExceededError(
                            absl::StrCat(tasks_[at_work]->call(), ": round ", round,
                                         " was not read within ", absl::FormatDuration(timeout),
                                         "; check that the file system answers, then load again")),
                        "DEADLINE_EXCEEDED");
    }
    if (!state.changed.WaitWithTimeout(&state.mutex, std::min(timeout, kPoll))) continue;
    state.mutex.Unlock();
    const bool goes_on = go_on();
    state.mutex.Lock();
    if (goes_on) continue;
    end_timeout_ = std::min(end_timeout_, kCancelledTimeout);
    return absl::CancelledError("load: it was cancelled");
  }
  ++num_taken_;
  return absl::MakeConstSpan(slot.messages);
}

absl::Status RoundReader::CheckUnchanged(const std::atomic<bool>* cancelled) const {
  return state_->options.file_work->Call(
      state_->options.checkpoint_path, call_timeout_, cancelled,
      [state = state_](const FileObserver& about_to) {
        const RoundReaderOptions& o = state->options;
        return CheckSameFiles(*o.plan, o.checkpoint_path, o.identities, o.reader.get(), about_to);
      });
}

int64_t RoundReader::bytes_read() const { return state_->reading.bytes_read; }

IoReport RoundReader::io() const {
  const Reading& reading = state_->reading;
  return {reading.uses_preadv ? "preadv" : "io_uring", reading.io.direct_bytes(),
          std::string(reading.io.refusal().message())};
}

RoundReaderTimes RoundReader::times() const {
  const Reading& reading = state_->reading;
  return {absl::Nanoseconds(reading.read_ns.load()) + reading.rate_waits.total(),
          absl::Nanoseconds(reading.copy_ns.load()), reading.bytes_copied.load()};
}

}  // namespace zerocast
