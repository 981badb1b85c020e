// ReadModelSize of estimate.h.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/config/estimate.h"
#include "server/config/json_reader.h"
#include "server/config/python_format.h"

namespace zerocast {
namespace {

constexpr char kField[] = "model_spec";
// What is wrong with a spec is often wrong with all of its weights.
constexpr size_t kMaxViolations = 20;

// What a name's layer is called: up to and including its first number, or else its module.
absl::string_view LayerOf(absl::string_view name) {
  size_t begin = 0;
  while (begin < name.size()) {
    const size_t dot = std::min(name.find('.', begin), name.size());
    const absl::string_view part = name.substr(begin, dot - begin);
    if (!part.empty() && std::all_of(part.begin(), part.end(), absl::ascii_isdigit)) {
      return name.substr(0, dot);
    }
    begin = dot + 1;
  }
  const size_t last = name.rfind('.');
  return last == absl::string_view::npos ? name : name.substr(0, last);
}

class SpecReader {
 public:
  explicit SpecReader(const ConfigValue& spec) : spec_(spec) {}

  absl::StatusOr<ModelSize> Read() {
    if (spec_.object() == nullptr) {
      return InvalidFields(
          {{kField, absl::StrCat("must be an object, was of type ", PythonTypeName(spec_))}});
    }
    ReadTied();
    ReadWeights("params");
    if (violations_.empty() && size_.parameters.empty()) {
      Violate("params", "names no parameter");
    }
    ReadWeights("buffers");
    ZC_RETURN_IF_ERROR(InvalidFields(violations_));
    for (const auto& [layer, num] : layers_) {
      size_.largest_layer = std::max(size_.largest_layer, num);
    }
    return std::move(size_);
  }

 private:
  void Violate(absl::string_view path, std::string what) {
    if (violations_.size() < kMaxViolations) {
      violations_.push_back({absl::StrCat(kField, ".", path), std::move(what)});
    }
  }

  void ReadTied() {
    const ConfigValue* tied = spec_.Find("tied");
    if (tied == nullptr || tied->object() == nullptr) return;
    for (const ConfigMember& member : *tied->object()) {
      if (member.value.text() != nullptr && *member.value.text() != member.key) {
        tied_.emplace(member.key, *member.value.text());
      }
    }
  }

  // A list of {"name", "shape"}, or an object of shapes or {"shape"} by name.
  void ReadWeights(absl::string_view section) {
    const ConfigValue* weights = spec_.Find(section);
    if (weights == nullptr) {
      if (section == "params") Violate(section, "must be set");
      return;
    }
    if (const ConfigValue::Object* members = weights->object()) {
      for (const ConfigMember& member : *members) {
        const ConfigValue* shape = &member.value;
        if (shape->object() != nullptr) shape = shape->Find("shape");
        Add(section, member.key, absl::StrCat(section, ".", member.key), shape);
      }
    } else if (const ConfigValue::Array* array = weights->array()) {
      for (size_t i = 0; i < array->size(); ++i) {
        const ConfigValue* name = (*array)[i].Find("name");
        const std::string path = absl::StrCat(section, "[", i, "]");
        if (name == nullptr || name->text() == nullptr) {
          Violate(path, "must be an object with a name");
        } else {
          Add(section, *name->text(), path, (*array)[i].Find("shape"));
        }
      }
    } else {
      Violate(section,
              absl::StrCat("must be a list or an object, was of type ", PythonTypeName(*weights)));
    }
  }

  void Add(absl::string_view section, const std::string& name, const std::string& path,
           const ConfigValue* shape) {
    int64_t numel = 0;
    if (!Numel(path, shape, &numel)) return;
    int64_t* sum = section == "params" ? &size_.num_parameters : &size_.num_buffers;
    // Of tied names the one that the others point to counts, or the first that comes.
    const auto tied = tied_.find(name);
    if (!seen_.insert(tied == tied_.end() ? name : tied->second).second) return;
    if (__builtin_add_overflow(*sum, numel, sum)) {
      *sum = 0;
      Violate(path, "takes the sum of all elements beyond 64 bits");
      return;
    }
    if (section != "params") return;
    size_.parameters.push_back(numel);
    size_.largest_parameter = std::max(size_.largest_parameter, numel);
    layers_[std::string(LayerOf(name))] += numel;
    if (shape->array()->empty()) size_.scalar_parameters.push_back(name);
  }

  bool Numel(const std::string& path, const ConfigValue* shape, int64_t* numel) {
    if (shape == nullptr || shape->array() == nullptr) {
      Violate(path, "must have a shape, a list of integers");
      return false;
    }
    *numel = 1;
    for (const ConfigValue& extent : *shape->array()) {
      int64_t value = 0;
      if (extent.integer() == nullptr || !extent.integer()->ToInt64(&value) || value < 0) {
        Violate(path, absl::StrCat("must have a shape of integers of at least 0, was ",
                                   WriteJson(*shape)));
        return false;
      }
      if (__builtin_mul_overflow(*numel, value, numel)) {
        Violate(path, "has more elements than 64 bits count");
        return false;
      }
    }
    return true;
  }

  const ConfigValue& spec_;
  ModelSize size_;
  absl::flat_hash_map<std::string, std::string> tied_;
  absl::flat_hash_set<std::string> seen_;
  absl::flat_hash_map<std::string, int64_t> layers_;
  std::vector<FieldViolation> violations_;
};

}  // namespace

absl::StatusOr<ModelSize> ReadModelSize(const ConfigValue& model_spec) {
  return SpecReader(model_spec).Read();
}

absl::StatusOr<ModelSize> ReadModelSize(absl::string_view json) {
  JsonLimits limits;
  limits.max_bytes = size_t{64} << 20;  // 70,000 parameters take about 8 MiB
  ZC_ASSIGN_OR_RETURN(const JsonDocument document, ReadJson(json, kField, limits));
  return ReadModelSize(document.value);
}

}  // namespace zerocast
