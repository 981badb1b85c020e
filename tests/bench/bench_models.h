#ifndef ZEROCAST_TESTS_BENCH_BENCH_MODELS_H_
#define ZEROCAST_TESTS_BENCH_BENCH_MODELS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/copy/dtype.h"
#include "server/conversion/model_spec.h"

namespace zerocast {

struct BenchTensor {
  std::string name;
  std::vector<int64_t> shape;
};

int64_t NumElements(const BenchTensor& tensor);

// A model that transformers knows, in the size that is asked for: what its checkpoint holds and
// what `python -m zerocast.spec` says of it.
struct BenchModel {
  std::vector<BenchTensor> stored;
  DType stored_dtype = DType::kBFloat16;
  std::string config_json;  // config.json
  ModelSpec spec;
};

// The kinds:
//   llama       LlamaForCausalLM in bf16: nothing to convert
//   mixtral     MixtralForCausalLM: experts to stack and to join
//   fp32        as llama, stored in fp32, wanted in bf16
//   transposed  Qwen3VLMoeForConditionalGeneration with little beside its experts, which are stored
//               as (E, hidden, 2 * inter): more than 90 % of the bytes are transposed
std::vector<std::string> BenchKinds();

// Besides, of use only where it is asked for: "fused", as mixtral, with experts of which one
// layer's make one target of 1 GiB (in less than 1.7 GB: of two thirds of all bytes).
inline constexpr char kFusedKind[] = "fused";

// The model of `kind` whose checkpoint has about `num_bytes` bytes of weights.  Pure.
BenchModel MakeBenchModel(const std::string& kind, int64_t num_bytes);

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_BENCH_BENCH_MODELS_H_
