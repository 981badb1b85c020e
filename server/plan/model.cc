#include "server/plan/model.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/plan/shape.h"

namespace zerocast {
namespace {

class ModelMaker {
 public:
  explicit ModelMaker(const ModelSpec& spec) : spec_(spec) {}

  absl::StatusOr<Model> Run() {
    List(spec_.params, /*is_buffer=*/false, "params");
    List(spec_.buffers, /*is_buffer=*/true, "buffers");
    for (const auto& [alias, holder] : spec_.tied) FindHolder(alias);
    ZC_RETURN_IF_ERROR(WithReason(InvalidFields(violations_), "INVALID_FIELDS"));
    for (const Listed& listed : listed_) {
      if (holder_of_.contains(listed.tensor->name)) continue;
      index_.emplace(listed.tensor->name, static_cast<int32_t>(model_.weights.size()));
      model_.weights.push_back({listed.tensor, listed.is_buffer, {}});
    }
    for (const Listed& listed : listed_) AddName(listed.tensor->name, *listed.tensor);
    for (const auto& [alias, holder] : spec_.tied) {
      if (place_.contains(alias)) continue;
      SpecTensor tensor = *listed_[place_.at(holder_of_.at(alias))].tensor;
      tensor.name = alias;
      AddName(alias, std::move(tensor));
    }
    return std::move(model_);
  }

 private:
  struct Listed {
    const SpecTensor* tensor;
    bool is_buffer;
  };

  void Violate(absl::string_view field, std::string description) {
    violations_.push_back({absl::StrCat("model_spec.", field), std::move(description)});
  }

  void List(const std::vector<SpecTensor>& tensors, bool is_buffer, absl::string_view field) {
    for (size_t i = 0; i < tensors.size(); ++i) {
      const SpecTensor& tensor = tensors[i];
      if (!place_.emplace(tensor.name, listed_.size()).second) {
        Violate(absl::StrCat(field, "[", i, "].name"),
                absl::StrCat("'", tensor.name, "' is listed twice"));
        continue;
      }
      int64_t num_bytes = 0;
      if (!CheckedBytes(tensor.shape, tensor.dtype, &num_bytes)) {
        Violate(absl::StrCat(field, "[", i, "]"),
                absl::StrCat("'", tensor.name, "' of shape ", ShapeAsText(tensor.shape),
                             " and dtype ", DTypeName(tensor.dtype),
                             ": needs sizes >= 0 and fewer than ", kTooManyBytes, " bytes"));
      }
      listed_.push_back({&tensor, is_buffer});
    }
  }

  // Follows chains of ties to the name that holds the weight.
  void FindHolder(const std::string& alias) {
    const std::string field = absl::StrCat("tied.", alias);
    const std::string* holder = &alias;
    for (size_t steps = 0;; ++steps) {
      const auto next = spec_.tied.find(*holder);
      if (next == spec_.tied.end()) break;
      holder = &next->second;
      if (steps > spec_.tied.size()) return Violate(field, "ties lead round in a circle");
    }
    const auto place = place_.find(*holder);
    if (place == place_.end()) {
      return Violate(field, absl::StrCat("'", *holder, "' is no parameter or buffer of the model"));
    }
    holder_of_.emplace(alias, *holder);
    const auto own = place_.find(alias);
    if (own == place_.end()) return;
    const Listed& a = listed_[own->second];
    const Listed& b = listed_[place->second];
    if (a.tensor->shape != b.tensor->shape) {
      Violate(field, absl::StrCat("has the shape ", ShapeAsText(a.tensor->shape), ", but '",
                                  *holder, "' has ", ShapeAsText(b.tensor->shape)));
    }
    if (a.is_buffer != b.is_buffer) {
      Violate(field,
              absl::StrCat("a parameter cannot share its weight with a buffer ('", *holder, "')"));
    }
  }

  void AddName(const std::string& name, SpecTensor tensor) {
    const auto alias = holder_of_.find(name);
    const int32_t weight = index_.at(alias == holder_of_.end() ? name : alias->second);
    if (alias != holder_of_.end()) model_.weights[weight].aliases.push_back(name);
    model_.names.push_back(std::move(tensor));
    model_.weight_of_name.push_back(weight);
  }

  const ModelSpec& spec_;
  std::vector<FieldViolation> violations_;
  std::vector<Listed> listed_;
  absl::flat_hash_map<absl::string_view, size_t> place_;           // name -> listed_
  absl::flat_hash_map<absl::string_view, std::string> holder_of_;  // alias -> holder
  absl::flat_hash_map<absl::string_view, int32_t> index_;          // holder -> model_.weights
  Model model_;
};

}  // namespace

absl::StatusOr<Model> MakeModel(const ModelSpec& spec) { return ModelMaker(spec).Run(); }

}  // namespace zerocast
