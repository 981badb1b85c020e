#include "tests/bench/bench_checkpoints.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/formats/safetensors_writer.h"
#include "kernels/base/status_macros.h"
#include "tests/bench/bench_models.h"

namespace zerocast {
namespace {

constexpr int64_t kFileBytes = int64_t{1} << 30;
constexpr char kSpecFile[] = "/model_spec.json";

std::string Content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

absl::Status WriteText(const std::string& path, const std::string& text) {
  std::ofstream out(path, std::ios::binary);
  out << text;
  out.close();
  if (!out) return absl::UnavailableError("write " + path);
  return absl::OkStatus();
}

// Bytes for all tensors, each of which takes them from another place on.
std::string RandomBytes(size_t num_bytes, std::mt19937_64* random) {
  std::string bytes(num_bytes, '\0');
  for (size_t i = 0; i + 8 <= bytes.size(); i += 8) {
    // No infinities and NaNs: exponents stay small.
    const uint64_t word = (*random)() & 0xBFFFBFFFBFFFBFFF;
    std::copy_n(reinterpret_cast<const char*>(&word), 8, &bytes[i]);
  }
  return bytes;
}

absl::Status WriteWeights(const std::string& folder, const BenchModel& model) {
  const DType dtype = model.stored_dtype;
  int64_t most = 0;
  for (const BenchTensor& tensor : model.stored) {
    most = std::max(most, NumElements(tensor) * SizeOf(dtype));
  }
  constexpr size_t kShift = 1 << 20;
  std::mt19937_64 random(1);
  const std::string bytes = RandomBytes(static_cast<size_t>(most) + kShift, &random);
  std::vector<std::vector<TensorToWrite>> files(1);
  int64_t room = kFileBytes, total = 0;
  for (const BenchTensor& tensor : model.stored) {
    const int64_t size = NumElements(tensor) * SizeOf(dtype);
    if (size > room && !files.back().empty()) {
      files.emplace_back();
      room = kFileBytes;
    }
    room -= size;
    total += size;
    const size_t shift = random() % kShift / 64 * 64;
    files.back().push_back({tensor.name, dtype, tensor.shape,
                            absl::string_view(bytes).substr(shift, static_cast<size_t>(size))});
  }
  nlohmann::json index = {{"metadata", {{"total_size", total}}}};
  for (size_t k = 0; k < files.size(); ++k) {
    const std::string name = absl::StrFormat("model-%05d-of-%05d.safetensors", k + 1, files.size());
    ZC_RETURN_IF_ERROR(WriteSafetensors(folder + "/" + name, files[k], {{"format", "pt"}}));
    for (const TensorToWrite& tensor : files[k]) index["weight_map"][tensor.name] = name;
  }
  return WriteText(folder + "/model.safetensors.index.json", index.dump());
}

}  // namespace

absl::StatusOr<BenchCheckpoint> MakeBenchCheckpoint(const std::string& folder,
                                                    const std::string& kind, int64_t num_bytes) {
  std::vector<std::string> kinds = BenchKinds();
  kinds.push_back(kFusedKind);
  if (!absl::c_linear_search(kinds, kind)) {
    return absl::InvalidArgumentError("make a checkpoint: no kind " + kind);
  }
  const BenchModel model = MakeBenchModel(kind, num_bytes);
  const std::string spec_json = ModelSpecToJson(model.spec);
  BenchCheckpoint made;
  made.name = kind;
  made.folder = absl::StrCat(folder, "/", kind, "-", num_bytes);
  made.dtype = kind == "fp32" ? DTypePolicy::kBFloat16 : DTypePolicy::kStored;
  ZC_ASSIGN_OR_RETURN(made.spec, ParseModelSpec(spec_json));
  // The spec is written last: where it is what it should be, all else is too.
  if (Content(made.folder + kSpecFile) == spec_json &&
      Content(made.folder + "/config.json") == model.config_json) {
    return made;
  }
  ::mkdir(folder.c_str(), 0777);
  ::mkdir(made.folder.c_str(), 0777);
  ::unlink((made.folder + kSpecFile).c_str());
  ZC_RETURN_IF_ERROR(WriteText(made.folder + "/config.json", model.config_json));
  ZC_RETURN_IF_ERROR(WriteWeights(made.folder, model));
  ZC_RETURN_IF_ERROR(WriteText(made.folder + kSpecFile, spec_json));
  return made;
}

}  // namespace zerocast
