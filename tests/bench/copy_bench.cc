// The CPU copy path beside its reference, kind of box by kind, at sizes from one element on: what
// CopyBox and DecodeBox take, as a fraction of what CopyBoxReference and DecodeBoxReference take.
// Prints a table; asserts no time.  README.md says how it is read.
//
//   copy_bench [--runs N] [--most N] [--json FILE]
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/copy/copy.h"
#include "kernels/copy/decode_box.h"
#include "tests/bench/print_command.h"

namespace zerocast {
namespace {

constexpr int64_t kSizes[] = {1, 2, 7, 16, 100, 1000, 1'000'000, 16'000'000};
// A sample is at least this long, so that reading the clock does not count.
constexpr double kSampleSeconds = 2e-4;

struct Options {
  int runs = 7;
  int64_t most = 16'000'000;
  std::string json;
};

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "copy_bench: %s\n", what.c_str());
  std::exit(2);
}

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The boxes of `count` elements; both sides are at most 2 * count elements.
struct Shape {
  const char* name;
  std::function<Box(int64_t count)> box;
};

Box Dims(std::vector<BoxDim> dims) {
  Box box;
  for (const BoxDim& dim : dims) {
    if (dim.extent > 1) box.dims[box.num_dims++] = dim;
  }
  return box;
}

// The largest divisor of `count` up to its root.
int64_t Side(int64_t count) {
  int64_t side = 1;
  for (int64_t k = 2; k * k <= count; ++k) {
    if (count % k == 0) side = k;
  }
  return side;
}

Box Run(int64_t count) { return Dims({{count, 1, 1}}); }
Box Strided(int64_t count) { return Dims({{count, 2, 1}}); }
// Half of each row of the source.
Box Rows(int64_t count) {
  const int64_t rows = Side(count), cols = count / rows;
  return rows == 1 ? Run(count) : Dims({{rows, 2 * cols, cols}, {cols, 1, 1}});
}
// From rows x cols to cols x rows.
Box Transposed(int64_t rows, int64_t cols) { return Dims({{cols, 1, rows}, {rows, cols, 1}}); }
Box TransposedPlane(int64_t count) { return Transposed(Side(count), count / Side(count)); }
Box TransposedPair(int64_t count) { return count % 2 != 0 ? Run(count) : Transposed(2, count / 2); }

struct Cast {
  DType from, to;
};

struct Work {
  std::string name;
  Shape shape;
  Cast cast;
  Decoder decoder;  // kPlain: a copy or a cast
};

// Logical elements for which the buffers are made, and the buffers.
struct Memory {
  std::vector<char> source, scales, target;
};

using Function = void (*)(const Work&, const Box&, Memory*);

void Ours(const Work& work, const Box& box, Memory* memory) {
  if (work.decoder.kind == DecoderKind::kPlain) {
    CopyBox(box, memory->source.data(), work.cast.from, memory->target.data(), work.cast.to);
    return;
  }
  const EncodedSource source = {memory->source.data(), 0, memory->scales.data(), 0};
  DecodeBox(box, work.decoder, source, memory->target.data(), work.cast.to);
}

void Reference(const Work& work, const Box& box, Memory* memory) {
  if (work.decoder.kind == DecoderKind::kPlain) {
    CopyBoxReference(box, memory->source.data(), work.cast.from, memory->target.data(),
                     work.cast.to);
    return;
  }
  const EncodedSource source = {memory->source.data(), 0, memory->scales.data(), 0};
  DecodeBoxReference(box, work.decoder, source, memory->target.data(), work.cast.to);
}

// Seconds of one call, from as many as fill a sample.
double SecondsOf(Function function, const Work& work, const Box& box, Memory* memory,
                 int64_t calls) {
  const double start = Now();
  for (int64_t i = 0; i < calls; ++i) function(work, box, memory);
  return (Now() - start) / static_cast<double>(calls);
}

int64_t CallsFor(Function function, const Work& work, const Box& box, Memory* memory) {
  for (int64_t calls = 1;; calls *= 2) {
    const double seconds = SecondsOf(function, work, box, memory, calls);
    if (seconds * static_cast<double>(calls) >= kSampleSeconds) return calls;
  }
}

struct Measured {
  int64_t count = 0;
  double seconds = 0, reference_seconds = 0, ratio = 0;  // medians
};

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

Measured Measure(const Work& work, int64_t count, int runs, Memory* memory) {
  const Box box = work.shape.box(count);
  const int64_t calls = CallsFor(&Ours, work, box, memory);
  const int64_t reference_calls = CallsFor(&Reference, work, box, memory);
  std::vector<double> ours, reference, ratios;
  for (int run = 0; run < runs; ++run) {
    ours.push_back(SecondsOf(&Ours, work, box, memory, calls));
    reference.push_back(SecondsOf(&Reference, work, box, memory, reference_calls));
    ratios.push_back(ours.back() / reference.back());
  }
  return {count, Median(ours), Median(reference), Median(ratios)};
}

std::vector<Work> AllWork() {
  const Shape run = {"run", &Run}, strided = {"every other", &Strided}, rows = {"rows", &Rows},
              plane = {"transposed", &TransposedPlane}, pair = {"transposed pair", &TransposedPair};
  const std::vector<Shape> shapes = {run, rows, strided, plane, pair};
  const auto name = [](const Shape& shape, const std::string& what) {
    return absl::StrCat(shape.name, " ", what);
  };
  std::vector<Work> all;
  for (const DType dtype : {DType::kUInt8, DType::kBFloat16, DType::kFloat32, DType::kFloat64}) {
    for (const Shape& shape : shapes) {
      all.push_back({name(shape, absl::StrCat(SizeOf(dtype), " B")), shape, {dtype, dtype}, {}});
    }
  }
  const DType floats[] = {DType::kFloat32, DType::kBFloat16, DType::kFloat16, DType::kFloat8E4M3,
                          DType::kFloat8E5M2};
  for (const DType from : floats) {
    for (const DType to : floats) {
      if (from == to) continue;
      const std::string what = absl::StrCat(DTypeName(from), ">", DTypeName(to));
      all.push_back({name(run, what), run, {from, to}, {}});
    }
  }
  const Cast fp32_to_bf16 = {DType::kFloat32, DType::kBFloat16};
  for (const Shape& shape : {rows, strided, plane, pair}) {
    all.push_back({name(shape, "F32>BF16"), shape, fp32_to_bf16, {}});
  }
  for (const Cast cast :
       {Cast{DType::kInt64, DType::kFloat32}, Cast{DType::kFloat64, DType::kBFloat16}}) {
    all.push_back(
        {name(run, absl::StrCat(DTypeName(cast.from), ">", DTypeName(cast.to))), run, cast, {}});
  }
  Decoder fp8;
  fp8.kind = DecoderKind::kFp8Block;
  fp8.stored = DType::kFloat8E4M3;
  fp8.scale = DType::kFloat32;
  fp8.rows = fp8.cols = 16384;
  fp8.block_rows = fp8.block_cols = 128;
  Decoder mxfp4 = fp8;
  mxfp4.kind = DecoderKind::kMxfp4;
  mxfp4.stored = DType::kUInt8;
  mxfp4.scale = DType::kUInt8;
  mxfp4.block_rows = 1;
  mxfp4.block_cols = 32;
  for (const Shape& shape : {run, strided, plane}) {
    all.push_back({name(shape, "fp8 blocks"), shape, {DType::kFloat8E4M3, DType::kBFloat16}, fp8});
    all.push_back({name(shape, "mxfp4"), shape, {DType::kUInt8, DType::kBFloat16}, mxfp4});
  }
  return all;
}

// Random, and small enough as numbers that casts meet few infinities.
Memory MakeMemory(int64_t most) {
  std::mt19937 random(1);
  Memory memory;
  memory.source.resize(2 * most * 8);
  for (char& byte : memory.source) byte = static_cast<char>(random() & 0xbf);
  // A scale for each block of 32 elements.
  memory.scales.resize((2 * most / 32 + 16384) * 4);
  for (size_t i = 0; i < memory.scales.size(); ++i)
    memory.scales[i] = static_cast<char>(i % 4 == 3 ? 0x3f : 0x7c);
  memory.target.resize(2 * most * 8);
  return memory;
}

void Print(const std::string& name, const std::vector<Measured>& row) {
  std::printf("%-31s", name.c_str());
  for (const Measured& cell : row) std::printf(" %5.2f", cell.ratio);
  std::printf("\n");
  std::fflush(stdout);
}

nlohmann::json ToJson(const Work& work, const std::vector<Measured>& row) {
  nlohmann::json cells = nlohmann::json::array();
  for (const Measured& cell : row) {
    cells.push_back({{"elements", cell.count},
                     {"seconds", cell.seconds},
                     {"reference_seconds", cell.reference_seconds},
                     {"ratio", cell.ratio}});
  }
  return {{"name", work.name}, {"sizes", cells}};
}

Options ReadFlags(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i], value = argv[i + 1];
    bool is_good = true;
    if (flag == "--runs") {
      is_good = absl::SimpleAtoi(value, &options.runs) && options.runs >= 1;
    } else if (flag == "--most") {
      is_good = absl::SimpleAtoi(value, &options.most) && options.most >= 1;
    } else if (flag == "--json") {
      options.json = value;
    } else {
      is_good = false;
    }
    if (!is_good) Die(absl::StrCat("bad flag or value: ", flag, " ", value));
  }
  if (argc % 2 == 0) Die(absl::StrCat(argv[argc - 1], " needs a value"));
  return options;
}

int Main(int argc, char** argv) {
  const Options options = ReadFlags(argc, argv);
  PrintCommand(argc, argv);
  std::vector<int64_t> sizes;
  for (const int64_t size : kSizes) {
    if (size <= options.most) sizes.push_back(size);
  }
  Memory memory = MakeMemory(sizes.back());
  std::printf(
      "\nSeconds of the copy path by those of its reference, by number of elements;\n"
      "median of %d, in turn, one thread.\n\n%-31s",
      options.runs, "");
  for (const int64_t size : sizes) {
    std::printf(" %5s", size >= 1'000'000 ? absl::StrCat(size / 1'000'000, "M").c_str()
                        : size >= 1000    ? absl::StrCat(size / 1000, "K").c_str()
                                          : absl::StrCat(size).c_str());
  }
  std::printf("\n");
  nlohmann::json report = nlohmann::json::array();
  double worst = 0;
  std::string worst_name;
  for (const Work& work : AllWork()) {
    std::vector<Measured> row;
    for (const int64_t size : sizes) {
      row.push_back(Measure(work, size, options.runs, &memory));
      if (row.back().ratio > worst) {
        worst = row.back().ratio;
        worst_name = absl::StrCat(work.name, ", ", size, " elements");
      }
    }
    Print(work.name, row);
    report.push_back(ToJson(work, row));
  }
  std::printf("\nThe largest: %.2f (%s)\n", worst, worst_name.c_str());
  if (!options.json.empty()) {
    std::ofstream file(options.json);
    file << report.dump(2) << "\n";
    if (!file) Die(absl::StrCat("write ", options.json, ": failed"));
  }
  return 0;
}

}  // namespace
}  // namespace zerocast

int main(int argc, char** argv) { return zerocast::Main(argc, argv); }
