// Checkpoints of random shapes, groups and settings, from the universal form through two world
// sizes and back: every element of every state stays what it was.  ZC_SEED repeats one.
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/formats/deepspeed/reshard.h"
#include "tests/client/formats/deepspeed/universal_model.h"
#include "tests/client/formats/deepspeed/zero_bytes.h"
#include "tests/status_matchers.h"
#include "tests/temp_dir.h"

namespace zerocast {
namespace {

constexpr int kRounds = 20;

std::string RandomBytes(int64_t num_bytes, std::mt19937_64* random) {
  std::string bytes;
  while (static_cast<int64_t>(bytes.size()) < num_bytes) {
    bytes.push_back(static_cast<char>((*random)()));
  }
  return bytes;
}

Model RandomModel(std::mt19937_64* random) {
  const auto below = [&](int64_t most) {
    return static_cast<int64_t>((*random)() % static_cast<uint64_t>(most));
  };
  Model model;
  model.stage = static_cast<int>(1 + below(3));
  model.sub_group_size = 1 + below(90);
  model.aligned = model.stage != 3 && below(2) == 0;
  model.round_robin = model.stage != 3 && below(2) == 0;
  model.num_groups = static_cast<int>(1 + below(3));
  // Each group has at least one, as DeepSpeed wants it below stage 3.
  const int64_t count = model.num_groups + below(12);
  for (int64_t k = 0; k < count; ++k) {
    Weight weight;
    weight.name = absl::StrCat("layer.", k, ".weight");
    for (int64_t dims = below(4); dims > 0; --dims) {
      // Some have no elements; not the one that a group has at least.
      weight.shape.push_back(k >= model.num_groups && below(12) == 0 ? 0 : 1 + below(7));
      weight.num_elements *= weight.shape.back();
    }
    weight.group = static_cast<int>(k < model.num_groups ? k : below(model.num_groups + 1) - 1);
    for (std::string& state : weight.states) state = RandomBytes(4 * weight.num_elements, random);
    weight.stored = RandomBytes(2 * weight.num_elements, random);
    model.weights.push_back(std::move(weight));
  }
  return model;
}

// What of `folder` is not as in `model`.
std::string Differs(const Model& model, const std::string& folder, int64_t world_size) {
  const auto read = ReadZeroCheckpoint(folder, "");
  if (!read.ok()) return std::string(read.status().message());
  if (read->world_size != world_size) return "world_size";
  if (read->optimizer_step != 4) return "step";
  size_t num_found = 0;
  for (const ZeroParameter& parameter : read->parameters) {
    for (const Weight& weight : model.weights) {
      if (weight.name != parameter.name) continue;
      ++num_found;
      if (parameter.shape != weight.shape) return weight.name + " shape";
      if (parameter.group != weight.group) return weight.name + " group";
      const bool is_stored = weight.group < 0 || model.stage != 3;
      if (is_stored && PieceBytes(*read, parameter.stored) != weight.stored) {
        return weight.name + " stored";
      }
      for (size_t state = 0; weight.group >= 0 && state < 3; ++state) {
        // "fp32" is first, the others follow by name.
        if (StateBytes(*read, parameter, state) != weight.states[state]) {
          return absl::StrCat(weight.name, " ", kStates[state]);
        }
      }
    }
  }
  return num_found == model.weights.size() ? "" : "some are missing";
}

TEST(ReshardProperty, EveryElementStaysWhatItWas) {
  const char* const given = std::getenv("ZC_SEED");
  const uint64_t first =
      given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device()();
  const int rounds = given != nullptr ? 1 : kRounds;
  for (int round = 0; round < rounds; ++round) {
    const uint64_t seed = first + static_cast<uint64_t>(round);
    SCOPED_TRACE(absl::StrCat("ZC_SEED=", seed));
    std::mt19937_64 random(seed);
    const Model model = RandomModel(&random);
    const TempDir temp;
    ASSERT_THAT(WriteUniversal(model, temp.File("first/global_step4_universal")), IsOk());
    temp.Write("first/latest_universal", "global_step4_universal");
    ASSERT_EQ(Differs(model, temp.File("first"), 1), "");
    std::string from = temp.File("first");
    int64_t world_size = 1;
    for (int step = 0; step < 4; ++step) {
      const bool universal = step == 2;
      const int64_t next = universal ? world_size : static_cast<int64_t>(1 + random() % 9);
      const std::string out = temp.File(absl::StrCat("out", step));
      ZC_ASSERT_OK_AND_ASSIGN(const ZeroCheckpoint read, ReadZeroCheckpoint(from, ""));
      ZC_ASSERT_OK_AND_ASSIGN(OutputFolder folder, OutputFolder::Create(out));
      ASSERT_THAT(universal ? WriteUniversalCheckpoint(read, folder, {})
                            : ReshardCheckpoint(read, next, folder, {}),
                  IsOk());
      ASSERT_THAT(folder.Commit(), IsOk());
      SCOPED_TRACE(absl::StrCat("from ", world_size, " to ", universal ? 0 : next));
      ASSERT_EQ(Differs(model, out, next), "");
      world_size = next;
      from = out;
    }
  }
}

}  // namespace
}  // namespace zerocast
