#include "tests/server/plan/random_plan.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "kernels/copy/algebra.h"
#include "kernels/copy/copy.h"
#include "kernels/copy/decode_box.h"
#include "server/plan/assemble.h"
#include "server/plan/shape.h"

namespace zerocast {
namespace {

template <typename T>
T Must(absl::StatusOr<T> value) {
  if (!value.ok()) {
    std::fprintf(stderr, "random plan: %s\n", value.status().ToString().c_str());
    std::abort();
  }
  return *std::move(value);
}

int64_t Elements(const std::vector<int64_t>& shape) {
  int64_t count = 0;
  if (!CheckedElements(shape, &count)) std::abort();
  return count;
}

// Invents sources and targets; sources get their places in files at the end.
class Maker {
 public:
  Maker(Random* random, const Layout& layout) : random_(*random), layout_(layout) {}

  Plan Make() {
    const int64_t num_groups = random_.Between(1, 4);
    for (int64_t i = 0; i < num_groups; ++i) AddGroup();
    if (random_.OneIn(3)) AddSource({random_.Between(1, 9)});  // that nothing needs
    const auto manifest = PlaceSources();
    for (ConvertedTensor& tensor : conversion_.tensors) {
      for (Box& box : tensor.boxes) box.source = place_[box.source];
      for (int32_t& source : tensor.sources) source = place_[source];
    }
    for (SourceDecoder& decoder : conversion_.decoders) {
      decoder.source = place_[decoder.source];
      decoder.scale = place_[decoder.scale];
    }
    std::sort(conversion_.decoders.begin(), conversion_.decoders.end(),
              [](const SourceDecoder& x, const SourceDecoder& y) { return x.source < y.source; });
    const Model model = Must(MakeModel(spec_));
    Plan plan =
        Must(AssemblePlan(manifest, &spec_, &model, std::move(conversion_), layout_, nullptr));
    if (const absl::Status proof = ProvePlan(plan); !proof.ok()) {
      Must(absl::StatusOr<int>(proof));
    }
    plan.digest = PlanDigest(plan);
    return plan;
  }

 private:
  int32_t AddSource(std::vector<int64_t> shape) {
    sources_.push_back({"source." + std::to_string(sources_.size()), dtype_, std::move(shape)});
    return static_cast<int32_t>(sources_.size()) - 1;
  }

  void AddTarget(std::vector<int64_t> shape, std::vector<Box> boxes, std::vector<int32_t> sources) {
    const std::string name = "target." + std::to_string(conversion_.tensors.size());
    const DType wanted = IsFloating(dtype_) && random_.OneIn(2) ? DType::kFloat32 : dtype_;
    (random_.OneIn(5) ? spec_.buffers : spec_.params).push_back({name, shape, wanted});
    MergeBoxes(&boxes);
    conversion_.tensors.push_back(
        {name, std::move(shape), dtype_, std::move(boxes), std::move(sources), -1, ""});
  }

  // dims: extent, source stride, target stride.
  static Box MakeOne(int32_t source, int64_t source_offset, int64_t target_offset,
                     const std::vector<BoxDim>& dims) {
    return Must(MakeBox(source, source_offset, target_offset, dims));
  }

  void AddGroup() {
    constexpr DType kDTypes[] = {DType::kBFloat16, DType::kFloat16, DType::kFloat32,
                                 DType::kFloat64,  DType::kInt8,    DType::kInt64};
    dtype_ = kDTypes[random_.Between(0, 5)];
    const int64_t a = random_.Between(1, 7), b = random_.Between(1, 7), n = random_.Between(1, 4);
    switch (random_.Between(0, 9)) {
      case 0:
        return AddPlain();
      case 1:  // transposed
        return Add({b, a}, {{AddSource({a, b}), 0, 0, {{a, b, 1}, {b, 1, a}}}});
      case 2:  // stacked
        return AddStack(n, a, b, /*transposed=*/false);
      case 3:
        return AddStack(n, a, b, /*transposed=*/true);
      case 4: {  // two stacks joined along axis 1
        std::vector<Draft> drafts;
        for (int64_t i = 0; i < n; ++i) {
          for (int64_t half = 0; half < 2; ++half) {
            drafts.push_back({AddSource({a, b}), 0, (2 * i + half) * a * b, {{a * b, 1, 1}}});
          }
        }
        return Add({n, 2 * a, b}, drafts);
      }
      case 5:  // interleaved rows
        return Add({2 * a, b}, {{AddSource({a, b}), 0, 0, {{a, b, 2 * b}, {b, 1, 1}}},
                                {AddSource({a, b}), 0, b, {{a, b, 2 * b}, {b, 1, 1}}}});
      case 6: {  // cut along axis 1
        const int32_t source = AddSource({a, n * b});
        for (int64_t i = 0; i < n; ++i) {
          Add({a, b}, {{source, i * b, 0, {{a, n * b, b}, {b, 1, 1}}}});
        }
        return;
      }
      case 7:
      case 8:
        return AddDecoded(n);
      default: {  // cut along axis 0, each piece transposed
        const int32_t source = AddSource({n * a, b});
        for (int64_t i = 0; i < n; ++i) {
          Add({b, a}, {{source, i * a * b, 0, {{a, b, 1}, {b, 1, a}}}});
        }
        return;
      }
    }
  }

  void AddPlain() {
    std::vector<int64_t> shape;
    for (int64_t k = random_.Between(0, 3); k > 0; --k) {
      shape.push_back(random_.OneIn(12) ? 0 : random_.Between(1, 9));
    }
    const int64_t count = Elements(shape);
    const int32_t source = AddSource(shape);
    std::vector<Box> boxes;
    if (count > 0) boxes.push_back(WholeBox(source, count, 0));
    AddTarget(std::move(shape), std::move(boxes), {source});
  }

  void AddStack(int64_t n, int64_t a, int64_t b, bool transposed) {
    std::vector<Draft> drafts;
    for (int64_t i = 0; i < n; ++i) {
      if (transposed) {
        drafts.push_back({AddSource({a, b}), 0, i * a * b, {{a, b, 1}, {b, 1, a}}});
      } else {
        drafts.push_back({AddSource({a, b}), 0, i * a * b, {{a * b, 1, 1}}});
      }
    }
    Add(transposed ? std::vector<int64_t>{n, b, a} : std::vector<int64_t>{n, a, b}, drafts);
  }

  // A quantised source of `matrices` matrices of blocks; its target may be transposed.
  void AddDecoded(int64_t matrices) {
    constexpr DType kScales[] = {DType::kUInt8, DType::kFloat32, DType::kBFloat16,
                                 DType::kFloat8E8M0};
    SourceDecoder source;
    Decoder& form = source.decoder;
    form.kind = static_cast<DecoderKind>(random_.Between(1, 3));
    form.stored = form.kind != DecoderKind::kFp8Block ? DType::kUInt8
                  : random_.OneIn(2)                  ? DType::kFloat8E4M3
                                                      : DType::kFloat8E5M2;
    form.scale = form.kind == DecoderKind::kMxfp4 ? DType::kUInt8 : kScales[random_.Between(0, 3)];
    form.block_rows = random_.Between(1, 4);
    form.block_cols = 2 * random_.Between(1, 6);
    form.rows = form.block_rows * random_.Between(1, 3);
    form.cols = form.block_cols * random_.Between(1, 3);
    const int64_t grid_rows = form.rows / form.block_rows, grid_cols = GridCols(form);
    const bool is_shared = matrices > 1 && random_.OneIn(4);
    form.matrix_scales = is_shared ? 0 : grid_rows * grid_cols;
    source.dtype = DType::kBFloat16;
    dtype_ = form.stored;
    source.source = AddSource({matrices, form.rows, form.cols / PackedElements(form.kind)});
    dtype_ = form.scale;
    source.scale = AddSource({is_shared ? 1 : matrices, grid_rows, grid_cols});
    conversion_.decoders.push_back(source);
    dtype_ = source.dtype;
    const int64_t rows = matrices * form.rows, cols = form.cols;
    if (random_.OneIn(2)) {
      return Add({cols, rows}, {{source.source, 0, 0, {{rows, cols, 1}, {cols, 1, rows}}}});
    }
    Add({rows, cols}, {{source.source, 0, 0, {{rows * cols, 1, 1}}}});
  }

  struct Draft {
    int32_t source;
    int64_t source_offset, target_offset;
    std::vector<BoxDim> dims;
  };
  void Add(std::vector<int64_t> shape, const std::vector<Draft>& drafts) {
    std::vector<Box> boxes;
    std::vector<int32_t> sources;
    for (const Draft& draft : drafts) {
      boxes.push_back(MakeOne(draft.source, draft.source_offset, draft.target_offset, draft.dims));
      sources.push_back(draft.source);
    }
    std::sort(sources.begin(), sources.end());
    AddTarget(std::move(shape), std::move(boxes), std::move(sources));
  }

  std::shared_ptr<const Manifest> PlaceSources() {
    auto manifest = std::make_shared<Manifest>();
    const int64_t num_files = random_.Between(1, 3);
    for (int64_t i = 0; i < num_files; ++i) {
      manifest->files.push_back({"model-" + std::to_string(i) + ".safetensors",
                                 random_.Between(8, 40), 1, static_cast<uint64_t>(i)});
    }
    std::vector<int32_t> order(sources_.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
    random_.Shuffle(&order);
    std::vector<std::pair<ManifestTensor, int32_t>> placed;
    for (const int32_t i : order) {
      ManifestTensor tensor;
      tensor.tensor = sources_[i];
      tensor.file = static_cast<int32_t>(random_.Between(0, num_files - 1));
      int64_t& end = manifest->files[tensor.file].num_bytes;
      if (random_.OneIn(5)) end += random_.Between(1, 20);
      tensor.file_begin = end;
      end += Elements(tensor.tensor.shape) * SizeOf(tensor.tensor.dtype);
      tensor.file_end = end;
      placed.emplace_back(std::move(tensor), i);
    }
    std::stable_sort(placed.begin(), placed.end(), [](const auto& x, const auto& y) {
      return std::make_pair(x.first.file, x.first.file_begin) <
             std::make_pair(y.first.file, y.first.file_begin);
    });
    place_.resize(sources_.size());
    for (auto& [tensor, i] : placed) {
      place_[i] = static_cast<int32_t>(manifest->tensors.size());
      manifest->tensors.push_back(std::move(tensor));
    }
    return manifest;
  }

  Random& random_;
  const Layout& layout_;
  DType dtype_ = DType::kBFloat16;  // of the group in work
  std::vector<SourceTensor> sources_;
  std::vector<int32_t> place_;  // number in sources_ -> number in the manifest
  ModelSpec spec_;
  Conversion conversion_;
};

}  // namespace

uint64_t TestSeed() {
  const char* const fixed = std::getenv("ZC_SEED");
  const uint64_t seed =
      fixed != nullptr ? std::strtoull(fixed, nullptr, 10) : std::random_device()();
  std::printf("ZC_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

int64_t Random::Between(int64_t low, int64_t high) {
  return low + static_cast<int64_t>(engine_() % static_cast<uint64_t>(high - low + 1));
}

Layout RandomLayout(Random* random) {
  Layout layout;
  layout.world_size = static_cast<int32_t>(random->Between(1, 9));
  layout.num_nodes = static_cast<int32_t>(random->Between(1, 4));
  for (int32_t rank = 0; rank < layout.world_size; ++rank) {
    layout.node_of_rank.push_back(
        rank == 0 ? 0 : static_cast<int32_t>(random->Between(0, layout.num_nodes - 1)));
  }
  std::sort(layout.node_of_rank.begin(), layout.node_of_rank.end());
  layout.zero_stage = random->OneIn(4) ? static_cast<int32_t>(random->Between(0, 2)) : 3;
  if (random->OneIn(2)) {
    // A divisor of the world size, or more than there are ranks.
    do {
      layout.hpz_partition_size = static_cast<int32_t>(random->Between(2, 10));
    } while (layout.hpz_partition_size < layout.world_size &&
             layout.world_size % layout.hpz_partition_size != 0);
  }
  layout.read_mode = static_cast<ReadMode>(random->Between(0, 2));
  layout.move_mode = static_cast<MoveMode>(random->Between(0, 1));
  layout.dtype = static_cast<DTypePolicy>(random->Between(0, 4));
  constexpr int64_t kRoundBytes[] = {9, 24, 61, 512, 1 << 20};
  layout.round_bytes = kRoundBytes[random->Between(0, 4)];
  return layout;
}

Plan RandomPlan(Random* random, const Layout& layout) { return Maker(random, layout).Make(); }

std::vector<std::string> RandomFiles(Random* random, const Manifest& manifest) {
  std::vector<std::string> files;
  for (const ManifestFile& file : manifest.files) {
    std::string bytes(static_cast<size_t>(file.num_bytes), '\0');
    for (char& byte : bytes) byte = static_cast<char>(random->Between(0, 255));
    files.push_back(std::move(bytes));
  }
  return files;
}

std::string NaivePartition(const Plan& plan, const Target& target, const std::string& whole,
                           int32_t rank, bool secondary) {
  const int64_t size = SizeOf(target.dtype), world = plan.layout.world_size;
  int64_t padded = target.num_elements;
  while (padded % world != 0) ++padded;
  int64_t first = 0, count = target.num_elements;
  if (target.partitioned) {
    int64_t parts = world, part = rank;
    if (secondary) {
      parts = std::min<int64_t>(plan.layout.hpz_partition_size, world);
      for (part = 0; part * parts <= rank; ++part) continue;
      part = rank - (part - 1) * parts;  // its place in its group
    }
    count = padded / parts;
    first = part * count;
  }
  std::string bytes(static_cast<size_t>(count * size), '\0');
  for (int64_t i = 0; i < count && first + i < target.num_elements; ++i) {
    for (int64_t b = 0; b < size; ++b) bytes[i * size + b] = whole[(first + i) * size + b];
  }
  return bytes;
}

std::vector<std::string> NaiveTargets(const Plan& plan, const std::vector<std::string>& files) {
  std::vector<std::string> results;
  for (const Target& target : plan.targets) {
    const int64_t size = SizeOf(target.dtype);
    std::string bytes(static_cast<size_t>(target.num_elements * size), '\0');
    for (const Box& box : target.boxes) {
      const ManifestTensor& from = plan.manifest->tensors[box.source];
      const int64_t from_size = SizeOf(from.tensor.dtype);
      int64_t index[kMaxBoxDims] = {};
      for (int64_t i = NumElements(box); i > 0; --i) {
        int64_t source = box.source_offset, place = box.target_offset;
        for (int k = 0; k < box.num_dims; ++k) {
          source += index[k] * box.dims[k].source_stride;
          place += index[k] * box.dims[k].target_stride;
        }
        if (const SourceDecoder* const decoder = FindDecoder(plan.decoders, box.source)) {
          const ManifestTensor& scales = plan.manifest->tensors[decoder->scale];
          Box one;
          one.source_offset = source;
          one.target_offset = place;
          DecodeBoxReference(one, decoder->decoder,
                             {files[from.file].data() + from.file_begin, 0,
                              files[scales.file].data() + scales.file_begin, 0},
                             bytes.data(), target.dtype);
        } else {
          CopyBoxReference(Box(), files[from.file].data() + from.file_begin + source * from_size,
                           from.tensor.dtype, &bytes[static_cast<size_t>(place * size)],
                           target.dtype);
        }
        for (int k = box.num_dims - 1; k >= 0 && ++index[k] == box.dims[k].extent; --k) {
          index[k] = 0;
        }
      }
    }
    results.push_back(std::move(bytes));
  }
  return results;
}

}  // namespace zerocast
