#include "client/formats/deepspeed/piece_copier.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/formats/crc32.h"
#include "kernels/base/status_macros.h"
#include "kernels/copy/copy.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

constexpr size_t kMaxOpenFiles = 128;
constexpr unsigned kMaxThreads = 8;

int NumThreads(int asked) {
  if (asked > 0) return asked;
  return static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, kMaxThreads));
}

}  // namespace

PieceCopier::PieceCopier(const ZeroCheckpoint& checkpoint, Options options)
    : checkpoint_(checkpoint), options_(std::move(options)) {}

absl::StatusOr<std::shared_ptr<const InputFile>> PieceCopier::Open(int32_t file) {
  {
    const MutexLock lock(&mutex_);
    const auto found = open_.find(file);
    if (found != open_.end()) return found->second;
  }
  const ZeroFile& known = checkpoint_.files[static_cast<size_t>(file)];
  ZC_ASSIGN_OR_RETURN(
      InputFile input,
      InputFile::Open(absl::StrCat(checkpoint_.folder, "/", known.path), options_.about_to));
  if (input.num_bytes() != known.num_bytes || input.mtime_ns() != known.mtime_ns) {
    return WithReason(
        absl::AbortedError(absl::StrCat(input.path(),
                                        " was written again while it was read: it "
                                        "had ",
                                        known.num_bytes, " bytes, now ", input.num_bytes(),
                                        "; wait until the save is done and start again")),
        "CHECKPOINT_CHANGED");
  }
  auto shared = std::make_shared<const InputFile>(std::move(input));
  const MutexLock lock(&mutex_);
  // Whoever still reads one that goes holds it.
  if (open_.size() >= kMaxOpenFiles) open_.erase(open_.begin());
  return open_.emplace(file, std::move(shared)).first->second;
}

absl::Status PieceCopier::OnThreads(
    size_t count, const std::function<absl::Status(size_t, Buffers*)>& body) const {
  std::atomic<size_t> next{0};
  std::atomic<bool> stop{false};
  Mutex mutex;
  absl::Status first;
  const auto work = [&] {
    Buffers buffers;
    while (!stop.load()) {
      const size_t index = next.fetch_add(1);
      if (index >= count) return;
      absl::Status status =
          options_.keep_going == nullptr ? absl::OkStatus() : options_.keep_going();
      if (status.ok()) status = body(index, &buffers);
      if (status.ok()) continue;
      stop.store(true);
      const MutexLock lock(&mutex);
      first.Update(status);
    }
  };
  std::vector<std::thread> threads;
  const size_t wanted = std::min(static_cast<size_t>(NumThreads(options_.num_threads)), count);
  for (size_t k = 1; k < wanted; ++k) {
    // Without a thread the others do its work.
    try {
      threads.emplace_back(work);
    } catch (const std::system_error&) {
      break;
    }
  }
  work();
  for (std::thread& thread : threads) thread.join();
  return first;
}

absl::Status PieceCopier::ReadPart(int32_t storage, int64_t begin, int64_t num_bytes,
                                   std::string* bytes) {
  const ZeroStorage& from = checkpoint_.storages[static_cast<size_t>(storage)];
  ZC_ASSIGN_OR_RETURN(const auto file, Open(from.file));
  bytes->resize(static_cast<size_t>(num_bytes));
  ZC_RETURN_IF_ERROR(file->ReadInto(begin, num_bytes, bytes->data()));
  if (!from.has_crc) return absl::OkStatus();
  const Part part{begin, num_bytes, Crc32(*bytes)};
  const MutexLock lock(&mutex_);
  read_[storage].push_back(part);
  return absl::OkStatus();
}

absl::Status PieceCopier::CopyChunk(const CopyRun& run, const Chunk& chunk,
                                    const OutputFile& output, Buffers* buffers, Part* written) {
  const int64_t target_bytes = chunk.num_elements * SizeOf(run.dtype);
  const std::string* bytes = &buffers->out;
  if (run.from.storage < 0) {
    buffers->out.assign(static_cast<size_t>(target_bytes), '\0');
  } else {
    const int64_t size = SizeOf(run.from.dtype);
    ZC_RETURN_IF_ERROR(ReadPart(run.from.storage, run.from.file_begin + chunk.first * size,
                                chunk.num_elements * size, &buffers->in));
    if (run.from.dtype == run.dtype) {
      bytes = &buffers->in;
    } else {
      buffers->out.resize(static_cast<size_t>(target_bytes));
      CastElements(buffers->in.data(), run.from.dtype, buffers->out.data(), run.dtype,
                   chunk.num_elements);
    }
  }
  written->begin = run.position + chunk.first * SizeOf(run.dtype);
  written->num_bytes = target_bytes;
  if (run.crc >= 0) written->crc32 = Crc32(*bytes);
  ZC_RETURN_IF_ERROR(output.WriteAt(written->begin, *bytes));
  if (options_.progress != nullptr) options_.progress(target_bytes);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<uint32_t>> PieceCopier::Copy(absl::Span<const CopyRun> runs,
                                                        absl::Span<const OutputFile* const> outputs,
                                                        size_t num_crcs) {
  std::vector<Chunk> chunks;
  for (size_t k = 0; k < runs.size(); ++k) {
    const CopyRun& run = runs[k];
    const DType from = run.from.storage < 0 ? run.dtype : run.from.dtype;
    if (!CanCast(from, run.dtype)) {
      return absl::InvalidArgumentError(absl::StrCat("copy elements of ", DTypeName(from), " as ",
                                                     DTypeName(run.dtype), ": there is no cast"));
    }
    const int64_t most = kPartBytes / std::max(SizeOf(from), SizeOf(run.dtype));
    for (int64_t first = 0; first < run.from.num_elements; first += most) {
      chunks.push_back({k, first, std::min(most, run.from.num_elements - first)});
    }
  }
  std::vector<Part> written(chunks.size());
  ZC_RETURN_IF_ERROR(OnThreads(chunks.size(), [&](size_t k, Buffers* buffers) {
    const CopyRun& run = runs[chunks[k].run];
    return CopyChunk(run, chunks[k], *outputs[static_cast<size_t>(run.output)], buffers,
                     &written[k]);
  }));
  // By CRC, in the order of the file.
  std::vector<size_t> order(chunks.size());
  for (size_t k = 0; k < order.size(); ++k) order[k] = k;
  const auto crc_of = [&](size_t k) { return runs[chunks[k].run].crc; };
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return crc_of(a) != crc_of(b) ? crc_of(a) < crc_of(b) : written[a].begin < written[b].begin;
  });
  std::vector<uint32_t> crcs(num_crcs, 0);
  for (const size_t k : order) {
    if (crc_of(k) < 0) continue;
    uint32_t& crc = crcs[static_cast<size_t>(crc_of(k))];
    crc = CombineCrc32(crc, written[k].crc32, written[k].num_bytes);
  }
  return crcs;
}

absl::Status PieceCopier::CheckStorages() {
  std::map<int32_t, std::vector<Part>> read;
  {
    const MutexLock lock(&mutex_);
    read.swap(read_);
  }
  std::vector<std::pair<int32_t, std::vector<Part>>> storages(read.begin(), read.end());
  return OnThreads(storages.size(), [&](size_t k, Buffers* buffers) -> absl::Status {
    auto& [index, parts] = storages[k];
    const ZeroStorage& storage = checkpoint_.storages[static_cast<size_t>(index)];
    std::sort(parts.begin(), parts.end(),
              [](const Part& a, const Part& b) { return a.begin < b.begin; });
    uint32_t crc = 0;
    int64_t at = storage.file_begin;
    const int64_t end = storage.file_begin + storage.num_bytes;
    // Reads [at, stop), which no run has, or only a part that overlaps another.
    const auto read_until = [&](int64_t stop) -> absl::Status {
      while (at < stop) {
        const int64_t now = std::min(kPartBytes, stop - at);
        ZC_ASSIGN_OR_RETURN(const auto file, Open(storage.file));
        buffers->in.resize(static_cast<size_t>(now));
        ZC_RETURN_IF_ERROR(file->ReadInto(at, now, buffers->in.data()));
        crc = Crc32(buffers->in, crc);
        at += now;
      }
      return absl::OkStatus();
    };
    for (const Part& part : parts) {
      if (part.begin < at) {
        // Copied twice, for another name; or cut elsewhere the second time.
        ZC_RETURN_IF_ERROR(read_until(part.begin + part.num_bytes));
        continue;
      }
      ZC_RETURN_IF_ERROR(read_until(part.begin));
      crc = CombineCrc32(crc, part.crc32, part.num_bytes);
      at += part.num_bytes;
    }
    ZC_RETURN_IF_ERROR(read_until(end));
    if (crc == storage.crc32) return absl::OkStatus();
    return WithReason(
        absl::DataLossError(absl::StrCat(
            "read ", checkpoint_.folder, "/",
            checkpoint_.files[static_cast<size_t>(storage.file)].path, ": the bytes from offset ",
            storage.file_begin, " to ", end, " have the CRC ", absl::Hex(crc, absl::kZeroPad8),
            ", the file says ", absl::Hex(storage.crc32, absl::kZeroPad8),
            ": they were damaged; take another checkpoint")),
        "CHECKPOINT_CORRUPT");
  });
}

}  // namespace zerocast
