#include "client/formats/safetensors_writer.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/formats/file.h"
#include "kernels/base/status_macros.h"

namespace zerocast {

std::string SafetensorsHead(const std::vector<TensorToPlace>& tensors,
                            const std::map<std::string, std::string>& metadata,
                            std::vector<int64_t>* begins) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  begins->clear();
  int64_t offset = 0;
  for (const TensorToPlace& tensor : tensors) {
    int64_t num_bytes = SizeOf(tensor.dtype);
    for (const int64_t extent : tensor.shape) num_bytes *= extent;
    // Not header[name]: that looks through all that is there.
    header.get_ref<nlohmann::ordered_json::object_t&>().push_back(
        {tensor.name,
         {{"dtype", SafetensorsName(tensor.dtype)},
          {"shape", tensor.shape},
          {"data_offsets", {offset, offset + num_bytes}}}});
    begins->push_back(offset);
    offset += num_bytes;
  }
  std::string json = header.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  json.resize((json.size() + 7) / 8 * 8, ' ');
  std::string head;
  for (int k = 0; k < 8; ++k) {
    head.push_back(static_cast<char>(static_cast<uint64_t>(json.size()) >> (8 * k)));
  }
  head += json;
  for (int64_t& begin : *begins) begin += static_cast<int64_t>(head.size());
  return head;
}

absl::Status WriteSafetensors(const std::string& path, const std::vector<TensorToWrite>& tensors,
                              const std::map<std::string, std::string>& metadata) {
  std::vector<TensorToPlace> places;
  for (const TensorToWrite& tensor : tensors) {
    int64_t num_bytes = SizeOf(tensor.dtype);
    for (const int64_t extent : tensor.shape) num_bytes *= extent;
    if (num_bytes != static_cast<int64_t>(tensor.data.size())) {
      return absl::InvalidArgumentError(absl::StrCat("write ", path, ": tensor ", tensor.name,
                                                     " has ", tensor.data.size(),
                                                     " bytes, its shape needs ", num_bytes));
    }
    places.push_back({tensor.name, tensor.dtype, tensor.shape});
  }
  std::vector<int64_t> begins;
  const std::string head = SafetensorsHead(places, metadata, &begins);
  ZC_ASSIGN_OR_RETURN(OutputFile file, OutputFile::Create(path));
  ZC_RETURN_IF_ERROR(file.Append(head));
  for (const TensorToWrite& tensor : tensors) ZC_RETURN_IF_ERROR(file.Append(tensor.data));
  return file.Commit();
}

}  // namespace zerocast
