#include <utility>

#include "absl/strings/str_cat.h"
#include "client/formats/pickle.h"
#include "server/base/utf8.h"

namespace zerocast {
namespace {

constexpr size_t kShownBytes = 80;  // of a name that a file chose

std::string Shown(absl::string_view name) {
  return absl::StrCat(EscapeControls(name.substr(0, kShownBytes)),
                      name.size() > kShownBytes ? "..." : "");
}

}  // namespace

PickleId PickleGraph::Add(PickleKind kind) {
  nodes_.emplace_back();
  nodes_.back().kind = kind;
  return static_cast<PickleId>(nodes_.size() - 1);
}

PickleId PickleGraph::AddBool(bool value) {
  const PickleId id = Add(PickleKind::kBool);
  node(id).integer = value ? 1 : 0;
  return id;
}

PickleId PickleGraph::AddInteger(int64_t value) {
  const PickleId id = Add(PickleKind::kInteger);
  node(id).integer = value;
  return id;
}

PickleId PickleGraph::AddFloat(double value) {
  const PickleId id = Add(PickleKind::kFloat);
  node(id).real = value;
  return id;
}

PickleId PickleGraph::AddText(absl::string_view text) {
  const PickleId id = Add(PickleKind::kText);
  node(id).text = Own(std::string(text));
  return id;
}

PickleId PickleGraph::AddGlobal(absl::string_view module, absl::string_view name) {
  const PickleId id = Add(PickleKind::kGlobal);
  node(id).text = Own(std::string(module));
  node(id).name = Own(std::string(name));
  return id;
}

PickleId PickleGraph::AddItems(PickleKind kind, std::vector<PickleId> items) {
  const PickleId id = Add(kind);
  node(id).items = std::move(items);
  return id;
}

PickleId PickleGraph::AddCall(PickleId function, std::vector<PickleId> arguments) {
  const PickleId tuple = AddItems(PickleKind::kTuple, std::move(arguments));
  const PickleId id = Add(PickleKind::kCall);
  node(id).call = std::make_unique<PickleCall>();
  node(id).call->function = function;
  node(id).call->arguments = tuple;
  return id;
}

absl::string_view PickleGraph::Own(std::string text) {
  return texts_.emplace_back(std::move(text));
}

bool PickleGraph::IsGlobal(PickleId id, absl::string_view module, absl::string_view name) const {
  return id != kNoValue && node(id).kind == PickleKind::kGlobal && node(id).text == module &&
         node(id).name == name;
}

bool PickleGraph::IsCallOf(PickleId id, absl::string_view module, absl::string_view name) const {
  return id != kNoValue && node(id).kind == PickleKind::kCall &&
         IsGlobal(node(id).call->function, module, name);
}

const std::vector<PickleId>* PickleGraph::DictItems(PickleId id) const {
  if (id == kNoValue) return nullptr;
  if (node(id).kind == PickleKind::kDict) return &node(id).items;
  // With arguments its items would be elsewhere; pickles of Python 3 have none.
  if (IsCallOf(id, "collections", "OrderedDict") && node(node(id).call->arguments).items.empty()) {
    return &node(id).call->dict_items;
  }
  return nullptr;
}

PickleId PickleGraph::Find(PickleId id, absl::string_view key) const {
  const std::vector<PickleId>* items = DictItems(id);
  if (items == nullptr) return kNoValue;
  for (size_t k = items->size(); k >= 2; k -= 2) {
    const PickleNode& found = node((*items)[k - 2]);
    if (found.kind == PickleKind::kText && found.text == key) return (*items)[k - 1];
  }
  return kNoValue;
}

std::vector<bool> PickleGraph::HeldBy(PickleId id) const {
  std::vector<bool> held(nodes_.size(), false);
  std::vector<PickleId> open;
  const auto hold = [&](PickleId other) {
    if (other < 0 || other >= num_nodes() || held[static_cast<size_t>(other)]) return;
    held[static_cast<size_t>(other)] = true;
    open.push_back(other);
  };
  hold(id);
  while (!open.empty()) {
    const PickleNode& value = node(open.back());
    open.pop_back();
    for (const PickleId item : value.items) hold(item);
    if (value.call == nullptr) continue;
    for (const PickleId part :
         {value.call->function, value.call->arguments, value.call->keywords}) {
      hold(part);
    }
    for (const auto* items :
         {&value.call->list_items, &value.call->dict_items, &value.call->states}) {
      for (const PickleId item : *items) hold(item);
    }
  }
  return held;
}

std::string PickleGraph::Describe(PickleId id) const {
  if (id == kNoValue) return "nothing";
  const PickleNode& value = node(id);
  switch (value.kind) {
    case PickleKind::kNone:
      return "None";
    case PickleKind::kBool:
      return value.integer != 0 ? "True" : "False";
    case PickleKind::kInteger:
      return absl::StrCat("the number ", value.integer);
    case PickleKind::kBigInteger:
      return absl::StrCat("a number of ", value.text.size(), " bytes");
    case PickleKind::kFloat:
      return absl::StrCat("the number ", value.real);
    case PickleKind::kText:
      return absl::StrCat("the text \"", Shown(value.text), "\"");
    case PickleKind::kBytes:
    case PickleKind::kByteArray:
      return absl::StrCat(value.text.size(), " bytes");
    case PickleKind::kList:
      return absl::StrCat("a list of ", value.items.size());
    case PickleKind::kTuple:
      return absl::StrCat("a tuple of ", value.items.size());
    case PickleKind::kDict:
      return absl::StrCat("a dict of ", value.items.size() / 2);
    case PickleKind::kSet:
    case PickleKind::kFrozenSet:
      return absl::StrCat("a set of ", value.items.size());
    case PickleKind::kGlobal:
      return absl::StrCat("the name ", Shown(value.text), ".", Shown(value.name));
    case PickleKind::kCall: {
      const PickleId function = value.call->function;
      if (function != kNoValue && node(function).kind == PickleKind::kGlobal) {
        return absl::StrCat("a call of ", Shown(node(function).text), ".",
                            Shown(node(function).name));
      }
      return "a call of what another call makes";
    }
    case PickleKind::kPersistent:
      return "a storage";
  }
  return "nothing";
}

}  // namespace zerocast
