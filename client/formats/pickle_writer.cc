#include "client/formats/pickle_writer.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/formats/little_endian.h"
#include "client/formats/pickle_opcodes.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

// As many items as one APPENDS or SETITEMS takes, as in CPython: what loads it holds them at once.
constexpr size_t kBatch = 1000;

class Writer {
 public:
  Writer(const PickleGraph& graph, int64_t max_bytes)
      : graph_(graph),
        max_bytes_(max_bytes),
        memo_(static_cast<size_t>(graph.num_nodes()), -1),
        entered_(memo_) {}

  absl::StatusOr<std::string> Run(PickleId root) {
    protocol_ = ProtocolFor(root);
    Op(kOpProto);
    out_.push_back(static_cast<char>(protocol_));
    Value(root);
    while (!tasks_.empty()) {
      const Task task = tasks_.back();
      tasks_.pop_back();
      ZC_RETURN_IF_ERROR(Do(task));
      if (static_cast<int64_t>(out_.size()) > max_bytes_) {
        return WithReason(absl::ResourceExhaustedError(
                              absl::StrCat("write pickle: more than ", max_bytes_, " bytes")),
                          "RESOURCE_EXHAUSTED");
      }
    }
    Op(kOpStop);
    return std::move(out_);
  }

 private:
  // What is still to do, last first.
  struct Task {
    enum Kind { kValue, kOpcode, kAfterTuple, kAfterCall, kFill, kMemo } kind;
    PickleId id = kNoValue;  // a node
    uint8_t opcode = 0;
    // kFill: items from `next` on of `items`, in batches that `opcode` ends.
    const std::vector<PickleId>* items = nullptr;
    size_t next = 0;
  };

  void Op(uint8_t opcode) { out_.push_back(static_cast<char>(opcode)); }
  void Value(PickleId id) { tasks_.push_back({Task::kValue, id, 0, nullptr, 0}); }
  void Later(uint8_t opcode) { tasks_.push_back({Task::kOpcode, kNoValue, opcode, nullptr, 0}); }
  void Later(Task::Kind kind, PickleId id) { tasks_.push_back({kind, id, 0, nullptr, 0}); }
  void Fill(const std::vector<PickleId>& items, uint8_t opcode) {
    if (!items.empty()) tasks_.push_back({Task::kFill, kNoValue, opcode, &items, 0});
  }
  // Pushes tasks for all of `ids`, the first to be done first.
  void Values(const std::vector<PickleId>& ids) {
    for (size_t k = ids.size(); k > 0; --k) Value(ids[k - 1]);
  }

  void Memoize(PickleId id) {
    int64_t& place = memo_[static_cast<size_t>(id)];
    place = memo_size_++;
    if (place < 256) {
      Op(kOpBinPut);
      PutLittleEndian(static_cast<uint64_t>(place), 1, &out_);
    } else {
      Op(kOpLongBinPut);
      PutLittleEndian(static_cast<uint64_t>(place), 4, &out_);
    }
  }
  bool Get(PickleId id) {
    const int64_t place = memo_[static_cast<size_t>(id)];
    if (place < 0) return false;
    Op(place < 256 ? kOpBinGet : kOpLongBinGet);
    PutLittleEndian(static_cast<uint64_t>(place), place < 256 ? 1 : 4, &out_);
    return true;
  }

  // Only a name with a dot, or one that a line cannot hold, needs more than protocol 2.
  uint8_t ProtocolFor(PickleId root) const {
    const std::vector<bool> held = graph_.HeldBy(root);
    for (PickleId id = 0; id < graph_.num_nodes(); ++id) {
      if (held[static_cast<size_t>(id)] && graph_.node(id).kind == PickleKind::kGlobal &&
          NeedsStack(graph_.node(id))) {
        return 4;
      }
    }
    return 2;
  }
  static bool NeedsStack(const PickleNode& global) {
    return global.name.find('.') != absl::string_view::npos ||
           global.name.find('\n') != absl::string_view::npos ||
           global.text.find('\n') != absl::string_view::npos;
  }

  absl::Status Text(absl::string_view text) {
    if (text.size() > std::numeric_limits<uint32_t>::max()) {
      return absl::InvalidArgumentError(
          absl::StrCat("write pickle: a text of ", text.size(), " bytes"));
    }
    Op(kOpBinUnicode);
    PutLittleEndian(text.size(), 4, &out_);
    out_.append(text.data(), text.size());
    return absl::OkStatus();
  }
  void Name(absl::string_view module, absl::string_view name) {
    Op(kOpGlobal);
    absl::StrAppend(&out_, module, "\n", name, "\n");
  }
  void Integer(int64_t value);
  void Long(absl::string_view bytes);
  void Float(double value);
  absl::Status Bytes(absl::string_view bytes, bool is_array);
  absl::Status Do(const Task& task);
  absl::Status Enter(PickleId id);
  absl::Status Start(PickleId id);
  absl::Status StartGlobal(PickleId id);
  void StartCall(PickleId id);
  void FillNext(Task task);

  const PickleGraph& graph_;
  const int64_t max_bytes_;
  std::vector<int64_t> memo_;     // by node; -1: not put yet
  std::vector<int64_t> entered_;  // by node: memo_size_ when it was last begun; -1: never
  int64_t memo_size_ = 0;
  uint8_t protocol_ = 2;
  std::vector<Task> tasks_;
  std::string out_;
};

void Writer::Integer(int64_t value) {
  const uint64_t bits = static_cast<uint64_t>(value);
  if (value >= 0 && value < 256) {
    Op(kOpBinInt1);
    PutLittleEndian(bits, 1, &out_);
  } else if (value >= 0 && value < 65536) {
    Op(kOpBinInt2);
    PutLittleEndian(bits, 2, &out_);
  } else if (value >= std::numeric_limits<int32_t>::min() &&
             value <= std::numeric_limits<int32_t>::max()) {
    Op(kOpBinInt);
    PutLittleEndian(bits, 4, &out_);
  } else {
    std::string bytes;
    PutLittleEndian(bits, 8, &bytes);
    Long(bytes);
  }
}

void Writer::Long(absl::string_view bytes) {
  const bool is_short = bytes.size() < 256;
  Op(is_short ? kOpLong1 : kOpLong4);
  PutLittleEndian(bytes.size(), is_short ? 1 : 4, &out_);
  out_.append(bytes.data(), bytes.size());
}

void Writer::Float(double value) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(bits));
  Op(kOpBinFloat);
  for (int k = 7; k >= 0; --k) out_.push_back(static_cast<char>(bits >> (8 * k)));
}

// Protocol 2 has no bytes: as CPython does, the text of the same code points, to be encoded.
absl::Status Writer::Bytes(absl::string_view bytes, bool is_array) {
  if (is_array) Name("builtins", "bytearray");
  Name("_codecs", "encode");
  std::string text;
  for (const char c : bytes) {
    const uint8_t byte = static_cast<uint8_t>(c);
    if (byte < 0x80) {
      text.push_back(c);
    } else {
      text.push_back(static_cast<char>(0xC0 | byte >> 6));
      text.push_back(static_cast<char>(0x80 | (byte & 0x3F)));
    }
  }
  ZC_RETURN_IF_ERROR(Text(text));
  ZC_RETURN_IF_ERROR(Text("latin1"));
  Op(kOpTuple2);
  Op(kOpReduce);
  if (is_array) {
    Op(kOpTuple1);
    Op(kOpReduce);
  }
  return absl::OkStatus();
}

absl::Status Writer::StartGlobal(PickleId id) {
  const PickleNode& node = graph_.node(id);
  absl::string_view module = node.text;
  // Protocol 2 maps the names of Python 2, later ones do not.
  if (protocol_ > 2 && module == "__builtin__") module = "builtins";
  if (protocol_ > 2 && module == "copy_reg") module = "copyreg";
  if (NeedsStack(node)) {
    ZC_RETURN_IF_ERROR(Text(module));
    ZC_RETURN_IF_ERROR(Text(node.name));
    Op(kOpStackGlobal);
  } else {
    Name(module, node.name);
  }
  Memoize(id);
  return absl::OkStatus();
}

// function, arguments, REDUCE or NEWOBJ, then what the object is given.
void Writer::StartCall(PickleId id) {
  const PickleCall& call = *graph_.node(id).call;
  Later(Task::kAfterCall, id);
  if (call.keywords != kNoValue) {
    // Protocol 2 has no NEWOBJ_EX; CPython's way round it.
    Later(kOpReduce);
    Later(kOpTuple3);
    Value(call.keywords);
    Value(call.arguments);
    Value(call.function);
    Name("copyreg", "__newobj_ex__");
    return;
  }
  Later(call.is_new ? kOpNewObj : kOpReduce);
  Value(call.arguments);
  Value(call.function);
}

// Values that are put only when they are whole may be begun again inside of themselves, but between
// two such beginnings a list, dict or object must have been put; else there is no end to it.
absl::Status Writer::Enter(PickleId id) {
  if (graph_.node(id).kind == PickleKind::kTuple && graph_.node(id).items.empty()) {
    return absl::OkStatus();  // not worth putting
  }
  switch (graph_.node(id).kind) {
    case PickleKind::kTuple:
    case PickleKind::kSet:
    case PickleKind::kFrozenSet:
    case PickleKind::kCall: {
      int64_t& entered = entered_[static_cast<size_t>(id)];
      if (entered == memo_size_) {
        return absl::InvalidArgumentError(absl::StrCat("write pickle: ", graph_.Describe(id),
                                                       " holds itself, which only lists, dicts and "
                                                       "objects can"));
      }
      entered = memo_size_;
      return absl::OkStatus();
    }
    default:
      return absl::OkStatus();
  }
}

absl::Status Writer::Start(PickleId id) {
  if (id < 0 || id >= graph_.num_nodes()) {
    return absl::InvalidArgumentError(absl::StrCat("write pickle: there is no node ", id));
  }
  if (Get(id)) return absl::OkStatus();
  const PickleNode& node = graph_.node(id);
  ZC_RETURN_IF_ERROR(Enter(id));
  switch (node.kind) {
    case PickleKind::kNone:
      Op(kOpNone);
      return absl::OkStatus();
    case PickleKind::kBool:
      Op(node.integer != 0 ? kOpNewTrue : kOpNewFalse);
      return absl::OkStatus();
    case PickleKind::kInteger:
      Integer(node.integer);
      return absl::OkStatus();
    case PickleKind::kBigInteger:
      Long(node.text);
      return absl::OkStatus();
    case PickleKind::kFloat:
      Float(node.real);
      return absl::OkStatus();
    case PickleKind::kText:
      ZC_RETURN_IF_ERROR(Text(node.text));
      Memoize(id);
      return absl::OkStatus();
    case PickleKind::kBytes:
    case PickleKind::kByteArray:
      ZC_RETURN_IF_ERROR(Bytes(node.text, node.kind == PickleKind::kByteArray));
      Memoize(id);
      return absl::OkStatus();
    case PickleKind::kList:
      Op(kOpEmptyList);
      Memoize(id);
      Fill(node.items, kOpAppends);
      return absl::OkStatus();
    case PickleKind::kDict:
      Op(kOpEmptyDict);
      Memoize(id);
      Fill(node.items, kOpSetItems);
      return absl::OkStatus();
    case PickleKind::kTuple:
      if (node.items.empty()) {
        Op(kOpEmptyTuple);
        return absl::OkStatus();
      }
      Later(Task::kAfterTuple, id);
      Op(kOpMark);
      Values(node.items);
      return absl::OkStatus();
    case PickleKind::kSet:
    case PickleKind::kFrozenSet:
      // set([...]): protocol 2 has no opcode for them.
      Name("builtins", node.kind == PickleKind::kSet ? "set" : "frozenset");
      Later(Task::kMemo, id);
      Later(kOpReduce);
      Later(kOpTuple1);
      Later(kOpList);
      Op(kOpMark);
      Values(node.items);
      return absl::OkStatus();
    case PickleKind::kGlobal:
      return StartGlobal(id);
    case PickleKind::kCall:
      StartCall(id);
      return absl::OkStatus();
    case PickleKind::kPersistent:
      Later(kOpBinPersId);
      Values(node.items);
      return absl::OkStatus();
  }
  return absl::OkStatus();
}

void Writer::FillNext(Task task) {
  const bool in_pairs = task.opcode == kOpSetItems;
  const size_t end = std::min(task.items->size(), task.next + kBatch * (in_pairs ? 2 : 1));
  const size_t begin = task.next;
  task.next = end;
  if (end < task.items->size()) tasks_.push_back(task);
  Later(task.opcode);
  for (size_t k = end; k > begin; --k) Value((*task.items)[k - 1]);
  Op(kOpMark);
}

absl::Status Writer::Do(const Task& task) {
  switch (task.kind) {
    case Task::kValue:
      return Start(task.id);
    case Task::kOpcode:
      Op(task.opcode);
      return absl::OkStatus();
    case Task::kMemo:
      if (memo_[static_cast<size_t>(task.id)] >= 0) {
        Op(kOpPop);
        Get(task.id);
        return absl::OkStatus();
      }
      Memoize(task.id);
      return absl::OkStatus();
    case Task::kAfterTuple:
      // A tuple or call in a cycle is met again before it is done, and is done there first: the
      // list or object that closes the cycle had been put by then.  This one gives way to it.
      if (memo_[static_cast<size_t>(task.id)] >= 0) {
        Op(kOpPopMark);
        Get(task.id);
        return absl::OkStatus();
      }
      Op(kOpTuple);
      Memoize(task.id);
      return absl::OkStatus();
    case Task::kAfterCall: {
      if (memo_[static_cast<size_t>(task.id)] >= 0) {
        Op(kOpPop);
        Get(task.id);
        return absl::OkStatus();
      }
      Memoize(task.id);
      const PickleCall& call = *graph_.node(task.id).call;
      for (size_t k = call.states.size(); k > 0; --k) {
        Later(kOpBuild);
        Value(call.states[k - 1]);
      }
      Fill(call.dict_items, kOpSetItems);
      Fill(call.list_items, kOpAppends);
      return absl::OkStatus();
    }
    case Task::kFill:
      FillNext(task);
      return absl::OkStatus();
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> WritePickle(const PickleGraph& graph, PickleId root,
                                        int64_t max_bytes) {
  return Writer(graph, max_bytes).Run(root);
}

}  // namespace zerocast
