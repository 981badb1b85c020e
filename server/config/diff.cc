#include "server/config/diff.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "server/config/content_hash.h"
#include "server/config/json_reader.h"
#include "server/config/python_format.h"

namespace zerocast {
namespace {

DifferenceKind KindOf(const ConfigValue& before, const ConfigValue& after) {
  return PythonTypeName(before) == PythonTypeName(after) ? DifferenceKind::kChanged
                                                         : DifferenceKind::kTypeChanged;
}

// Objects with many members are looked up by hash: text in is bounded, but not small.
class Members {
 public:
  explicit Members(const ConfigValue::Object& members) {
    for (const ConfigMember& member : members) by_key_.emplace(member.key, &member.value);
  }
  const ConfigValue* Find(absl::string_view key) const {
    const auto found = by_key_.find(key);
    return found == by_key_.end() ? nullptr : found->second;
  }

 private:
  absl::flat_hash_map<absl::string_view, const ConfigValue*> by_key_;
};

class Differ {
 public:
  std::vector<ConfigDifference> Take() { return std::move(out_); }

  void CompareRoots(const ConfigValue& before, const ConfigValue& after) {
    const ConfigValue::Object* a = before.object();
    const ConfigValue::Object* b = after.object();
    if (a == nullptr || b == nullptr) {
      limit_ = SIZE_MAX;  // one value of each: no longer than the configs themselves
      if (CanonicalJson(before) != CanonicalJson(after)) Whole("", before, after);
      return;
    }
    const Members others(*b), ours(*a);
    for (const ConfigMember& member : *a) {
      const ConfigValue* other = others.Find(member.key);
      if (other == nullptr) {
        Removed(member.key, member.value);
        continue;
      }
      const size_t size = out_.size(), bytes = bytes_;
      std::string path = member.key;
      if (Compare(&path, member.value, *other)) continue;
      out_.resize(size);
      bytes_ = bytes;
      Whole(member.key, member.value, *other);
    }
    for (const ConfigMember& member : *b) {
      if (ours.Find(member.key) == nullptr) Added(member.key, member.value);
    }
  }

 private:
  // False where the answer grew too large.
  bool Compare(std::string* path, const ConfigValue& before, const ConfigValue& after) {
    if (bytes_ > limit_) return false;
    if (before.object() != nullptr && after.object() != nullptr) {
      return CompareObjects(path, *before.object(), *after.object());
    }
    const ConfigValue::Array* a = before.array();
    const ConfigValue::Array* b = after.array();
    if (a != nullptr && b != nullptr && std::max(a->size(), b->size()) <= kMaxComparedElements) {
      return CompareLists(path, *a, *b);
    }
    if (CanonicalJson(before) != CanonicalJson(after)) Whole(*path, before, after);
    return bytes_ <= limit_;
  }

  bool CompareObjects(std::string* path, const ConfigValue::Object& a,
                      const ConfigValue::Object& b) {
    const size_t length = path->size();
    const Members others(b), ours(a);
    bool fits = true;
    for (const ConfigMember& member : a) {
      absl::StrAppend(path, ".", member.key);
      const ConfigValue* other = others.Find(member.key);
      if (other == nullptr) {
        Removed(*path, member.value);
      } else {
        fits = Compare(path, member.value, *other);
      }
      path->resize(length);
      if (!fits || bytes_ > limit_) return false;
    }
    for (const ConfigMember& member : b) {
      if (ours.Find(member.key) != nullptr) continue;
      Added(absl::StrCat(*path, ".", member.key), member.value);
      if (bytes_ > limit_) return false;
    }
    return true;
  }

  bool CompareLists(std::string* path, const ConfigValue::Array& a, const ConfigValue::Array& b) {
    const size_t length = path->size();
    for (size_t i = 0; i < std::max(a.size(), b.size()); ++i) {
      absl::StrAppend(path, "[", i, "]");
      bool fits = true;
      if (i >= a.size()) {
        Added(*path, b[i]);
      } else if (i >= b.size()) {
        Removed(*path, a[i]);
      } else {
        fits = Compare(path, a[i], b[i]);
      }
      path->resize(length);
      if (!fits || bytes_ > limit_) return false;
    }
    return true;
  }

  void Add(ConfigDifference difference) {
    bytes_ += difference.path.size() + difference.before.size() + difference.after.size();
    out_.push_back(std::move(difference));
  }
  void Whole(absl::string_view path, const ConfigValue& before, const ConfigValue& after) {
    Add({std::string(path), KindOf(before, after), WriteJson(before), WriteJson(after)});
  }
  void Removed(absl::string_view path, const ConfigValue& value) {
    Add({std::string(path), DifferenceKind::kRemoved, WriteJson(value), ""});
  }
  void Added(absl::string_view path, const ConfigValue& value) {
    Add({std::string(path), DifferenceKind::kAdded, "", WriteJson(value)});
  }

  size_t limit_ = kMaxDiffBytes;
  size_t bytes_ = 0;
  std::vector<ConfigDifference> out_;
};

}  // namespace

std::vector<ConfigDifference> DiffConfigs(const ConfigValue& before, const ConfigValue& after) {
  Differ differ;
  differ.CompareRoots(before, after);
  return differ.Take();
}

}  // namespace zerocast
