#ifndef ZEROCAST_CLIENT_FORMATS_TORCH_FILE_H_
#define ZEROCAST_CLIENT_FORMATS_TORCH_FILE_H_

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/formats/file.h"
#include "client/formats/pickle.h"
#include "client/formats/zip_archive.h"
#include "kernels/copy/dtype.h"

namespace zerocast {

// The bytes that one or more tensors are views of.
struct TorchStorage {
  std::string key;                // its name in the file
  std::string class_name;         // "FloatStorage", "UntypedStorage"
  std::string location;           // where it was: "cpu", "cuda:0"
  DType dtype = DType::kInvalid;  // kInvalid: untyped, or a type that zerocast has not
  int64_t file_begin = 0;         // absolute offset in the file, bytes
  int64_t num_bytes = 0;
};

// A tensor as a view of its storage.
struct TorchTensor {
  int32_t storage = -1;  // index in TorchFile::storages()
  DType dtype = DType::kInvalid;
  std::vector<int64_t> shape;    // elements
  std::vector<int64_t> strides;  // elements, none negative; 0 where a dimension repeats itself
  int64_t num_elements = 0;  // of the shape; may be more than the file's bytes where strides are 0
  bool is_contiguous = false;  // in C order, without gaps
  bool is_parameter = false;   // torch.nn.Parameter
  bool requires_grad = false;
  int64_t file_begin = 0;    // absolute offset of its first element, bytes
  int64_t extent_bytes = 0;  // from its first element to the end of its last, 0 when empty
};

// A file of torch.save: zip, or the stream of before torch 1.6.  No tensor data is read: that is
// for InputFile::ReadInto or a mapping of the ranges.  Move-only; const methods: any thread.
class TorchFile {
 public:
  // Reads the pickle and finds every storage that it names.  Whatever object the pickle would make,
  // only those of the storages are looked at; all others stay opaque.  Errors, naming the file and
  // the entry or offset:
  //   DATA_LOSS      as ZipArchive::Read and ReadPickle; a storage that is not in the file, or is
  //                  shorter than the pickle says; no file of torch.save at all; reason
  //                  CHECKPOINT_CORRUPT
  //   UNIMPLEMENTED  as ZipArchive::Read and ReadPickle; big-endian files, TorchScript archives,
  //                  views of storages (torch before 0.4); reason UNSUPPORTED
  //   as InputFile::ReadInto
  static absl::StatusOr<TorchFile> Read(const InputFile& file);

  const std::string& path() const { return path_; }
  const PickleGraph& graph() const { return graph_; }
  PickleGraph& graph() { return graph_; }
  PickleId root() const { return graph_.root(); }
  // In the order in which the pickle names them first.
  const std::vector<TorchStorage>& storages() const { return storages_; }
  bool is_legacy() const { return is_legacy_; }
  // XXH3-64 of all that says what the file holds and where: of a zip data.pkl, and name, place,
  // size and CRC of every entry, so that other data is seen there, too; of a legacy stream its
  // pickles and the places and sizes of its storages, and nothing of their data.
  uint64_t header_digest() const { return header_digest_; }

  // Whether `id` is a call that makes a tensor that Tensor() knows.
  bool IsTensor(PickleId id) const;
  // The tensor that `id` would make.  Errors, naming `what` and the call:
  //   DATA_LOSS      arguments of other types, extents that overflow or leave the storage, negative
  //                  numbers; reason CHECKPOINT_CORRUPT
  //   UNIMPLEMENTED  another function, a conjugated or negated view, an element type that zerocast
  //                  has not (complex, quantised); reason UNSUPPORTED
  absl::StatusOr<TorchTensor> Tensor(PickleId id, absl::string_view what) const;

  // The storage that the persistent id `id` names; -1 for any other node.
  int32_t StorageOf(PickleId id) const;

  // Whether the file has CRCs: zip files do, but for those written after set_crc32_options(False).
  bool has_crcs() const { return has_crcs_; }
  // The CRC that the file has for a storage's bytes; 0 without has_crcs().
  uint32_t StorageCrc(int32_t storage) const {
    return has_crcs_ ? entries_[static_cast<size_t>(storage)].crc32 : 0;
  }
  // Compares the CRC of a storage's bytes; nothing without has_crcs().  `file` is the one read.
  // Errors: DATA_LOSS, and as InputFile::ReadInto.
  absl::Status CheckStorage(const InputFile& file, int32_t storage) const;

 private:
  TorchFile() = default;
  absl::Status ReadZip(const InputFile& file);
  absl::Status ReadLegacy(const InputFile& file);
  // The storages that follow a legacy stream's list of keys, which is node `keys` of `head`.
  absl::Status PlaceLegacyStorages(const InputFile& file, const PickleGraph& head, PickleId keys,
                                   int64_t offset);
  // Fills storages_ and storage_of_ from the graph's persistent ids, without their places.
  absl::Status NameStorages();
  absl::StatusOr<TorchStorage> NameStorage(PickleId id) const;

  std::string path_;
  bool is_legacy_ = false, has_crcs_ = false;
  uint64_t header_digest_ = 0;
  PickleGraph graph_;
  std::vector<TorchStorage> storages_;
  std::vector<int64_t> named_bytes_;  // by storage: what the pickle says it has
  std::unordered_map<PickleId, int32_t> storage_of_;
  std::vector<ZipEntry> entries_;  // by storage; zip only
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_FORMATS_TORCH_FILE_H_
