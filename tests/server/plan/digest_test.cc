// The digest covers every field of a plan, and equals the recorded one on every machine.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "kernels/copy/algebra.h"
#include "server/plan/plan.h"

namespace zerocast {
namespace {

Manifest FixedManifest() {
  Manifest manifest;
  manifest.files.push_back({"model.safetensors", 1234, 1700000000000000001, 0x8123456789abcdef});
  manifest.tensors.push_back({{"a.weight", DType::kBFloat16, {2, 3}}, 0, 100, 112});
  manifest.config_json = "{\"model_type\": \"m\"}";
  return manifest;
}

// Every list has an entry, every number is not zero.
Plan FixedPlan() {
  Plan plan;
  plan.manifest = std::make_shared<Manifest>(FixedManifest());
  plan.layout.world_size = 2;
  plan.layout.node_of_rank = {0, 1};
  plan.layout.num_nodes = 2;
  plan.layout.allow_missing = {"^b"};
  Target target;
  target.name = "model.a.weight";
  target.shape = {3, 2};
  target.num_elements = 6;
  target.dtype = DType::kFloat32;
  target.partitioned = true;
  target.partition_elements = 3;
  target.is_filled = true;
  target.boxes = {*MakeBox(0, 0, 0, {{2, 3, 1}, {3, 1, 2}})};
  target.aliases = {"head.weight"};
  plan.targets = {target};
  plan.arena_bytes = 64;
  SourceDecoder decoder;
  decoder.scale = 1;
  decoder.decoder.kind = DecoderKind::kFp8Block;
  decoder.decoder.stored = DType::kFloat8E4M3;
  decoder.decoder.scale = DType::kFloat32;
  decoder.decoder.rows = 2;
  decoder.decoder.cols = 3;
  decoder.decoder.block_cols = 3;
  decoder.decoder.matrix_scales = 2;
  decoder.dtype = DType::kBFloat16;
  plan.decoders = {decoder};
  plan.report.missing = {"b"};
  plan.report.unexpected = {"c"};
  plan.report.mismatched = {{"d", {1}, {2}}};
  plan.report.conversion_errors = {{"e", {"f"}, "g"}};
  plan.report.dtype = "fp32";
  plan.report.dtype_reason = "default";
  return plan;
}

TEST(DigestTest, IsTheRecordedOne) {
  EXPECT_EQ(PlanDigest(FixedPlan()), "eccb9b40c0cb12c77f7a3925753b6b70");
}

TEST(DigestTest, DoesNotCoverItselfNorTheReasonOfTheDtype) {
  Plan plan = FixedPlan();
  plan.digest = "0123";
  plan.report.dtype_reason = "--dtype";
  EXPECT_EQ(PlanDigest(plan), PlanDigest(FixedPlan()));
}

TEST(DigestTest, ChangesWithEveryField) {
  const auto manifest = [](std::function<void(Manifest*)> change) {
    return [change](Plan* plan) {
      Manifest changed = *plan->manifest;
      change(&changed);
      plan->manifest = std::make_shared<Manifest>(changed);
    };
  };
  const std::vector<std::function<void(Plan*)>> changes = {
      [](Plan*) {},
      manifest([](Manifest* m) { m->files[0].path += "x"; }),
      manifest([](Manifest* m) { m->files[0].num_bytes++; }),
      manifest([](Manifest* m) { m->files[0].mtime_ns++; }),
      manifest([](Manifest* m) { m->files[0].header_digest++; }),
      manifest([](Manifest* m) { m->files.push_back({}); }),
      manifest([](Manifest* m) { m->tensors[0].tensor.name += "x"; }),
      manifest([](Manifest* m) { m->tensors[0].tensor.dtype = DType::kFloat16; }),
      manifest([](Manifest* m) { m->tensors[0].tensor.shape[1]++; }),
      manifest([](Manifest* m) { m->tensors[0].tensor.shape.push_back(1); }),
      manifest([](Manifest* m) {
        m->tensors[0].tensor.strides = {1, 2};
      }),
      manifest([](Manifest* m) { m->tensors[0].file++; }),
      manifest([](Manifest* m) { m->tensors[0].file_begin++; }),
      manifest([](Manifest* m) { m->tensors[0].file_end++; }),
      manifest([](Manifest* m) { m->tensors.push_back({}); }),
      manifest([](Manifest* m) { m->config_json += " "; }),
      manifest([](Manifest* m) { m->engine.emplace(); }),
      manifest([](Manifest* m) { m->engine.emplace().tag = "t"; }),
      manifest([](Manifest* m) { m->engine.emplace().stage = 1; }),
      manifest([](Manifest* m) { m->engine.emplace().world_size = 1; }),
      manifest([](Manifest* m) { m->engine.emplace().is_universal = true; }),
      manifest([](Manifest* m) { m->engine.emplace().global_steps = 1; }),
      manifest([](Manifest* m) { m->engine.emplace().optimizer_step = 1; }),
      manifest([](Manifest* m) { m->engine.emplace().states = {"fp32"}; }),
      manifest([](Manifest* m) { m->engine.emplace().flats = {{1}}; }),
      manifest([](Manifest* m) { m->engine.emplace().round_robin_gradients = true; }),
      manifest([](Manifest* m) { m->engine.emplace().parameter_alignment = true; }),
      manifest([](Manifest* m) { m->engine.emplace().weights.emplace_back(); }),
      manifest([](Manifest* m) { m->engine.emplace().weights.emplace_back().name = "a"; }),
      manifest([](Manifest* m) { m->engine.emplace().weights.emplace_back().shape = {1}; }),
      manifest(
          [](Manifest* m) { m->engine.emplace().weights.emplace_back().dtype = DType::kFloat32; }),
      manifest([](Manifest* m) { m->engine.emplace().weights.emplace_back().aliases = {"a"}; }),
      manifest([](Manifest* m) { m->engine.emplace().weights.emplace_back().is_buffer = true; }),
      manifest([](Manifest* m) { m->engine.emplace().weights.emplace_back().group = 0; }),
      manifest([](Manifest* m) { m->engine.emplace().weights.emplace_back().place = 0; }),
      manifest([](Manifest* m) {
        m->engine.emplace().weights.emplace_back().in_states = {{1, 2, 3}};
      }),
      manifest([](Manifest* m) {
        m->engine.emplace().weights.emplace_back().stored = {{1, 2, 3}};
      }),
      [](Plan* p) { p->layout.weights_only = true; },
      [](Plan* p) { p->layout.round_robin_gradients = true; },
      [](Plan* p) { p->layout.round_robin_gradients = false; },
      [](Plan* p) { p->layout.parameter_alignment = true; },
      [](Plan* p) { p->layout.parameter_alignment = false; },
      [](Plan* p) { p->layout.world_size++; },
      [](Plan* p) { p->layout.node_of_rank[1] = 0; },
      [](Plan* p) { p->layout.num_nodes++; },
      [](Plan* p) { p->layout.zero_stage = 2; },
      [](Plan* p) { p->layout.hpz_partition_size = 2; },
      [](Plan* p) { p->layout.read_mode = ReadMode::kRank0; },
      [](Plan* p) { p->layout.move_mode = MoveMode::kBroadcast; },
      [](Plan* p) { p->layout.device = LoadDevice::kCuda; },
      [](Plan* p) { p->layout.placement = Placement::kHost; },
      [](Plan* p) { p->layout.dtype = DTypePolicy::kSpec; },
      [](Plan* p) { p->layout.round_bytes++; },
      [](Plan* p) { p->layout.allow_missing[0] += "x"; },
      [](Plan* p) { p->layout.allow_missing.push_back(""); },
      [](Plan* p) { p->layout.ignore_mismatched = true; },
      [](Plan* p) { p->targets[0].name += "x"; },
      [](Plan* p) { p->targets[0].shape[0]++; },
      [](Plan* p) { p->targets[0].num_elements++; },
      [](Plan* p) { p->targets[0].dtype = DType::kBFloat16; },
      [](Plan* p) { p->targets[0].is_buffer = true; },
      [](Plan* p) { p->targets[0].is_state = true; },
      [](Plan* p) {
        p->targets[0].gaps = {{0, 1}};
      },
      [](Plan* p) { p->targets[0].partitioned = false; },
      [](Plan* p) { p->targets[0].partition_elements++; },
      [](Plan* p) { p->targets[0].arena_offset = 64; },
      [](Plan* p) { p->targets[0].secondary_elements = 2; },
      [](Plan* p) { p->targets[0].secondary_offset = 64; },
      [](Plan* p) { p->targets[0].is_filled = false; },
      [](Plan* p) { p->targets[0].boxes[0].source++; },
      [](Plan* p) { p->targets[0].boxes[0].num_dims--; },
      [](Plan* p) { p->targets[0].boxes[0].source_offset++; },
      [](Plan* p) { p->targets[0].boxes[0].target_offset++; },
      [](Plan* p) { p->targets[0].boxes[0].dims[1].extent++; },
      [](Plan* p) { p->targets[0].boxes[0].dims[1].source_stride++; },
      [](Plan* p) { p->targets[0].boxes[0].dims[1].target_stride++; },
      [](Plan* p) { p->targets[0].boxes.push_back(p->targets[0].boxes[0]); },
      [](Plan* p) { p->targets[0].aliases[0] += "x"; },
      [](Plan* p) { p->targets[0].aliases.push_back(""); },
      [](Plan* p) { p->targets.push_back({}); },
      [](Plan* p) { p->arena_bytes++; },
      [](Plan* p) { p->decoders[0].source++; },
      [](Plan* p) { p->decoders[0].scale++; },
      [](Plan* p) { p->decoders[0].decoder.kind = DecoderKind::kMxfp4; },
      [](Plan* p) { p->decoders[0].decoder.stored = DType::kFloat8E5M2; },
      [](Plan* p) { p->decoders[0].decoder.scale = DType::kFloat16; },
      [](Plan* p) { p->decoders[0].decoder.rows++; },
      [](Plan* p) { p->decoders[0].decoder.cols++; },
      [](Plan* p) { p->decoders[0].decoder.block_rows++; },
      [](Plan* p) { p->decoders[0].decoder.block_cols++; },
      [](Plan* p) { p->decoders[0].decoder.matrix_scales++; },
      [](Plan* p) { p->decoders[0].dtype = DType::kFloat32; },
      [](Plan* p) { p->decoders.push_back(p->decoders[0]); },
      [](Plan* p) { p->report.missing[0] += "x"; },
      [](Plan* p) { p->report.missing.push_back(""); },
      [](Plan* p) { p->report.unexpected[0] += "x"; },
      [](Plan* p) { p->report.unexpected.push_back(""); },
      [](Plan* p) { p->report.mismatched[0].name += "x"; },
      [](Plan* p) { p->report.mismatched[0].checkpoint_shape[0]++; },
      [](Plan* p) { p->report.mismatched[0].model_shape[0]++; },
      [](Plan* p) { p->report.mismatched.push_back({}); },
      [](Plan* p) { p->report.conversion_errors[0].target += "x"; },
      [](Plan* p) { p->report.conversion_errors[0].sources[0] += "x"; },
      [](Plan* p) { p->report.conversion_errors[0].message += "x"; },
      [](Plan* p) { p->report.conversion_errors.push_back({}); },
      [](Plan* p) { p->report.missing_unknown = true; },
      [](Plan* p) { p->report.dtype += "x"; },
      // The same letters, another border between two strings.
      [](Plan* p) {
        p->report.missing = {};
        p->report.unexpected = {"b", "c"};
      },
  };
  std::set<std::string> digests;
  for (size_t i = 0; i < changes.size(); ++i) {
    Plan plan = FixedPlan();
    changes[i](&plan);
    const std::string digest = PlanDigest(plan);
    EXPECT_EQ(digest.size(), 32u);
    EXPECT_TRUE(digests.insert(digest).second) << "change " << i << " is not covered";
  }
}

TEST(DigestTest, HashesLongStringsWhole) {
  std::set<std::string> digests;
  for (const size_t at : {size_t{0}, size_t{16383}, size_t{16384}, size_t{99999}}) {
    Manifest manifest = FixedManifest();
    manifest.config_json = std::string(100000, ' ');
    manifest.config_json[at] = 'x';
    Plan plan = FixedPlan();
    plan.manifest = std::make_shared<Manifest>(manifest);
    digests.insert(PlanDigest(plan));
  }
  EXPECT_EQ(digests.size(), 4u);
}

}  // namespace
}  // namespace zerocast
