#include "client/formats/pickle.h"

#include <cstring>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/formats/little_endian.h"
#include "client/formats/pickle_opcodes.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/base/utf8.h"

namespace zerocast {
namespace {

constexpr int kMaxProtocol = 5;

// What an opcode that is known but not read is.
absl::string_view KnownAs(uint8_t opcode) {
  switch (opcode) {
    case 'F':
    case 'I':
    case 'L':
    case 'S':
    case 'V':
    case 'P':
    case 'p':
    case 'g':
    case 'i':
    case 'o':
      return "an opcode of protocol 0 or 1";
    case 0x82:
    case 0x83:
    case 0x84:
      return "a code of the extension registry";
    case 0x97:
    case 0x98:
      return "a buffer outside of the stream";
    default:
      return "";
  }
}

class Reader {
 public:
  Reader(absl::string_view stream, absl::string_view where, int64_t offset, int64_t max_nodes,
         PickleGraph* graph)
      : stream_(stream), where_(where), offset_(offset), max_nodes_(max_nodes), graph_(graph) {}

  absl::StatusOr<PickleId> Run() {
    while (true) {
      opcode_at_ = position_;
      ZC_RETURN_IF_ERROR(Need(1));
      opcode_ = static_cast<uint8_t>(stream_[position_++]);
      if (opcode_ == kOpStop) break;
      ZC_RETURN_IF_ERROR(Step());
      const auto most = static_cast<size_t>(max_nodes_);
      if (graph_->num_nodes() > max_nodes_ || stack_.size() > most || memo_.size() > most ||
          marks_.size() > most) {
        return Unsupported(absl::StrCat("more than ", max_nodes_, " values"));
      }
    }
    if (stack_.size() != 1 || !marks_.empty()) {
      return Corrupt(absl::StrCat("the stream stops with ", stack_.size(), " values and ",
                                  marks_.size(), " marks, expected one value"));
    }
    return stack_[0];
  }

  int64_t num_bytes() const { return static_cast<int64_t>(position_); }
  bool ends_early() const { return ends_early_; }

 private:
  std::string Place() const {
    return absl::StrCat("read pickle ", where_, ", byte ",
                        offset_ + static_cast<int64_t>(opcode_at_), " (opcode 0x",
                        absl::Hex(opcode_, absl::kZeroPad2), "): ");
  }
  absl::Status Corrupt(absl::string_view what) const {
    return WithReason(absl::DataLossError(absl::StrCat(Place(), what)), "CHECKPOINT_CORRUPT");
  }
  absl::Status Unsupported(absl::string_view what) const {
    return WithReason(absl::UnimplementedError(absl::StrCat(Place(), what)), "UNSUPPORTED");
  }

  absl::Status Need(uint64_t num_bytes) {
    if (num_bytes <= stream_.size() - position_) return absl::OkStatus();
    ends_early_ = true;
    return Corrupt(absl::StrCat(num_bytes, " bytes are needed, ", stream_.size() - position_,
                                " are left (truncated?)"));
  }
  absl::StatusOr<uint64_t> TakeNumber(int num_bytes) {
    ZC_RETURN_IF_ERROR(Need(static_cast<uint64_t>(num_bytes)));
    const uint64_t value = GetLittleEndian(stream_, position_, num_bytes);
    position_ += static_cast<size_t>(num_bytes);
    return value;
  }
  // The bytes behind a length of `width` bytes.
  absl::StatusOr<absl::string_view> TakeSized(int width) {
    ZC_ASSIGN_OR_RETURN(const uint64_t length, TakeNumber(width));
    ZC_RETURN_IF_ERROR(Need(length));
    const absl::string_view bytes = stream_.substr(position_, length);
    position_ += length;
    return bytes;
  }
  absl::StatusOr<absl::string_view> TakeLine() {
    const size_t end = stream_.find('\n', position_);
    if (end == absl::string_view::npos) {
      ends_early_ = true;
      return Corrupt("a line without an end (truncated?)");
    }
    const absl::string_view line = stream_.substr(position_, end - position_);
    position_ = end + 1;
    return line;
  }

  absl::Status Push(PickleId id) {
    stack_.push_back(id);
    return absl::OkStatus();
  }
  // Values above the last mark: those an opcode may take.
  size_t Available() const { return stack_.size() - (marks_.empty() ? 0 : marks_.back()); }
  absl::Status NeedValues(size_t count) {
    if (Available() >= count) return absl::OkStatus();
    return Corrupt(absl::StrCat(count, " values are needed, ", Available(), " are on the stack"));
  }
  PickleId Pop() {
    const PickleId id = stack_.back();
    stack_.pop_back();
    return id;
  }
  absl::StatusOr<std::vector<PickleId>> PopToMark() {
    if (marks_.empty()) return Corrupt("no mark is on the stack");
    const size_t begin = marks_.back();
    marks_.pop_back();
    std::vector<PickleId> items(stack_.begin() + static_cast<std::ptrdiff_t>(begin), stack_.end());
    stack_.resize(begin);
    return items;
  }
  std::vector<PickleId> PopMany(size_t count) {
    std::vector<PickleId> items(stack_.end() - static_cast<std::ptrdiff_t>(count), stack_.end());
    stack_.resize(stack_.size() - count);
    return items;
  }

  // Values that cannot be told apart are one node, so that a stream of them takes little memory.
  PickleId Same(PickleId* kept, PickleKind kind, int64_t integer = 0) {
    if (*kept == kNoValue) {
      *kept = graph_->Add(kind);
      graph_->node(*kept).integer = integer;
    }
    return *kept;
  }
  absl::Status PushInteger(int64_t value) {
    if (value >= 0 && value < 256) {
      return Push(Same(&small_[static_cast<size_t>(value)], PickleKind::kInteger, value));
    }
    return Push(graph_->AddInteger(value));
  }
  absl::Status PushText(PickleKind kind, absl::string_view text) {
    const PickleId id = graph_->Add(kind);
    graph_->node(id).text = text;
    return Push(id);
  }
  absl::Status PushItems(PickleKind kind, std::vector<PickleId> items) {
    return Push(graph_->AddItems(kind, std::move(items)));
  }
  absl::Status PushGlobal(absl::string_view module, absl::string_view name) {
    const PickleId id = graph_->Add(PickleKind::kGlobal);
    graph_->node(id).text = module;
    graph_->node(id).name = name;
    return Push(id);
  }

  absl::Status Step();
  absl::Status Sized(PickleKind kind, int width);
  absl::Status Long(int width);
  absl::Status Put(uint64_t index);
  absl::Status Get(uint64_t index);
  absl::Status Call(bool is_new, bool has_keywords);
  absl::Status Build();
  absl::Status AddTo(std::vector<PickleId> items);
  absl::Status SetIn(std::vector<PickleId> items);
  absl::Status StackGlobal();

  const absl::string_view stream_, where_;
  const int64_t offset_, max_nodes_;
  PickleGraph* const graph_;
  size_t position_ = 0, opcode_at_ = 0;
  uint8_t opcode_ = 0;
  bool ends_early_ = false;
  std::vector<PickleId> stack_;
  std::vector<size_t> marks_;  // heights of the stack
  std::unordered_map<uint64_t, PickleId> memo_;
  PickleId none_ = kNoValue, true_ = kNoValue, false_ = kNoValue, empty_ = kNoValue;
  std::vector<PickleId> small_ = std::vector<PickleId>(256, kNoValue);
};

absl::Status Reader::Sized(PickleKind kind, int width) {
  ZC_ASSIGN_OR_RETURN(const absl::string_view bytes, TakeSized(width));
  return PushText(kind, bytes);
}

absl::Status Reader::Long(int width) {
  ZC_ASSIGN_OR_RETURN(absl::string_view bytes, TakeSized(width));
  if (bytes.size() > 8) return PushText(PickleKind::kBigInteger, bytes);
  uint64_t value = GetLittleEndian(bytes, 0, static_cast<int>(bytes.size()));
  if (!bytes.empty() && bytes.size() < 8 && (static_cast<uint8_t>(bytes.back()) & 0x80) != 0) {
    value |= ~uint64_t{0} << (8 * bytes.size());
  }
  return PushInteger(static_cast<int64_t>(value));
}

absl::Status Reader::Put(uint64_t index) {
  ZC_RETURN_IF_ERROR(NeedValues(1));
  memo_[index] = stack_.back();
  return absl::OkStatus();
}

absl::Status Reader::Get(uint64_t index) {
  const auto found = memo_.find(index);
  if (found == memo_.end()) return Corrupt(absl::StrCat("nothing was put as memo entry ", index));
  return Push(found->second);
}

absl::Status Reader::Call(bool is_new, bool has_keywords) {
  ZC_RETURN_IF_ERROR(NeedValues(has_keywords ? 3 : 2));
  auto call = std::make_unique<PickleCall>();
  if (has_keywords) {
    call->keywords = Pop();
    if (graph_->node(call->keywords).kind != PickleKind::kDict) {
      return Corrupt(
          absl::StrCat("keywords must be a dict, found ", graph_->Describe(call->keywords)));
    }
  }
  call->arguments = Pop();
  call->function = Pop();
  call->is_new = is_new;
  if (graph_->node(call->arguments).kind != PickleKind::kTuple) {
    return Corrupt(
        absl::StrCat("arguments must be a tuple, found ", graph_->Describe(call->arguments)));
  }
  const PickleKind function = graph_->node(call->function).kind;
  if (function != PickleKind::kGlobal && function != PickleKind::kCall &&
      function != PickleKind::kPersistent) {
    return Corrupt(
        absl::StrCat("only a name can be called, found ", graph_->Describe(call->function)));
  }
  const PickleId id = graph_->Add(PickleKind::kCall);
  graph_->node(id).call = std::move(call);
  return Push(id);
}

absl::Status Reader::Build() {
  ZC_RETURN_IF_ERROR(NeedValues(2));
  const PickleId state = Pop();
  PickleNode& target = graph_->node(stack_.back());
  if (target.kind != PickleKind::kCall) {
    return Corrupt(
        absl::StrCat("only an object has a state, found ", graph_->Describe(stack_.back())));
  }
  target.call->states.push_back(state);
  return absl::OkStatus();
}

absl::Status Reader::AddTo(std::vector<PickleId> items) {
  ZC_RETURN_IF_ERROR(NeedValues(1));
  PickleNode& target = graph_->node(stack_.back());
  const PickleKind wanted = opcode_ == kOpAddItems ? PickleKind::kSet : PickleKind::kList;
  std::vector<PickleId>* into = target.kind == wanted ? &target.items
                                : target.kind == PickleKind::kCall && opcode_ != kOpAddItems
                                    ? &target.call->list_items
                                    : nullptr;
  if (into == nullptr) {
    return Corrupt(absl::StrCat("items for ", graph_->Describe(stack_.back())));
  }
  into->insert(into->end(), items.begin(), items.end());
  return absl::OkStatus();
}

absl::Status Reader::SetIn(std::vector<PickleId> items) {
  ZC_RETURN_IF_ERROR(NeedValues(1));
  if (items.size() % 2 != 0) return Corrupt("a key without a value");
  PickleNode& target = graph_->node(stack_.back());
  std::vector<PickleId>* into = target.kind == PickleKind::kDict   ? &target.items
                                : target.kind == PickleKind::kCall ? &target.call->dict_items
                                                                   : nullptr;
  if (into == nullptr) {
    return Corrupt(absl::StrCat("keys and values for ", graph_->Describe(stack_.back())));
  }
  into->insert(into->end(), items.begin(), items.end());
  return absl::OkStatus();
}

absl::Status Reader::StackGlobal() {
  ZC_RETURN_IF_ERROR(NeedValues(2));
  const PickleId name = Pop();
  const PickleId module = Pop();
  if (graph_->node(name).kind != PickleKind::kText ||
      graph_->node(module).kind != PickleKind::kText) {
    return Corrupt(absl::StrCat("a name is two texts, found ", graph_->Describe(module), " and ",
                                graph_->Describe(name)));
  }
  return PushGlobal(graph_->node(module).text, graph_->node(name).text);
}

absl::Status Reader::Step() {
  switch (opcode_) {
    case kOpProto: {
      ZC_ASSIGN_OR_RETURN(const uint64_t protocol, TakeNumber(1));
      if (protocol > kMaxProtocol) {
        return Unsupported(
            absl::StrCat("pickle protocol ", protocol, ", at most ", kMaxProtocol, " is read"));
      }
      return absl::OkStatus();
    }
    case kOpFrame: {
      ZC_ASSIGN_OR_RETURN(const uint64_t length, TakeNumber(8));
      return Need(length);
    }
    case kOpMark:
      marks_.push_back(stack_.size());
      return absl::OkStatus();
    case kOpPop:
      if (Available() == 0 && !marks_.empty()) {
        marks_.pop_back();
        return absl::OkStatus();
      }
      ZC_RETURN_IF_ERROR(NeedValues(1));
      Pop();
      return absl::OkStatus();
    case kOpPopMark:
      return PopToMark().status();
    case kOpDup:
      ZC_RETURN_IF_ERROR(NeedValues(1));
      return Push(stack_.back());
    case kOpNone:
      return Push(Same(&none_, PickleKind::kNone));
    case kOpNewTrue:
      return Push(Same(&true_, PickleKind::kBool, 1));
    case kOpNewFalse:
      return Push(Same(&false_, PickleKind::kBool, 0));
    case kOpBinInt: {
      ZC_ASSIGN_OR_RETURN(const uint64_t value, TakeNumber(4));
      return PushInteger(static_cast<int32_t>(static_cast<uint32_t>(value)));
    }
    case kOpBinInt1:
    case kOpBinInt2: {
      ZC_ASSIGN_OR_RETURN(const uint64_t value, TakeNumber(opcode_ == kOpBinInt1 ? 1 : 2));
      return PushInteger(static_cast<int64_t>(value));
    }
    case kOpLong1:
      return Long(1);
    case kOpLong4:
      return Long(4);
    case kOpBinFloat: {
      ZC_RETURN_IF_ERROR(Need(8));
      uint64_t bits = 0;  // the one number that has its greatest byte first
      for (int k = 0; k < 8; ++k) bits = bits << 8 | static_cast<uint8_t>(stream_[position_++]);
      double value = 0;
      std::memcpy(&value, &bits, sizeof(value));
      return Push(graph_->AddFloat(value));
    }
    // The texts of Python 2, which torch.load reads as UTF-8.
    case kOpBinString:
    case kOpBinUnicode:
      return Sized(PickleKind::kText, 4);
    case kOpShortBinString:
    case kOpShortBinUnicode:
      return Sized(PickleKind::kText, 1);
    case kOpBinUnicode8:
      return Sized(PickleKind::kText, 8);
    case kOpShortBinBytes:
      return Sized(PickleKind::kBytes, 1);
    case kOpBinBytes:
      return Sized(PickleKind::kBytes, 4);
    case kOpBinBytes8:
      return Sized(PickleKind::kBytes, 8);
    case kOpByteArray8:
      return Sized(PickleKind::kByteArray, 8);
    case kOpEmptyList:
      return PushItems(PickleKind::kList, {});
    case kOpEmptyDict:
      return PushItems(PickleKind::kDict, {});
    case kOpEmptySet:
      return PushItems(PickleKind::kSet, {});
    case kOpEmptyTuple:
      return Push(Same(&empty_, PickleKind::kTuple));
    case kOpTuple1:
    case kOpTuple2:
    case kOpTuple3: {
      const size_t count = opcode_ - kOpTuple1 + 1u;
      ZC_RETURN_IF_ERROR(NeedValues(count));
      return PushItems(PickleKind::kTuple, PopMany(count));
    }
    case kOpList:
    case kOpTuple:
    case kOpFrozenSet: {
      ZC_ASSIGN_OR_RETURN(std::vector<PickleId> items, PopToMark());
      return PushItems(opcode_ == kOpList    ? PickleKind::kList
                       : opcode_ == kOpTuple ? PickleKind::kTuple
                                             : PickleKind::kFrozenSet,
                       std::move(items));
    }
    case kOpDict: {
      ZC_ASSIGN_OR_RETURN(std::vector<PickleId> items, PopToMark());
      if (items.size() % 2 != 0) return Corrupt("a key without a value");
      return PushItems(PickleKind::kDict, std::move(items));
    }
    case kOpAppend:
      ZC_RETURN_IF_ERROR(NeedValues(2));
      return AddTo(PopMany(1));
    case kOpAppends:
    case kOpAddItems: {
      ZC_ASSIGN_OR_RETURN(std::vector<PickleId> items, PopToMark());
      return AddTo(std::move(items));
    }
    case kOpSetItem:
      ZC_RETURN_IF_ERROR(NeedValues(3));
      return SetIn(PopMany(2));
    case kOpSetItems: {
      ZC_ASSIGN_OR_RETURN(std::vector<PickleId> items, PopToMark());
      return SetIn(std::move(items));
    }
    case kOpGlobal: {
      ZC_ASSIGN_OR_RETURN(const absl::string_view module, TakeLine());
      ZC_ASSIGN_OR_RETURN(const absl::string_view name, TakeLine());
      return PushGlobal(module, name);
    }
    case kOpStackGlobal:
      return StackGlobal();
    case kOpReduce:
      return Call(false, false);
    case kOpNewObj:
      return Call(true, false);
    case kOpNewObjEx:
      return Call(true, true);
    case kOpBuild:
      return Build();
    case kOpBinPersId:
      ZC_RETURN_IF_ERROR(NeedValues(1));
      return PushItems(PickleKind::kPersistent, PopMany(1));
    case kOpMemoize:
      return Put(memo_.size());
    case kOpBinPut:
    case kOpLongBinPut: {
      ZC_ASSIGN_OR_RETURN(const uint64_t index, TakeNumber(opcode_ == kOpBinPut ? 1 : 4));
      return Put(index);
    }
    case kOpBinGet:
    case kOpLongBinGet: {
      ZC_ASSIGN_OR_RETURN(const uint64_t index, TakeNumber(opcode_ == kOpBinGet ? 1 : 4));
      return Get(index);
    }
    default: {
      const absl::string_view known = KnownAs(opcode_);
      if (known.empty()) return Corrupt("no such opcode");
      return Unsupported(absl::StrCat(known, ", protocols 2 to ", kMaxProtocol, " are read"));
    }
  }
}

}  // namespace

absl::StatusOr<PickleId> ReadPickle(absl::string_view stream, absl::string_view where,
                                    int64_t offset, PickleGraph* graph, int64_t* num_bytes,
                                    bool* ends_early, const PickleLimits& limits) {
  const std::string shown = EscapeControls(where);
  if (ends_early != nullptr) *ends_early = false;
  if (static_cast<int64_t>(stream.size()) > limits.max_bytes) {
    return WithReason(
        absl::UnimplementedError(absl::StrCat("read pickle ", shown, ": ", stream.size(),
                                              " bytes, at most ", limits.max_bytes, " are read")),
        "UNSUPPORTED");
  }
  Reader reader(stream, shown, offset, limits.max_nodes, graph);
  const auto root = reader.Run();
  if (num_bytes != nullptr) *num_bytes = reader.num_bytes();
  if (ends_early != nullptr) *ends_early = reader.ends_early();
  return root;
}

}  // namespace zerocast
