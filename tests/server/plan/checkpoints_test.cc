// Recorded checkpoints of real models: the plan compiles, reports what the library reported, and
// running its schedule gives the library's bytes on every rank.  ZC_GOLDEN_CHECKPOINTS may name a
// folder with the whole recording.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "kernels/copy/copy.h"
#include "kernels/copy/decode_box.h"
#include "nlohmann/json.hpp"
#include "server/plan/plan.h"
#include "server/plan/schedule.h"
#include "tests/server/conversion/golden.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using nlohmann::json;
using ::testing::UnorderedElementsAreArray;

// The checkpoint as one file, and that file's bytes.
struct Stored {
  std::shared_ptr<Manifest> manifest = std::make_shared<Manifest>();
  std::string bytes;
};

Stored ReadStored(const std::string& folder) {
  Stored stored;
  for (auto& [name, tensor] : ReadSafetensors(folder)) {
    const auto begin = static_cast<int64_t>(stored.bytes.size());
    stored.bytes += tensor.bytes;
    stored.manifest->tensors.push_back(
        {{name, tensor.dtype, tensor.shape}, 0, begin, static_cast<int64_t>(stored.bytes.size())});
  }
  stored.manifest->files.push_back(
      {"model.safetensors", static_cast<int64_t>(stored.bytes.size()), 0, 0});
  stored.manifest->config_json = ReadWholeFile(folder + "/config.json");
  return stored;
}

Layout MakeLayout(int32_t world_size, ReadMode mode) {
  Layout layout;
  layout.world_size = world_size;
  layout.num_nodes = 2;
  for (int32_t rank = 0; rank < world_size; ++rank) {
    layout.node_of_rank.push_back(2 * rank / world_size);
  }
  layout.read_mode = mode;
  layout.dtype = DTypePolicy::kSpec;
  layout.round_bytes = 20000;
  layout.allow_missing = {""};
  layout.ignore_mismatched = true;
  return layout;
}

// The arenas of all ranks after the load.
std::vector<std::string> RunLoad(const Plan& plan, const Schedule& schedule,
                                 const std::string& file) {
  std::vector<std::string> arenas(plan.layout.world_size, std::string(plan.arena_bytes, '\0'));
  std::vector<Piece> pieces;
  for (int64_t round = 0; round < schedule.num_rounds(); ++round) {
    for (int32_t reader = 0; reader < plan.layout.num_nodes; ++reader) {
      for (int32_t node = 0; node < plan.layout.num_nodes; ++node) {
        schedule.Pieces(round, reader, node, &pieces);
      }
    }
  }
  for (const Piece& piece : pieces) {
    const ManifestTensor& source = plan.manifest->tensors[piece.source];
    const Target& target = plan.targets[piece.target];
    Box box = piece.box;
    box.target_offset -= piece.target_base;
    char* const place = arenas[piece.rank].data() + target.arena_offset;
    const char* const data = file.data() + source.file_begin;
    if (const SourceDecoder* const decoder = FindDecoder(plan.decoders, piece.source)) {
      const char* const scales = file.data() + plan.manifest->tensors[decoder->scale].file_begin;
      DecodeBox(box, decoder->decoder, {data, 0, scales, 0}, place, target.dtype);
    } else {
      CopyBox(box, data, source.tensor.dtype, place, target.dtype);
    }
  }
  return arenas;
}

// The partitions of all ranks one behind the other, without the padding.
std::string Gather(const Plan& plan, const Target& target, const std::vector<std::string>& arenas) {
  std::string bytes;
  const int64_t part = target.partition_elements * SizeOf(target.dtype);
  for (int32_t rank = 0; rank < (target.partitioned ? plan.layout.world_size : 1); ++rank) {
    bytes += arenas[rank].substr(target.arena_offset, part);
  }
  return bytes.substr(0, target.num_elements * SizeOf(target.dtype));
}

void CompareReport(const Report& report, const json& info) {
  EXPECT_THAT(report.missing,
              UnorderedElementsAreArray(info["missing_keys"].get<std::vector<std::string>>()));
  EXPECT_THAT(report.unexpected,
              UnorderedElementsAreArray(info["unexpected_keys"].get<std::vector<std::string>>()));
  EXPECT_EQ(report.mismatched.size(), info["mismatched_keys"].size());
}

// Returns how many digests were equal.
int CompareBytes(const Plan& plan, const json& expected, const std::vector<std::string>& arenas) {
  std::map<std::string, const Target*> targets;
  for (const Target& target : plan.targets) {
    targets[target.name] = &target;
    for (const std::string& alias : target.aliases) targets[alias] = &target;
  }
  int equal = 0;
  for (const char* kind : {"params", "buffers"}) {
    for (const json& tensor : expected[kind]) {
      if (!tensor.contains("sha256")) continue;
      const std::string name = tensor["name"];
      EXPECT_EQ(targets.count(name), 1u) << name;
      if (targets.count(name) == 0) continue;
      const bool same = Sha256Hex(Gather(plan, *targets[name], arenas)) == tensor["sha256"];
      EXPECT_TRUE(same) << name;
      equal += same ? 1 : 0;
    }
  }
  return equal;
}

// Loads a quantised checkpoint in every read mode and compares all parameters with the digests of
// `dtype`.
void LoadQuantised(const Stored& stored, const ModelSpec* spec, DTypePolicy policy,
                   const json& digests) {
  for (const ReadMode mode : {ReadMode::kParallel, ReadMode::kLocal, ReadMode::kRank0}) {
    Layout layout = MakeLayout(4, mode);
    layout.dtype = policy;
    layout.round_bytes = 3000;
    layout.allow_missing = {};
    layout.ignore_mismatched = false;
    ZC_ASSERT_OK_AND_ASSIGN(const Plan plan,
                            CompilePlan(stored.manifest, spec, {}, layout, nullptr));
    EXPECT_THAT(plan.report.unexpected, ::testing::IsEmpty());
    EXPECT_THAT(plan.decoders, ::testing::Not(::testing::IsEmpty()));
    ZC_ASSERT_OK_AND_ASSIGN(const Schedule schedule, Schedule::Create(plan));
    const std::vector<std::string> arenas = RunLoad(plan, schedule, stored.bytes);
    size_t equal = 0;
    for (const Target& target : plan.targets) {
      if (!digests.contains(target.name)) continue;  // a buffer
      EXPECT_EQ(Sha256Hex(Gather(plan, target, arenas)), digests[target.name]) << target.name;
      ++equal;
    }
    EXPECT_EQ(equal, digests.size());
  }
}

TEST(PlanCheckpointsTest, QuantisedOnesAreDecodedAsTheLibraryDecodes) {
  const std::string data = GoldenFolder("ZC_GOLDEN_QUANTISED", "quantised");
  for (const std::string name : {"deepseek_v3-fp8", "deepseek_v3-mxfp8", "gpt_oss-mxfp4"}) {
    SCOPED_TRACE(name);
    json expected = json::parse(ReadWholeFile(data + "/" + name + "/expected.json"));
    const Stored stored = ReadStored(data + "/" + name);
    ZC_ASSERT_OK_AND_ASSIGN(const ModelSpec spec, ParseModelSpec(expected.dump()));
    // The rules that the library's own quantizer made of the model's.
    expected["transforms"] = expected["quantizer_transforms"];
    ZC_ASSERT_OK_AND_ASSIGN(const ModelSpec rewritten, ParseModelSpec(expected.dump()));
    const std::pair<DTypePolicy, const char*> policies[] = {{DTypePolicy::kBFloat16, "bfloat16"},
                                                            {DTypePolicy::kFloat16, "float16"},
                                                            {DTypePolicy::kFloat32, "float32"}};
    for (const auto& [policy, dtype] : policies) {
      const json& digests = expected["dtypes"][dtype];
      LoadQuantised(stored, &spec, policy, digests);
      LoadQuantised(stored, &rewritten, policy, digests);
      LoadQuantised(stored, nullptr, policy, digests);
    }
    LoadQuantised(stored, &spec, DTypePolicy::kSpec, expected["dtypes"]["bfloat16"]);
  }
}

TEST(PlanCheckpointsTest, LoadAsTheLibraryLoads) {
  std::vector<std::string> folders;
  for (const auto& entry :
       std::filesystem::directory_iterator(GoldenFolder("ZC_GOLDEN_CHECKPOINTS", "checkpoints"))) {
    folders.push_back(entry.path());
  }
  std::sort(folders.begin(), folders.end());
  int compiled = 0, equal = 0;
  for (const std::string& folder : folders) {
    SCOPED_TRACE(folder);
    const std::string text = ReadWholeFile(folder + "/expected.json");
    const json expected = json::parse(text);
    if (!expected.contains("loading_info")) continue;
    ZC_ASSERT_OK_AND_ASSIGN(const ModelSpec spec, ParseModelSpec(text));
    const Stored stored = ReadStored(folder);
    for (const ReadMode mode : {ReadMode::kParallel, ReadMode::kLocal, ReadMode::kRank0}) {
      const auto plan =
          CompilePlan(stored.manifest, &spec, {}, MakeLayout(3, mode), /*report=*/nullptr);
      EXPECT_THAT(plan, IsOk());
      if (!plan.ok()) break;
      CompareReport(plan->report, expected["loading_info"]);
      ZC_ASSERT_OK_AND_ASSIGN(const Schedule schedule, Schedule::Create(*plan));
      equal += CompareBytes(*plan, expected, RunLoad(*plan, schedule, stored.bytes));
      ++compiled;
    }
  }
  std::printf("%d plans compiled, %d digests equal\n", compiled, equal);
  EXPECT_GE(compiled, 15);
}

}  // namespace
}  // namespace zerocast
