#include "tests/client/agent/load_fixture.h"

#include <gtest/gtest.h>
#include <xxhash.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <random>
#include <sstream>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/agent/placement.h"
#include "client/agent/round_reader.h"
#include "client/formats/checkpoint.h"
#include "client/formats/safetensors_writer.h"
#include "kernels/comm/loopback.h"
#include "kernels/copy/copy.h"
#include "tests/made_rules.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

constexpr int kExperts = 4;

// Of the matrices.
struct Sizes {
  explicit Sizes(int64_t scale)
      : hidden(16 * scale), intermediate(8 * scale), vocabulary(37 * scale) {}
  int64_t hidden, intermediate, vocabulary;
};

int64_t NumElements(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  return count;
}

// Files with random bytes, and the index that names them.
class CheckpointWriter {
 public:
  CheckpointWriter(std::string folder, uint64_t seed) : folder_(std::move(folder)), random_(seed) {}

  void Add(int file, const std::string& name, DType dtype, std::vector<int64_t> shape) {
    std::string data(static_cast<size_t>(NumElements(shape) * SizeOf(dtype)), '\0');
    for (char& byte : data) byte = static_cast<char>(random_());
    data_.push_back({file, {name, dtype, std::move(shape), {}}, std::move(data)});
  }

  void Write() {
    std::string map;
    for (int file = 1; file <= 2; ++file) {
      const std::string name = absl::StrCat("model-", file, ".safetensors");
      std::vector<TensorToWrite> tensors;
      for (Entry& entry : data_) {
        if (entry.file != file) continue;
        entry.tensor.data = entry.data;
        tensors.push_back(entry.tensor);
        absl::StrAppend(&map, map.empty() ? "" : ",", "\"", entry.tensor.name, "\":\"", name, "\"");
      }
      ASSERT_THAT(WriteSafetensors(folder_ + "/" + name, tensors, {}), IsOk());
    }
    std::ofstream(folder_ + "/model.safetensors.index.json") << "{\"weight_map\":{" << map << "}}";
    std::ofstream(folder_ + "/config.json") << R"({"model_type":"mixtral"})";
  }

 private:
  struct Entry {
    int file;
    TensorToWrite tensor;
    std::string data;
  };
  const std::string folder_;
  std::mt19937_64 random_;
  std::vector<Entry> data_;
};

std::string ReadWholeFile(const std::string& path) {
  std::ostringstream content;
  content << std::ifstream(path, std::ios::binary).rdbuf();
  return content.str();
}

}  // namespace

uint64_t TestSeed() {
  const char* const given = std::getenv("ZC_SEED");
  const uint64_t seed =
      given != nullptr ? std::strtoull(given, nullptr, 10) : uint64_t{std::random_device{}()};
  std::cout << "ZC_SEED=" << seed << std::endl;
  return seed;
}

void WriteCheckpoint(const std::string& folder, uint64_t seed, int64_t scale) {
  const auto [hidden, intermediate, vocabulary] = Sizes(scale);
  CheckpointWriter writer(folder, seed);
  writer.Add(1, "model.embed_tokens.weight", DType::kBFloat16, {vocabulary, hidden});
  for (int e = 0; e < kExperts; ++e) {
    const std::string expert = absl::StrCat("model.layers.0.block_sparse_moe.experts.", e, ".");
    const int file = 1 + e / 3;  // the experts of a layer lie in both files
    writer.Add(file, expert + "w1.weight", DType::kBFloat16, {intermediate, hidden});
    writer.Add(file, expert + "w2.weight", DType::kBFloat16, {hidden, intermediate});
    writer.Add(2, expert + "w3.weight", DType::kBFloat16, {intermediate, hidden});
  }
  writer.Add(2, "model.norm.weight", DType::kFloat32, {hidden});
  writer.Add(2, "lm_head.weight", DType::kFloat16, {vocabulary, hidden});
  writer.Add(2, "model.positions", DType::kInt64, {5});
  writer.Add(2, "model.scale", DType::kFloat32, {});
  writer.Write();
}

void MisalignCheckpoint(const std::string& folder) {
  for (const int file : {1, 2}) {
    const std::string path = absl::StrCat(folder, "/model-", file, ".safetensors");
    std::string bytes = ReadWholeFile(path);
    uint64_t header_bytes = 0;
    std::memcpy(&header_bytes, bytes.data(), sizeof(header_bytes));
    bytes.insert(sizeof(header_bytes) + header_bytes, " ");
    ++header_bytes;
    std::memcpy(bytes.data(), &header_bytes, sizeof(header_bytes));
    std::ofstream(path, std::ios::binary) << bytes;
  }
}

ModelSpec CheckpointSpec(int64_t scale) {
  const auto [hidden, intermediate, vocabulary] = Sizes(scale);
  ModelSpec spec;
  spec.architecture = "MixtralForCausalLM";
  spec.model_type = "mixtral";
  spec.base_model_prefix = "model";
  spec.has_base_model_prefix = true;
  spec.transforms = MixtralRules();
  const std::string experts = "model.layers.0.mlp.experts.";
  spec.params = {
      {"model.embed_tokens.weight", {vocabulary, hidden}, DType::kBFloat16},
      {experts + "gate_up_proj", {kExperts, 2 * intermediate, hidden}, DType::kBFloat16},
      {experts + "down_proj", {kExperts, hidden, intermediate}, DType::kBFloat16},
      {"model.norm.weight", {hidden}, DType::kFloat32},
      {"lm_head.weight", {vocabulary, hidden}, DType::kFloat16},
  };
  spec.buffers = {{"model.positions", {5}, DType::kInt64}, {"model.scale", {}, DType::kFloat32}};
  return spec;
}

std::string CheckpointSpecJson() { return ModelSpecToJson(CheckpointSpec()); }

Layout MakeLayout(int nodes, int ranks) {
  Layout layout;
  layout.world_size = nodes * ranks;
  layout.num_nodes = nodes;
  for (int rank = 0; rank < layout.world_size; ++rank) layout.node_of_rank.push_back(rank / ranks);
  return layout;
}

std::shared_ptr<const Plan> MakePlan(const std::string& folder, const Layout& layout,
                                     int64_t scale) {
  absl::StatusOr<Manifest> manifest = ReadCheckpointManifest(folder);
  EXPECT_THAT(manifest, IsOk());
  const ModelSpec spec = CheckpointSpec(scale);
  Report report;
  absl::StatusOr<Plan> plan = CompilePlan(std::make_shared<const Manifest>(*std::move(manifest)),
                                          &spec, {}, layout, &report);
  EXPECT_THAT(plan, IsOk());
  return std::make_shared<const Plan>(*std::move(plan));
}

std::vector<std::vector<std::string>> ExpectedPartitions(const Plan& plan,
                                                         const std::string& folder) {
  std::vector<std::string> files;
  for (const ManifestFile& file : plan.manifest->files) {
    files.push_back(ReadWholeFile(folder + "/" + file.path));
  }
  std::vector<std::vector<std::string>> expected(static_cast<size_t>(plan.layout.world_size));
  for (const Target& target : plan.targets) {
    const int64_t element = SizeOf(target.dtype);
    std::string whole(static_cast<size_t>(target.num_elements * element), '\0');
    for (const Box& box : target.boxes) {
      const ManifestTensor& source = plan.manifest->tensors[static_cast<size_t>(box.source)];
      CopyBoxReference(box, files[static_cast<size_t>(source.file)].data() + source.file_begin,
                       source.tensor.dtype, whole.data(), target.dtype);
    }
    const size_t part = static_cast<size_t>(target.partition_elements * element);
    for (size_t rank = 0; rank < expected.size(); ++rank) {
      const size_t begin = target.partitioned ? std::min(rank * part, whole.size()) : 0;
      std::string partition = whole.substr(begin, part);
      partition.resize(part, '\0');
      expected[rank].push_back(std::move(partition));
    }
  }
  return expected;
}

std::vector<std::vector<uint64_t>> ExpectedDigests(const Plan& plan, const std::string& folder) {
  std::vector<std::vector<uint64_t>> digests;
  for (const auto& partitions : ExpectedPartitions(plan, folder)) {
    std::vector<uint64_t>& of_rank = digests.emplace_back();
    for (const std::string& bytes : partitions) {
      of_rank.push_back(XXH3_64bits(bytes.data(), bytes.size()));
    }
  }
  return digests;
}

ClusterRun RunCluster(ClusterOptions options) {
  const Plan& plan = *options.plan;
  const size_t num_nodes = static_cast<size_t>(plan.layout.num_nodes);
  absl::StatusOr<Schedule> made = Schedule::Create(plan);
  EXPECT_THAT(made, IsOk());
  const auto schedule = std::make_shared<const Schedule>(*std::move(made));
  if (options.communicators.empty()) {
    options.communicators = MakeLoopbackGroup(plan.layout.num_nodes);
  }
  ClusterRun run;
  run.statuses.resize(num_nodes);
  run.progress.resize(num_nodes);
  run.arenas.resize(static_cast<size_t>(plan.layout.world_size));
  std::vector<std::thread> threads;
  for (size_t node = 0; node < num_nodes; ++node) {
    threads.emplace_back([&, node] {
      ExecutorOptions executor;
      executor.plan = options.plan;
      executor.schedule = schedule;
      executor.node = static_cast<int32_t>(node);
      executor.checkpoint_path = options.folder;
      executor.file_work = options.file_work;
      executor.reader = options.readers.empty() ? MakePosixReader({}) : options.readers[node];
      auto identities =
          IdentifyFiles(plan, *schedule, executor.node, options.folder, executor.reader.get());
      if (!identities.ok()) {
        run.statuses[node] = identities.status();
        options.communicators[node]->Abort("no files");
        return;
      }
      executor.identities = *std::move(identities);
      executor.communicator = options.communicators[node].get();
      const auto [first, last] = RanksOfNode(plan.layout, executor.node);
      // A read that is left behind keeps them.
      const auto arenas = std::make_shared<std::vector<Arena>>();
      for (int32_t rank = first; rank < last; ++rank) {
        arenas->push_back(*Arena::Create(absl::StrCat("test-", rank), plan.arena_bytes));
      }
      executor.arenas = MemoryOf(arenas);
      executor.stage_timeout = options.stage_timeout;
      executor.num_threads = options.num_threads;
      executor.io = options.io;
      if (!options.hooks.empty()) executor.hooks = options.hooks[node];
      if (options.before_load) options.before_load(executor.node, &executor);
      run.statuses[node] = ExecuteLoad(executor, &run.progress[node]);
      if (run.statuses[node].ok()) {
        if (options.after_load) options.after_load(executor.node, absl::MakeSpan(*arenas));
        std::move(arenas->begin(), arenas->end(), run.arenas.begin() + first);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return run;
}

std::vector<std::string> Differences(const Plan& plan, const std::vector<Arena>& arenas,
                                     const std::vector<std::vector<std::string>>& expected) {
  std::vector<std::string> differences;
  for (size_t rank = 0; rank < arenas.size(); ++rank) {
    for (size_t t = 0; t < plan.targets.size(); ++t) {
      const std::string& want = expected[rank][t];
      if (std::memcmp(arenas[rank].data() + plan.targets[t].arena_offset, want.data(),
                      want.size()) != 0) {
        differences.push_back(absl::StrCat("rank ", rank, ", ", plan.targets[t].name));
      }
    }
  }
  return differences;
}

}  // namespace zerocast
