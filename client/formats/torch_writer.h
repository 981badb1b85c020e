#ifndef ZEROCAST_CLIENT_FORMATS_TORCH_WRITER_H_
#define ZEROCAST_CLIENT_FORMATS_TORCH_WRITER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/formats/pickle.h"
#include "client/formats/zip_writer.h"
#include "kernels/copy/dtype.h"

namespace zerocast {

// Where a writer of zip entries turns to 8-byte sizes; tests lower it.
inline constexpr int64_t kZip64From = 0xFFFFFFFF;

// The bytes of one storage, given a part at a time.
struct TorchStorageData {
  std::string key;  // as the graph's persistent ids name it; no '/'
  int64_t num_bytes = 0;
  // Appends the storage's next `num_bytes` bytes to `out`; called in order until all are given.
  std::function<absl::Status(int64_t num_bytes, std::string* out)> next;
};

// A zip file of torch.save whose storages' bytes are written one by one, where each of them goes:
// in any order, by any number of threads.  Complete under its name, or not at all.  Move-only.
class TorchFileWriter {
 public:
  struct Storage {
    std::string key;  // as the graph's persistent ids name it; no '/'
    int64_t num_bytes = 0;
  };
  // Writes what graph.root() holds, and the place of each storage.  Errors: INVALID_ARGUMENT: a
  // storage that the graph names is not among `storages`, or one that it does not name or names
  // twice is; as WritePickle and OutputFile.
  static absl::StatusOr<TorchFileWriter> Create(const std::string& path, const PickleGraph& graph,
                                                const std::vector<Storage>& storages,
                                                int64_t zip64_from = kZip64From);

  const OutputFile& file() const { return zip_.file(); }
  // By storage: the offset of its bytes in the file; a multiple of 64.
  const std::vector<int64_t>& positions() const { return positions_; }
  // By storage, before Commit: the CRC of its bytes.
  void SetCrc(size_t storage, uint32_t crc32) { zip_.SetCrc(first_ + storage, crc32); }
  absl::Status Commit() { return zip_.Commit(); }

 private:
  explicit TorchFileWriter(ZipWriter zip) : zip_(std::move(zip)) {}

  ZipWriter zip_;
  size_t first_ = 0;  // the entry of the first storage
  std::vector<int64_t> positions_;
};

// Writes what graph.root() holds as a zip file that torch.load takes: complete under its name, or
// not at all.  Data is written as it is given, 64-byte aligned; little is held.  Errors:
//   INVALID_ARGUMENT  a storage that the graph names is not among `storages`, or one that it does
//                     not name or names twice is; a source that gives fewer bytes or more than it
//                     said
//   as WritePickle, OutputFile and the sources
absl::Status WriteTorchFile(const std::string& path, const PickleGraph& graph,
                            const std::vector<TorchStorageData>& storages,
                            int64_t zip64_from = kZip64From);

// Adds the call that makes a contiguous tensor of `shape` from element `offset` on of storage
// `key`, which has `storage_elements` elements of `dtype`, on the CPU.  Types that torch saves
// untyped are made through _rebuild_tensor_v3.
PickleId AddTorchTensor(PickleGraph* graph, absl::string_view key, DType dtype,
                        int64_t storage_elements, int64_t offset,
                        const std::vector<int64_t>& shape);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_FORMATS_TORCH_WRITER_H_
