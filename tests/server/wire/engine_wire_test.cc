#include "server/wire/engine_wire.h"

#include <functional>
#include <string>
#include <vector>

#include "server/base/errors.h"
#include "server/wire/plan_wire.h"
#include "server/wire/report_wire.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::HasSubstr;

// Two flat tensors of six elements of two states, a frozen weight of two elements.
v1::Manifest Small() {
  v1::Manifest manifest;
  v1::ManifestFile* file = manifest.add_files();
  file->set_path("global_step3/rank0.pt");
  file->set_num_bytes(1000);
  const auto add = [&manifest](const char* name, int64_t elements, int64_t begin) {
    v1::ManifestTensor* tensor = manifest.add_tensors();
    tensor->set_name(name);
    tensor->set_dtype(v1::DTYPE_FLOAT32);
    tensor->add_shape(elements);
    tensor->set_file_begin(begin);
  };
  add("fp32 0", 6, 0);
  add("exp_avg 0", 6, 100);
  add("fp32 1", 6, 200);
  add("exp_avg 1", 6, 300);
  add("frozen", 2, 400);
  v1::EngineCheckpoint* engine = manifest.mutable_engine();
  engine->set_tag("global_step3");
  engine->set_zero_stage(2);
  engine->set_world_size(2);
  engine->set_is_universal(true);
  engine->set_global_steps(3);
  engine->set_optimizer_step(2);
  engine->add_states("fp32");
  engine->add_states("exp_avg");
  for (int flat : {0, 2}) {
    v1::EngineFlat* added = engine->add_flats();
    added->add_tensors(flat);
    added->add_tensors(flat + 1);
  }
  v1::EngineWeight* a = engine->add_weights();
  a->set_name("a");
  a->add_shape(2);
  a->add_shape(4);
  a->set_dtype(v1::DTYPE_BFLOAT16);
  a->add_aliases("tied");
  a->set_group_number(1);
  for (int flat : {0, 1}) {
    v1::FlatPiece* piece = a->add_in_states();
    piece->set_flat(flat);
    piece->set_flat_offset(flat == 0 ? 2 : 0);
    piece->set_num_elements(4);
  }
  v1::EngineWeight* frozen = engine->add_weights();
  frozen->set_name("frozen");
  frozen->add_shape(2);
  frozen->set_dtype(v1::DTYPE_FLOAT32);
  frozen->set_is_buffer(true);
  v1::TensorPiece* piece = frozen->add_stored();
  piece->set_tensor(4);
  piece->set_num_elements(2);
  engine->set_round_robin_gradients(true);
  engine->set_parameter_alignment(true);
  manifest.set_note("both");
  return manifest;
}

TEST(Engine, RoundTrips) {
  ZC_ASSERT_OK_AND_ASSIGN(const Manifest manifest, ManifestFromProto(Small()));
  ASSERT_TRUE(manifest.engine.has_value());
  EXPECT_EQ(manifest.engine->weights[0].group, 0);
  EXPECT_EQ(manifest.engine->weights[1].group, -1);
  EXPECT_EQ(manifest.engine->weights[1].place, -1);
  EXPECT_EQ(ManifestToProto(manifest).SerializeAsString(), Small().SerializeAsString());
}

TEST(Engine, RefusesWhatContradictsItself) {
  const std::vector<std::function<void(v1::EngineCheckpoint*)>> changes = {
      [](auto* e) { e->set_zero_stage(4); },
      [](auto* e) { e->set_world_size(0); },
      [](auto* e) { e->set_states(1, "fp32"); },
      [](auto* e) { e->set_states(1, ""); },
      [](auto* e) { e->mutable_flats(0)->add_tensors(0); },
      [](auto* e) { e->mutable_flats(0)->set_tensors(0, 5); },
      [](auto* e) { e->mutable_flats(0)->set_tensors(0, -1); },
      [](auto* e) { e->mutable_flats(0)->set_tensors(0, 4); },  // too few elements
      [](auto* e) { e->mutable_weights(0)->set_name(""); },
      [](auto* e) { e->mutable_weights(0)->set_name("frozen"); },
      [](auto* e) { e->mutable_weights(0)->set_aliases(0, "frozen"); },
      [](auto* e) { e->mutable_weights(0)->set_dtype(v1::DTYPE_UNSPECIFIED); },
      [](auto* e) { e->mutable_weights(0)->set_shape(0, -2); },
      [](auto* e) { e->mutable_weights(0)->set_shape(0, int64_t{1} << 62); },
      [](auto* e) { e->mutable_weights(0)->set_shape(0, 3); },
      [](auto* e) { e->mutable_weights(0)->set_group_number(-1); },
      [](auto* e) { e->mutable_weights(0)->set_group_number(1 << 30); },
      [](auto* e) { e->mutable_weights(0)->set_group_number(0); },
      [](auto* e) { e->mutable_weights(0)->set_place(1); },
      [](auto* e) { e->mutable_weights(0)->mutable_in_states(0)->set_flat(2); },
      [](auto* e) { e->mutable_weights(0)->mutable_in_states(0)->set_flat_offset(3); },
      [](auto* e) { e->mutable_weights(0)->mutable_in_states(0)->set_flat_offset(-1); },
      [](auto* e) { e->mutable_weights(0)->mutable_in_states(0)->set_num_elements(0); },
      [](auto* e) { e->mutable_weights(0)->mutable_in_states(0)->set_num_elements(INT64_MAX); },
      [](auto* e) { e->mutable_weights(0)->clear_in_states(); },
      [](auto* e) { e->mutable_weights(1)->mutable_stored(0)->set_tensor(5); },
      [](auto* e) { e->mutable_weights(1)->mutable_stored(0)->set_tensor_offset(1); },
      [](auto* e) { e->mutable_weights(1)->mutable_stored(0)->set_num_elements(1); },
      [](auto* e) {
        v1::EngineWeight* copy = e->add_weights();
        *copy = e->weights(0);
        copy->set_name("b");
        copy->clear_aliases();
      },
  };
  for (size_t k = 0; k < changes.size(); ++k) {
    v1::Manifest manifest = Small();
    changes[k](manifest.mutable_engine());
    const auto read = ManifestFromProto(manifest);
    EXPECT_THAT(read, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("manifest.engine.")))
        << "change " << k;
  }
}

TEST(Report, KeepsWhatWasFound) {
  Report report;
  report.note = "both";
  EXPECT_FALSE(ReportFromProto(ReportToProto(report)).engine.has_value());
  EngineReport& engine = report.engine.emplace();
  engine.tag = "t";
  engine.stage = 3;
  engine.world_size = 4;
  engine.is_universal = true;
  engine.optimizer_step = 5;
  engine.states = {"fp32"};
  const Report again = ReportFromProto(ReportToProto(report));
  EXPECT_EQ(again.note, "both");
  ASSERT_TRUE(again.engine.has_value());
  EXPECT_EQ(again.engine->tag, "t");
  EXPECT_EQ(again.engine->stage, 3);
  EXPECT_EQ(again.engine->world_size, 4);
  EXPECT_TRUE(again.engine->is_universal);
  EXPECT_EQ(again.engine->global_steps, -1);
  EXPECT_EQ(again.engine->optimizer_step, 5);
  EXPECT_EQ(again.engine->states, std::vector<std::string>{"fp32"});
}

}  // namespace
}  // namespace zerocast
