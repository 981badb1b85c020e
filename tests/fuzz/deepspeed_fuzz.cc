// Bytes as a folder of DeepSpeed checkpoints.  They are parts, each a line "%%KIND PATH" and what
// follows it up to the next such line:
//
//   %%f PATH  a file of these bytes
//   %%p PATH  a file of torch.save with these bytes as its pickle, and the storages that it names,
//             all zeros: a changed byte of a pickle would else end at its CRC
//   %%d PATH  an empty folder
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "client/formats/pickle.h"
#include "client/formats/torch_types.h"
#include "tests/client/formats/torch_bytes.h"
#include "tests/fuzz/check.h"
#include "tests/fuzz/deepspeed_folder.h"

namespace zerocast {
namespace {

constexpr int64_t kMaxStorageBytes = 1 << 20;
constexpr size_t kMaxParts = 200;

// By key: the bytes of the storages that a pickle names; those that are too large are left out.
std::map<std::string, int64_t> StoragesOf(const std::string& pickle) {
  std::map<std::string, int64_t> storages;
  PickleGraph graph;
  if (!ReadPickle(graph.Own(pickle), "input", 0, &graph).ok()) return storages;
  for (PickleId id = 0; id < graph.num_nodes(); ++id) {
    if (graph.node(id).kind != PickleKind::kPersistent) continue;
    const PickleNode& tuple = graph.node(graph.node(id).items[0]);
    if (tuple.kind != PickleKind::kTuple || tuple.items.size() < 5) continue;
    const PickleNode &type = graph.node(tuple.items[1]), &key = graph.node(tuple.items[2]),
                     &count = graph.node(tuple.items[4]);
    const TorchStorageClass* known = FindTorchStorageClass(type.name);
    if (type.kind != PickleKind::kGlobal || known == nullptr || key.kind != PickleKind::kText ||
        count.kind != PickleKind::kInteger || count.integer < 0 ||
        count.integer > kMaxStorageBytes / known->element_bytes) {
      continue;
    }
    int64_t& num_bytes = storages[std::string(key.text)];
    num_bytes = std::max(num_bytes, count.integer * known->element_bytes);
  }
  return storages;
}

std::string TorchFileOf(const std::string& pickle) {
  std::vector<ZipPart> parts = {Entry("a/data.pkl", pickle), Entry("a/byteorder", "little"),
                                Entry("a/version", "3\n")};
  for (const auto& [key, num_bytes] : StoragesOf(pickle)) {
    parts.push_back(Entry(absl::StrCat("a/data/", key), std::string(num_bytes, '\0')));
  }
  return ZipOf(parts);
}

// Whether a file may be made at this path in the folder, and nowhere else.
bool IsInside(absl::string_view path) {
  constexpr size_t kMaxDepth = 6, kMaxNameBytes = 200;
  const std::vector<absl::string_view> names = absl::StrSplit(path, '/');
  return names.size() <= kMaxDepth && !absl::StrContains(path, '\0') &&
         std::all_of(names.begin(), names.end(), [](absl::string_view name) {
           return !name.empty() && name != "." && name != ".." && name.size() <= kMaxNameBytes;
         });
}

void MakeFolder(absl::string_view input, const std::string& folder) {
  std::filesystem::create_directory(folder);
  std::vector<std::string> parts = absl::StrSplit(absl::StrCat("\n", input), "\n%%");
  parts.resize(std::min(parts.size(), kMaxParts));
  for (const std::string& part : parts) {
    const size_t end = part.find('\n');
    if (part.size() < 3 || end == std::string::npos || end < 3 || part[1] != ' ') continue;
    const std::string name = part.substr(2, end - 2), bytes = part.substr(end + 1);
    if (!IsInside(name)) continue;
    const std::filesystem::path path = std::filesystem::path(folder) / name;
    std::error_code ignored;  // a file where a folder should be
    std::filesystem::create_directories(part[0] == 'd' ? path : path.parent_path(), ignored);
    if (part[0] == 'f') std::ofstream(path, std::ios::binary) << bytes;
    if (part[0] == 'p') std::ofstream(path, std::ios::binary) << TorchFileOf(bytes);
  }
}

}  // namespace
}  // namespace zerocast

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace zerocast;
  const Scratch scratch;
  const std::string folder = scratch.path() + "/run", outputs = scratch.path() + "/out";
  std::filesystem::create_directory(outputs);
  MakeFolder(absl::string_view(reinterpret_cast<const char*>(data), size), folder);
  CheckDeepSpeedFolder(folder, outputs);
  return 0;
}
