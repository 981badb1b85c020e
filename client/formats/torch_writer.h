#ifndef ZEROCAST_CLIENT_FORMATS_TORCH_WRITER_H_
#define ZEROCAST_CLIENT_FORMATS_TORCH_WRITER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "client/formats/pickle.h"
#include "kernels/copy/dtype.h"

namespace zerocast {

// The bytes of one storage, given a part at a time.
struct TorchStorageData {
  std::string key;  // as the graph's persistent ids name it; no '/'
  int64_t num_bytes = 0;
  // Appends the storage's next `num_bytes` bytes to `out`; called in order until all are given.
  std::function<absl::Status(int64_t num_bytes, std::string* out)> next;
};

// Where a writer of zip entries turns to 8-byte sizes; tests lower it.
inline constexpr int64_t kZip64From = 0xFFFFFFFF;

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
