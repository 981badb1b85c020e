#include "client/formats/deepspeed/pickle_view.h"

#include <unordered_map>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/base/utf8.h"

namespace zerocast {

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
  std::vector<std::pair<std::string, PickleId>> entries;
  std::unordered_map<std::string, size_t> places;
  for (size_t k = 0; k + 1 < items->size(); k += 2) {
    const PickleNode& key = graph_.node((*items)[k]);
    if (key.kind != PickleKind::kText) {
      return Wrong((*items)[k], absl::StrCat("a key of ", what), "a text");
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
  std::vector<std::pair<int64_t, PickleId>> entries;
  for (size_t k = 0; k + 1 < items->size(); k += 2) {
    ZC_ASSIGN_OR_RETURN(const int64_t key, Integer((*items)[k], absl::StrCat("a key of ", what)));
    entries.emplace_back(key, (*items)[k + 1]);
  }
  return entries;
}

absl::StatusOr<std::vector<PickleId>> PickleView::List(PickleId id, absl::string_view what) const {
  if (id == kNoValue ||
      (graph_.node(id).kind != PickleKind::kList && graph_.node(id).kind != PickleKind::kTuple)) {
    return Wrong(id, what, "a list");
  }
  return graph_.node(id).items;
}

absl::StatusOr<int64_t> PickleView::Integer(PickleId id, absl::string_view what) const {
  PickleId value = id;
  if (value != kNoValue && graph_.node(value).kind == PickleKind::kCall) {
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
