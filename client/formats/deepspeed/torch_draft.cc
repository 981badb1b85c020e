#include "client/formats/deepspeed/torch_draft.h"

#include <algorithm>
#include <atomic>
#include <set>
#include <system_error>
#include <thread>
#include <unordered_map>

#include "absl/strings/str_cat.h"
#include "client/formats/pickle_edit.h"
#include "kernels/base/status_macros.h"

namespace zerocast {
namespace {

// Of files that are open at once, and of the runs that are held for them.
constexpr size_t kMaxFiles = 64;
constexpr size_t kMaxRuns = 1 << 16;
constexpr size_t kCommitThreads = 8;
constexpr size_t kPersistentItems = 5;  // a legacy stream has one more, which zip files have not

}  // namespace

Sources::Sources(ZeroCheckpoint checkpoint) : checkpoint_(std::move(checkpoint)) {
  for (size_t k = 0; k < checkpoint_.files.size(); ++k) {
    file_of_.emplace(absl::StrCat(checkpoint_.folder, "/", checkpoint_.files[k].path),
                     static_cast<int32_t>(k));
  }
  for (size_t k = 0; k < checkpoint_.storages.size(); ++k) {
    const ZeroStorage& storage = checkpoint_.storages[k];
    if (storage.num_bytes == 0) continue;
    known_.emplace(std::make_pair(storage.file, storage.file_begin), static_cast<int32_t>(k));
  }
}

int32_t Sources::FileOf(const std::string& path) const { return file_of_.at(path); }

absl::StatusOr<std::shared_ptr<const TorchFile>> Sources::Read(const std::string& name,
                                                               const FileObserver& about_to) {
  const std::string path = absl::StrCat(checkpoint_.folder, "/", checkpoint_.tag, "/", name);
  ZC_ASSIGN_OR_RETURN(const InputFile input, InputFile::Open(path, about_to));
  ZC_ASSIGN_OR_RETURN(TorchFile file, TorchFile::Read(input));
  if (file_of_.emplace(path, static_cast<int32_t>(checkpoint_.files.size())).second) {
    checkpoint_.files.push_back(
        {absl::StrCat(checkpoint_.tag, "/", name), input.num_bytes(), input.mtime_ns()});
  }
  return std::make_shared<const TorchFile>(std::move(file));
}

int32_t Sources::AddStorage(const ZeroStorage& storage) {
  // One of two that begin at the same place is empty.
  const auto [place, is_new] = known_.emplace(std::make_pair(storage.file, storage.file_begin),
                                              static_cast<int32_t>(checkpoint_.storages.size()));
  if (is_new) checkpoint_.storages.push_back(storage);
  return place->second;
}

ZeroExtent Sources::Storage(const TorchFile& file, int32_t storage) {
  const TorchStorage& from = file.storages()[static_cast<size_t>(storage)];
  ZeroExtent extent;
  extent.file_begin = from.file_begin;
  extent.num_elements = from.num_bytes;
  extent.dtype = DType::kUInt8;
  if (from.num_bytes > 0) {
    extent.storage = AddStorage({FileOf(file.path()), from.file_begin, from.num_bytes,
                                 file.has_crcs(), file.StorageCrc(storage)});
  }
  return extent;
}

ZeroExtent Sources::Storage(const TorchFile& file, const std::string& key) {
  auto& indices = by_key_[file.path()];
  if (indices.empty()) {
    for (size_t k = 0; k < file.storages().size(); ++k) {
      indices.emplace(file.storages()[k].key, static_cast<int32_t>(k));
    }
  }
  return Storage(file, indices.at(key));
}

absl::StatusOr<std::vector<ZeroExtent>> Sources::Whole(int32_t file, const FileObserver& about_to) {
  const ZeroFile known = checkpoint_.files[static_cast<size_t>(file)];
  ZC_ASSIGN_OR_RETURN(const InputFile input,
                      InputFile::Open(absl::StrCat(checkpoint_.folder, "/", known.path), about_to));
  ZC_ASSIGN_OR_RETURN(const TorchFile torch, TorchFile::Read(input));
  std::vector<ZeroExtent> inside;
  for (size_t k = 0; k < torch.storages().size(); ++k) {
    ZeroExtent extent = Storage(torch, static_cast<int32_t>(k));
    if (extent.num_elements > 0) inside.push_back(extent);
  }
  std::sort(inside.begin(), inside.end(),
            [](const ZeroExtent& a, const ZeroExtent& b) { return a.file_begin < b.file_begin; });
  std::vector<ZeroExtent> parts;
  int64_t at = 0;
  const auto add_between = [&](int64_t end) {
    if (at >= end) return;
    const int32_t storage = AddStorage({file, at, end - at, false, 0});
    parts.push_back({storage, at, end - at, DType::kUInt8});
    at = end;
  };
  for (const ZeroExtent& extent : inside) {
    add_between(extent.file_begin);
    parts.push_back(extent);
    at = extent.file_begin + extent.num_elements;
  }
  add_between(known.num_bytes);
  return parts;
}

void AppendRun(const ZeroExtent& extent, DType dtype, DraftStorage* storage) {
  if (extent.num_elements == 0) return;
  CopyRun run;
  run.from = extent;
  run.position = storage->num_bytes;
  run.dtype = dtype;
  storage->num_bytes += extent.num_elements * SizeOf(dtype);
  storage->runs.push_back(run);
}

void AppendZeros(int64_t num_elements, DType dtype, DraftStorage* storage) {
  ZeroExtent zeros;
  zeros.num_elements = num_elements;
  AppendRun(zeros, dtype, storage);
}

void AppendElements(const ZeroCheckpoint& checkpoint, const ZeroParameter& parameter, int state,
                    int64_t first, int64_t num_elements, DType dtype, DraftStorage* storage) {
  const int64_t end = first + num_elements;
  const auto append = [&](ZeroExtent from, int64_t offset) {
    const int64_t begin = std::max(first, offset);
    const int64_t stop = std::min(end, offset + from.num_elements);
    if (begin >= stop) return;
    from.file_begin += (begin - offset) * SizeOf(from.dtype);
    from.num_elements = stop - begin;
    AppendRun(from, dtype, storage);
  };
  if (state < 0) {
    for (const ZeroPiece& piece : parameter.stored) append(piece.from, piece.offset);
    return;
  }
  // The last that begins at `first` or before it.
  auto slice = std::upper_bound(parameter.slices.begin(), parameter.slices.end(), first,
                                [](int64_t at, const ZeroSlice& s) { return at < s.offset; });
  if (slice != parameter.slices.begin()) --slice;
  for (; slice != parameter.slices.end() && slice->offset < end; ++slice) {
    ZeroExtent from =
        checkpoint.flats[static_cast<size_t>(slice->flat)].states[static_cast<size_t>(state)];
    from.file_begin += slice->flat_offset * SizeOf(from.dtype);
    from.num_elements = slice->num_elements;
    append(from, slice->offset);
  }
}

std::string TorchDraft::NewKey() { return absl::StrCat(next_key_++); }

PickleId TorchDraft::Import(const TorchFile& file, PickleId id, Sources* sources) {
  const PickleId first = static_cast<PickleId>(graph_.num_nodes());
  const PickleId root = ImportPickle(file.graph(), id, &graph_);
  std::unordered_map<std::string, PickleId> new_keys;
  std::set<PickleId> done;
  const PickleId end = static_cast<PickleId>(graph_.num_nodes());
  for (PickleId node = first; node < end; ++node) {
    if (graph_.node(node).kind != PickleKind::kPersistent) continue;
    const PickleId name = graph_.node(node).items[0];  // a tuple with a key: TorchFile has seen it
    if (!done.insert(name).second) continue;
    const std::string key(graph_.node(graph_.node(name).items[2]).text);
    const auto [place, is_new] = new_keys.emplace(key, kNoValue);
    if (is_new) {
      DraftStorage storage;
      storage.key = NewKey();
      place->second = graph_.AddText(storage.key);
      AppendRun(sources->Storage(file, key), DType::kUInt8, &storage);
      imported_.push_back(std::move(storage));
    }
    std::vector<PickleId>& items = graph_.node(name).items;
    items[2] = place->second;
    items.resize(std::min(items.size(), kPersistentItems));
  }
  return root;
}

PickleId TorchDraft::AddTensor(const std::string& key, DType dtype, int64_t storage_elements,
                               const std::vector<int64_t>& shape, bool requires_grad) {
  const PickleId tensor = AddTorchTensor(&graph_, key, dtype, storage_elements, 0, shape);
  if (requires_grad) {
    const PickleId value = graph_.AddBool(true);
    constexpr size_t kRequiresGrad = 4;  // of _rebuild_tensor_v2's arguments, and of _v3's
    graph_.node(graph_.node(tensor).call->arguments).items[kRequiresGrad] = value;
  }
  return tensor;
}

std::vector<DraftStorage> TorchDraft::KeptStorages() const {
  const std::vector<bool> held = graph_.HeldBy(graph_.root());
  std::set<absl::string_view> keys;
  for (PickleId id = 0; id < graph_.num_nodes(); ++id) {
    if (!held[static_cast<size_t>(id)] || graph_.node(id).kind != PickleKind::kPersistent) continue;
    keys.insert(graph_.node(graph_.node(graph_.node(id).items[0]).items[2]).text);
  }
  std::vector<DraftStorage> kept;
  for (const DraftStorage& storage : imported_) {
    if (keys.count(storage.key) != 0) kept.push_back(storage);
  }
  return kept;
}

absl::Status FilesWriter::Add(const std::string& path, const PickleGraph& graph,
                              std::vector<DraftStorage> storages) {
  std::vector<TorchFileWriter::Storage> places;
  for (const DraftStorage& storage : storages) places.push_back({storage.key, storage.num_bytes});
  ZC_ASSIGN_OR_RETURN(TorchFileWriter writer, TorchFileWriter::Create(path, graph, places));
  Begun begun;
  begun.first_crc = num_crcs_;
  begun.num_crcs = storages.size();
  for (size_t k = 0; k < storages.size(); ++k) {
    for (CopyRun& run : storages[k].runs) {
      run.output = static_cast<int32_t>(begun_.size());
      run.position += writer.positions()[k];
      run.crc = static_cast<int32_t>(num_crcs_ + k);
      runs_.push_back(run);
    }
    num_bytes_ += storages[k].num_bytes;
  }
  num_crcs_ += storages.size();
  begun.torch = std::make_unique<TorchFileWriter>(std::move(writer));
  begun_.push_back(std::move(begun));
  return FlushIfFull();
}

absl::Status FilesWriter::AddBytes(const std::string& path, const std::vector<ZeroExtent>& parts) {
  ZC_ASSIGN_OR_RETURN(OutputFile file, OutputFile::Create(path));
  DraftStorage bytes;
  for (const ZeroExtent& part : parts) AppendRun(part, part.dtype, &bytes);
  for (CopyRun& run : bytes.runs) {
    run.output = static_cast<int32_t>(begun_.size());
    runs_.push_back(run);
  }
  num_bytes_ += bytes.num_bytes;
  Begun begun;
  begun.plain = std::make_unique<OutputFile>(std::move(file));
  begun_.push_back(std::move(begun));
  return FlushIfFull();
}

absl::Status FilesWriter::FlushIfFull() {
  return begun_.size() >= kMaxFiles || runs_.size() >= kMaxRuns ? Flush() : absl::OkStatus();
}

absl::Status FilesWriter::Flush() {
  std::vector<const OutputFile*> outputs;
  for (const Begun& begun : begun_) outputs.push_back(&begun.file());
  ZC_ASSIGN_OR_RETURN(const std::vector<uint32_t> crcs, copier_.Copy(runs_, outputs, num_crcs_));
  for (Begun& begun : begun_) {
    for (size_t k = 0; k < begun.num_crcs; ++k) {
      begun.torch->SetCrc(k, crcs[begun.first_crc + k]);
    }
  }
  // Each waits for the disk.
  std::atomic<size_t> next{0};
  std::vector<absl::Status> done(begun_.size());
  const auto work = [&] {
    for (size_t k = next++; k < begun_.size(); k = next++) done[k] = begun_[k].Commit();
  };
  std::vector<std::thread> threads;
  for (size_t k = 1; k < std::min(kCommitThreads, begun_.size()); ++k) {
    try {
      threads.emplace_back(work);
    } catch (const std::system_error&) {
      break;  // without a thread the others do its work
    }
  }
  work();
  for (std::thread& thread : threads) thread.join();
  for (const absl::Status& status : done) ZC_RETURN_IF_ERROR(status);
  num_files_ += static_cast<int64_t>(begun_.size());
  begun_.clear();
  runs_.clear();
  num_crcs_ = 0;
  return absl::OkStatus();
}

absl::Status FilesWriter::Finish() {
  ZC_RETURN_IF_ERROR(Flush());
  return copier_.CheckStorages();
}

}  // namespace zerocast
