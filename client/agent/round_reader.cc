#include "client/agent/round_reader.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/agent/buffer.h"
#include "client/agent/chunks.h"
#include "client/agent/io_choice.h"
#include "client/agent/memory_needs.h"
#include "client/agent/numa.h"
#include "client/agent/placement.h"
#include "client/agent/posix_file.h"
#include "kernels/base/mutex.h"
#include "kernels/base/status_macros.h"
#include "kernels/comm/deadline.h"
#include "server/base/clock.h"
#include "server/base/errors.h"
#include "server/plan/round_exchange.h"

namespace zerocast {
namespace {

// A round touches few files: extents are sorted and contiguous.
constexpr size_t kMaxOpenFiles = 16;
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
  int64_t round = -1;     // that it is prepared for
  size_t next_chunk = 0;  // of moves.chunks(), the next that nobody has taken
  size_t num_done = 0;    // chunks
};

// A chunk that is read.
struct ChunkRead {
  Slot* slot = nullptr;
  int64_t round = 0;
  Extent extent;
  std::shared_ptr<ReadableFile> file;
  IoWay way = IoWay::kCached;
  ChunkWork work;
  Buffer buffer;
  ReadRequest request;
  absl::Duration start;
};

// Of one thread.
struct Worker {
  size_t number = 0;
  FileObserver about_to;
  std::map<int32_t, std::shared_ptr<ReadableFile>> files;
  ChunkRead chunks[kChunksUnderWay];
  // Behind what it reads into: it ends first.
  std::unique_ptr<ReadQueue> queue;
};

}  // namespace

// Shared with the threads, which may outlive the RoundReader.
struct RoundReader::State {
  State(RoundReaderOptions o, absl::Duration timeout)
      : options(std::move(o)), call_timeout(timeout), io(options.io) {
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
  bool TakeChunk(bool may_wait, Worker* worker, ChunkRead* chunk);
  absl::Status Prepare(int64_t round, Worker* worker, Slot* slot) const;
  absl::Status AddMessages(int64_t round, Slot* slot, std::vector<Move>* moves) const;
  absl::StatusOr<char*> ReserveMessages(int64_t round, int64_t num_bytes, Slot* slot) const;
  absl::Status ReadScales(int64_t round, Worker* worker, Slot* slot) const;
  absl::Status StartChunk(int number, Worker* worker);
  absl::Status PlaceRequest(IoWay way, size_t place, ChunkRead* chunk) const;
  absl::StatusOr<char*> ChunkBuffer(size_t place, ChunkRead* chunk) const;
  absl::Status FinishChunk(int number, Worker* worker);
  absl::Status WaitForChunk(int number, Worker* worker);
  absl::Status CopyChunk(int number, Worker* worker);
  void NoteCalls(const Worker& worker) {
    if (worker.queue->name() != "io_uring") uses_preadv = true;
  }
  // The staging place of a device for chunk `number` of a thread.
  static size_t PlaceOf(int number, const Worker& worker) {
    return worker.number * kChunksUnderWay + static_cast<size_t>(number);
  }
  void DoneWithChunk(const absl::Status& result, Slot* slot);
  absl::StatusOr<std::shared_ptr<ReadableFile>> OpenFile(int32_t file, Worker* worker) const;
  absl::Status Read(const Extent& extent, absl::Span<const struct iovec> pieces,
                    Worker* worker) const;
  // What is said of a call that reads it.
  std::string ReadCall(const Extent& extent) const {
    return absl::StrCat("read ", PathOfFile(extent.file), " at offset ", extent.begin);
  }
  std::string PathOfFile(int32_t file) const {
    return zerocast::PathOfFile(options.checkpoint_path,
                                options.plan->manifest->files[static_cast<size_t>(file)]);
  }
  Slot& SlotOf(int64_t round) { return slots[static_cast<size_t>(round) % slots.size()]; }
  bool IsDone(const Slot& slot, int64_t round) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    return slot.round == round && slot.num_done == slot.moves.chunks().size();
  }

  const RoundReaderOptions options;
  const absl::Duration call_timeout;
  int64_t num_rounds = 0;
  NodeArenas arenas;
  std::vector<int32_t> first_ranks;  // by node
  RateWaits rate_waits;
  mutable std::atomic<int64_t> bytes_read{0};
  std::atomic<int64_t> read_ns{0}, copy_ns{0}, bytes_copied{0};
  IoChoice io;
  std::atomic<bool> uses_preadv{false};  // some thread has, or is left with, no io_uring
  std::atomic<bool> stop{false};

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
  Worker worker;
  worker.number = number;
  worker.about_to = observer;
  worker.queue = options.make_queue(kChunksUnderWay);
  NoteCalls(worker);
  int64_t started = 0, finished = 0;
  while (true) {
    // Who has a chunk under way does not wait for another: others wait for that one.
    while (started - finished < kChunksUnderWay) {
      const int place = static_cast<int>(started % kChunksUnderWay);
      ChunkRead& chunk = worker.chunks[place];
      if (!TakeChunk(started == finished, &worker, &chunk)) break;
      ++started;
      if (const absl::Status begun = StartChunk(place, &worker); !begun.ok()) {
        DoneWithChunk(begun, chunk.slot);
        return;
      }
      // That one needs no time of the disk's: it is read when it is copied, into the caches.
      if (chunk.way == IoWay::kCached) break;
    }
    if (started == finished) return;
    const int place = static_cast<int>(finished++ % kChunksUnderWay);
    DoneWithChunk(FinishChunk(place, &worker), worker.chunks[place].slot);
    NoteCalls(worker);
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

bool RoundReader::State::TakeChunk(bool may_wait, Worker* worker, ChunkRead* chunk) {
  MutexLock lock(&mutex);
  while (!stop && status.ok() && next_round < num_rounds) {
    Slot& slot = SlotOf(next_round);
    if (slot.round == next_round) {
      if (slot.next_chunk < slot.moves.chunks().size()) {
        chunk->slot = &slot;
        chunk->round = slot.round;
        chunk->extent = slot.moves.chunks()[slot.next_chunk++];
        return true;
      }
      ++next_round;
    } else if (preparing || next_round >= num_released + static_cast<int64_t>(slots.size())) {
      if (!may_wait) return false;
      waits[worker->number] = true;
      changed.Wait(&mutex);
      waits[worker->number] = false;
    } else {
      preparing = true;
      const int64_t round = next_round;
      mutex.Unlock();
      const absl::Status result = Prepare(round, worker, &slot);
      mutex.Lock();
      preparing = false;
      slot.round = round;
      slot.next_chunk = slot.num_done = 0;
      if (!result.ok() && status.ok()) status = result;
      changed.SignalAll();
    }
  }
  if (may_wait) waits[worker->number] = true;  // it has ended
  return false;
}

absl::Status RoundReader::State::Prepare(int64_t round, Worker* worker, Slot* slot) const {
  std::vector<Piece> pieces;
  std::vector<Move> moves;
  options.schedule->Pieces(round, options.node, options.node, &pieces);
  AppendArenaMoves(*options.plan, pieces, arenas, &moves);
  slot->messages.clear();
  if (options.sends) ZC_RETURN_IF_ERROR(AddMessages(round, slot, &moves));
  ZC_ASSIGN_OR_RETURN(
      slot->moves, RoundMoves::Create(*options.plan, options.schedule->Reads(round, options.node),
                                      moves, options.chunk_bytes));
  return ReadScales(round, worker, slot);
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

absl::Status RoundReader::State::ReadScales(int64_t round, Worker* worker, Slot* slot) const {
  char* place = slot->scales.Reserve(TotalBytes(slot->moves.scales()));
  for (const Extent& extent : slot->moves.scales()) {
    const struct iovec piece = {place, static_cast<size_t>(extent.end - extent.begin)};
    ZC_RETURN_IF_ERROR(Read(extent, absl::MakeConstSpan(&piece, 1), worker));
    if (options.after_read != nullptr) {
      options.after_read(round, absl::MakeSpan(place, piece.iov_len));
    }
    place += piece.iov_len;
  }
  return absl::OkStatus();
}

absl::Status RoundReader::State::StartChunk(int number, Worker* worker) {
  ChunkRead& chunk = worker->chunks[number];
  rate_waits.Wait(options.read_limit.get(), chunk.extent.end - chunk.extent.begin,
                  [this] { return stop.load(); });
  chunk.start = Clock::Real()->Steady();
  ZC_ASSIGN_OR_RETURN(chunk.file, OpenFile(chunk.extent.file, worker));
  // Even to ask whether it is cached is a call to the file system.
  ZC_RETURN_IF_ERROR(Observe(worker->about_to, ReadCall(chunk.extent)));
  PosixFile* const file = chunk.file->AsPosix();
  const IoWay way =
      file != nullptr ? io.Choose(*file, chunk.extent.begin, chunk.extent.end - chunk.extent.begin)
                      : IoWay::kCached;
  ZC_RETURN_IF_ERROR(PlaceRequest(way, PlaceOf(number, *worker), &chunk));
  if (chunk.way != IoWay::kCached) worker->queue->Start(number, chunk.request);
  read_ns += absl::ToInt64Nanoseconds(Clock::Real()->Steady() - chunk.start);
  return absl::OkStatus();
}

absl::StatusOr<char*> RoundReader::State::ChunkBuffer(size_t place, ChunkRead* chunk) const {
  const int64_t num_bytes = chunk->slot->moves.buffer_bytes() + 2 * kDirectAlignment;
  if (options.device == nullptr) return chunk->buffer.Reserve(num_bytes);
  return options.device->Acquire(place, num_bytes, call_timeout);
}

absl::Status RoundReader::State::PlaceRequest(IoWay way, size_t place, ChunkRead* chunk) const {
  const auto [file, begin, end] = chunk->extent;
  const int64_t block_begin = begin / kDirectAlignment * kDirectAlignment;
  const int64_t offset = way == IoWay::kDirect ? block_begin : begin;
  ZC_ASSIGN_OR_RETURN(char* const buffer, ChunkBuffer(place, chunk));
  // As far behind a whole block as in the file: an element that is aligned there is aligned here.
  chunk->work.Plan(chunk->slot->moves, chunk->extent, buffer + (begin - block_begin),
                   way != IoWay::kDirect && options.device == nullptr);
  chunk->way = way;
  chunk->request.file = chunk->file->AsPosix();
  chunk->request.direct = way == IoWay::kDirect;
  chunk->request.offset = offset;
  chunk->request.needed = end - offset;
  const absl::Span<const struct iovec> pieces = chunk->work.pieces();
  if (way == IoWay::kDirect) {
    const int64_t blocks = (end - offset + kDirectAlignment - 1) / kDirectAlignment;
    chunk->request.pieces = {{buffer, static_cast<size_t>(blocks * kDirectAlignment)}};
  } else {
    chunk->request.pieces.assign(pieces.begin(), pieces.end());
  }
  for (const struct iovec& piece : pieces) {
    if (options.device != nullptr) break;
    options.fresh->Make(static_cast<const char*>(piece.iov_base),
                        static_cast<int64_t>(piece.iov_len));
  }
  return absl::OkStatus();
}

absl::Status RoundReader::State::WaitForChunk(int number, Worker* worker) {
  ChunkRead& chunk = worker->chunks[number];
  const int64_t num_bytes = chunk.extent.end - chunk.extent.begin;
  ZC_RETURN_IF_ERROR(Observe(worker->about_to, ReadCall(chunk.extent)));
  absl::Status status;
  if (chunk.way != IoWay::kCached) status = worker->queue->Wait(number);
  if (chunk.way == IoWay::kDirect && status.code() == absl::StatusCode::kUnimplemented) {
    io.RefuseDirect(status);
    ZC_RETURN_IF_ERROR(PlaceRequest(IoWay::kCached, PlaceOf(number, *worker), &chunk));
  }
  if (chunk.way == IoWay::kCached)  // all of it comes with one call
    status = chunk.file->ReadAt(chunk.extent.begin, chunk.work.pieces());
  ZC_RETURN_IF_ERROR(status);
  io.Record(chunk.way, num_bytes, Clock::Real()->Steady() - chunk.start);
  bytes_read += num_bytes;
  return absl::OkStatus();
}

absl::Status RoundReader::State::FinishChunk(int number, Worker* worker) {
  ChunkRead& chunk = worker->chunks[number];
  const absl::Duration start = Clock::Real()->Steady();
  ZC_RETURN_IF_ERROR(WaitForChunk(number, worker));
  if (options.after_read != nullptr) {
    for (const struct iovec& piece : chunk.work.pieces()) {
      options.after_read(chunk.round,
                         absl::MakeSpan(static_cast<char*>(piece.iov_base), piece.iov_len));
    }
  }
  const absl::Duration read = Clock::Real()->Steady();
  ZC_RETURN_IF_ERROR(CopyChunk(number, worker));
  read_ns += absl::ToInt64Nanoseconds(read - start);
  copy_ns += absl::ToInt64Nanoseconds(Clock::Real()->Steady() - read);
  return absl::OkStatus();
}

absl::Status RoundReader::State::CopyChunk(int number, Worker* worker) {
  ChunkRead& chunk = worker->chunks[number];
  const absl::Span<const BoxCopy> copies = chunk.work.Copies(chunk.slot->scales.data());
  if (options.device != nullptr) {
    const int64_t size =
        chunk.extent.end - chunk.extent.begin / kDirectAlignment * kDirectAlignment;
    return options.device->Start(PlaceOf(number, *worker), size, copies, call_timeout);
  }
  for (const BoxCopy& copy : copies) {
    options.fresh->MakeFor(copy);
    bytes_copied += RunBoxCopy(copy);
  }
  return absl::OkStatus();
}

absl::Status RoundReader::State::Read(const Extent& extent, absl::Span<const struct iovec> pieces,
                                      Worker* worker) const {
  ZC_ASSIGN_OR_RETURN(const std::shared_ptr<ReadableFile> file, OpenFile(extent.file, worker));
  ZC_RETURN_IF_ERROR(Observe(worker->about_to, ReadCall(extent)));
  ZC_RETURN_IF_ERROR(file->ReadAt(extent.begin, pieces));
  bytes_read += extent.end - extent.begin;
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<ReadableFile>> RoundReader::State::OpenFile(int32_t file,
                                                                           Worker* worker) const {
  auto& files = worker->files;
  const auto found = files.find(file);
  if (found != files.end()) return found->second;
  const std::string path = PathOfFile(file);
  ZC_RETURN_IF_ERROR(Observe(worker->about_to, absl::StrCat("open ", path)));
  if (files.size() >= kMaxOpenFiles) files.erase(files.begin());
  ZC_ASSIGN_OR_RETURN(std::unique_ptr<ReadableFile> opened, options.reader->Open(path));
  ZC_ASSIGN_OR_RETURN(const FileIdentity identity, opened->Identity());
  ZC_RETURN_IF_ERROR(CheckSameFile(path, options.identities[static_cast<size_t>(file)], identity));
  return files[file] = std::move(opened);
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
    state_->stop = true;
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
    if (Clock::Real()->Steady() - std::max(began, state.rate_waits.LastEnd()) >= timeout) {
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

int64_t RoundReader::bytes_read() const { return state_->bytes_read; }

IoReport RoundReader::io() const {
  return {state_->uses_preadv ? "preadv" : "io_uring", state_->io.direct_bytes(),
          std::string(state_->io.refusal().message())};
}

RoundReaderTimes RoundReader::times() const {
  return {absl::Nanoseconds(state_->read_ns.load()) + state_->rate_waits.total(),
          absl::Nanoseconds(state_->copy_ns.load()), state_->bytes_copied.load()};
}

}  // namespace zerocast
