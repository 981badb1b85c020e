#include "client/agent/round_reader.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/agent/buffer.h"
#include "client/agent/placement.h"
#include "kernels/base/mutex.h"
#include "kernels/base/status_macros.h"
#include "kernels/comm/deadline.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

constexpr int kNumBuffers = 2;
// A cancelled load stops reading after at most this much.
constexpr int64_t kReadChunkBytes = int64_t{8} << 20;
// A round touches few files: extents are sorted and contiguous.
constexpr size_t kMaxOpenFiles = 16;

std::string PathOf(const std::string& folder, const ManifestFile& file) {
  return absl::StrCat(folder, "/", file.path);
}

absl::Status CheckSize(const std::string& path, int64_t expected, int64_t found) {
  if (expected == found) return absl::OkStatus();
  return WithReason(
      absl::AbortedError(absl::StrCat("check ", path, ": it has ", found, " bytes, and had ",
                                      expected, " when its header was read: the file changed")),
      "CHECKPOINT_CHANGED");
}

}  // namespace

absl::StatusOr<std::vector<FileIdentity>> IdentifyFiles(const Plan& plan, const Schedule& schedule,
                                                        int32_t node,
                                                        const std::string& checkpoint_path,
                                                        FileReader* reader,
                                                        const FileObserver& about_to) {
  FileIdentity unread;
  unread.num_bytes = -1;
  std::vector<FileIdentity> identities(plan.manifest->files.size(), unread);
  for (int64_t round = 0; round < schedule.num_rounds(); ++round) {
    for (const Extent& extent : schedule.Reads(round, node)) {
      const size_t k = static_cast<size_t>(extent.file);
      if (identities[k].num_bytes >= 0) continue;
      const ManifestFile& file = plan.manifest->files[k];
      const std::string path = PathOf(checkpoint_path, file);
      ZC_RETURN_IF_ERROR(Observe(about_to, absl::StrCat("stat ", path)));
      ZC_ASSIGN_OR_RETURN(identities[k], reader->IdentityOf(path));
      ZC_RETURN_IF_ERROR(CheckSize(path, file.num_bytes, identities[k].num_bytes));
    }
  }
  return identities;
}

// Shared with the thread, which may outlive the RoundReader.
struct RoundReader::State {
  explicit State(RoundReaderOptions options) : options(std::move(options)) {}

  void Run(const FileObserver& observer);
  absl::Status CheckUnchanged(const FileObserver& observer) const;
  absl::Status ReadRound(int64_t round, Buffer* buffer);
  absl::StatusOr<ReadableFile*> OpenFile(int32_t file);
  std::string PathOfFile(int32_t file) const {
    return PathOf(options.checkpoint_path,
                  options.plan->manifest->files[static_cast<size_t>(file)]);
  }

  const RoundReaderOptions options;

  // The reading thread's own.
  FileObserver about_to;
  std::map<int32_t, std::unique_ptr<ReadableFile>> files;

  Buffer buffers[kNumBuffers];  // number round % kNumBuffers, passed on with num_filled
  std::atomic<int64_t> bytes_read{0};
  std::atomic<bool> stop_flag{false};

  Mutex mutex;
  CondVar changed;
  int64_t num_filled ABSL_GUARDED_BY(mutex) = 0;    // rounds read
  int64_t num_released ABSL_GUARDED_BY(mutex) = 0;  // rounds whose buffers are free again
  bool finished ABSL_GUARDED_BY(mutex) = false;
  absl::Status status ABSL_GUARDED_BY(mutex);
};

void RoundReader::State::Run(const FileObserver& observer) {
  about_to = observer;
  const int64_t num_rounds = options.schedule->num_rounds();
  absl::Status result;
  for (int64_t round = 0; round < num_rounds && result.ok(); ++round) {
    {
      MutexLock lock(&mutex);
      while (round - num_released >= kNumBuffers && !stop_flag) changed.Wait(&mutex);
    }
    if (stop_flag) break;
    result = ReadRound(round, &buffers[round % kNumBuffers]);
    MutexLock lock(&mutex);
    if (result.ok()) num_filled = round + 1;
    changed.SignalAll();
  }
  files.clear();
  MutexLock lock(&mutex);
  status = result;
  finished = true;
  changed.SignalAll();
}

absl::Status RoundReader::State::ReadRound(int64_t round, Buffer* buffer) {
  const absl::Span<const Extent> extents = options.schedule->Reads(round, options.node);
  const int64_t num_bytes = TotalBytes(extents);
  char* const data = buffer->Reserve(num_bytes);
  char* place = data;
  for (const Extent& extent : extents) {
    ZC_ASSIGN_OR_RETURN(ReadableFile* const file, OpenFile(extent.file));
    for (int64_t offset = extent.begin; offset < extent.end && !stop_flag;) {
      const int64_t chunk = std::min(kReadChunkBytes, extent.end - offset);
      ZC_RETURN_IF_ERROR(
          Observe(about_to, absl::StrCat("read ", PathOfFile(extent.file), " at offset ", offset)));
      ZC_RETURN_IF_ERROR(file->ReadAt(offset, absl::MakeSpan(place, static_cast<size_t>(chunk))));
      offset += chunk;
      place += chunk;
      bytes_read += chunk;
    }
  }
  if (options.after_read != nullptr) {
    options.after_read(round, absl::MakeSpan(data, static_cast<size_t>(num_bytes)));
  }
  return absl::OkStatus();
}

absl::StatusOr<ReadableFile*> RoundReader::State::OpenFile(int32_t file) {
  const auto found = files.find(file);
  if (found != files.end()) return found->second.get();
  const std::string path = PathOfFile(file);
  ZC_RETURN_IF_ERROR(Observe(about_to, absl::StrCat("open ", path)));
  if (files.size() >= kMaxOpenFiles) files.erase(files.begin());
  ZC_ASSIGN_OR_RETURN(std::unique_ptr<ReadableFile> opened, options.reader->Open(path));
  ZC_ASSIGN_OR_RETURN(const FileIdentity identity, opened->Identity());
  ZC_RETURN_IF_ERROR(CheckSameFile(path, options.identities[static_cast<size_t>(file)], identity));
  return (files[file] = std::move(opened)).get();
}

absl::StatusOr<std::unique_ptr<RoundReader>> RoundReader::Start(RoundReaderOptions options,
                                                                absl::Duration call_timeout) {
  auto state = std::make_shared<State>(std::move(options));
  std::unique_ptr<RoundReader> reader(new RoundReader(state, call_timeout));
  ZC_ASSIGN_OR_RETURN(reader->task_,
                      state->options.file_work->Start(
                          state->options.checkpoint_path,
                          [state](const FileObserver& observer) { state->Run(observer); }));
  return reader;
}

RoundReader::RoundReader(std::shared_ptr<State> state, absl::Duration call_timeout)
    : state_(std::move(state)), call_timeout_(call_timeout) {}

RoundReader::~RoundReader() {
  {
    MutexLock lock(&state_->mutex);
    state_->stop_flag = true;
    state_->changed.SignalAll();
  }
  // It ends with the call that it is in; who has waited for that in vain waits no more.
  if (task_ != nullptr && !given_up_) task_->Wait(call_timeout_, nullptr).IgnoreError();
}

absl::StatusOr<absl::Span<const char>> RoundReader::Next(absl::Duration timeout) {
  const Deadline deadline(timeout);
  const int64_t round = num_taken_;
  MutexLock lock(&state_->mutex);
  state_->num_released = round;
  state_->changed.SignalAll();
  while (state_->num_filled <= round && !state_->finished) {
    if (deadline.Passed()) {
      given_up_ = true;
      return WithReason(absl::DeadlineExceededError(
                            absl::StrCat(task_->call(), ": round ", round, " was not read within ",
                                         absl::FormatDuration(timeout),
                                         "; check that the file system answers, then load again")),
                        "DEADLINE_EXCEEDED");
    }
    state_->changed.WaitWithTimeout(&state_->mutex, deadline.Remaining());
  }
  if (state_->num_filled <= round) {
    if (!state_->status.ok()) return state_->status;
    return absl::InternalError(absl::StrCat("read round ", round, ": there is no such round"));
  }
  ++num_taken_;
  Buffer& buffer = state_->buffers[round % kNumBuffers];
  const int64_t num_bytes =
      TotalBytes(state_->options.schedule->Reads(round, state_->options.node));
  return absl::Span<const char>(buffer.Reserve(num_bytes), static_cast<size_t>(num_bytes));
}

absl::Status RoundReader::State::CheckUnchanged(const FileObserver& observer) const {
  for (size_t k = 0; k < options.identities.size(); ++k) {
    if (options.identities[k].num_bytes < 0) continue;
    const std::string path = PathOfFile(static_cast<int32_t>(k));
    ZC_RETURN_IF_ERROR(Observe(observer, absl::StrCat("stat ", path)));
    ZC_ASSIGN_OR_RETURN(const FileIdentity now, options.reader->IdentityOf(path));
    ZC_RETURN_IF_ERROR(CheckSameFile(path, options.identities[k], now));
  }
  return absl::OkStatus();
}

absl::Status RoundReader::CheckUnchanged(const std::atomic<bool>* cancelled) const {
  return state_->options.file_work->Call(
      state_->options.checkpoint_path, call_timeout_, cancelled,
      [state = state_](const FileObserver& observer) { return state->CheckUnchanged(observer); });
}

int64_t RoundReader::bytes_read() const { return state_->bytes_read; }

}  // namespace zerocast
