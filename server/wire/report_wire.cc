#include "server/wire/report_wire.h"

#include <string>
#include <utility>

namespace zerocast {

v1::LoadReport ReportToProto(const Report& report) {
  v1::LoadReport out;
  for (const std::string& name : report.missing) out.add_missing(name);
  for (const std::string& name : report.unexpected) out.add_unexpected(name);
  for (const MismatchedWeight& weight : report.mismatched) {
    v1::MismatchedWeight* to = out.add_mismatched();
    to->set_name(weight.name);
    to->mutable_checkpoint_shape()->Add(weight.checkpoint_shape.begin(),
                                        weight.checkpoint_shape.end());
    to->mutable_model_shape()->Add(weight.model_shape.begin(), weight.model_shape.end());
    to->set_origin(weight.origin);
  }
  for (const ConversionError& error : report.conversion_errors) {
    v1::ConversionError* to = out.add_conversion_errors();
    to->set_target(error.target);
    for (const std::string& source : error.sources) to->add_sources(source);
    to->set_message(error.message);
  }
  out.set_missing_unknown(report.missing_unknown);
  out.set_rules_unknown(report.rules_unknown);
  out.set_dtype(report.dtype);
  out.set_dtype_reason(report.dtype_reason);
  out.set_note(report.note);
  if (report.engine.has_value()) {
    v1::EngineReport* const engine = out.mutable_engine();
    engine->set_tag(report.engine->tag);
    engine->set_zero_stage(report.engine->stage);
    engine->set_world_size(report.engine->world_size);
    engine->set_is_universal(report.engine->is_universal);
    if (report.engine->global_steps >= 0) engine->set_global_steps(report.engine->global_steps);
    if (report.engine->optimizer_step >= 0) {
      engine->set_optimizer_step(report.engine->optimizer_step);
    }
    for (const std::string& state : report.engine->states) engine->add_states(state);
  }
  return out;
}

Report ReportFromProto(const v1::LoadReport& report) {
  Report out;
  out.missing.assign(report.missing().begin(), report.missing().end());
  out.unexpected.assign(report.unexpected().begin(), report.unexpected().end());
  for (const v1::MismatchedWeight& weight : report.mismatched()) {
    out.mismatched.push_back({weight.name(),
                              {weight.checkpoint_shape().begin(), weight.checkpoint_shape().end()},
                              {weight.model_shape().begin(), weight.model_shape().end()},
                              weight.origin()});
  }
  for (const v1::ConversionError& error : report.conversion_errors()) {
    out.conversion_errors.push_back(
        {error.target(), {error.sources().begin(), error.sources().end()}, error.message()});
  }
  out.missing_unknown = report.missing_unknown();
  out.rules_unknown = report.rules_unknown();
  out.dtype = report.dtype();
  out.dtype_reason = report.dtype_reason();
  out.note = report.note();
  if (report.has_engine()) {
    EngineReport& engine = out.engine.emplace();
    engine.tag = report.engine().tag();
    engine.stage = report.engine().zero_stage();
    engine.world_size = report.engine().world_size();
    engine.is_universal = report.engine().is_universal();
    if (report.engine().has_global_steps()) engine.global_steps = report.engine().global_steps();
    if (report.engine().has_optimizer_step()) {
      engine.optimizer_step = report.engine().optimizer_step();
    }
    engine.states.assign(report.engine().states().begin(), report.engine().states().end());
  }
  return out;
}

v1::PlanSummary PlanSummaryToProto(const Plan& plan, const Schedule& schedule) {
  v1::PlanSummary out;
  out.set_digest(plan.digest);
  out.set_num_targets(static_cast<int64_t>(plan.targets.size()));
  int64_t num_boxes = 0;
  for (const Target& target : plan.targets) num_boxes += static_cast<int64_t>(target.boxes.size());
  out.set_num_boxes(num_boxes);
  out.set_arena_bytes(plan.arena_bytes);
  for (int32_t node = 0; node < plan.layout.num_nodes; ++node) {
    out.add_read_bytes_by_node(schedule.ReadBytes(node));
  }
  out.set_num_rounds(schedule.num_rounds());
  out.set_placement(LieOnDevices(plan.layout) ? v1::PLACEMENT_DEVICE : v1::PLACEMENT_HOST);
  out.set_zero_stage(plan.layout.zero_stage);
  return out;
}

void AddMemory(const std::vector<MemoryNeeds>& memory, v1::PlanSummary* out) {
  for (const MemoryNeeds& of_node : memory) {
    v1::NodeMemory* const node = out->add_memory_by_node();
    node->set_arena_bytes(of_node.arenas);
    node->set_reading_bytes(of_node.reading);
    node->set_sending_bytes(of_node.sending);
    node->set_receiving_bytes(of_node.receiving);
    node->set_device_arena_bytes(of_node.device_arenas);
  }
}

}  // namespace zerocast
