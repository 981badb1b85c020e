#include "client/agent/round_reader.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/agent/buffer.h"
#include "client/agent/placement.h"
#include "client/agent/threads.h"
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
                                                        FileReader* reader) {
  FileIdentity unread;
  unread.num_bytes = -1;
  std::vector<FileIdentity> identities(plan.manifest->files.size(), unread);
  for (int64_t round = 0; round < schedule.num_rounds(); ++round) {
    for (const Extent& extent : schedule.Reads(round, node)) {
      const size_t k = static_cast<size_t>(extent.file);
      if (identities[k].num_bytes >= 0) continue;
      const ManifestFile& file = plan.manifest->files[k];
      const std::string path = PathOf(checkpoint_path, file);
      ZC_ASSIGN_OR_RETURN(identities[k], reader->IdentityOf(path));
      ZC_RETURN_IF_ERROR(CheckSize(path, file.num_bytes, identities[k].num_bytes));
    }
  }
  return identities;
}

// Shared with the thread, which may outlive the RoundReader.
struct RoundReader::State {
  explicit State(RoundReaderOptions options) : options(std::move(options)) {}

  void Run();
  absl::Status ReadRound(int64_t round, Buffer* buffer);
  absl::StatusOr<ReadableFile*> OpenFile(int32_t file);
  bool Stopped() const { return stop_flag; }

  const RoundReaderOptions options;
  std::thread thread;

  // The reading thread's own.
  std::map<int32_t, std::unique_ptr<ReadableFile>> files;

  Buffer buffers[kNumBuffers];  // number round % kNumBuffers, passed on with num_filled
  std::atomic<int64_t> bytes_read{0};
  std::atomic<bool> stop_flag{false};

  Mutex mutex;
  CondVar changed;
  int64_t num_filled ABSL_GUARDED_BY(mutex) = 0;    // rounds read
  int64_t num_released ABSL_GUARDED_BY(mutex) = 0;  // rounds whose buffers are free again
  bool finished ABSL_GUARDED_BY(mutex) = false;
  std::string current_file ABSL_GUARDED_BY(mutex);
  absl::Status status ABSL_GUARDED_BY(mutex);
};

void RoundReader::State::Run() {
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
  const std::string path =
      PathOf(options.checkpoint_path, options.plan->manifest->files[static_cast<size_t>(file)]);
  {
    MutexLock lock(&mutex);
    current_file = path;
  }
  const auto found = files.find(file);
  if (found != files.end()) return found->second.get();
  if (files.size() >= kMaxOpenFiles) files.erase(files.begin());
  ZC_ASSIGN_OR_RETURN(std::unique_ptr<ReadableFile> opened, options.reader->Open(path));
  ZC_ASSIGN_OR_RETURN(const FileIdentity identity, opened->Identity());
  ZC_RETURN_IF_ERROR(CheckSameFile(path, options.identities[static_cast<size_t>(file)], identity));
  return (files[file] = std::move(opened)).get();
}

absl::StatusOr<std::unique_ptr<RoundReader>> RoundReader::Start(RoundReaderOptions options,
                                                                absl::Duration stuck_timeout) {
  auto state = std::make_shared<State>(std::move(options));
  ZC_ASSIGN_OR_RETURN(state->thread, StartThread([state] { state->Run(); }));
  return std::unique_ptr<RoundReader>(new RoundReader(std::move(state), stuck_timeout));
}

RoundReader::RoundReader(std::shared_ptr<State> state, absl::Duration stuck_timeout)
    : state_(std::move(state)), stuck_timeout_(stuck_timeout) {}

RoundReader::~RoundReader() {
  const Deadline deadline(stuck_timeout_);
  bool finished;
  {
    MutexLock lock(&state_->mutex);
    state_->stop_flag = true;
    state_->changed.SignalAll();
    while (!state_->finished && !deadline.Passed()) {
      state_->changed.WaitWithTimeout(&state_->mutex, deadline.Remaining());
    }
    finished = state_->finished;
  }
  if (finished) {
    state_->thread.join();
  } else {
    state_->thread.detach();
  }
}

absl::StatusOr<absl::Span<const char>> RoundReader::Next(absl::Duration timeout) {
  const Deadline deadline(timeout);
  const int64_t round = num_taken_;
  MutexLock lock(&state_->mutex);
  state_->num_released = round;
  state_->changed.SignalAll();
  while (state_->num_filled <= round && !state_->finished) {
    if (deadline.Passed()) {
      return WithReason(
          absl::DeadlineExceededError(absl::StrCat("read ", state_->current_file, ": round ", round,
                                                   " did not come "
                                                   "within ",
                                                   absl::FormatDuration(timeout))),
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

absl::Status RoundReader::CheckUnchanged() const {
  const RoundReaderOptions& options = state_->options;
  for (size_t k = 0; k < options.identities.size(); ++k) {
    if (options.identities[k].num_bytes < 0) continue;
    const std::string path = PathOf(options.checkpoint_path, options.plan->manifest->files[k]);
    ZC_ASSIGN_OR_RETURN(const FileIdentity now, options.reader->IdentityOf(path));
    ZC_RETURN_IF_ERROR(CheckSameFile(path, options.identities[k], now));
  }
  return absl::OkStatus();
}

int64_t RoundReader::bytes_read() const { return state_->bytes_read; }

}  // namespace zerocast
