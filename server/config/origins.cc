#include "server/config/origins.h"

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "kernels/base/status_macros.h"
#include "server/config/json_reader.h"
#include "server/config/lint_table.h"

namespace zerocast {
namespace {

class Lister {
 public:
  Lister(const ConfigValue& root, const std::vector<ValueOrigin>& changed) : root_(root) {
    for (const ValueOrigin& origin : changed) {
      const ConfigValue* value = FindPath(root, origin.path);
      if (value == nullptr) {
        removed_.push_back(&origin);
      } else {
        changed_.emplace(value, &origin);
      }
    }
  }

  std::vector<ValueOrigin> Run() {
    out_.reserve(64);  // a config has about as many values
    if (root_.object() != nullptr) {
      for (const ConfigMember& member : *root_.object()) {
        const size_t first = out_.size(), bytes = bytes_;
        std::string path = member.key;
        if (List(member.value, &path)) continue;
        out_.resize(first);
        bytes_ = bytes + member.key.size();
        out_.push_back(
            {member.key, OriginKind::kGiven, "given, but for what is listed on its own"});
        ListChanged(member.value);
      }
    }
    for (const ValueOrigin* origin : removed_) out_.push_back(*origin);
    return std::move(out_);
  }

 private:
  // False where the answer would grow too large.
  bool List(const ConfigValue& value, std::string* path) {
    const ConfigValue::Object* members = value.object();
    if (members == nullptr || members->empty()) {
      bytes_ += path->size();
      if (bytes_ > kMaxOriginBytes) return false;
      const auto found = changed_.find(&value);
      if (found == changed_.end()) {
        out_.push_back({*path, OriginKind::kGiven, "given"});
      } else {
        out_.push_back(*found->second);
      }
      return true;
    }
    for (const ConfigMember& member : *members) {
      const size_t length = path->size();
      path->append(1, '.').append(member.key);
      const bool listed = List(member.value, path);
      path->resize(length);
      if (!listed) return false;
    }
    return true;
  }

  void ListChanged(const ConfigValue& value) {
    const auto found = changed_.find(&value);
    if (found != changed_.end()) out_.push_back(*found->second);
    if (value.object() == nullptr) return;
    for (const ConfigMember& member : *value.object()) ListChanged(member.value);
  }

  const ConfigValue& root_;
  absl::flat_hash_map<const ConfigValue*, const ValueOrigin*> changed_;
  std::vector<const ValueOrigin*> removed_;
  std::vector<ValueOrigin> out_;
  size_t bytes_ = 0;
};

}  // namespace

std::vector<ValueOrigin> AllOrigins(const ConfigValue& root,
                                    const std::vector<ValueOrigin>& changed) {
  return Lister(root, changed).Run();
}

absl::StatusOr<std::vector<ValueOrigin>> DefaultOrigins(const ConfigValue& root, int version) {
  ZC_ASSIGN_OR_RETURN(const LintTable* table, BuiltInLintTable());
  std::vector<ValueOrigin> out;
  const auto list = [&](absl::string_view path, const KeySection& section) {
    const ConfigValue* node = path.empty() ? &root : FindPath(root, path);
    if (node == nullptr || node->object() == nullptr) return;
    for (const auto& [key, rules] : section.keys) {
      const KeyRule* rule = section.FindKey(key, version);
      if (rule == nullptr || !rule->fallback.has_value() || rule->deprecated) continue;
      if (node->Find(key) != nullptr) continue;
      if (!rule->name.empty() && node->Find(rule->name) != nullptr) continue;
      out.push_back({absl::StrCat(path, path.empty() ? "" : ".", key),
                     OriginKind::kDeepSpeedDefault,
                     absl::StrCat("default of DeepSpeed ", table->versions[version], ": ",
                                  WriteJson(*rule->fallback))});
    }
  };
  for (const auto& [path, section] : table->sections) list(path, section);
  const auto list_params = [&](absl::string_view path, const LintTable::Sections& by_type,
                               bool any_case) {
    const ConfigValue* type = FindPath(root, absl::StrCat(path, ".type"));
    if (type == nullptr || type->text() == nullptr) return;
    const auto found =
        by_type.find(any_case ? absl::AsciiStrToLower(*type->text()) : *type->text());
    if (found != by_type.end()) list(absl::StrCat(path, ".params"), found->second);
  };
  list_params("optimizer", table->optimizers, true);
  list_params("scheduler", table->schedulers, false);
  return out;
}

}  // namespace zerocast
