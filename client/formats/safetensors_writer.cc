#include "client/formats/safetensors_writer.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/formats/file.h"
#include "kernels/base/status_macros.h"

namespace zerocast {

absl::Status WriteSafetensors(const std::string& path, const std::vector<TensorToWrite>& tensors,
                              const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  int64_t offset = 0;
  for (const TensorToWrite& tensor : tensors) {
    int64_t num_bytes = SizeOf(tensor.dtype);
    for (const int64_t extent : tensor.shape) num_bytes *= extent;
    if (num_bytes != static_cast<int64_t>(tensor.data.size())) {
      return absl::InvalidArgumentError(absl::StrCat("write ", path, ": tensor ", tensor.name,
                                                     " has ", tensor.data.size(),
                                                     " bytes, its shape needs ", num_bytes));
    }
    header[tensor.name] = {{"dtype", SafetensorsName(tensor.dtype)},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, offset + num_bytes}}};
    offset += num_bytes;
  }
  std::string json = header.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  json.resize((json.size() + 7) / 8 * 8, ' ');
  std::string prefix;
  for (int k = 0; k < 8; ++k) {
    prefix.push_back(static_cast<char>(static_cast<uint64_t>(json.size()) >> (8 * k)));
  }
  prefix += json;

  ZC_ASSIGN_OR_RETURN(OutputFile file, OutputFile::Create(path));
  ZC_RETURN_IF_ERROR(file.Append(prefix));
  for (const TensorToWrite& tensor : tensors) ZC_RETURN_IF_ERROR(file.Append(tensor.data));
  return file.Commit();
}

}  // namespace zerocast
