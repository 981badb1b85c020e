#include "client/formats/pickle_edit.h"

#include <memory>
#include <unordered_map>

namespace zerocast {
namespace {

// DictItems that may be changed; null for no dict.
std::vector<PickleId>* ItemsOf(PickleGraph* graph, PickleId dict) {
  if (graph->DictItems(dict) == nullptr) return nullptr;
  PickleNode& node = graph->node(dict);
  return node.call == nullptr ? &node.items : &node.call->dict_items;
}

bool IsKey(const PickleGraph& graph, PickleId id, absl::string_view key) {
  return graph.node(id).kind == PickleKind::kText && graph.node(id).text == key;
}

std::vector<PickleId> ItemsFor(PickleGraph* graph,
                               const std::vector<std::pair<std::string, PickleId>>& entries) {
  std::vector<PickleId> items;
  for (const auto& [key, value] : entries) {
    items.push_back(graph->AddText(key));
    items.push_back(value);
  }
  return items;
}

}  // namespace

PickleId ImportPickle(const PickleGraph& from, PickleId id, PickleGraph* to) {
  std::unordered_map<PickleId, PickleId> copies;
  std::vector<PickleId> open;
  const auto copy_of = [&](PickleId old) {
    if (old == kNoValue) return kNoValue;
    const auto [place, is_new] = copies.emplace(old, kNoValue);
    if (is_new) {
      place->second = to->Add(from.node(old).kind);
      open.push_back(old);
    }
    return place->second;
  };
  const auto copies_of = [&](const std::vector<PickleId>& ids) {
    std::vector<PickleId> result;
    result.reserve(ids.size());
    for (const PickleId each : ids) result.push_back(copy_of(each));
    return result;
  };
  const PickleId root = copy_of(id);
  while (!open.empty()) {
    const PickleId old = open.back();
    open.pop_back();
    const PickleNode& source = from.node(old);
    PickleNode copy;
    copy.kind = source.kind;
    copy.integer = source.integer;
    copy.real = source.real;
    if (!source.text.empty()) copy.text = to->Own(std::string(source.text));
    if (!source.name.empty()) copy.name = to->Own(std::string(source.name));
    copy.items = copies_of(source.items);
    if (source.call != nullptr) {
      copy.call = std::make_unique<PickleCall>();
      copy.call->function = copy_of(source.call->function);
      copy.call->arguments = copy_of(source.call->arguments);
      copy.call->keywords = copy_of(source.call->keywords);
      copy.call->is_new = source.call->is_new;
      copy.call->list_items = copies_of(source.call->list_items);
      copy.call->dict_items = copies_of(source.call->dict_items);
      copy.call->states = copies_of(source.call->states);
    }
    to->node(copies.at(old)) = std::move(copy);
  }
  return root;
}

void SetItem(PickleGraph* graph, PickleId dict, absl::string_view key, PickleId value) {
  InsertItem(graph, dict, key, value, "");
}

void InsertItem(PickleGraph* graph, PickleId dict, absl::string_view key, PickleId value,
                absl::string_view before) {
  if (ItemsOf(graph, dict) == nullptr) return;
  if (graph->Find(dict, key) != kNoValue) return ReplaceItem(graph, dict, key, value);
  const PickleId text = graph->AddText(key);  // before any reference into the nodes
  std::vector<PickleId>& items = *ItemsOf(graph, dict);
  auto place = items.begin();
  while (place != items.end() && (before.empty() || !IsKey(*graph, *place, before))) place += 2;
  items.insert(place, {text, value});
}

void RemoveItem(PickleGraph* graph, PickleId dict, absl::string_view key) {
  std::vector<PickleId>* items = ItemsOf(graph, dict);
  if (items == nullptr) return;
  for (size_t k = 0; k < items->size();) {
    if (!IsKey(*graph, (*items)[k], key)) {
      k += 2;
      continue;
    }
    const auto place = items->begin() + static_cast<std::ptrdiff_t>(k);
    items->erase(place, place + 2);
  }
}

void ReplaceItem(PickleGraph* graph, PickleId dict, absl::string_view key, PickleId value) {
  std::vector<PickleId>* items = ItemsOf(graph, dict);
  if (items == nullptr) return;
  for (size_t k = 0; k < items->size(); k += 2) {
    if (IsKey(*graph, (*items)[k], key)) (*items)[k + 1] = value;
  }
}

PickleId AddDict(PickleGraph* graph, const std::vector<std::pair<std::string, PickleId>>& entries) {
  std::vector<PickleId> items = ItemsFor(graph, entries);
  return graph->AddItems(PickleKind::kDict, std::move(items));
}

PickleId AddOrderedDict(PickleGraph* graph,
                        const std::vector<std::pair<std::string, PickleId>>& entries) {
  std::vector<PickleId> items = ItemsFor(graph, entries);
  const PickleId dict = graph->AddCall(graph->AddGlobal("collections", "OrderedDict"), {});
  graph->node(dict).call->dict_items = std::move(items);
  return dict;
}

PickleId AddIntegers(PickleGraph* graph, const std::vector<int64_t>& numbers) {
  std::vector<PickleId> items;
  for (const int64_t number : numbers) items.push_back(graph->AddInteger(number));
  return graph->AddItems(PickleKind::kList, std::move(items));
}

}  // namespace zerocast
