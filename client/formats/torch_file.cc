#include "client/formats/torch_file.h"

#include <xxhash.h>

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "client/formats/little_endian.h"
#include "client/formats/torch_types.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/base/utf8.h"

namespace zerocast {
namespace {

constexpr int kMaxTorchVersion = 10;  // torch's kMaxSupportedFileFormatVersion
constexpr int64_t kLegacyProtocol = 1001;
// 0x1950a86a20f9469cfc6c, as a pickle of protocol 2.
constexpr absl::string_view kLegacyMagic("\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 10);

absl::Status Corrupt(absl::string_view file, absl::string_view what) {
  return WithReason(absl::DataLossError(absl::StrCat("read ", file, ": ", EscapeControls(what))),
                    "CHECKPOINT_CORRUPT");
}

absl::Status Unsupported(absl::string_view file, absl::string_view what) {
  return WithReason(
      absl::UnimplementedError(absl::StrCat("read ", file, ": ", EscapeControls(what))),
      "UNSUPPORTED");
}

// Of the file's pickles, and of names and numbers that say where all else lies.
uint64_t DigestOf(absl::string_view pickles, absl::string_view places) {
  return XXH3_64bits_withSeed(places.data(), places.size(),
                              XXH3_64bits(pickles.data(), pickles.size()));
}

void AddNumber(int64_t number, std::string* places) {
  PutLittleEndian(static_cast<uint64_t>(number), sizeof(number), places);
}

// The pickles at the front of a legacy stream, whose length nothing tells: read in growing parts.
class LegacyPickles {
 public:
  explicit LegacyPickles(const InputFile& file) : file_(file) {}

  // The next one, read into `graph`.
  absl::StatusOr<PickleId> Next(PickleGraph* graph) {
    constexpr int64_t kFirstBytes = 1 << 16;
    for (int64_t wanted = kFirstBytes;; wanted *= 4) {
      const int64_t now =
          std::min({wanted, file_.num_bytes() - offset_, PickleLimits().max_bytes + 1});
      ZC_ASSIGN_OR_RETURN(std::string part, file_.Read(offset_, now));
      PickleGraph trial;
      int64_t num_bytes = 0;
      bool ends_early = false;
      // Tried apart, so that a part that was too short leaves nothing in the graph.
      const auto tried = ReadPickle(part, file_.path(), offset_, &trial, &num_bytes, &ends_early);
      if (!tried.ok()) {
        if (ends_early && now == wanted) continue;
        return tried.status();
      }
      part.resize(static_cast<size_t>(num_bytes));
      const auto root = ReadPickle(graph->Own(std::move(part)), file_.path(), offset_, graph);
      offset_ += num_bytes;
      return root;
    }
  }
  int64_t offset() const { return offset_; }

 private:
  const InputFile& file_;
  int64_t offset_ = 0;
};

}  // namespace

absl::StatusOr<TorchStorage> TorchFile::NameStorage(PickleId id) const {
  const PickleNode& tuple = graph_.node(graph_.node(id).items[0]);
  const std::vector<PickleId>& parts = tuple.items;
  if (tuple.kind != PickleKind::kTuple || parts.size() < 5 || parts.size() > 6) {
    return Corrupt(path_, absl::StrCat("a persistent id must be a tuple (\"storage\", class, key, "
                                       "location, elements), found ",
                                       graph_.Describe(graph_.node(id).items[0])));
  }
  const PickleNode &type = graph_.node(parts[1]), &key = graph_.node(parts[2]),
                   &location = graph_.node(parts[3]), &elements = graph_.node(parts[4]);
  if (type.kind != PickleKind::kGlobal || key.kind != PickleKind::kText ||
      location.kind != PickleKind::kText || elements.kind != PickleKind::kInteger ||
      elements.integer < 0) {
    return Corrupt(path_,
                   absl::StrCat("a storage's class, key, location and elements are ",
                                graph_.Describe(parts[1]), ", ", graph_.Describe(parts[2]), ", ",
                                graph_.Describe(parts[3]), ", ", graph_.Describe(parts[4])));
  }
  if (parts.size() == 6 && graph_.node(parts[5]).kind != PickleKind::kNone) {
    return Unsupported(path_, absl::StrCat("storage ", key.text,
                                           " is a view of another storage, "
                                           "as torch before 0.4 wrote them; save the file again "
                                           "with a newer torch"));
  }
  TorchStorage storage;
  storage.key = std::string(key.text);
  storage.class_name = std::string(type.name);
  storage.location = std::string(location.text);
  const TorchStorageClass* known =
      type.text == "torch" || type.text == "torch.storage" || type.text == "torch.cuda"
          ? FindTorchStorageClass(type.name)
          : nullptr;
  if (known == nullptr) {
    return Unsupported(path_, absl::StrCat("storage ", key.text, " is of ",
                                           graph_.Describe(parts[1]), ", no known storage class"));
  }
  storage.dtype = known->dtype;
  if (__builtin_mul_overflow(elements.integer, known->element_bytes, &storage.num_bytes)) {
    return Corrupt(path_, absl::StrCat("storage ", key.text, " has ", elements.integer,
                                       " elements, more than 2^63 bytes"));
  }
  return storage;
}

absl::Status TorchFile::NameStorages() {
  std::unordered_map<std::string, int32_t> by_key;
  for (PickleId id = 0; id < graph_.num_nodes(); ++id) {
    if (graph_.node(id).kind != PickleKind::kPersistent) continue;
    // A class with its source text, which the legacy stream saves with whole modules.
    const PickleNode& tuple = graph_.node(graph_.node(id).items[0]);
    if (tuple.kind == PickleKind::kTuple && !tuple.items.empty()) {
      const PickleNode& kind = graph_.node(tuple.items[0]);
      if (kind.kind == PickleKind::kText && kind.text == "module") continue;
      if (kind.kind != PickleKind::kText || kind.text != "storage") {
        return Corrupt(path_,
                       absl::StrCat("a persistent id starts with ", graph_.Describe(tuple.items[0]),
                                    ", expected \"storage\""));
      }
    }
    ZC_ASSIGN_OR_RETURN(TorchStorage storage, NameStorage(id));
    // A sixth part, None, stands in legacy streams only: without it the graph may become a zip.
    graph_.node(graph_.node(id).items[0]).items.resize(5);
    const auto [place, is_new] =
        by_key.emplace(storage.key, static_cast<int32_t>(storages_.size()));
    storage_of_[id] = place->second;
    if (is_new) {
      named_bytes_.push_back(storage.num_bytes);
      storages_.push_back(std::move(storage));
    } else {
      // The same bytes under another type; the largest claim has to hold.
      int64_t& named = named_bytes_[static_cast<size_t>(place->second)];
      named = std::max(named, storage.num_bytes);
    }
  }
  return absl::OkStatus();
}

absl::Status TorchFile::ReadZip(const InputFile& file) {
  ZC_ASSIGN_OR_RETURN(const ZipArchive archive, ZipArchive::Read(file));
  has_crcs_ = archive.has_crcs();
  std::string top;
  for (const ZipEntry& entry : archive.entries()) {
    const size_t slash = entry.name.find('/');
    if (slash == std::string::npos || entry.name.compare(slash, std::string::npos, "/data.pkl")) {
      continue;
    }
    if (!top.empty()) {
      return Corrupt(path_,
                     absl::StrCat("two entries are a data.pkl, in ", top, " and in ", entry.name));
    }
    top = entry.name.substr(0, slash + 1);
  }
  if (top.empty()) {
    return Corrupt(path_, "no entry NAME/data.pkl: a zip file, but none of torch.save");
  }
  if (archive.Find(top + "constants.pkl") != nullptr) {
    return Unsupported(path_,
                       "a TorchScript archive (torch.jit.save), which holds code; save the "
                       "module's state_dict with torch.save");
  }
  constexpr int64_t kMaxWordBytes = 100;
  if (const ZipEntry* entry = archive.Find(top + "byteorder"); entry != nullptr) {
    ZC_ASSIGN_OR_RETURN(const std::string order, ReadZipEntry(file, *entry, kMaxWordBytes));
    if (order == "big") {
      return Unsupported(path_, absl::StrCat("entry ", entry->name,
                                             " is \"big\", only "
                                             "little-endian files are read"));
    }
    if (order != "little") {
      return Corrupt(
          path_, absl::StrCat("entry ", entry->name, " is \"", order, "\", expected \"little\""));
    }
  }
  if (const ZipEntry* entry = archive.Find(top + "version"); entry != nullptr) {
    ZC_ASSIGN_OR_RETURN(const std::string text, ReadZipEntry(file, *entry, kMaxWordBytes));
    int version = 0;
    if (!absl::SimpleAtoi(absl::StripSuffix(text, "\n"), &version) || version < 1) {
      return Corrupt(path_,
                     absl::StrCat("entry ", entry->name, " is \"", text, "\", expected a number"));
    }
    if (version > kMaxTorchVersion) {
      return Unsupported(path_, absl::StrCat("file format version ", version, ", at most ",
                                             kMaxTorchVersion, " is read"));
    }
  }
  const ZipEntry& pickle = *archive.Find(top + "data.pkl");
  ZC_ASSIGN_OR_RETURN(std::string stream, ReadZipEntry(file, pickle, PickleLimits().max_bytes));
  const int64_t stream_bytes = static_cast<int64_t>(stream.size());
  std::string places;
  for (const ZipEntry& entry : archive.entries()) {
    AddNumber(static_cast<int64_t>(entry.name.size()), &places);
    places += entry.name;
    AddNumber(entry.data_begin, &places);
    AddNumber(entry.num_bytes, &places);
    AddNumber(static_cast<int64_t>(entry.crc32), &places);
  }
  header_digest_ = DigestOf(stream, places);
  int64_t num_bytes = 0;
  ZC_ASSIGN_OR_RETURN(const PickleId root, ReadPickle(graph_.Own(std::move(stream)),
                                                      absl::StrCat(path_, ", entry ", pickle.name),
                                                      0, &graph_, &num_bytes));
  if (num_bytes != stream_bytes) {
    return Corrupt(path_, absl::StrCat("entry ", pickle.name, ": its pickle ends at byte ",
                                       num_bytes, " of ", stream_bytes));
  }
  graph_.set_root(root);
  ZC_RETURN_IF_ERROR(NameStorages());
  for (size_t k = 0; k < storages_.size(); ++k) {
    const ZipEntry* entry = archive.Find(absl::StrCat(top, "data/", storages_[k].key));
    if (entry == nullptr) {
      return Corrupt(path_,
                     absl::StrCat("entry ", pickle.name, " names storage ", storages_[k].key,
                                  ", but there is no entry ", top, "data/", storages_[k].key));
    }
    if (entry->num_bytes < named_bytes_[k]) {
      return Corrupt(path_, absl::StrCat("entry ", entry->name, " has ", entry->num_bytes,
                                         " bytes, ", pickle.name, " says ", named_bytes_[k]));
    }
    storages_[k].file_begin = entry->data_begin;
    storages_[k].num_bytes = entry->num_bytes;
    entries_.push_back(*entry);
  }
  return absl::OkStatus();
}

absl::Status TorchFile::ReadLegacy(const InputFile& file) {
  is_legacy_ = true;
  PickleGraph head;
  LegacyPickles front(file);
  ZC_ASSIGN_OR_RETURN(const PickleId magic, front.Next(&head));
  if (head.node(magic).kind != PickleKind::kBigInteger || head.node(magic).text != kLegacyMagic) {
    return Corrupt(path_, absl::StrCat("neither a zip file nor a stream of torch.save: it starts "
                                       "with a pickle of ",
                                       head.Describe(magic)));
  }
  ZC_ASSIGN_OR_RETURN(const PickleId protocol, front.Next(&head));
  if (head.node(protocol).kind != PickleKind::kInteger ||
      head.node(protocol).integer != kLegacyProtocol) {
    return Unsupported(path_, absl::StrCat("the stream's protocol is ", head.Describe(protocol),
                                           ", ", kLegacyProtocol, " is read"));
  }
  ZC_ASSIGN_OR_RETURN(const PickleId system, front.Next(&head));
  const PickleId little = head.Find(system, "little_endian");
  if (little == kNoValue || head.node(little).kind != PickleKind::kBool) {
    return Corrupt(path_, absl::StrCat("the stream's system is ", head.Describe(system),
                                       ", expected a dict with little_endian"));
  }
  if (head.node(little).integer == 0) {
    return Unsupported(path_, "a big-endian stream, only little-endian files are read");
  }
  ZC_ASSIGN_OR_RETURN(const PickleId root, front.Next(&graph_));
  graph_.set_root(root);
  ZC_ASSIGN_OR_RETURN(const PickleId keys, front.Next(&head));
  ZC_RETURN_IF_ERROR(NameStorages());
  ZC_RETURN_IF_ERROR(PlaceLegacyStorages(file, head, keys, front.offset()));
  ZC_ASSIGN_OR_RETURN(const std::string pickles, file.Read(0, front.offset()));
  std::string places;
  for (const TorchStorage& storage : storages_) {
    AddNumber(storage.file_begin, &places);
    AddNumber(storage.num_bytes, &places);
  }
  header_digest_ = DigestOf(pickles, places);
  return absl::OkStatus();
}

absl::Status TorchFile::PlaceLegacyStorages(const InputFile& file, const PickleGraph& head,
                                            PickleId keys, int64_t offset) {
  const std::vector<PickleId>& order = head.node(keys).items;
  if (head.node(keys).kind != PickleKind::kList) {
    return Corrupt(path_, absl::StrCat("the storages' keys are ", head.Describe(keys),
                                       ", expected a list of texts"));
  }
  if (order.size() != storages_.size()) {
    return Corrupt(path_, absl::StrCat("the object names ", storages_.size(),
                                       " storages, the list of keys ", order.size()));
  }
  std::unordered_map<std::string, size_t> by_key;
  for (size_t k = 0; k < storages_.size(); ++k) by_key[storages_[k].key] = k;
  for (const PickleId id : order) {
    const auto found = head.node(id).kind == PickleKind::kText
                           ? by_key.find(std::string(head.node(id).text))
                           : by_key.end();
    if (found == by_key.end()) {
      return Corrupt(path_, absl::StrCat("the list of keys has ", head.Describe(id),
                                         ", which comes twice or is no storage of the object"));
    }
    TorchStorage& storage = storages_[found->second];
    const int64_t named = named_bytes_[found->second];
    by_key.erase(found);  // each key once
    constexpr int64_t kCountBytes = 8;
    if (file.num_bytes() - offset < kCountBytes) {
      return Corrupt(path_, absl::StrCat("storage ", storage.key, " at offset ", offset,
                                         " has no count, the file has ", file.num_bytes(),
                                         " bytes (truncated?)"));
    }
    ZC_ASSIGN_OR_RETURN(const std::string bytes, file.Read(offset, kCountBytes));
    const uint64_t count = GetLittleEndian(bytes, 0, kCountBytes);
    offset += kCountBytes;
    const int64_t element_bytes = FindTorchStorageClass(storage.class_name)->element_bytes;
    if (count > static_cast<uint64_t>((file.num_bytes() - offset) / element_bytes)) {
      return Corrupt(path_,
                     absl::StrCat("storage ", storage.key, " at offset ", offset, " has ", count,
                                  " elements of ", element_bytes, " bytes, the file has ",
                                  file.num_bytes(), " bytes (truncated?)"));
    }
    storage.file_begin = offset;
    storage.num_bytes = static_cast<int64_t>(count) * element_bytes;
    if (storage.num_bytes < named) {
      return Corrupt(path_, absl::StrCat("storage ", storage.key, " at offset ", offset, " has ",
                                         storage.num_bytes, " bytes, the object says ", named));
    }
    offset += storage.num_bytes;
  }
  if (offset != file.num_bytes()) {
    return Corrupt(path_, absl::StrCat("its last storage ends at offset ", offset,
                                       ", the file has ", file.num_bytes(), " bytes"));
  }
  return absl::OkStatus();
}

absl::StatusOr<TorchFile> TorchFile::Read(const InputFile& file) {
  TorchFile result;
  result.path_ = file.path();
  constexpr int64_t kPrefixBytes = 4;
  if (file.num_bytes() < kPrefixBytes) {
    return Corrupt(file.path(), absl::StrCat("the file has ", file.num_bytes(),
                                             " bytes, too few for torch.save (truncated?)"));
  }
  ZC_ASSIGN_OR_RETURN(const std::string prefix, file.Read(0, kPrefixBytes));
  if (!LooksLikeZip(prefix) && prefix[0] != '\x80') {
    return Corrupt(
        file.path(),
        absl::StrCat("neither a zip file nor a stream of torch.save: it starts with \"", prefix,
                     "\"", prefix == "vers" ? " (a pointer of Git LFS? git lfs pull)" : ""));
  }
  ZC_RETURN_IF_ERROR(LooksLikeZip(prefix) ? result.ReadZip(file) : result.ReadLegacy(file));
  return result;
}

int32_t TorchFile::StorageOf(PickleId id) const {
  const auto found = storage_of_.find(id);
  return found == storage_of_.end() ? -1 : found->second;
}

absl::Status TorchFile::CheckStorage(const InputFile& file, int32_t storage) const {
  if (is_legacy_) return absl::OkStatus();
  return CheckZipEntry(file, entries_[static_cast<size_t>(storage)]);
}

}  // namespace zerocast
