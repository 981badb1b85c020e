#include "client/formats/torch_writer.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/formats/crc32.h"
#include "client/formats/pickle_writer.h"
#include "client/formats/torch_types.h"
#include "client/formats/zip_writer.h"
#include "kernels/base/status_macros.h"

namespace zerocast {
namespace {

constexpr char kTop[] = "archive/";
constexpr int64_t kPartBytes = 1 << 20;

// The keys of the storages that `graph` names.
absl::StatusOr<std::set<std::string>> NamedKeys(const PickleGraph& graph) {
  const std::vector<bool> held = graph.HeldBy(graph.root());
  std::set<std::string> keys;
  for (PickleId id = 0; id < graph.num_nodes(); ++id) {
    if (!held[static_cast<size_t>(id)] || graph.node(id).kind != PickleKind::kPersistent) {
      continue;
    }
    const PickleNode& tuple = graph.node(graph.node(id).items[0]);
    if (tuple.kind != PickleKind::kTuple || tuple.items.size() < 5 ||
        graph.node(tuple.items[2]).kind != PickleKind::kText) {
      return absl::InvalidArgumentError(absl::StrCat("write torch file: a persistent id is ",
                                                     graph.Describe(graph.node(id).items[0]),
                                                     ", expected that of a storage"));
    }
    keys.insert(std::string(graph.node(tuple.items[2]).text));
  }
  return keys;
}

// Writes the bytes that `storage` gives at `position`; their CRC.
absl::StatusOr<uint32_t> PutStorage(const TorchStorageData& storage, int64_t position,
                                    const OutputFile& file) {
  uint32_t crc32 = 0;
  std::string part;
  for (int64_t done = 0; done < storage.num_bytes;) {
    const int64_t now = std::min(kPartBytes, storage.num_bytes - done);
    part.clear();
    ZC_RETURN_IF_ERROR(storage.next(now, &part));
    if (static_cast<int64_t>(part.size()) != now) {
      return absl::InvalidArgumentError(absl::StrCat("write torch file: storage ", storage.key,
                                                     " gave ", part.size(), " bytes, asked for ",
                                                     now));
    }
    crc32 = Crc32(part, crc32);
    ZC_RETURN_IF_ERROR(file.WriteAt(position + done, part));
    done += now;
  }
  return crc32;
}

}  // namespace

absl::StatusOr<TorchFileWriter> TorchFileWriter::Create(const std::string& path,
                                                        const PickleGraph& graph,
                                                        const std::vector<Storage>& storages,
                                                        int64_t zip64_from) {
  ZC_ASSIGN_OR_RETURN(std::set<std::string> named, NamedKeys(graph));
  for (const Storage& storage : storages) {
    if (storage.key.find('/') != std::string::npos || named.erase(storage.key) == 0) {
      return absl::InvalidArgumentError(absl::StrCat("write ", path, ": storage ", storage.key,
                                                     " comes twice or is not named by the object"));
    }
  }
  if (!named.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("write ", path, ": the object names storage ",
                                                   *named.begin(), ", no bytes were given for it"));
  }
  ZC_ASSIGN_OR_RETURN(const std::string pickle, WritePickle(graph, graph.root()));
  ZC_ASSIGN_OR_RETURN(ZipWriter zip, ZipWriter::Create(path, zip64_from));
  TorchFileWriter writer(std::move(zip));
  ZC_RETURN_IF_ERROR(writer.zip_.Put(absl::StrCat(kTop, "data.pkl"), pickle));
  ZC_RETURN_IF_ERROR(writer.zip_.Put(absl::StrCat(kTop, "byteorder"), "little"));
  writer.first_ = writer.zip_.num_entries();
  for (const Storage& storage : storages) {
    ZC_ASSIGN_OR_RETURN(
        const int64_t position,
        writer.zip_.Add(absl::StrCat(kTop, "data/", storage.key), storage.num_bytes));
    writer.positions_.push_back(position);
  }
  ZC_RETURN_IF_ERROR(writer.zip_.Put(absl::StrCat(kTop, "version"), "3\n"));
  return writer;
}

absl::Status WriteTorchFile(const std::string& path, const PickleGraph& graph,
                            const std::vector<TorchStorageData>& storages, int64_t zip64_from) {
  std::vector<TorchFileWriter::Storage> sizes;
  for (const TorchStorageData& storage : storages) {
    sizes.push_back({storage.key, storage.num_bytes});
  }
  ZC_ASSIGN_OR_RETURN(TorchFileWriter writer,
                      TorchFileWriter::Create(path, graph, sizes, zip64_from));
  for (size_t k = 0; k < storages.size(); ++k) {
    ZC_ASSIGN_OR_RETURN(const uint32_t crc32,
                        PutStorage(storages[k], writer.positions()[k], writer.file()));
    writer.SetCrc(k, crc32);
  }
  return writer.Commit();
}

PickleId AddTorchTensor(PickleGraph* graph, absl::string_view key, DType dtype,
                        int64_t storage_elements, int64_t offset,
                        const std::vector<int64_t>& shape) {
  const TorchStorageClass* typed = FindTorchStorageClass(dtype);
  const PickleId type = typed != nullptr ? graph->AddGlobal("torch", typed->name)
                                         : graph->AddGlobal("torch.storage", "UntypedStorage");
  const int64_t elements = typed != nullptr ? storage_elements : storage_elements * SizeOf(dtype);
  const PickleId name =
      graph->AddItems(PickleKind::kTuple, {graph->AddText("storage"), type, graph->AddText(key),
                                           graph->AddText("cpu"), graph->AddInteger(elements)});
  const PickleId storage = graph->AddItems(PickleKind::kPersistent, {name});
  std::vector<PickleId> extents, strides(shape.size(), kNoValue);
  for (const int64_t extent : shape) extents.push_back(graph->AddInteger(extent));
  int64_t stride = 1;
  for (size_t k = shape.size(); k > 0; --k) {
    strides[k - 1] = graph->AddInteger(stride);
    stride *= std::max<int64_t>(shape[k - 1], 1);  // as torch does for empty tensors
  }
  std::vector<PickleId> arguments = {
      storage,
      graph->AddInteger(offset),
      graph->AddItems(PickleKind::kTuple, std::move(extents)),
      graph->AddItems(PickleKind::kTuple, std::move(strides)),
      graph->AddBool(false),
      graph->AddCall(graph->AddGlobal("collections", "OrderedDict"), {})};
  if (typed == nullptr) arguments.push_back(graph->AddGlobal("torch", DTypeName(dtype)));
  return graph->AddCall(graph->AddGlobal("torch._utils", typed == nullptr ? "_rebuild_tensor_v3"
                                                                          : "_rebuild_tensor_v2"),
                        std::move(arguments));
}

}  // namespace zerocast
