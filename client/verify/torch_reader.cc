#include "client/verify/torch_reader.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/verify/open_file.h"
#include "client/verify/torch_pickle.h"
#include "kernels/base/status_macros.h"

namespace zerocast::verify {
namespace {

using Kind = PickledValue::Kind;

// Bytes of a file.
struct Range {
  int64_t begin = 0, size = 0;
  uint32_t crc = 0;
};

// The number in `count` bytes at `at`, least first; 0 where they are not all there.
uint64_t NumberAt(absl::string_view bytes, size_t at, size_t count) {
  uint64_t number = 0;
  for (size_t k = count; k > 0 && at + count <= bytes.size(); --k) {
    number = number * 256 + static_cast<unsigned char>(bytes[at + k - 1]);
  }
  return number;
}

uint32_t Crc(uint32_t crc, absl::string_view bytes) {
  static const auto* const kTable = [] {
    auto* const table = new std::array<uint32_t, 256>();
    for (uint32_t k = 0; k < 256; ++k) {
      uint32_t value = k;
      for (int bit = 0; bit < 8; ++bit) value = value & 1 ? value >> 1 ^ 0xEDB88320 : value >> 1;
      (*table)[k] = value;
    }
    return table;
  }();
  crc = ~crc;
  for (const char byte : bytes)
    crc = crc >> 8 ^ (*kTable)[(crc ^ static_cast<uint8_t>(byte)) & 255];
  return ~crc;
}

absl::Status CheckCrc(const OpenFile& file, const std::string& name, const Range& range) {
  constexpr int64_t kPartBytes = 8 << 20;
  uint32_t crc = 0;
  for (int64_t done = 0; done < range.size; done += kPartBytes) {
    ZC_ASSIGN_OR_RETURN(const std::string part,
                        file.Read(range.begin + done, std::min(kPartBytes, range.size - done)));
    crc = Crc(crc, part);
  }
  if (crc == range.crc) return absl::OkStatus();
  return Corrupt(file.path(), absl::StrCat("entry ", name, " at byte ", range.begin, " has CRC ",
                                           crc, ", the file's directory says ", range.crc));
}

// The end record, or its 64-bit form: where the directory is and how many entries it has.
absl::Status FindDirectory(const OpenFile& file, int64_t* begin, int64_t* count) {
  constexpr int64_t kEndBytes = 22, kMostComment = 65535, kLocatorBytes = 20, kEnd64Bytes = 56;
  const int64_t size = std::min(file.size(), kEndBytes + kMostComment + kLocatorBytes);
  ZC_ASSIGN_OR_RETURN(const std::string tail, file.Read(file.size() - size, size));
  const size_t end = tail.rfind("PK\5\6");
  if (end == std::string::npos) return Corrupt(file.path(), "a zip file without an end record");
  *count = static_cast<int64_t>(NumberAt(tail, end + 10, 2));
  *begin = static_cast<int64_t>(NumberAt(tail, end + 16, 4));
  const size_t locator = end - std::min<size_t>(end, kLocatorBytes);
  if (tail.compare(locator, 4, "PK\6\7") != 0) return absl::OkStatus();
  ZC_ASSIGN_OR_RETURN(const std::string wide,
                      file.Read(static_cast<int64_t>(NumberAt(tail, locator + 8, 8)), kEnd64Bytes));
  *count = static_cast<int64_t>(NumberAt(wide, 32, 8));
  *begin = static_cast<int64_t>(NumberAt(wide, 48, 8));
  return absl::OkStatus();
}

// The data of each entry by its name.
absl::StatusOr<std::map<std::string, Range>> ReadZip(const OpenFile& file) {
  int64_t at = 0, count = 0;
  ZC_RETURN_IF_ERROR(FindDirectory(file, &at, &count));
  if (at < 0 || at > file.size()) return Corrupt(file.path(), "its directory is not in it");
  ZC_ASSIGN_OR_RETURN(const std::string list, file.Read(at, file.size() - at));
  std::map<std::string, Range> entries;
  for (size_t place = 0; count > 0; --count) {
    if (list.compare(place, 4, "PK\1\2") != 0 || NumberAt(list, place + 10, 2) != 0) {
      return Corrupt(file.path(), "its directory has an entry that is none, or compressed");
    }
    const size_t name = NumberAt(list, place + 28, 2), extra = NumberAt(list, place + 30, 2);
    Range range;
    range.crc = static_cast<uint32_t>(NumberAt(list, place + 16, 4));
    uint64_t packed = NumberAt(list, place + 20, 4), plain = NumberAt(list, place + 24, 4);
    uint64_t header = NumberAt(list, place + 42, 4);
    const absl::string_view all(list);
    const absl::string_view extras = all.substr(std::min(all.size(), place + 46 + name), extra);
    for (size_t k = 0; k + 4 <= extras.size(); k += 4 + NumberAt(extras, k + 2, 2)) {
      if (NumberAt(extras, k, 2) != 1) continue;
      size_t value = k + 4;  // of those that did not fit, in this order
      for (uint64_t* const number : {&plain, &packed, &header}) {
        if (*number != 0xFFFFFFFF) continue;
        *number = NumberAt(extras, value, 8);
        value += 8;
      }
    }
    ZC_ASSIGN_OR_RETURN(const std::string local, file.Read(static_cast<int64_t>(header), 30));
    range.begin =
        static_cast<int64_t>(header + 30 + NumberAt(local, 26, 2) + NumberAt(local, 28, 2));
    range.size = static_cast<int64_t>(plain);
    if (range.begin < 0 || range.size < 0 || range.size > file.size() - range.begin) {
      return Corrupt(file.path(), "an entry of its directory is not in it");
    }
    entries[std::string(all.substr(std::min(all.size(), place + 46), name))] = range;
    place += 46 + name + extra + NumberAt(list, place + 32, 2);
  }
  return entries;
}

// The element type of a storage class, or of an element type by name.
DType TypeOf(absl::string_view global) {
  static const auto* const kTypes = new std::map<std::string, DType, std::less<>>{
      {"FloatStorage", DType::kFloat32},   {"DoubleStorage", DType::kFloat64},
      {"HalfStorage", DType::kFloat16},    {"BFloat16Storage", DType::kBFloat16},
      {"LongStorage", DType::kInt64},      {"IntStorage", DType::kInt32},
      {"ShortStorage", DType::kInt16},     {"CharStorage", DType::kInt8},
      {"ByteStorage", DType::kUInt8},      {"BoolStorage", DType::kBool},
      {"uint16", DType::kUInt16},          {"uint32", DType::kUInt32},
      {"uint64", DType::kUInt64},          {"float8_e4m3fn", DType::kFloat8E4M3},
      {"float8_e5m2", DType::kFloat8E5M2}, {"float8_e8m0fnu", DType::kFloat8E8M0}};
  const auto found = kTypes->find(global.substr(global.find(' ') + 1));
  return found == kTypes->end() ? DType::kInvalid : found->second;
}

// One file, taken apart.
class TorchReader {
 public:
  explicit TorchReader(const OpenFile& file, bool checks_crcs = true)
      : file_(file), checks_crcs_(checks_crcs) {}

  absl::StatusOr<TorchNode> Tree() {
    ZC_ASSIGN_OR_RETURN(const std::string start, file_.Read(0, std::min<int64_t>(4, file_.size())));
    ZC_ASSIGN_OR_RETURN(const int root, start == "PK\3\4" ? FromZip() : FromStream());
    TorchNode tree;
    ZC_RETURN_IF_ERROR(AddNode(root, /*depth=*/0, &tree));
    return tree;
  }

  absl::Status Append(std::vector<StoredTensor>* tensors) {
    ZC_ASSIGN_OR_RETURN(const std::string start, file_.Read(0, std::min<int64_t>(4, file_.size())));
    ZC_ASSIGN_OR_RETURN(int root, start == "PK\3\4" ? FromZip() : FromStream());
    // OrderedDict() that is given its items has them behind function and arguments.
    const size_t first = At(root).kind == Kind::kCall ? 2 : 0;
    if (At(root).kind != Kind::kDict && At(root).kind != Kind::kCall) return Bad("it is no dict");
    std::map<std::string, int> last;  // of a name that comes twice
    for (size_t k = first; k + 1 < At(root).items.size(); k += 2) {
      last[Item(root, k).text] = At(root).items[k + 1];
    }
    for (const auto& [name, value] : last) {
      ZC_ASSIGN_OR_RETURN(StoredTensor tensor, TensorOf(name, value));
      tensors->push_back(std::move(tensor));
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Bad(absl::string_view what) const { return Corrupt(file_.path(), what); }
  const PickledValue& At(int value) const { return values_[static_cast<size_t>(value)]; }
  // The k-th item of a value; an empty value where it has fewer.
  const PickledValue& Item(int value, size_t k) const {
    static const auto* const kNothing = new PickledValue();
    return k < At(value).items.size() ? At(At(value).items[k]) : *kNothing;
  }

  absl::StatusOr<int> FromZip() {
    ZC_ASSIGN_OR_RETURN(const auto entries, ReadZip(file_));
    const bool has_crcs = std::any_of(entries.begin(), entries.end(),
                                      [](const auto& entry) { return entry.second.crc != 0; });
    for (const auto& [name, range] : entries) {
      if (!absl::EndsWith(name, "/data.pkl")) continue;
      const std::string folder = name.substr(0, name.size() - std::string("data.pkl").size());
      ZC_ASSIGN_OR_RETURN(stream_, file_.Read(range.begin, range.size));
      for (const auto& [other, data] : entries) {
        if (has_crcs && checks_crcs_) ZC_RETURN_IF_ERROR(CheckCrc(file_, other, data));
        const std::string before = folder + "data/";
        if (absl::StartsWith(other, before)) storages_[other.substr(before.size())] = data;
      }
      size_t at = 0;
      return ReadPickled(file_.path(), stream_, &at, &values_);
    }
    return Bad("it has no data.pkl");
  }

  absl::StatusOr<int> FromStream() {
    // Magic number, protocol, system, object, keys; their length is not told.
    constexpr int64_t kMostPickleBytes = 256 << 20;
    ZC_ASSIGN_OR_RETURN(stream_, file_.Read(0, std::min(file_.size(), kMostPickleBytes)));
    size_t at = 0;
    int roots[5];
    for (int& root : roots) {
      ZC_ASSIGN_OR_RETURN(root, ReadPickled(file_.path(), stream_, &at, &values_));
    }
    std::map<std::string, int64_t> element_bytes;
    for (const PickledValue& value : values_) {
      if (value.kind != Kind::kId) continue;
      const int id = value.items[0];
      const DType dtype = TypeOf(Item(id, 1).text);
      element_bytes[Item(id, 2).text] = dtype == DType::kInvalid ? 1 : SizeOf(dtype);
    }
    int64_t place = static_cast<int64_t>(at);
    for (const int key : At(roots[4]).items) {
      ZC_ASSIGN_OR_RETURN(const std::string count, file_.Read(place, 8));
      Range& range = storages_[At(key).text];
      range.begin = place + 8;
      if (__builtin_mul_overflow(static_cast<int64_t>(NumberAt(count, 0, 8)),
                                 element_bytes[At(key).text], &range.size) ||
          range.size < 0 || range.size > file_.size() - range.begin) {
        return Bad(absl::StrCat("storage ", At(key).text, " is not in it"));
      }
      place = range.begin + range.size;
    }
    return roots[3];
  }

  absl::Status AddNode(int value, int depth, TorchNode* node) {
    constexpr int kMostDepth = 64;
    constexpr int64_t kMostNodes = int64_t{1} << 24;
    if (depth > kMostDepth || ++num_nodes_ > kMostNodes) return Bad("it holds too much");
    const PickledValue& at = At(value);
    const bool is_call = at.kind == Kind::kCall;
    if (at.kind == Kind::kNumber || at.kind == Kind::kBool) {
      node->kind = TorchNode::Kind::kNumber;
      node->number = at.number;
    } else if (at.kind == Kind::kText) {
      node->kind = TorchNode::Kind::kText;
      node->text = at.text;
    } else if (is_call && absl::StartsWith(Item(value, 0).text, "torch.") &&
               absl::StrContains(Item(value, 0).text, " _rebuild_")) {
      node->kind = TorchNode::Kind::kTensor;
      ZC_ASSIGN_OR_RETURN(node->tensor, TensorOf("", value));
    } else if (is_call || at.kind == Kind::kDict) {
      node->kind = TorchNode::Kind::kMany;
      if (is_call && at.items.size() == 2) return AddList(at.items[1], depth, node);
      for (size_t k = is_call ? 2 : 0; k + 1 < at.items.size(); k += 2) {
        const PickledValue& key = At(at.items[k]);
        auto& [name, child] = node->children.emplace_back();
        name = key.kind == Kind::kNumber ? absl::StrCat(key.number) : key.text;
        ZC_RETURN_IF_ERROR(AddNode(at.items[k + 1], depth + 1, &child));
      }
    } else if (at.kind == Kind::kList || at.kind == Kind::kTuple) {
      return AddList(value, depth, node);
    }
    return absl::OkStatus();
  }

  absl::Status AddList(int value, int depth, TorchNode* node) {
    node->kind = TorchNode::Kind::kMany;
    const PickledValue& at = At(value);
    // What one list alone is given is that list: torch.Size((2, 3)).
    const bool wraps = at.items.size() == 1 &&
                       (Item(value, 0).kind == Kind::kTuple || Item(value, 0).kind == Kind::kList);
    if (wraps && depth > 0 && at.kind == Kind::kTuple) return AddList(at.items[0], depth + 1, node);
    for (size_t k = 0; k < at.items.size(); ++k) {
      auto& [name, child] = node->children.emplace_back();
      name = absl::StrCat(k);
      ZC_RETURN_IF_ERROR(AddNode(at.items[k], depth + 1, &child));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<StoredTensor> TensorOf(const std::string& name, int value) const {
    const auto bad = [&](absl::string_view what) {
      return Bad(absl::StrCat("tensor ", name, ": ", what));
    };
    // A parameter's data; of a subclass (function, type, arguments) what that function is given.
    const PickledValue* made = &At(value);
    std::string function = Item(value, 0).text;
    int given = made->items.size() > 1 ? made->items[1] : -1;
    for (int wrapped = 0; given >= 0 && wrapped < 4; ++wrapped) {
      if (absl::StartsWith(function, "torch._utils _rebuild_parameter")) {
        if (At(given).items.empty()) return bad("a parameter of nothing");
        const int data = At(given).items[0];
        function = Item(data, 0).text;
        given = At(data).items.size() > 1 ? At(data).items[1] : -1;
      } else if (function == "torch._tensor _rebuild_from_type_v2") {
        function = Item(given, 0).text;
        given = At(given).items.size() > 2 ? At(given).items[2] : -1;
      }
    }
    if (given < 0 || !absl::StartsWith(function, "torch._utils _rebuild_tensor")) {
      return bad("it is not made as torch.save has tensors made");
    }
    const PickledValue& id = Item(given, 0);
    if (id.kind != Kind::kId) return bad("it has no storage");
    const auto found = storages_.find(Item(id.items[0], 2).text);
    if (found == storages_.end()) return bad("its storage is not in the file");
    StoredTensor stored;
    stored.name = name;
    stored.path = file_.path();
    stored.dtype =
        TypeOf(function == "torch._utils _rebuild_tensor_v3" ? Item(given, 6).text
                                                             : Item(id.items[0], 1).text);
    if (stored.dtype == DType::kInvalid) return bad("its dtype is not known");
    const int64_t size = SizeOf(stored.dtype), offset = Item(given, 1).number;
    const PickledValue &shape = Item(given, 2), &strides = Item(given, 3);
    if (shape.items.size() != strides.items.size()) return bad("shape and strides do not match");
    bool is_empty = false, fits = offset >= 0;
    int64_t last = 0;  // element
    for (size_t k = 0; k < shape.items.size(); ++k) {
      const int64_t extent = At(shape.items[k]).number, stride = At(strides.items[k]).number;
      stored.shape.push_back(extent);
      stored.strides.push_back(stride);
      int64_t reach = 0;
      is_empty = is_empty || extent == 0;
      fits = fits && extent >= 0 && stride >= 0 &&
             !__builtin_mul_overflow(std::max<int64_t>(extent - 1, 0), stride, &reach) &&
             !__builtin_add_overflow(last, reach, &last);
    }
    const int64_t most = found->second.size / size;
    if (!fits || offset > most || (!is_empty && last >= most - offset)) {
      return bad("its elements are not all in its storage");
    }
    int64_t behind = 1;  // elements behind each axis, where all are in row-major order
    bool is_row_major = true;
    for (size_t k = stored.shape.size(); k > 0; --k) {
      is_row_major &= stored.shape[k - 1] == 1 || stored.strides[k - 1] == behind;
      behind *= is_row_major ? stored.shape[k - 1] : 0;
    }
    if (is_empty || is_row_major) stored.strides.clear();
    stored.file_begin = found->second.begin + offset * size;
    stored.num_bytes = is_empty ? 0 : (last + 1) * size;
    return stored;
  }

  const OpenFile& file_;
  const bool checks_crcs_;
  int64_t num_nodes_ = 0;
  std::string stream_;
  PickledValues values_;
  std::map<std::string, Range> storages_;
};

}  // namespace

absl::Status AppendTorchFile(const std::string& path, std::vector<StoredTensor>* tensors) {
  ZC_ASSIGN_OR_RETURN(const OpenFile file, OpenFile::Open(path));
  return TorchReader(file).Append(tensors);
}

const TorchNode& TorchNode::operator[](absl::string_view name) const {
  static const auto* const kNothing = new TorchNode();
  for (auto child = children.rbegin(); child != children.rend(); ++child) {
    if (child->first == name) return child->second;
  }
  return *kNothing;
}

absl::StatusOr<TorchNode> ReadTorchTree(const std::string& path) {
  ZC_ASSIGN_OR_RETURN(const OpenFile file, OpenFile::Open(path));
  return TorchReader(file, /*checks_crcs=*/false).Tree();
}

}  // namespace zerocast::verify
