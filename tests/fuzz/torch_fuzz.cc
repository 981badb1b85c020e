// Bytes as a file of torch.save: every storage and tensor that is found lies in the file; and as
// the weights of a checkpoint, of which those of one layer lie apart.
#include <cstddef>
#include <cstdint>

#include "client/formats/pickle_writer.h"
#include "client/formats/torch_file.h"
#include "client/formats/torch_weights.h"
#include "tests/client/formats/memory_file.h"
#include "tests/fuzz/check.h"

namespace {

using namespace zerocast;

void CheckWeights(const InputFile& input) {
  const auto weights = ReadTorchWeights(input);
  if (!weights.ok()) return;
  FuzzCheck(weights->num_layers >= 1 && weights->num_layers <= kMaxTorchLayers, "few layers");
  int32_t layer = 0;
  int64_t end = 0;
  for (const TorchWeight& weight : weights->tensors) {
    FuzzCheck(weight.layer >= layer && weight.layer < weights->num_layers, "layers in order");
    if (weight.layer > layer) end = 0;
    layer = weight.layer;
    FuzzCheck(weight.file_begin >= 0 && weight.file_end >= weight.file_begin &&
                  weight.file_end <= input.num_bytes(),
              "weights lie in the file");
    int64_t reach = 0;
    FuzzCheck(CheckedReach(weight.tensor.shape, weight.tensor.strides, &reach) &&
                  weight.file_end - weight.file_begin == reach * SizeOf(weight.tensor.dtype),
              "a weight has the bytes that its shape and strides reach over");
    FuzzCheck(reach == 0 || weight.file_begin >= end, "weights of a layer lie apart");
    if (reach > 0) end = weight.file_end;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const MemoryFile memory(absl::string_view(reinterpret_cast<const char*>(data), size));
  const auto input = InputFile::Open(memory.path());
  FuzzCheck(input.ok(), "the file opens");
  const auto file = TorchFile::Read(*input);
  if (!file.ok()) return 0;
  CheckWeights(*input);
  for (size_t k = 0; k < file->storages().size(); ++k) {
    const TorchStorage& storage = file->storages()[k];
    FuzzCheck(storage.file_begin >= 0 && storage.num_bytes >= 0 &&
                  storage.num_bytes <= input->num_bytes() - storage.file_begin,
              "storages lie in the file");
    (void)file->CheckStorage(*input, static_cast<int32_t>(k));
  }
  for (PickleId id = 0; id < file->graph().num_nodes(); ++id) {
    const auto tensor = file->Tensor(id, "w");
    if (!tensor.ok()) continue;
    FuzzCheck(file->IsTensor(id), "a tensor is one");
    const TorchStorage& storage = file->storages()[static_cast<size_t>(tensor->storage)];
    FuzzCheck(
        tensor->extent_bytes >= 0 && tensor->num_elements >= 0 &&
            tensor->file_begin >= storage.file_begin &&
            tensor->file_begin + tensor->extent_bytes <= storage.file_begin + storage.num_bytes,
        "tensors lie in their storages");
    FuzzCheck(!tensor->is_contiguous ||
                  tensor->extent_bytes == tensor->num_elements * SizeOf(tensor->dtype),
              "a contiguous tensor has no gaps");
  }
  (void)WritePickle(file->graph(), file->root(), 16 << 20);
  return 0;
}
