#ifndef ZEROCAST_CLIENT_FORMATS_DEEPSPEED_PIECE_COPIER_H_
#define ZEROCAST_CLIENT_FORMATS_DEEPSPEED_PIECE_COPIER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "client/formats/deepspeed/zero_checkpoint.h"
#include "client/formats/file.h"
#include "client/formats/file_observer.h"
#include "kernels/base/mutex.h"
#include "kernels/copy/box.h"

namespace zerocast {

// Elements that go from a checkpoint into a file, cast on the way.
struct CopyRun {
  ZeroExtent from;                // storage -1: num_elements zeros
  int32_t output = 0;             // index in the outputs
  int64_t position = 0;           // where the first of them goes, bytes
  DType dtype = DType::kInvalid;  // which they have there
  // Which of the CRCs counts these bytes; its runs must lie one behind the other in one output.
  // -1: none.
  int32_t crc = -1;
};

// Elements that a box takes from one tensor of a checkpoint into one of a file, cast on the way.
struct BoxRun {
  Box box;  // its source is the tensor of `pieces`; canonical
  // The tensor's elements, ascending by offset, all of one dtype; the caller's.
  const std::vector<ZeroPiece>* pieces = nullptr;
  int32_t output = 0;             // index in the outputs
  int64_t position = 0;           // where element 0 of the box's target lies, bytes
  DType dtype = DType::kInvalid;  // which its elements have
};

// Copies elements of a checkpoint's files into others: in parts of kPartBytes, on several threads,
// with the CRC of every storage compared.  Holds one part a thread, whatever the sizes.
class PieceCopier {
 public:
  static constexpr int64_t kPartBytes = 1 << 20;

  struct Options {
    int num_threads = 0;    // 0: one a processor, eight at most
    FileObserver about_to;  // told of every call to the checkpoint's files; on any thread
    // Asked before each part, on any thread; its error ends the work.  May be empty.
    std::function<absl::Status()> keep_going;
    // Told of bytes that were written, on any thread.  May be empty.
    std::function<void(int64_t num_bytes)> progress;
  };

  // `checkpoint` must outlive it.
  PieceCopier(const ZeroCheckpoint& checkpoint, Options options);

  // Carries out `runs`, which must not overlap in an output, and returns `num_crcs` CRCs.  One call
  // at a time.  Errors, the first that a thread meets: ABORTED, reason CHECKPOINT_CHANGED (a file
  // is no longer what it was when the checkpoint was read); as InputFile, OutputFile and
  // keep_going.
  absl::StatusOr<std::vector<uint32_t>> Copy(absl::Span<const CopyRun> runs,
                                             absl::Span<const OutputFile* const> outputs,
                                             size_t num_crcs);

  // Carries out boxes, whose targets must not overlap: contiguous ones as Copy does, others in
  // blocks of kPartBytes, which are gathered, transposed and spread; holds as much as Copy. Errors:
  // as Copy; INTERNAL for pieces that do not cover a box.
  absl::Status CopyBoxes(absl::Span<const BoxRun> boxes,
                         absl::Span<const OutputFile* const> outputs);

  // Compares the CRC of each storage of which something was copied, reading what was not.  After
  // the last Copy.  Errors: DATA_LOSS, reason CHECKPOINT_CORRUPT, naming file and offsets; as
  // above.
  absl::Status CheckStorages();

 private:
  // The CRC of bytes [begin, begin + num_bytes) of a file.
  struct Part {
    int64_t begin = 0, num_bytes = 0;
    uint32_t crc32 = 0;
  };
  // Some elements of a run.
  struct Chunk {
    size_t run = 0;
    int64_t first = 0, num_elements = 0;
  };
  struct Buffers {
    std::string in, out;
  };

  absl::StatusOr<std::shared_ptr<const InputFile>> Open(int32_t file);
  // Runs body(0) ... body(count - 1) on the threads until one fails.
  absl::Status OnThreads(size_t count,
                         const std::function<absl::Status(size_t, Buffers*)>& body) const;
  absl::Status CopyChunk(const CopyRun& run, const Chunk& chunk, const OutputFile& output,
                         Buffers* buffers, Part* written);
  // piece_copier_boxes.cc: a block of a box.
  absl::Status CopyBlock(const BoxRun& run, const Box& block, const OutputFile& output,
                         Buffers* buffers);
  // Elements [offset, offset + num_elements) to `to`; CheckStorages reads them again.
  absl::Status Gather(const std::vector<ZeroPiece>& pieces, int64_t offset, int64_t num_elements,
                      char* to);
  // Reads bytes of a storage and notes their CRC.
  absl::Status ReadPart(int32_t storage, int64_t begin, int64_t num_bytes, std::string* bytes);

  const ZeroCheckpoint& checkpoint_;
  const Options options_;
  Mutex mutex_;
  std::map<int32_t, std::shared_ptr<const InputFile>> open_ ABSL_GUARDED_BY(mutex_);
  std::map<int32_t, std::vector<Part>> read_ ABSL_GUARDED_BY(mutex_);  // by storage
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_FORMATS_DEEPSPEED_PIECE_COPIER_H_
