#include "client/cli/model_listing.h"

#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/status_macros.h"
#include "nlohmann/json.hpp"
#include "server/conversion/json_fields.h"

namespace zerocast {
namespace {

using nlohmann::json;

absl::StatusOr<SourceTensor> TensorFromJson(const json& value, const std::string& path) {
  if (!value.is_array() || value.size() != 3 || !value[0].is_string() || !value[1].is_array() ||
      !value[2].is_string()) {
    return JsonError(path, "must be [name, shape, dtype]");
  }
  SourceTensor tensor;
  tensor.name = value[0].get<std::string>();
  tensor.dtype = DTypeFromName(value[2].get<std::string>().c_str());
  if (tensor.name.empty()) return JsonError(path, "needs a name");
  if (tensor.dtype == DType::kInvalid) return JsonError(path, "has a dtype that torch has not");
  for (const json& size : value[1]) {
    if (!size.is_number_integer() || size.get<int64_t>() < 0) {
      return JsonError(path, "must have a shape of sizes >= 0");
    }
    tensor.shape.push_back(size.get<int64_t>());
  }
  return tensor;
}

// Numbers the files, gives them names and sizes, and each tensor its place.
absl::Status PlaceInFiles(std::vector<SourceTensor> tensors, Manifest* manifest) {
  int64_t end = 0;
  for (SourceTensor& tensor : tensors) {
    int64_t num_bytes = SizeOf(tensor.dtype);
    bool fits = true;
    for (const int64_t size : tensor.shape) {
      fits = fits && !__builtin_mul_overflow(num_bytes, size, &num_bytes);
    }
    if (!fits || num_bytes > (int64_t{1} << 60)) {
      return JsonError("checkpoint", absl::StrCat("'", tensor.name, "' has 2^60 bytes or more"));
    }
    if (manifest->files.empty() || (end > 0 && num_bytes > kListingFileBytes - end)) {
      manifest->files.emplace_back();
      end = 0;
    }
    ManifestTensor placed;
    placed.tensor = std::move(tensor);
    placed.file = static_cast<int32_t>(manifest->files.size() - 1);
    placed.file_begin = end;
    placed.file_end = end += num_bytes;
    manifest->files.back().num_bytes = end;
    manifest->tensors.push_back(std::move(placed));
  }
  for (size_t i = 0; i < manifest->files.size(); ++i) {
    manifest->files[i].path =
        absl::StrFormat("model-%05d-of-%05d.safetensors", i + 1, manifest->files.size());
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelListing> ParseModelListing(absl::string_view text) {
  json value = json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!value.is_object()) return JsonError("listing", "is not a JSON object");
  const auto checkpoint = value.find("checkpoint");
  if (checkpoint == value.end() || !checkpoint->is_array()) {
    return JsonError("checkpoint", "must be a list of [name, shape, dtype]");
  }
  std::vector<SourceTensor> tensors;
  std::set<std::string> names;
  tensors.reserve(checkpoint->size());
  for (size_t i = 0; i < checkpoint->size(); ++i) {
    const std::string path = absl::StrCat("checkpoint[", i, "]");
    ZC_ASSIGN_OR_RETURN(SourceTensor tensor, TensorFromJson((*checkpoint)[i], path));
    if (!names.insert(tensor.name).second) return JsonError(path, "is listed twice");
    tensors.push_back(std::move(tensor));
  }
  ModelListing listing;
  ZC_RETURN_IF_ERROR(PlaceInFiles(std::move(tensors), &listing.manifest));
  const auto config = value.find("config");
  using Handler = json::error_handler_t;
  if (config != value.end() && !config->is_null()) {
    listing.manifest.config_json = config->dump(-1, ' ', false, Handler::replace);
  }
  if (value.contains("params")) {
    value.erase("checkpoint");
    value.erase("config");
    listing.model_spec_json = value.dump(-1, ' ', false, Handler::replace);
  }
  return listing;
}

}  // namespace zerocast
