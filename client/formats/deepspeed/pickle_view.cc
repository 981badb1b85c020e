#include "client/formats/deepspeed/pickle_view.h"

#include <algorithm>
#include <iterator>
#include <unordered_map>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/base/utf8.h"

namespace zerocast {
namespace {

constexpr size_t kMaxRank = 64;  // torch's own limit

// Modules of which nothing belongs into a checkpoint: they run commands and code, or lead to what
// does.
constexpr absl::string_view kHarmfulModules[] = {
    "_pickle",   "_posixsubprocess", "bdb",    "cProfile", "cloudpickle", "code",
    "codeop",    "commands",         "ctypes", "dill",     "doctest",     "imp",
    "importlib", "marshal",          "nt",     "os",       "pdb",         "pickle",
    "pip",       "popen2",           "posix",  "profile",  "pty",         "pydoc",
    "runpy",     "shelve",           "shutil", "smtplib",  "socket",      "subprocess",
    "sys",       "timeit",           "trace",  "urllib",   "urllib2",     "webbrowser"};
// Of builtins, by Python 2's name, too.
constexpr absl::string_view kHarmfulBuiltins[] = {
    "__import__", "apply", "breakpoint", "compile", "eval",   "exec", "execfile",
    "exit",       "file",  "globals",    "input",   "locals", "open", "quit"};

template <size_t kCount>
bool Holds(const absl::string_view (&names)[kCount], absl::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

bool IsHarmful(absl::string_view module, absl::string_view name) {
  const absl::string_view top = module.substr(0, module.find('.'));
  if (top == "builtins" || top == "__builtin__") {
    // "eval.__call__" is a name of protocol 4.
    return Holds(kHarmfulBuiltins, name.substr(0, name.find('.')));
  }
  return Holds(kHarmfulModules, top);
}

}  // namespace

absl::Status CheckHarmless(const TorchFile& file) {
  const PickleGraph& graph = file.graph();
  for (PickleId id = 0; id < graph.num_nodes(); ++id) {
    const PickleNode& node = graph.node(id);
    if (node.kind != PickleKind::kGlobal || !IsHarmful(node.text, node.name)) continue;
    return WithReason(
        absl::DataLossError(absl::StrCat(
            "read ", file.path(), ": it holds ", graph.Describe(id),
            ", which no checkpoint needs and by which a file takes over the machine that loads it; "
            "nothing of it was run; do not load it with torch, take another checkpoint")),
        "CHECKPOINT_CORRUPT");
  }
  return absl::OkStatus();
}

absl::Status PickleView::Take(PickleId id, absl::string_view what, size_t num_items) const {
  items_left_ -= static_cast<int64_t>(num_items);
  if (items_left_ >= 0) return absl::OkStatus();
  return Wrong(id, what, "no more items than the file has values: it names some over and over");
}

absl::Status PickleView::Wrong(PickleId id, absl::string_view what,
                               absl::string_view expected) const {
  return WithReason(absl::DataLossError(
                        absl::StrCat("read ", file_.path(), ": ",
                                     EscapeControls(absl::StrCat(what, " is ", graph_.Describe(id),
                                                                 ", expected ", expected)))),
                    "CHECKPOINT_CORRUPT");
}

absl::StatusOr<std::vector<std::pair<std::string, PickleId>>> PickleView::Dict(
    PickleId id, absl::string_view what) const {
  const std::vector<PickleId>* items = graph_.DictItems(id);
  if (items == nullptr) return Wrong(id, what, "a dict");
  ZC_RETURN_IF_ERROR(Take(id, what, items->size()));
  std::vector<std::pair<std::string, PickleId>> entries;
  std::unordered_map<std::string, size_t> places;
  for (size_t k = 0; k + 1 < items->size(); k += 2) {
    const PickleNode& key = graph_.node((*items)[k]);
    if (key.kind != PickleKind::kText) {
      return Wrong((*items)[k], absl::StrCat("a key of ", what), "a text");
    }
    if (!IsValidUtf8(key.text)) {
      return Wrong((*items)[k], absl::StrCat("a key of ", what), "a text of valid UTF-8");
    }
    const auto [place, is_new] = places.emplace(std::string(key.text), entries.size());
    if (is_new) {
      entries.emplace_back(std::string(key.text), (*items)[k + 1]);
    } else {
      entries[place->second].second = (*items)[k + 1];
    }
  }
  return entries;
}

absl::StatusOr<std::vector<std::pair<int64_t, PickleId>>> PickleView::DictOfIntegers(
    PickleId id, absl::string_view what) const {
  const std::vector<PickleId>* items = graph_.DictItems(id);
  if (items == nullptr) return Wrong(id, what, "a dict");
  ZC_RETURN_IF_ERROR(Take(id, what, items->size()));
  std::vector<std::pair<int64_t, PickleId>> entries;
  std::unordered_map<int64_t, size_t> places;
  for (size_t k = 0; k + 1 < items->size(); k += 2) {
    ZC_ASSIGN_OR_RETURN(const int64_t key, Integer((*items)[k], absl::StrCat("a key of ", what)));
    const auto [place, is_new] = places.emplace(key, entries.size());
    if (is_new) {
      entries.emplace_back(key, (*items)[k + 1]);
    } else {
      entries[place->second].second = (*items)[k + 1];
    }
  }
  return entries;
}

absl::StatusOr<std::vector<PickleId>> PickleView::List(PickleId id, absl::string_view what) const {
  if (id == kNoValue ||
      (graph_.node(id).kind != PickleKind::kList && graph_.node(id).kind != PickleKind::kTuple)) {
    return Wrong(id, what, "a list");
  }
  ZC_RETURN_IF_ERROR(Take(id, what, graph_.node(id).items.size()));
  return graph_.node(id).items;
}

absl::StatusOr<int64_t> PickleView::Integer(PickleId id, absl::string_view what) const {
  PickleId value = id;
  if (graph_.IsCallOf(value, "deepspeed.runtime.zero.config", "ZeroStageEnum")) {
    const std::vector<PickleId>& arguments = graph_.node(graph_.node(value).call->arguments).items;
    if (arguments.size() == 1) value = arguments[0];
  }
  if (value == kNoValue || (graph_.node(value).kind != PickleKind::kInteger &&
                            graph_.node(value).kind != PickleKind::kBool)) {
    return Wrong(id, what, "an integer");
  }
  return graph_.node(value).integer;
}

absl::StatusOr<std::vector<int64_t>> PickleView::Integers(PickleId id,
                                                          absl::string_view what) const {
  ZC_ASSIGN_OR_RETURN(const std::vector<PickleId> items, List(id, what));
  std::vector<int64_t> numbers;
  for (const PickleId item : items) {
    ZC_ASSIGN_OR_RETURN(const int64_t number,
                        Integer(item, absl::StrCat(what, "[", numbers.size(), "]")));
    numbers.push_back(number);
  }
  return numbers;
}

absl::StatusOr<std::string> PickleView::Text(PickleId id, absl::string_view what) const {
  if (id == kNoValue || graph_.node(id).kind != PickleKind::kText) {
    return Wrong(id, what, "a text");
  }
  return std::string(graph_.node(id).text);
}

absl::StatusOr<std::vector<int64_t>> PickleView::Shape(PickleId id, absl::string_view what) const {
  PickleId sizes = id;
  if (graph_.IsCallOf(id, "torch", "Size")) {
    const std::vector<PickleId>& arguments = graph_.node(graph_.node(id).call->arguments).items;
    if (arguments.size() != 1) return Wrong(id, what, "torch.Size of one tuple");
    sizes = arguments[0];
  }
  if (sizes != kNoValue && graph_.node(sizes).items.size() > kMaxRank) {
    return Wrong(sizes, what, "a shape of up to 64 numbers");
  }
  ZC_ASSIGN_OR_RETURN(std::vector<int64_t> shape, Integers(sizes, what));
  int64_t count = 1;
  bool overflows = false;
  for (const int64_t extent : shape) {
    if (extent < 0) return Wrong(sizes, what, "a shape without negative numbers");
    overflows = overflows || __builtin_mul_overflow(count, extent, &count);
  }
  if (overflows) return Wrong(sizes, what, "a shape of fewer than 2^63 elements");
  return shape;
}

}  // namespace zerocast
