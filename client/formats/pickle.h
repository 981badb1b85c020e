#ifndef ZEROCAST_CLIENT_FORMATS_PICKLE_H_
#define ZEROCAST_CLIENT_FORMATS_PICKLE_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace zerocast {

// A node of a PickleGraph; kNoValue is none.
using PickleId = int32_t;
inline constexpr PickleId kNoValue = -1;

enum class PickleKind : uint8_t {
  kNone,
  kBool,        // integer: 0 or 1
  kInteger,     // integer
  kBigInteger,  // text: two's complement, least byte first, more than 8 bytes
  kFloat,       // real
  kText,        // text: UTF-8 as the stream has it, lone surrogates included
  kBytes,       // text
  kByteArray,   // text
  kList,        // items
  kTuple,       // items
  kDict,        // items: key, value, key, value, ... in the order they were set, repeated keys too
  kSet,         // items
  kFrozenSet,   // items
  kGlobal,      // text: the module; name
  kCall,        // call: what the pickle says to call; nothing is called
  kPersistent,  // items: the one value that names the object
};

// "Make an object of `function` and `arguments`, then give it this": never done, only kept.
struct PickleCall {
  PickleId function = kNoValue;
  PickleId arguments = kNoValue;  // a tuple
  PickleId keywords = kNoValue;   // a dict; NEWOBJ_EX only
  bool is_new = false;  // function.__new__(function, *arguments), not function(*arguments)
  std::vector<PickleId> list_items;
  std::vector<PickleId> dict_items;  // key, value, ...
  std::vector<PickleId> states;      // of BUILD, in order; one but in odd files
};

struct PickleNode {
  PickleKind kind = PickleKind::kNone;
  int64_t integer = 0;
  double real = 0;
  absl::string_view text;  // owned by the graph
  absl::string_view name;  // kGlobal: the name in the module; owned by the graph
  std::vector<PickleId> items;
  std::unique_ptr<PickleCall> call;  // kCall
};

// The values of a pickle and how they hold each other, as data.  Nodes may be shared and lists,
// dicts, sets and calls may hold themselves, by any number of steps: whoever walks a graph keeps
// what it has seen, and no recursion.  Move-only; thread-compatible.
class PickleGraph {
 public:
  PickleId root() const { return root_; }
  void set_root(PickleId root) { root_ = root; }
  int64_t num_nodes() const { return static_cast<int64_t>(nodes_.size()); }
  const PickleNode& node(PickleId id) const { return nodes_[static_cast<size_t>(id)]; }
  PickleNode& node(PickleId id) { return nodes_[static_cast<size_t>(id)]; }

  // New nodes; a text is copied into the graph.
  PickleId AddNone() { return Add(PickleKind::kNone); }
  PickleId AddBool(bool value);
  PickleId AddInteger(int64_t value);
  PickleId AddFloat(double value);
  PickleId AddText(absl::string_view text);
  PickleId AddGlobal(absl::string_view module, absl::string_view name);
  // kList, kTuple, kDict, kSet, kFrozenSet or kPersistent of these items.
  PickleId AddItems(PickleKind kind, std::vector<PickleId> items);
  // function(*arguments).
  PickleId AddCall(PickleId function, std::vector<PickleId> arguments);
  PickleId Add(PickleKind kind);

  // A view of the text that lives as long as the graph.
  absl::string_view Own(std::string text);

  // Whether `id` is the global `module`.`name`.
  bool IsGlobal(PickleId id, absl::string_view module, absl::string_view name) const;
  // Whether `id` is a call of that global.
  bool IsCallOf(PickleId id, absl::string_view module, absl::string_view name) const;
  // The keys and values of a dict, or of what a call of collections.OrderedDict was given; null for
  // anything else.
  const std::vector<PickleId>* DictItems(PickleId id) const;
  // The value of the text key `key` in DictItems(id), the last one as in Python; kNoValue where
  // there is none.
  PickleId Find(PickleId id, absl::string_view key) const;
  // By node: whether `id` holds it, by any number of steps; `id` itself is.
  std::vector<bool> HeldBy(PickleId id) const;
  // What `id` is in a few words, for errors: "a list", "a call of os.system".
  std::string Describe(PickleId id) const;

 private:
  PickleId root_ = kNoValue;
  std::deque<PickleNode> nodes_;  // grows without a copy of all
  std::deque<std::string> texts_;
};

// The longest stream and the most nodes that are read: a node has some 100 bytes, and a byte of the
// stream may be one.  Pickles of torch.save have about 20 nodes and 300 bytes a tensor.
struct PickleLimits {
  int64_t max_bytes = 256 << 20;
  // Of the graph, with what it held before; as many entries may the memo have, and values the
  // stack.
  int64_t max_nodes = 8 << 20;
};

// Reads one pickle of protocols 2 to 5 (and the binary opcodes of protocol 1) off the start of
// `stream` into `graph`, which may hold others, and returns its root; `num_bytes`, when not null,
// becomes its length.  The graph keeps views of `stream`, which must live as long: graph->Own().
// Nothing is imported or called.  Nodes, memo and stack are at most as many as the stream has
// bytes; no recursion.  `where` names the stream in errors ("a.pt, entry archive/data.pkl"),
// `offset` is that of its first byte there.  Errors, with `where`, the offset and the opcode:
//   DATA_LOSS      the stream ends too early, an opcode finds other values than it needs, a memo
//                  entry that was never put; reason CHECKPOINT_CORRUPT
//   UNIMPLEMENTED  text opcodes of protocol 0, extension registry codes, out-of-band buffers, a
//                  protocol above 5, more than kMaxPickleBytes or kMaxPickleNodes; reason
//                  UNSUPPORTED
// `ends_early`, when not null, tells the first of these from the others: more bytes may mend it.
absl::StatusOr<PickleId> ReadPickle(absl::string_view stream, absl::string_view where,
                                    int64_t offset, PickleGraph* graph,
                                    int64_t* num_bytes = nullptr, bool* ends_early = nullptr,
                                    const PickleLimits& limits = {});

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_FORMATS_PICKLE_H_
