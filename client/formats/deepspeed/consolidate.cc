#include "client/formats/deepspeed/consolidate.h"

#include <unordered_map>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/copy/algebra.h"
#include "kernels/copy/copy.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

// In which a parameter is trained, where its own entry does not say.
DType TrainingDtype(const ZeroCheckpoint& checkpoint, const ZeroParameter& parameter) {
  if (parameter.dtype != DType::kInvalid) return parameter.dtype;
  if (checkpoint.settings.bf16) return DType::kBFloat16;
  return checkpoint.settings.fp16 ? DType::kFloat16 : DType::kFloat32;
}

DType ParameterDtype(const ZeroCheckpoint& checkpoint, const ZeroParameter& parameter,
                     ModelDtype dtype) {
  const DType stored = TrainingDtype(checkpoint, parameter);
  if (!IsFloating(stored)) return stored;
  switch (dtype) {
    case ModelDtype::kDefault:
      return parameter.is_trained ? DType::kFloat32 : stored;
    case ModelDtype::kFloat32:
      return DType::kFloat32;
    case ModelDtype::kBFloat16:
      return DType::kBFloat16;
    case ModelDtype::kFloat16:
      return DType::kFloat16;
    case ModelDtype::kStored:
      break;
  }
  return stored;
}

DType BufferDtype(DType stored, ModelDtype dtype) {
  const bool is_float32 = dtype == ModelDtype::kDefault || dtype == ModelDtype::kFloat32;
  return is_float32 && IsFloating(stored) ? DType::kFloat32 : stored;
}

class Consolidator {
 public:
  Consolidator(const ZeroCheckpoint& checkpoint, ModelDtype dtype, bool one_name)
      : checkpoint_(checkpoint), dtype_(dtype), one_name_(one_name) {}

  absl::StatusOr<Consolidation> Run() {
    std::unordered_map<std::string, int32_t> parameters, buffers;
    for (const ZeroParameter& parameter : checkpoint_.parameters) {
      const auto index = static_cast<int32_t>(&parameter - checkpoint_.parameters.data());
      parameters.emplace(parameter.name, index);
      for (const std::string& alias : parameter.aliases) parameters.emplace(alias, index);
    }
    for (const ZeroBuffer& buffer : checkpoint_.buffers) {
      buffers.emplace(buffer.name, static_cast<int32_t>(&buffer - checkpoint_.buffers.data()));
    }
    for (const std::string& name : checkpoint_.module_names) {
      if (const auto found = parameters.find(name); found != parameters.end()) {
        ZC_RETURN_IF_ERROR(AddParameter(name, found->second));
      } else if (const auto buffer = buffers.find(name); buffer != buffers.end()) {
        ZC_RETURN_IF_ERROR(AddBuffer(checkpoint_.buffers[static_cast<size_t>(buffer->second)]));
      }
    }
    if (result_.model.tensors.empty()) {
      return WithReason(absl::FailedPreconditionError(absl::StrCat(
                            "consolidate ", checkpoint_.folder, ", tag ", checkpoint_.tag,
                            ": it holds no weight at all; take another")),
                        "WEIGHTS_INCOMPLETE");
    }
    return std::move(result_);
  }

 private:
  absl::Status AddParameter(const std::string& name, int32_t index) {
    const ZeroParameter& parameter = checkpoint_.parameters[static_cast<size_t>(index)];
    const bool is_alias = name != parameter.name;
    if (is_alias) result_.tied.emplace_back(name, parameter.name);
    if (parameter.is_absent()) {
      result_.absent.push_back(name);
      return absl::OkStatus();
    }
    if (is_alias && one_name_) return absl::OkStatus();
    const auto [place, is_new] =
        source_of_.emplace(index, static_cast<int32_t>(result_.model.sources.size()));
    if (is_new) {
      ModelSource source{
          parameter.name, parameter.shape, ParameterDtype(checkpoint_, parameter, dtype_), {}};
      source.pieces =
          !parameter.slices.empty() ? StatePieces(checkpoint_, parameter, 0) : parameter.stored;
      result_.model.sources.push_back(std::move(source));
    }
    return AddTensor(name, place->second);
  }

  absl::Status AddBuffer(const ZeroBuffer& buffer) {
    result_.model.sources.push_back(
        {buffer.name, buffer.shape, BufferDtype(buffer.value.dtype, dtype_), {{buffer.value, 0}}});
    return AddTensor(buffer.name, static_cast<int32_t>(result_.model.sources.size()) - 1);
  }

  absl::Status AddTensor(const std::string& name, int32_t index) {
    const ModelSource& source = result_.model.sources[static_cast<size_t>(index)];
    int64_t num_elements = 1;
    for (const int64_t extent : source.shape) num_elements *= extent;
    ModelTensor tensor{name, source.shape, source.dtype, {}};
    if (num_elements > 0) {
      const DType from = source.pieces.front().from.dtype;
      if (!CanCast(from, source.dtype)) {
        return WithReason(absl::UnimplementedError(absl::StrCat(
                              "consolidate ", checkpoint_.folder, ", tag ", checkpoint_.tag, ": ",
                              name, " is stored as ", DTypeName(from), ", which cannot become ",
                              DTypeName(source.dtype), "; give another --dtype")),
                          "UNSUPPORTED");
      }
      tensor.boxes.push_back(WholeBox(index, num_elements, 0));
    }
    result_.model.tensors.push_back(std::move(tensor));
    return absl::OkStatus();
  }

  const ZeroCheckpoint& checkpoint_;
  const ModelDtype dtype_;
  const bool one_name_;
  std::unordered_map<int32_t, int32_t> source_of_;  // by parameter
  Consolidation result_;
};

}  // namespace

absl::StatusOr<Consolidation> Consolidate(const ZeroCheckpoint& checkpoint, ModelDtype dtype,
                                          bool one_name) {
  return Consolidator(checkpoint, dtype, one_name).Run();
}

}  // namespace zerocast
