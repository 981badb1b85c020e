#include "client/agent/chunk_reader.h"

#include "absl/strings/str_cat.h"
#include "client/agent/posix_file.h"
#include "kernels/base/status_macros.h"
#include "server/base/clock.h"

namespace zerocast {
namespace {

// A round touches few files: extents are sorted and contiguous.
constexpr size_t kMaxOpenFiles = 16;

}  // namespace

std::string PathOfFile(const RoundReaderOptions& options, int32_t file) {
  return PathOfFile(options.checkpoint_path,
                    options.plan->manifest->files[static_cast<size_t>(file)]);
}

ChunkReader::ChunkReader(size_t number, FileObserver about_to, Reading* reading)
    : number_(number),
      about_to_(std::move(about_to)),
      reading_(*reading),
      queue_(reading->options.make_queue(kChunksUnderWay)) {
  NoteCalls();
}

void ChunkReader::NoteCalls() {
  if (queue_->name() != "io_uring") reading_.uses_preadv = true;
}

std::string ChunkReader::ReadCall(const Extent& extent) const {
  return absl::StrCat("read ", PathOfFile(reading_.options, extent.file), " at offset ",
                      extent.begin);
}

absl::Status ChunkReader::Start(int number, const Chunk& chunk) {
  ChunkRead& read = chunks_[number];
  read.chunk = chunk;
  const Extent& extent = chunk.extent;
  reading_.rate_waits.Wait(reading_.options.read_limit.get(), extent.end - extent.begin,
                           [this] { return reading_.stop.load(); });
  read.start = Clock::Real()->Steady();
  ZC_ASSIGN_OR_RETURN(read.file, OpenFile(extent.file));
  // Even to ask whether it is cached is a call to the file system.
  ZC_RETURN_IF_ERROR(Observe(about_to_, ReadCall(extent)));
  PosixFile* const file = read.file->AsPosix();
  const IoWay way = file != nullptr
                        ? reading_.io.Choose(*file, extent.begin, extent.end - extent.begin)
                        : IoWay::kCached;
  ZC_RETURN_IF_ERROR(PlaceRequest(way, number));
  if (read.way != IoWay::kCached) queue_->Start(number, read.request);
  reading_.read_ns += absl::ToInt64Nanoseconds(Clock::Real()->Steady() - read.start);
  return absl::OkStatus();
}

absl::StatusOr<char*> ChunkReader::BufferOf(int number) {
  ChunkRead& read = chunks_[number];
  const RoundReaderOptions& options = reading_.options;
  const int64_t num_bytes = read.chunk.moves->buffer_bytes() + 2 * kDirectAlignment;
  if (options.device == nullptr) return read.buffer.Reserve(num_bytes);
  return options.device->Acquire(PlaceOf(number), num_bytes, reading_.call_timeout);
}

absl::Status ChunkReader::PlaceRequest(IoWay way, int number) {
  ChunkRead& read = chunks_[number];
  const RoundReaderOptions& options = reading_.options;
  const auto [file, begin, end] = read.chunk.extent;
  const int64_t block_begin = begin / kDirectAlignment * kDirectAlignment;
  const int64_t offset = way == IoWay::kDirect ? block_begin : begin;
  ZC_ASSIGN_OR_RETURN(char* const buffer, BufferOf(number));
  const bool may_go_into_place = way != IoWay::kDirect && options.device == nullptr;
  // As far behind a whole block as in the file: an element that is aligned there is aligned here.
  read.work.Plan(*read.chunk.moves, read.chunk.extent, buffer + (begin - block_begin),
                 [&](const char* place, int64_t num_bytes) {
                   return may_go_into_place && !options.fresh->PrefersRun(place, num_bytes);
                 });
  read.way = way;
  read.request.file = read.file->AsPosix();
  read.request.direct = way == IoWay::kDirect;
  read.request.offset = offset;
  read.request.needed = end - offset;
  const absl::Span<const struct iovec> pieces = read.work.pieces();
  if (way == IoWay::kDirect) {
    const int64_t blocks = (end - offset + kDirectAlignment - 1) / kDirectAlignment;
    read.request.pieces = {{buffer, static_cast<size_t>(blocks * kDirectAlignment)}};
  } else {
    read.request.pieces.assign(pieces.begin(), pieces.end());
  }
  for (const struct iovec& piece : pieces) {
    if (options.device != nullptr) break;
    options.fresh->Make(static_cast<const char*>(piece.iov_base),
                        static_cast<int64_t>(piece.iov_len));
  }
  return absl::OkStatus();
}

absl::Status ChunkReader::Wait(int number) {
  ChunkRead& read = chunks_[number];
  const Extent& extent = read.chunk.extent;
  ZC_RETURN_IF_ERROR(Observe(about_to_, ReadCall(extent)));
  absl::Status status;
  if (read.way != IoWay::kCached) {
    status = queue_->Wait(number);
    NoteCalls();
  }
  if (read.way == IoWay::kDirect && status.code() == absl::StatusCode::kUnimplemented) {
    reading_.io.RefuseDirect(status);
    ZC_RETURN_IF_ERROR(PlaceRequest(IoWay::kCached, number));
  }
  if (read.way == IoWay::kCached)  // all of it comes with one call
    status = read.file->ReadAt(extent.begin, read.work.pieces());
  ZC_RETURN_IF_ERROR(status);
  reading_.io.Record(read.way, extent.end - extent.begin, Clock::Real()->Steady() - read.start);
  reading_.bytes_read += extent.end - extent.begin;
  return absl::OkStatus();
}

absl::Status ChunkReader::Finish(int number) {
  ChunkRead& read = chunks_[number];
  const absl::Duration start = Clock::Real()->Steady();
  ZC_RETURN_IF_ERROR(Wait(number));
  if (reading_.options.after_read != nullptr) {
    for (const struct iovec& piece : read.work.pieces()) {
      reading_.options.after_read(
          read.chunk.round, absl::MakeSpan(static_cast<char*>(piece.iov_base), piece.iov_len));
    }
  }
  const absl::Duration came = Clock::Real()->Steady();
  ZC_RETURN_IF_ERROR(Copy(number));
  reading_.read_ns += absl::ToInt64Nanoseconds(came - start);
  reading_.copy_ns += absl::ToInt64Nanoseconds(Clock::Real()->Steady() - came);
  return absl::OkStatus();
}

absl::Status ChunkReader::Copy(int number) {
  ChunkRead& read = chunks_[number];
  const RoundReaderOptions& options = reading_.options;
  const absl::Span<const BoxCopy> copies = read.work.Copies(read.chunk.scales);
  if (options.device != nullptr) {
    const Extent& extent = read.chunk.extent;
    const int64_t size = extent.end - extent.begin / kDirectAlignment * kDirectAlignment;
    return options.device->Start(PlaceOf(number), size, copies, reading_.call_timeout);
  }
  for (const BoxCopy& copy : copies) {
    ZC_ASSIGN_OR_RETURN(const int64_t num_bytes, options.fresh->Run(copy));
    reading_.bytes_copied += num_bytes;
  }
  return absl::OkStatus();
}

absl::Status ChunkReader::Read(const Extent& extent, absl::Span<const struct iovec> pieces) {
  ZC_ASSIGN_OR_RETURN(const std::shared_ptr<ReadableFile> file, OpenFile(extent.file));
  ZC_RETURN_IF_ERROR(Observe(about_to_, ReadCall(extent)));
  ZC_RETURN_IF_ERROR(file->ReadAt(extent.begin, pieces));
  reading_.bytes_read += extent.end - extent.begin;
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<ReadableFile>> ChunkReader::OpenFile(int32_t file) {
  const auto found = files_.find(file);
  if (found != files_.end()) return found->second;
  const RoundReaderOptions& options = reading_.options;
  const std::string path = PathOfFile(options, file);
  ZC_RETURN_IF_ERROR(Observe(about_to_, absl::StrCat("open ", path)));
  if (files_.size() >= kMaxOpenFiles) files_.erase(files_.begin());
  ZC_ASSIGN_OR_RETURN(std::unique_ptr<ReadableFile> opened, options.reader->Open(path));
  ZC_ASSIGN_OR_RETURN(const FileIdentity identity, opened->Identity());
  ZC_RETURN_IF_ERROR(CheckSameFile(path, options.identities[static_cast<size_t>(file)], identity));
  return files_[file] = std::move(opened);
}

}  // namespace zerocast
