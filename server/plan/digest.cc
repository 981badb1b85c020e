#include <xxhash.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "server/plan/plan.h"
#include "server/plan/schedule.h"

// The canonical form of a plan, never stored: numbers as 8 bytes little-endian, strings and lists
// preceded by their length, fields in the order of their declaration.

namespace zerocast {
namespace {

// Written first: another order of fields must give another digest.
constexpr char kForm[] = "zerocast plan 6";

class Hasher {
 public:
  Hasher() : state_(XXH3_createState(), XXH3_freeState) { XXH3_128bits_reset(state_.get()); }

  void Number(int64_t value) {
    if (used_ + 8 > sizeof(buffer_)) Flush();
    for (int i = 0; i < 8; ++i) {
      buffer_[used_++] = static_cast<unsigned char>(static_cast<uint64_t>(value) >> (8 * i));
    }
  }

  void Text(const std::string& text) {
    Number(static_cast<int64_t>(text.size()));
    if (used_ + text.size() > sizeof(buffer_)) Flush();
    if (text.size() > sizeof(buffer_)) {
      XXH3_128bits_update(state_.get(), text.data(), text.size());
      return;
    }
    std::memcpy(buffer_ + used_, text.data(), text.size());
    used_ += text.size();
  }

  template <typename T, typename Write>
  void List(const std::vector<T>& list, Write write) {
    Number(static_cast<int64_t>(list.size()));
    for (const T& item : list) write(item);
  }

  void Numbers(const std::vector<int64_t>& list) {
    List(list, [this](int64_t value) { Number(value); });
  }
  void Texts(const std::vector<std::string>& list) {
    List(list, [this](const std::string& text) { Text(text); });
  }

  std::string Finish() {
    Flush();
    const XXH128_hash_t hash = XXH3_128bits_digest(state_.get());
    return absl::StrFormat("%016x%016x", static_cast<uint64_t>(hash.high64),
                           static_cast<uint64_t>(hash.low64));
  }

 private:
  void Flush() {
    XXH3_128bits_update(state_.get(), buffer_, used_);
    used_ = 0;
  }

  std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state_;
  unsigned char buffer_[1 << 14];
  size_t used_ = 0;
};

void AddEngine(const EngineCheckpoint& engine, Hasher* hasher) {
  hasher->Text(engine.tag);
  hasher->Number(engine.stage);
  hasher->Number(engine.world_size);
  hasher->Number(engine.is_universal ? 1 : 0);
  hasher->Number(engine.global_steps);
  hasher->Number(static_cast<int64_t>(engine.optimizer_step));
  hasher->Texts(engine.states);
  hasher->List(engine.flats, [hasher](const std::vector<int32_t>& tensors) {
    hasher->List(tensors, [hasher](int32_t tensor) { hasher->Number(tensor); });
  });
  hasher->List(engine.weights, [hasher](const EngineWeight& weight) {
    hasher->Text(weight.name);
    hasher->Numbers(weight.shape);
    hasher->Number(static_cast<int64_t>(weight.dtype));
    hasher->Texts(weight.aliases);
    hasher->Number(weight.is_buffer ? 1 : 0);
    hasher->Number(weight.group);
    hasher->Number(weight.place);
    hasher->List(weight.in_states, [hasher](const FlatPiece& piece) {
      hasher->Number(piece.flat);
      hasher->Number(piece.flat_offset);
      hasher->Number(piece.num_elements);
    });
    hasher->List(weight.stored, [hasher](const TensorPiece& piece) {
      hasher->Number(piece.tensor);
      hasher->Number(piece.tensor_offset);
      hasher->Number(piece.num_elements);
    });
  });
  hasher->Number(engine.round_robin_gradients ? 1 : 0);
  hasher->Number(engine.parameter_alignment ? 1 : 0);
}

void AddManifest(const Manifest& manifest, Hasher* hasher) {
  hasher->List(manifest.files, [hasher](const ManifestFile& file) {
    hasher->Text(file.path);
    hasher->Number(file.num_bytes);
    hasher->Number(file.mtime_ns);
    hasher->Number(static_cast<int64_t>(file.header_digest));
  });
  hasher->List(manifest.tensors, [hasher](const ManifestTensor& tensor) {
    hasher->Text(tensor.tensor.name);
    hasher->Number(static_cast<int64_t>(tensor.tensor.dtype));
    hasher->Numbers(tensor.tensor.shape);
    hasher->Numbers(tensor.tensor.strides);
    hasher->Number(tensor.file);
    hasher->Number(tensor.file_begin);
    hasher->Number(tensor.file_end);
  });
  hasher->Text(manifest.config_json);
  hasher->Number(manifest.engine.has_value() ? 1 : 0);
  if (manifest.engine.has_value()) AddEngine(*manifest.engine, hasher);
}

void AddLayout(const Layout& layout, Hasher* hasher) {
  hasher->Number(layout.world_size);
  hasher->List(layout.node_of_rank, [hasher](int32_t node) { hasher->Number(node); });
  hasher->Number(layout.num_nodes);
  hasher->Number(layout.zero_stage);
  hasher->Number(layout.hpz_partition_size);
  hasher->Number(static_cast<int64_t>(layout.read_mode));
  hasher->Number(static_cast<int64_t>(layout.move_mode));
  hasher->Number(static_cast<int64_t>(layout.device));
  hasher->Number(static_cast<int64_t>(layout.placement));
  hasher->Number(static_cast<int64_t>(layout.dtype));
  hasher->Number(layout.round_bytes);
  hasher->Texts(layout.allow_missing);
  hasher->Number(layout.ignore_mismatched ? 1 : 0);
  hasher->Text(layout.dialect);
  hasher->Text(layout.rule_table_json);
  hasher->Number(layout.weights_only ? 1 : 0);
  for (const std::optional<bool>& given :
       {layout.round_robin_gradients, layout.parameter_alignment}) {
    hasher->Number(given.has_value() ? (*given ? 1 : 0) : -1);
  }
}

void AddTarget(const Target& target, Hasher* hasher) {
  hasher->Text(target.name);
  hasher->Numbers(target.shape);
  hasher->Number(target.num_elements);
  hasher->Number(static_cast<int64_t>(target.dtype));
  hasher->Number(target.is_buffer ? 1 : 0);
  hasher->Number(target.is_state ? 1 : 0);
  hasher->Number(target.partitioned ? 1 : 0);
  hasher->Number(target.partition_elements);
  hasher->Number(target.arena_offset);
  hasher->Number(target.secondary_elements);
  hasher->Number(target.secondary_offset);
  hasher->Number(target.is_filled ? 1 : 0);
  hasher->List(target.boxes, [hasher](const Box& box) {
    hasher->Number(box.source);
    hasher->Number(box.num_dims);
    hasher->Number(box.source_offset);
    hasher->Number(box.target_offset);
    for (int k = 0; k < box.num_dims; ++k) {
      hasher->Number(box.dims[k].extent);
      hasher->Number(box.dims[k].source_stride);
      hasher->Number(box.dims[k].target_stride);
    }
  });
  hasher->List(target.gaps, [hasher](const TargetGap& gap) {
    hasher->Number(gap.offset);
    hasher->Number(gap.num_elements);
  });
  hasher->Texts(target.aliases);
}

void AddDecoder(const SourceDecoder& source, Hasher* hasher) {
  hasher->Number(source.source);
  hasher->Number(source.scale);
  hasher->Number(static_cast<int64_t>(source.decoder.kind));
  hasher->Number(static_cast<int64_t>(source.decoder.stored));
  hasher->Number(static_cast<int64_t>(source.decoder.scale));
  hasher->Number(source.decoder.rows);
  hasher->Number(source.decoder.cols);
  hasher->Number(source.decoder.block_rows);
  hasher->Number(source.decoder.block_cols);
  hasher->Number(source.decoder.matrix_scales);
  hasher->Number(static_cast<int64_t>(source.dtype));
}

void AddReport(const Report& report, Hasher* hasher) {
  hasher->Texts(report.missing);
  hasher->Texts(report.unexpected);
  hasher->List(report.mismatched, [hasher](const MismatchedWeight& weight) {
    hasher->Text(weight.name);
    hasher->Numbers(weight.checkpoint_shape);
    hasher->Numbers(weight.model_shape);
  });
  hasher->List(report.conversion_errors, [hasher](const ConversionError& error) {
    hasher->Text(error.target);
    hasher->Texts(error.sources);
    hasher->Text(error.message);
  });
  hasher->Number(report.missing_unknown ? 1 : 0);
  hasher->Text(report.dtype);
}

}  // namespace

std::string PlanDigest(const Plan& plan) {
  Hasher hasher;
  hasher.Text(kForm);
  hasher.Number(kScheduleVersion);
  AddManifest(*plan.manifest, &hasher);
  AddLayout(plan.layout, &hasher);
  hasher.List(plan.targets, [&hasher](const Target& target) { AddTarget(target, &hasher); });
  hasher.List(plan.decoders,
              [&hasher](const SourceDecoder& source) { AddDecoder(source, &hasher); });
  hasher.Number(plan.arena_bytes);
  AddReport(plan.report, &hasher);
  return hasher.Finish();
}

}  // namespace zerocast
