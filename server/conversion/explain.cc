#include "server/conversion/explain.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/conversion/lower.h"

namespace zerocast {
namespace {

// A name taken apart: texts[0] numbers[0] texts[1] ... numbers[n-1] texts[n].
struct Numbered {
  std::vector<std::string> texts = {""};
  std::vector<std::string> numbers;
};

Numbered TakeApart(absl::string_view name) {
  Numbered result;
  bool in_number = false;
  for (const char c : name) {
    const bool digit = absl::ascii_isdigit(c);
    if (digit && !in_number) result.numbers.emplace_back();
    if (!digit && in_number) result.texts.emplace_back();
    in_number = digit;
    (digit ? result.numbers.back() : result.texts.back()).push_back(c);
  }
  if (in_number) result.texts.emplace_back();
  return result;
}

std::string PutTogether(const Numbered& name) {
  std::string result = name.texts[0];
  for (size_t i = 0; i < name.numbers.size(); ++i) {
    absl::StrAppend(&result, name.numbers[i], name.texts[i + 1]);
  }
  return result;
}

// By value, where both are without leading zeros.
bool Less(const std::string& a, const std::string& b) {
  return a.size() != b.size() ? a.size() < b.size() : a < b;
}

// The lists as a table: what varies in the names is one number or several, in the same places of
// all names.
class Numbering {
 public:
  explicit Numbering(absl::Span<const CollectedTensors> lists) {
    for (const CollectedTensors& list : lists) {
      std::vector<Numbered> names;
      for (const SourceTensor* tensor : list.tensors) names.push_back(TakeApart(tensor->name));
      if (!names.empty()) lists_.push_back(std::move(names));
    }
    if (!IsTable()) lists_.clear();
    if (!lists_.empty()) FindVarying();
  }

  // Names that other lists make expect.
  std::vector<std::string> WithoutCounterpart() const {
    std::set<std::vector<std::string>> all;
    for (const auto& list : lists_) {
      for (const Numbered& name : list) all.insert(Key(name));
    }
    return Absent(all);
  }

  std::vector<std::string> Between() const {
    if (varying_.size() != 1) return {};
    std::set<uint64_t> numbers;
    for (const auto& list : lists_) {
      for (const Numbered& name : list) {
        const std::string& text = name.numbers[varying_[0]];
        uint64_t number;
        if ((text.size() > 1 && text[0] == '0') || !absl::SimpleAtoi(text, &number)) return {};
        numbers.insert(number);
      }
    }
    constexpr uint64_t kMostNumbers = 10000;  // farther apart they are not a numbering
    std::set<std::vector<std::string>> absent;
    if (numbers.empty() || *numbers.rbegin() - *numbers.begin() > kMostNumbers) return {};
    for (uint64_t number = *numbers.begin(); number < *numbers.rbegin(); ++number) {
      if (numbers.count(number) == 0) absent.insert({absl::StrCat(number)});
    }
    return Absent(absent);
  }

 private:
  bool IsTable() const {
    for (const auto& list : lists_) {
      for (const Numbered& name : list) {
        if (name.texts != list[0].texts) return false;
        if (name.numbers.size() != lists_[0][0].numbers.size()) return false;
      }
    }
    return !lists_.empty();
  }

  void FindVarying() {
    for (size_t place = 0; place < lists_[0][0].numbers.size(); ++place) {
      const bool varies = std::any_of(lists_.begin(), lists_.end(), [place](const auto& list) {
        return std::any_of(list.begin(), list.end(), [&](const Numbered& name) {
          return name.numbers[place] != list[0].numbers[place];
        });
      });
      if (varies) varying_.push_back(place);
    }
  }

  std::vector<std::string> Key(const Numbered& name) const {
    std::vector<std::string> key;
    for (const size_t place : varying_) key.push_back(name.numbers[place]);
    return key;
  }

  // The names with one of `keys` that a list does not have.
  std::vector<std::string> Absent(const std::set<std::vector<std::string>>& keys) const {
    std::vector<std::vector<std::string>> sorted(keys.begin(), keys.end());
    std::sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) {
      return std::lexicographical_compare(a.begin(), a.end(), b.begin(), b.end(), Less);
    });
    std::vector<std::set<std::vector<std::string>>> have(lists_.size());
    for (size_t i = 0; i < lists_.size(); ++i) {
      for (const Numbered& name : lists_[i]) have[i].insert(Key(name));
    }
    std::vector<std::string> names;
    for (const std::vector<std::string>& key : sorted) {
      for (size_t i = 0; i < lists_.size(); ++i) {
        if (have[i].count(key) > 0) continue;
        Numbered name = lists_[i][0];
        for (size_t k = 0; k < key.size(); ++k) name.numbers[varying_[k]] = key[k];
        names.push_back(PutTogether(name));
      }
    }
    return names;
  }

  std::vector<std::vector<Numbered>> lists_;  // none empty
  std::vector<size_t> varying_;               // places in Numbered::numbers
};

// Tensors of another shape than most of their list.
void AddShapes(const CollectedTensors& list,
               absl::FunctionRef<std::string(const SourceTensor&)> describe,
               std::vector<std::string>* out) {
  std::map<std::vector<int64_t>, int> counts;
  for (const SourceTensor* tensor : list.tensors) ++counts[tensor->shape];
  if (counts.size() < 2) return;
  const SourceTensor* usual = nullptr;
  for (const SourceTensor* tensor : list.tensors) {
    if (usual == nullptr || counts[tensor->shape] > counts[usual->shape]) usual = tensor;
  }
  for (const SourceTensor* tensor : list.tensors) {
    if (tensor->shape == usual->shape) continue;
    out->push_back(absl::StrCat(describe(*tensor), " is ", ShapeText(tensor->shape), ", ",
                                describe(*usual), " ", ShapeText(usual->shape)));
  }
}

}  // namespace

std::string Abridged(absl::Span<const std::string> texts, absl::string_view separator,
                     size_t most) {
  if (texts.size() <= most) return absl::StrJoin(texts, separator);
  return absl::StrCat(absl::StrJoin(texts.subspan(0, most), separator), " and ",
                      texts.size() - most, " more");
}

std::vector<std::string> MissingBetween(absl::Span<const CollectedTensors> lists) {
  return Numbering(lists).Between();
}

bool MayHaveExperts(const nlohmann::json& config, size_t count) {
  bool says = false, agrees = false;
  std::vector<const nlohmann::json*> objects = {&config};
  // Configurations of sub-models lie in fields of the whole's.
  for (size_t i = 0; i < objects.size(); ++i) {
    for (const auto& [name, value] : objects[i]->items()) {
      if (value.is_object()) objects.push_back(&value);
      if (!absl::StrContains(name, "experts")) continue;
      for (const auto& one : value.is_array() ? value : nlohmann::json::array({value})) {
        if (!one.is_number_unsigned()) continue;
        says = true;
        agrees |= one.get<uint64_t>() == count;
      }
    }
  }
  return agrees || !says;
}

std::string Oddities(absl::Span<const std::string> patterns,
                     absl::Span<const CollectedTensors> lists,
                     absl::FunctionRef<std::string(const SourceTensor&)> describe) {
  std::vector<std::string> odd, absent;
  for (const std::string& pattern : patterns) {
    const bool has = std::any_of(lists.begin(), lists.end(), [&](const CollectedTensors& list) {
      return list.pattern == pattern;
    });
    if (!has) odd.push_back(absl::StrCat("no tensor matches '", pattern, "'"));
  }
  const Numbering numbering(lists);
  for (const auto& names : {numbering.WithoutCounterpart(), numbering.Between()}) {
    for (const std::string& name : names) absent.push_back(absl::StrCat("'", name, "'"));
  }
  if (!absent.empty()) odd.push_back(absl::StrCat("there is no ", Abridged(absent, ", ")));
  for (const CollectedTensors& list : lists) AddShapes(list, describe, &odd);
  return Abridged(odd, "; ");
}

}  // namespace zerocast
