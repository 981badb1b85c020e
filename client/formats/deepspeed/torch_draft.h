#ifndef ZEROCAST_CLIENT_FORMATS_DEEPSPEED_TORCH_DRAFT_H_
#define ZEROCAST_CLIENT_FORMATS_DEEPSPEED_TORCH_DRAFT_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/formats/deepspeed/piece_copier.h"
#include "client/formats/deepspeed/zero_checkpoint.h"
#include "client/formats/file.h"
#include "client/formats/torch_file.h"
#include "client/formats/torch_writer.h"

namespace zerocast {

// A checkpoint's files and storages, and those that are found beside what its reader looked at.
// Not while a PieceCopier works on it.
class Sources {
 public:
  explicit Sources(ZeroCheckpoint checkpoint);
  Sources(const Sources&) = delete;
  Sources& operator=(const Sources&) = delete;

  const ZeroCheckpoint& checkpoint() const { return checkpoint_; }

  // The index of the file at `path` among the checkpoint's; it must be one of them.
  int32_t FileOf(const std::string& path) const;
  // Reads a file of the tag's folder, and counts it among them.  Errors: as InputFile, TorchFile.
  absl::StatusOr<std::shared_ptr<const TorchFile>> Read(const std::string& name,
                                                        const FileObserver& about_to);
  // All bytes of a storage of `file`, as bytes; by its index or its key.
  ZeroExtent Storage(const TorchFile& file, int32_t storage);
  ZeroExtent Storage(const TorchFile& file, const std::string& key);
  // All bytes of a file, in parts: its storages, and what lies between them.  Errors: as Read.
  absl::StatusOr<std::vector<ZeroExtent>> Whole(int32_t file, const FileObserver& about_to);

 private:
  int32_t AddStorage(const ZeroStorage& storage);

  ZeroCheckpoint checkpoint_;
  std::map<std::string, int32_t> file_of_;                // by path
  std::map<std::pair<int32_t, int64_t>, int32_t> known_;  // storages by file, where they begin
  std::map<std::string, std::unordered_map<std::string, int32_t>> by_key_;  // the same by path
};

// A storage of a file that is to be written: its bytes, as runs whose positions are relative to its
// first; they cover it without gaps and overlaps.
struct DraftStorage {
  std::string key;
  int64_t num_bytes = 0;
  std::vector<CopyRun> runs;
};

// Appends the run of `extent` as elements of `dtype` to `storage`, behind what it has.
void AppendRun(const ZeroExtent& extent, DType dtype, DraftStorage* storage);
// The same of `num_elements` zeros.
void AppendZeros(int64_t num_elements, DType dtype, DraftStorage* storage);
// Appends elements [first, first + num_elements) of a state of a parameter, or, `state` negative,
// of its stored value.
void AppendElements(const ZeroCheckpoint& checkpoint, const ZeroParameter& parameter, int state,
                    int64_t first, int64_t num_elements, DType dtype, DraftStorage* storage);

// A file of torch.save that is being made of parts of others.
class TorchDraft {
 public:
  PickleGraph& graph() { return graph_; }
  const PickleGraph& graph() const { return graph_; }

  // Copies what node `id` of `file` holds; tensors with their storages, which are this copy's own.
  PickleId Import(const TorchFile& file, PickleId id, Sources* sources);
  // A key that no storage has yet.
  std::string NewKey();
  // The call that makes a contiguous tensor that has storage `key`, of `storage_elements`, to
  // itself.
  PickleId AddTensor(const std::string& key, DType dtype, int64_t storage_elements,
                     const std::vector<int64_t>& shape, bool requires_grad = false);

  // Those of the imported storages that the graph's root still holds.
  std::vector<DraftStorage> KeptStorages() const;

 private:
  PickleGraph graph_;
  std::vector<DraftStorage> imported_;
  int64_t next_key_ = 0;
};

// Writes files, some at a time, with one PieceCopier: each is complete under its name or not there.
class FilesWriter {
 public:
  // `copier` must outlive it.
  explicit FilesWriter(PieceCopier* copier) : copier_(*copier) {}

  // A file at `path` of what graph.root() holds and of `storages`, which are all that it names.
  // The graph is done with when it returns.  Errors: as TorchFileWriter, PieceCopier::Copy.
  absl::Status Add(const std::string& path, const PickleGraph& graph,
                   std::vector<DraftStorage> storages);
  // A file of these bytes, end to end.
  absl::Status AddBytes(const std::string& path, const std::vector<ZeroExtent>& parts);
  // Writes what is left, and compares all CRCs.  Once, at the end.
  absl::Status Finish();

  int64_t num_files() const { return num_files_; }
  int64_t num_bytes() const { return num_bytes_; }

 private:
  struct Begun {
    std::unique_ptr<TorchFileWriter> torch;  // or
    std::unique_ptr<OutputFile> plain;
    size_t first_crc = 0, num_crcs = 0;
    const OutputFile& file() const { return torch != nullptr ? torch->file() : *plain; }
    absl::Status Commit() { return torch != nullptr ? torch->Commit() : plain->Commit(); }
  };
  absl::Status FlushIfFull();
  absl::Status Flush();

  PieceCopier& copier_;
  std::vector<Begun> begun_;
  std::vector<CopyRun> runs_;
  size_t num_crcs_ = 0;
  int64_t num_files_ = 0, num_bytes_ = 0;
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_FORMATS_DEEPSPEED_TORCH_DRAFT_H_
