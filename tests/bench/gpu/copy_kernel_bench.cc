// The copy kernel on a GPU, kind of box by kind of box, beside a copy by cudaMemcpyAsync from
// device memory to device memory on the same GPU in the same rounds.  Prints a table and, where
// asked, JSON; asserts no time.  ../README.md says how it is read.
//
//   copy_kernel_bench [--mib N] [--runs N] [--launches N] [--only TEXT] [--json FILE]
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "kernels/copy/cuda/launch.h"
#include "kernels/copy/cuda/mixed_batch.h"
#include "kernels/device/buffer.h"
#include "kernels/device/cuda_status.h"
#include "kernels/device/stream.h"
#include "tests/bench/gpu/bench_status.h"
#include "tests/bench/print_command.h"

namespace zerocast {
namespace {

constexpr int64_t kMib = 1 << 20;
// Between the places of neighbours in a buffer.
constexpr int64_t kPlaceBytes = 256;

// Beside the other Check, which a function of this namespace would hide.
using ::zerocast::Check;
void Check(cudaError_t error, const char* what) { Check(ToStatus(error, what)); }

struct Options {
  int64_t num_bytes = 256 * kMib;  // of the wider side
  int runs = 7;
  int launches = 10;
  std::string only, json;
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

Box Loops(const std::vector<BoxDim>& dims, int64_t source_offset = 0, int64_t target_offset = 0) {
  Box box;
  box.num_dims = static_cast<int32_t>(dims.size());
  for (size_t k = 0; k < dims.size(); ++k) box.dims[k] = dims[k];
  box.source_offset = source_offset;
  box.target_offset = target_offset;
  return box;
}

// A kind of boxes.  Sources of all lie in one buffer, targets in another; scales of quantised
// sources behind the sources.
struct Case {
  std::string name;
  DType from, to;
  std::vector<Box> boxes;
  int64_t source_shift = 0;  // in bytes
  Decoder decoder;
  int64_t num_scales = 0;
};

class CaseList {
 public:
  explicit CaseList(int64_t num_bytes) : num_bytes_(num_bytes) {}

  std::vector<Case> Take() && { return std::move(cases_); }

  void AddCopies() {
    const DType bf16 = DType::kBFloat16;
    const int64_t count = num_bytes_ / 2;
    Add("copy, aligned", bf16, bf16, {Loops({{count, 1, 1}})});
    for (const int64_t shift : {8, 4, 2}) {
      Add("copy, source " + std::to_string(shift) + " bytes off", bf16, bf16,
          {Loops({{count, 1, 1}})}, shift);
    }
    // Of 128 experts one tensor; of pairs of matrices one whose rows are those of both.
    std::vector<Box> stack, joined;
    const int64_t expert = count / 128;
    for (int64_t i = 0; i < 128; ++i) {
      const int64_t place = i * 37 % 128;  // as they may lie in files
      stack.push_back(Loops({{expert, 1, 1}}, place * expert, i * expert));
    }
    const int64_t columns = Side(expert), rows = expert / columns;
    for (int64_t i = 0; i < 128; ++i) {
      joined.push_back(Loops({{rows, columns, 2 * columns}, {columns, 1, 1}}, i * rows * columns,
                             i / 2 * 2 * rows * columns + i % 2 * columns));
    }
    Add("stack of 128 experts", bf16, bf16, std::move(stack));
    Add("rows of 128 matrices joined", bf16, bf16, std::move(joined));
    Add("slices, 256 bytes of each row", bf16, bf16,
        {Loops({{count / 512, 512, 128}, {128, 1, 1}})});
    std::vector<Box> tiny;
    for (int64_t i = 0; i + 1000 <= count / 8; i += 1000) {
      tiny.push_back(Loops({{1000, 1, 1}}, i, i));
    }
    Add("boxes of 2000 bytes", bf16, bf16, std::move(tiny));
  }

  void AddTranspositions() {
    for (const DType dtype : {DType::kUInt8, DType::kBFloat16, DType::kFloat32, DType::kFloat64}) {
      const int64_t bytes = SizeOf(dtype);
      Add("transposition, " + std::to_string(bytes) + " bytes", dtype, dtype,
          {Transposition(num_bytes_ / bytes, 0)});
      Add("transposition, " + std::to_string(bytes) + " bytes, odd rows", dtype, dtype,
          {Transposition(num_bytes_ / bytes, -3)});
    }
    std::vector<Box> experts;
    const int64_t expert = num_bytes_ / 2 / 128;
    for (int64_t i = 0; i < 128; ++i) {
      Box box = Transposition(expert, 0);
      box.source_offset = box.target_offset = i * expert;
      experts.push_back(box);
    }
    Add("transposition of 128 experts", DType::kBFloat16, DType::kBFloat16, std::move(experts));
    Add("transposition and cast", DType::kFloat32, DType::kBFloat16,
        {Transposition(num_bytes_ / 4, 0)});
  }

  void AddCasts() {
    const std::pair<DType, DType> casts[] = {
        {DType::kFloat32, DType::kBFloat16},    {DType::kBFloat16, DType::kFloat32},
        {DType::kFloat16, DType::kBFloat16},    {DType::kFloat32, DType::kFloat16},
        {DType::kBFloat16, DType::kFloat8E4M3}, {DType::kFloat32, DType::kFloat8E5M2},
        {DType::kFloat8E4M3, DType::kBFloat16}};
    for (const auto& [from, to] : casts) {
      const int64_t count = num_bytes_ / std::max(SizeOf(from), SizeOf(to));
      Add("cast", from, to, {Loops({{count, 1, 1}})});
    }
    Add("cast, source 4 bytes off", DType::kFloat32, DType::kBFloat16,
        {Loops({{num_bytes_ / 4, 1, 1}})}, 4);
  }

  void AddDecoders() {
    const int64_t count = num_bytes_ / 2;
    const int64_t cols = Side(count) / 128 * 128, rows = count / cols / 128 * 128;
    const Decoder fp8 = {
        DecoderKind::kFp8Block, DType::kFloat8E4M3, DType::kFloat32, rows, cols, 128, 128, 0};
    const Decoder mxfp4 = {DecoderKind::kMxfp4, DType::kUInt8, DType::kUInt8, rows, cols, 1, 32, 0};
    const Box line = Loops({{rows * cols, 1, 1}});
    const Box transposed = Loops({{cols, 1, rows}, {rows, cols, 1}});
    AddDecoder("fp8 of blocks of 128 x 128", fp8, line);
    AddDecoder("the same, transposed", fp8, transposed);
    AddDecoder("mxfp4", mxfp4, line);
    AddDecoder("the same, transposed", mxfp4, transposed);
  }

 private:
  // About a square root, and divisible by 64.
  static int64_t Side(int64_t count) {
    int64_t side = 64;
    while (side * side * 4 <= count) side *= 2;
    return side;
  }

  // Of about a square matrix, columns of which are left out or not.
  static Box Transposition(int64_t count, int64_t more_columns) {
    const int64_t columns = Side(count) + more_columns, rows = count / Side(count) + more_columns;
    return Loops({{columns, 1, rows}, {rows, columns, 1}});
  }

  void Add(std::string name, DType from, DType to, std::vector<Box> boxes, int64_t shift = 0) {
    cases_.push_back({std::move(name), from, to, std::move(boxes), shift, Decoder(), 0});
  }
  void AddDecoder(std::string name, const Decoder& decoder, const Box& box) {
    cases_.push_back({std::move(name),
                      decoder.stored,
                      DType::kBFloat16,
                      {box},
                      0,
                      decoder,
                      decoder.rows / decoder.block_rows * GridCols(decoder)});
  }

  const int64_t num_bytes_;
  std::vector<Case> cases_;
};

int64_t NumElements(const Case& one) {
  int64_t count = 0;
  for (const Box& box : one.boxes) count += NumElements(box);
  return count;
}

// What the case reads and writes, each element once; scales once, too.
int64_t NumBytesMoved(const Case& one) {
  return NumElements(one) / PackedElements(one.decoder.kind) * SizeOf(one.from) +
         NumElements(one) * SizeOf(one.to) + one.num_scales * SizeOf(one.decoder.scale);
}

// Time on the device between two places of a stream.
class Timer {
 public:
  Timer() {
    Check(cudaEventCreate(&begin_), "create an event");
    Check(cudaEventCreate(&end_), "create an event");
  }
  ~Timer() {
    LogIfError(cudaEventDestroy(begin_), "destroy an event");
    LogIfError(cudaEventDestroy(end_), "destroy an event");
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  // Seconds of one call of several.
  double Measure(cudaStream_t stream, int calls, const std::function<void()>& call) {
    Check(cudaEventRecord(begin_, stream), "record an event");
    for (int i = 0; i < calls; ++i) call();
    Check(cudaEventRecord(end_, stream), "record an event");
    Check(cudaEventSynchronize(end_), "wait for an event");
    float milliseconds = 0;
    Check(cudaEventElapsedTime(&milliseconds, begin_, end_), "read an event");
    return milliseconds * 1e-3 / calls;
  }

 private:
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

// A case whose descriptors are on the device.
struct Ready {
  MixedBatch batch;
  DeviceBuffer descriptors;
};

Ready Prepare(const Case& one, const DeviceBuffer& source, const DeviceBuffer& target,
              int64_t scales_at, cudaStream_t stream) {
  std::vector<MixedBox> boxes;
  for (const Box& box : one.boxes) {
    MixedBox mixed;
    mixed.box = box;
    mixed.source = source.data() + one.source_shift;
    mixed.source_dtype = one.from;
    mixed.target = target.data();
    mixed.target_dtype = one.to;
    mixed.decoder = one.decoder;
    mixed.scales = source.data() + scales_at;
    boxes.push_back(mixed);
  }
  MixedBatch batch = Take(MixedBatch::Make(boxes));
  DeviceBuffer descriptors = Take(DeviceBuffer::Create(0, batch.num_descriptor_bytes()));
  std::vector<int64_t> words(batch.num_descriptor_bytes() / 8);
  batch.WriteDescriptors(reinterpret_cast<std::byte*>(words.data()));
  Check(cudaMemcpyAsync(descriptors.data(), words.data(), batch.num_descriptor_bytes(),
                        cudaMemcpyHostToDevice, stream),
        "copy descriptors to the device");
  Check(cudaStreamSynchronize(stream), "wait for the descriptors");
  return {std::move(batch), std::move(descriptors)};
}

// Numbers as of weights: bf16 of about 1 in each pair of bytes, which as fp8 are no NaNs either.
void Fill(const DeviceBuffer& source, cudaStream_t stream) {
  Check(cudaMemsetAsync(source.data(), 0x3c, source.num_bytes(), stream), "fill the source");
}

Options ReadFlags(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; i += 2) {
    const std::string flag = argv[i];
    if (i + 1 == argc) Die(flag + " wants a value");
    const char* const value = argv[i + 1];
    if (flag == "--mib") {
      options.num_bytes = std::atoll(value) * kMib;
    } else if (flag == "--runs") {
      options.runs = std::atoi(value);
    } else if (flag == "--launches") {
      options.launches = std::atoi(value);
    } else if (flag == "--only") {
      options.only = value;
    } else if (flag == "--json") {
      options.json = value;
    } else {
      Die("no flag " + flag);
    }
  }
  if (options.num_bytes < kMib || options.runs < 1 || options.launches < 1) {
    Die("flags must be positive");
  }
  return options;
}

std::vector<Case> Cases(const Options& options) {
  CaseList list(options.num_bytes);
  list.AddCopies();
  list.AddTranspositions();
  list.AddCasts();
  list.AddDecoders();
  std::vector<Case> cases = std::move(list).Take();
  const auto is_left_out = [&](const Case& one) {
    return one.name.find(options.only) == std::string::npos;
  };
  cases.erase(std::remove_if(cases.begin(), cases.end(), is_left_out), cases.end());
  if (cases.empty()) Die("no case has \"" + options.only + "\" in its name");
  return cases;
}

nlohmann::json Print(const std::vector<Case>& cases, const std::vector<double>& memcpy_rates,
                     const std::vector<std::vector<double>>& seconds) {
  const double floor = Median(memcpy_rates);
  std::printf("%-34s %-28s %9s %9s %9s\n%-34s %-28s %9s %9.0f %9.2f\n", "kind of boxes", "types",
              "MB moved", "GB/s", "by memcpy", "cudaMemcpyAsync on the device", "", "",
              floor * 1e-9, 1.0);
  nlohmann::json rows = nlohmann::json::array();
  rows.push_back({{"name", "cudaMemcpyAsync"}, {"bytes_per_second", floor}});
  for (size_t i = 0; i < cases.size(); ++i) {
    const Case& one = cases[i];
    const auto moved = static_cast<double>(NumBytesMoved(one));
    std::vector<double> ratios;
    for (size_t run = 0; run < memcpy_rates.size(); ++run) {
      ratios.push_back(moved / seconds[i][run] / memcpy_rates[run]);
    }
    const double rate = moved / Median(seconds[i]);
    const std::string types = std::string(DTypeName(one.from)) + " to " + DTypeName(one.to);
    std::printf("%-34s %-28s %9.1f %9.0f %9.2f\n", one.name.c_str(), types.c_str(), moved * 1e-6,
                rate * 1e-9, Median(ratios));
    rows.push_back({{"name", one.name},
                    {"from", DTypeName(one.from)},
                    {"to", DTypeName(one.to)},
                    {"boxes", one.boxes.size()},
                    {"bytes_moved", moved},
                    {"bytes_per_second", rate},
                    {"by_memcpy", Median(ratios)}});
  }
  return rows;
}

void Run(const Options& options) {
  cudaDeviceProp properties;
  Check(cudaGetDeviceProperties(&properties, 0), "read the device's properties");
  std::printf("%s, %d multiprocessors\n", properties.name, properties.multiProcessorCount);
  const std::vector<Case> cases = Cases(options);
  // Scales lie behind all sources: a float for each block of 16 elements at most.
  const int64_t scales_at = options.num_bytes + kPlaceBytes;
  const DeviceBuffer source =
      Take(DeviceBuffer::Create(0, scales_at + options.num_bytes / 8 + kPlaceBytes));
  const DeviceBuffer target = Take(DeviceBuffer::Create(0, options.num_bytes + kPlaceBytes));
  const Stream stream = Take(Stream::Create(0));
  Fill(source, stream.get());
  std::vector<Ready> ready;
  for (const Case& one : cases) {
    ready.push_back(Prepare(one, source, target, scales_at, stream.get()));
  }
  Timer timer;
  std::vector<double> memcpy_rates;
  std::vector<std::vector<double>> seconds(cases.size());
  for (int run = -1; run < options.runs; ++run) {  // the first one warms up
    const double floor = timer.Measure(stream.get(), options.launches, [&] {
      Check(cudaMemcpyAsync(target.data(), source.data(), options.num_bytes,
                            cudaMemcpyDeviceToDevice, stream.get()),
            "copy on the device");
    });
    if (run >= 0) memcpy_rates.push_back(2.0 * static_cast<double>(options.num_bytes) / floor);
    for (size_t i = 0; i < cases.size(); ++i) {
      const double time = timer.Measure(stream.get(), options.launches, [&] {
        Check(LaunchMixedBatch(ready[i].batch, ready[i].descriptors.data(), stream.get()));
      });
      if (run >= 0) seconds[i].push_back(time);
    }
  }
  const nlohmann::json rows = Print(cases, memcpy_rates, seconds);
  if (options.json.empty()) return;
  std::ofstream file(options.json);
  file << nlohmann::json({{"device", properties.name}, {"rows", rows}}).dump(2) << "\n";
  if (!file.flush()) Die("cannot write " + options.json);
}

}  // namespace
}  // namespace zerocast

int main(int argc, char** argv) {
  using namespace zerocast;
  const Options options = ReadFlags(argc, argv);
  const absl::StatusOr<int> devices = DeviceCount();
  if (!devices.ok()) {
    std::printf("skipped: 1 benchmark: %s\n", devices.status().ToString().c_str());
    return kSkipped;
  }
  PrintCommand(argc, argv);
  Run(options);
  return 0;
}
