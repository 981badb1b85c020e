#ifndef ZEROCAST_SERVER_PLAN_ENGINE_CHECKPOINT_H_
#define ZEROCAST_SERVER_PLAN_ENGINE_CHECKPOINT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/copy/dtype.h"

namespace zerocast {

// Elements one behind the other in a tensor of the manifest.
struct TensorPiece {
  int32_t tensor = 0;  // index in Manifest::tensors
  int64_t tensor_offset = 0;
  int64_t num_elements = 0;  // 1 or more
};

// Elements one behind the other in each state of a flat tensor.
struct FlatPiece {
  int32_t flat = 0;  // index in EngineCheckpoint::flats
  int64_t flat_offset = 0;
  int64_t num_elements = 0;  // 1 or more
};

// A parameter or buffer of the engine's model, and how it is put together.
struct EngineWeight {
  std::string name;
  std::vector<int64_t> shape;
  DType dtype = DType::kInvalid;     // in training, or of a buffer; never kInvalid
  std::vector<std::string> aliases;  // other names of the same weight
  bool is_buffer = false;
  // Of a trained parameter the optimizer's group, from 0, and its place there; else -1.  A group's
  // places are 0, 1, ...
  int32_t group = -1;
  int32_t place = -1;
  // What the weight's elements, flattened in C order, are one after the other: in the optimizer's
  // states of a trained parameter, and as a value in `dtype`.  Each is empty or has all of them.
  std::vector<FlatPiece> in_states;
  std::vector<TensorPiece> stored;
};

// What makes a folder that a training engine (DeepSpeed) saved more than a list of tensors.  Its
// manifest's tensors are what lies contiguous in the files; the weights are put together from them.
struct EngineCheckpoint {
  std::string tag;  // "global_step3"
  int32_t stage = 0;
  int32_t world_size = 0;  // that saved it
  bool is_universal = false;
  int64_t global_steps = -1;   // -1: not said
  double optimizer_step = -1;  // -1: it has none
  // "fp32", the masters, first, then the optimizer's moments; empty: there is no optimizer.
  std::vector<std::string> states;
  // Tensors that are laid out alike: of each the tensor of every state, in the order of `states`.
  // One-dimensional, all of a flat with the same number of elements that weights are in.
  std::vector<std::vector<int32_t>> flats;
  std::vector<EngineWeight> weights;  // in the order of the model's state dict
  // How an engine of the same config lays out flat tensors under ZeRO stages 1 and 2.
  bool round_robin_gradients = false;
  bool parameter_alignment = false;
};

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_PLAN_ENGINE_CHECKPOINT_H_
