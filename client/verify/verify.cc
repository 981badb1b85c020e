#include "client/verify/verify.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/verify/cast.h"
#include "client/verify/checkpoint_files.h"
#include "client/verify/materialise.h"
#include "client/verify/zero_folder.h"
#include "kernels/base/status_macros.h"
#include "kernels/base/xxh3.h"
#include "server/base/errors.h"
#include "server/conversion/pattern.h"

namespace zerocast {
namespace verify {
namespace {

absl::Status Mismatch(absl::string_view message) {
  return WithReason(absl::DataLossError(message), "DIGEST_MISMATCH");
}

// A target of the spec.
struct Wanted {
  const SpecTensor* tensor = nullptr;
  bool is_buffer = false;
};

class Verifier {
 public:
  Verifier(const VerifyOptions& options, const ModelSpec* spec) : options_(options), spec_(spec) {}

  absl::Status TakeDigests(const std::vector<DigestToVerify>& digests) {
    for (const DigestToVerify& digest : digests) {
      if (digest.rank < 0 || digest.rank >= options_.world_size) {
        return Mismatch(absl::StrCat("verify target ", digest.target, ": a digest of rank ",
                                     digest.rank, ", the world has ", options_.world_size));
      }
      auto& digests_of_kind = digest.secondary ? secondary_digests_ : digests_;
      if (!digests_of_kind[digest.target].emplace(digest.rank, digest.xxh3).second) {
        return Mismatch(absl::StrCat("verify target ", digest.target, " of rank ", digest.rank,
                                     ": its digest is there twice"));
      }
    }
    return absl::OkStatus();
  }

  absl::StatusOr<VerifyResult> Run() {
    ZC_RETURN_IF_ERROR(options_.tag.empty() ? VerifyWeights() : VerifyZeroFolder());
    for (const auto* left : {&digests_, &secondary_digests_}) {
      if (left->empty()) continue;
      return Mismatch(absl::StrCat("verify target ", left->begin()->first, " of rank ",
                                   left->begin()->second.begin()->first,
                                   ": the checkpoint and the model have no such ",
                                   left == &digests_ ? "target" : "secondary partition"));
    }
    return result_;
  }

 private:
  absl::Status VerifyWeights() {
    ZC_ASSIGN_OR_RETURN(const CheckpointFiles files,
                        OpenCheckpoint(options_.checkpoint_path, options_.variant));
    MaterialiseInput input;
    input.files = &files;
    input.spec = spec_;
    // Rounded once, at the end; what is stored is decided by the scales.
    if (options_.dtype != "stored") input.decode_to = DType::kFloat32;
    ZC_ASSIGN_OR_RETURN(input.key_mapping, RenamesFromKeyMapping(options_.key_mapping_json));
    input.dialect = options_.dialect;
    input.rule_table_json = options_.rule_table_json;
    ListWanted();
    absent_.insert(options_.absent.begin(), options_.absent.end());
    ZC_RETURN_IF_ERROR(MaterialiseTargets(
        input, [this](MaterialisedTarget target) { return VerifyFilled(std::move(target)); },
        &unfilled_));
    ZC_RETURN_IF_ERROR(CheckExcuses());
    return VerifyUnfilled();
  }

  // A trained parameter that the load took, by the name that it has there.
  struct Trained {
    const ZeroWeight* weight = nullptr;
    std::string name;
    DType dtype = DType::kInvalid;
  };

  absl::Status VerifyZeroFolder() {
    ListWanted();
    absent_.insert(options_.absent.begin(), options_.absent.end());
    ZC_ASSIGN_OR_RETURN(const ZeroFolderContent content,
                        ReadZeroFolder(options_.checkpoint_path, options_.tag));
    std::map<int64_t, std::map<int64_t, Trained>> groups;  // by group and place
    for (const ZeroWeight& weight : content.weights) {
      std::string name = weight.name;
      for (const std::string& alias : weight.aliases) {
        if (spec_ != nullptr && Find(name) == nullptr) name = alias;
      }
      const Wanted* const wanted = Find(name);
      if (spec_ != nullptr && (wanted == nullptr || absent_.contains(name))) continue;
      const DType dtype =
          weight.is_buffer && wanted == nullptr ? weight.dtype : FinalDType(wanted, weight.dtype);
      ZC_ASSIGN_OR_RETURN(std::string bytes, ReadRuns(weight.value));
      if (weight.value.empty()) {
        if (NumElements(weight.shape) > 0 && !absent_.contains(name)) {
          return Mismatch(absl::StrCat("verify target ", name,
                                       ": the checkpoint has no value, and "
                                       "the load does not report it absent"));
        }
        bytes.assign(NumElements(weight.shape) * SizeOf(dtype), '\0');
      } else {
        ZC_ASSIGN_OR_RETURN(bytes,
                            CastBytes(std::move(bytes), weight.value[0].tensor.dtype, dtype));
      }
      done_.insert(name);
      ZC_RETURN_IF_ERROR(Compare(name, bytes, SizeOf(dtype), weight.is_buffer));
      if (weight.group >= 0) groups[weight.group][weight.place] = {&weight, name, dtype};
    }
    ZC_RETURN_IF_ERROR(VerifyUnfilled());
    if (options_.weights_only) return absl::OkStatus();
    const bool is_flat = options_.zero_stage == 1 || options_.zero_stage == 2;
    for (const auto& [group, members] : groups) {
      for (const auto& [state, runs] : members.begin()->second.weight->states) {
        ZC_RETURN_IF_ERROR(is_flat ? VerifyGroup(content, state, group, members)
                                   : VerifyStates(state, members));
      }
    }
    return absl::OkStatus();
  }

  absl::Status VerifyStates(const std::string& state, const std::map<int64_t, Trained>& members) {
    for (const auto& [place, member] : members) {
      ZC_ASSIGN_OR_RETURN(const std::string bytes, ReadRuns(member.weight->states.at(state)));
      const int64_t world = options_.zero_stage == 3 ? options_.world_size : 1;
      const int64_t size = SizeOf(member.weight->states.at(state)[0].tensor.dtype);
      const int64_t count = static_cast<int64_t>(bytes.size()) / size;
      ZC_RETURN_IF_ERROR(CompareParts(absl::StrCat("optimizer/", state, "/", member.name), bytes,
                                      (count + world - 1) / world * world * size, world,
                                      /*secondary=*/false));
    }
    return absl::OkStatus();
  }

  absl::Status VerifyGroup(const ZeroFolderContent& content, const std::string& state,
                           int64_t group, const std::map<int64_t, Trained>& members) {
    const int64_t world = options_.world_size;
    // The places are those of the members that were taken, without gaps.
    std::vector<Trained> in_order;
    for (const auto& [place, member] : members) in_order.push_back(member);
    const bool in_turn = options_.round_robin_gradients.value_or(content.round_robin_gradients);
    int64_t alignment = 1;
    if (options_.parameter_alignment.value_or(content.parameter_alignment)) {
      alignment = std::max<int64_t>(1, 16 / SizeOf(in_order[0].dtype));
    }
    const std::vector<int64_t> order =
        InTurn(static_cast<int64_t>(in_order.size()), world, in_turn);
    std::string flat;
    int64_t size = 4;
    const auto pad = [&](int64_t elements) {
      while (static_cast<int64_t>(flat.size()) % (elements * size) != 0) flat.push_back('\0');
    };
    for (size_t k = 0; k < order.size(); ++k) {
      const auto& runs = in_order[static_cast<size_t>(order[k])].weight->states.at(state);
      if (k > 0) pad(alignment);
      ZC_ASSIGN_OR_RETURN(const std::string bytes, ReadRuns(runs));
      if (!runs.empty()) size = SizeOf(runs[0].tensor.dtype);
      flat += bytes;
    }
    pad(2 * world);
    return CompareParts(absl::StrCat("optimizer/", state, "/", group), flat,
                        static_cast<int64_t>(flat.size()), world, /*secondary=*/false);
  }

  void ListWanted() {
    if (spec_ == nullptr) return;
    for (const SpecTensor& tensor : spec_->params) {
      if (spec_->tied.count(tensor.name) == 0) wanted_[tensor.name] = {&tensor, false};
    }
    for (const SpecTensor& tensor : spec_->buffers) {
      if (spec_->tied.count(tensor.name) == 0) wanted_[tensor.name] = {&tensor, true};
    }
  }

  // The dtype of the target in the ranks' memory.
  DType FinalDType(const Wanted* wanted, DType stored) const {
    const bool in_spec = wanted != nullptr && wanted->tensor != nullptr;
    const DType own = in_spec ? wanted->tensor->dtype : stored;
    if (options_.dtype == "stored") return stored;
    if (options_.dtype == "spec") return own;
    if (!IsFloating(own) || (in_spec && wanted->is_buffer)) return own;
    if (options_.dtype == "bf16") return DType::kBFloat16;
    if (options_.dtype == "fp16") return DType::kFloat16;
    return DType::kFloat32;
  }

  const Wanted* Find(const std::string& name) const {
    const auto found = wanted_.find(name);
    return found == wanted_.end() ? nullptr : &found->second;
  }

  absl::Status VerifyFilled(MaterialisedTarget target) {
    const Wanted* const wanted = Find(target.name);
    if (spec_ != nullptr && wanted == nullptr) return absl::OkStatus();
    const bool absent = absent_.contains(target.name);
    if (!done_.insert(target.name).second) {
      return Mismatch(absl::StrCat("verify target ", target.name,
                                   ": two conversions make it, which only one can fill"));
    }
    const DType dtype = FinalDType(wanted, target.tensor.dtype);
    absl::StatusOr<std::string> bytes =
        CastBytes(std::move(target.tensor.bytes), target.tensor.dtype, dtype);
    absl::Status status =
        bytes.ok()
            ? Compare(target.name, *bytes, SizeOf(dtype), wanted != nullptr && wanted->is_buffer)
            : Annotate(bytes.status(), absl::StrCat("verify target ", target.name));
    if (!absent) return status;
    // What the load reports absent is zero, then; but not where the checkpoint fills it.
    if (!status.ok()) done_.erase(target.name);
    if (bytes.ok()) made_though_absent_.push_back(target.name);
    return absl::OkStatus();
  }

  // A target that the load reported absent, while the checkpoint fills it.  Where one of its
  // tensors does not fit, though an alias's does, the report names it with reason.
  absl::Status CheckExcuses() const {
    for (const std::string& name : made_though_absent_) {
      if (unfilled_.count(name) != 0) continue;
      return Mismatch(absl::StrCat("verify target ", name,
                                   ": the load reports it absent, but the checkpoint has it"));
    }
    return absl::OkStatus();
  }

  absl::Status VerifyUnfilled() {
    for (const auto& [name, wanted] : wanted_) {
      if (done_.contains(name)) continue;
      if (!absent_.contains(name)) {
        ZC_ASSIGN_OR_RETURN(const bool ignored, MayBeMissing(name));
        if (!ignored) {
          const auto why = unfilled_.find(name);
          return Mismatch(
              absl::StrCat("verify target ", name, ": nothing in the checkpoint fills it (",
                           why == unfilled_.end() ? "no tensor has its name" : why->second,
                           "), and the load does not report it absent"));
        }
      }
      const DType dtype = FinalDType(&wanted, wanted.tensor->dtype);
      const std::string zeros(NumElements(wanted.tensor->shape) * SizeOf(dtype), '\0');
      ZC_RETURN_IF_ERROR(Compare(name, zeros, SizeOf(dtype), wanted.is_buffer));
    }
    return absl::OkStatus();
  }

  // Names that the library never reports as missing: the spec's patterns, and what it adds itself
  // for every model (semantics of from_pretrained, 5.23.0).
  absl::StatusOr<bool> MayBeMissing(const std::string& name) const {
    std::vector<std::string> patterns = spec_->ignore_missing;
    patterns.push_back(R"(rotary_emb\.inv_freq)");
    patterns.push_back(R"((^|\.)position_ids$)");
    for (const std::string& pattern : patterns) {
      ZC_ASSIGN_OR_RETURN(Regex regex, Regex::Compile(pattern));
      ZC_ASSIGN_OR_RETURN(const bool found, regex.Search(name));
      if (found) return true;
    }
    return false;
  }

  // Cuts the whole target into the parts of the ranks and compares each.
  absl::Status Compare(const std::string& name, const std::string& bytes, int64_t element_size,
                       bool is_buffer) {
    const int64_t world = options_.world_size;
    if (is_buffer || options_.zero_stage != 3) {
      const auto total = static_cast<int64_t>(bytes.size());
      return CompareParts(name, bytes, total, /*num_parts=*/1, /*secondary=*/false);
    }
    const int64_t count = static_cast<int64_t>(bytes.size()) / element_size;
    const int64_t padded = (count + world - 1) / world * world * element_size;
    ZC_RETURN_IF_ERROR(CompareParts(name, bytes, padded, world, /*secondary=*/false));
    if (options_.hpz_partition_size <= 1 || count == 0) return absl::OkStatus();
    // Each group of neighbours holds all of it once more.
    return CompareParts(name, bytes, padded, std::min<int64_t>(options_.hpz_partition_size, world),
                        /*secondary=*/true);
  }

  // Rank r holds part r mod `num_parts` of the target, padded to `padded` bytes.
  absl::Status CompareParts(const std::string& name, const std::string& bytes, int64_t padded,
                            int64_t num_parts, bool secondary) {
    std::map<std::string, std::map<int32_t, uint64_t>>& digests =
        secondary ? secondary_digests_ : digests_;
    const std::map<int32_t, uint64_t> given = std::move(digests[name]);
    digests.erase(name);
    const int64_t part_size = padded / num_parts;
    const absl::string_view what = secondary ? " (secondary)" : "";
    std::optional<uint64_t> hash;
    for (int32_t rank = 0; rank < options_.world_size; ++rank) {
      if (num_parts > 1 || !hash.has_value()) {
        hash = HashPart(bytes, rank % num_parts * part_size, part_size);
      }
      const auto digest = given.find(rank);
      if (digest == given.end()) {
        return Mismatch(absl::StrCat("verify target ", name, what, " of rank ", rank,
                                     ": its digest is missing"));
      }
      if (digest->second != *hash) {
        return Mismatch(
            absl::StrFormat("verify target %s%s of rank %d: XXH3 of its %d bytes is "
                            "%016x, of the checkpoint's %016x",
                            name, what, rank, part_size, digest->second, *hash));
      }
    }
    result_.partitions += options_.world_size;
    result_.bytes += options_.world_size * part_size;
    return absl::OkStatus();
  }

  // Of `size` bytes from `begin` on, zero behind the end of `bytes`.
  static uint64_t HashPart(const std::string& bytes, int64_t begin, int64_t size) {
    const auto total = static_cast<int64_t>(bytes.size());
    if (begin + size <= total) return XXH3_64bits(bytes.data() + begin, size);
    std::string part = begin < total ? bytes.substr(begin) : std::string();
    part.resize(size, '\0');
    return XXH3_64bits(part.data(), part.size());
  }

  const VerifyOptions& options_;
  const ModelSpec* const spec_;
  std::map<std::string, std::map<int32_t, uint64_t>> digests_,
      secondary_digests_;  // not compared yet
  std::map<std::string, Wanted> wanted_;
  absl::flat_hash_set<std::string> absent_, done_;
  std::vector<std::string> made_though_absent_;  // absent by report, yet the checkpoint fills them
  std::map<std::string, std::string> unfilled_;  // target -> why
  VerifyResult result_;
};

absl::Status CheckOptions(const VerifyOptions& options) {
  std::vector<FieldViolation> violations;
  if (options.world_size < 1) {
    violations.push_back(
        {"world_size", absl::StrCat("must be 1 or more, was ", options.world_size)});
  }
  if (options.zero_stage < 0 || options.zero_stage > 3) {
    violations.push_back({"zero_stage", absl::StrCat("must be 0..3, was ", options.zero_stage)});
  }
  const int32_t group = std::min(options.hpz_partition_size, options.world_size);
  if (group < 0 || (group > 1 && options.world_size % group != 0)) {
    violations.push_back(
        {"hpz_partition_size", absl::StrCat("must divide the world size, was ", group)});
  }
  const std::set<std::string> dtypes = {"stored", "spec", "bf16", "fp16", "fp32"};
  if (dtypes.count(options.dtype) == 0) {
    violations.push_back({"dtype", absl::StrCat("must be stored, spec, bf16, fp16 or fp32, was '",
                                                options.dtype, "'")});
  } else if (options.dtype == "spec" && options.model_spec_json.empty()) {
    violations.push_back({"dtype", "'spec' needs a model spec"});
  }
  return InvalidFields(violations);
}

}  // namespace
}  // namespace verify

absl::StatusOr<VerifyResult> VerifyPartitions(const VerifyOptions& options,
                                              const std::vector<DigestToVerify>& digests) {
  ZC_RETURN_IF_ERROR(verify::CheckOptions(options));
  std::optional<ModelSpec> spec;
  if (!options.model_spec_json.empty()) {
    ZC_ASSIGN_OR_RETURN(spec, ParseModelSpec(options.model_spec_json));
  }
  verify::Verifier verifier(options, spec.has_value() ? &*spec : nullptr);
  ZC_RETURN_IF_ERROR(verifier.TakeDigests(digests));
  return verifier.Run();
}

}  // namespace zerocast
