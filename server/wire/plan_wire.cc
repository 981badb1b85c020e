#include "server/wire/plan_wire.h"

#include <algorithm>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/conversion/source_tensor.h"
#include "server/wire/engine_wire.h"

namespace zerocast {
namespace {

static_assert(static_cast<int>(v1::DTYPE_BOOL) == static_cast<int>(DType::kBool));
static_assert(static_cast<int>(v1::DTYPE_FLOAT8_E4M3) == static_cast<int>(DType::kFloat8E4M3));
static_assert(static_cast<int>(v1::DTYPE_BFLOAT16) == static_cast<int>(DType::kBFloat16));
static_assert(static_cast<int>(v1::DTYPE_FLOAT64) == static_cast<int>(DType::kFloat64));
static_assert(static_cast<int>(v1::DTYPE_FLOAT8_E8M0) == static_cast<int>(DType::kFloat8E8M0));
static_assert(v1::Dtype_MAX == 16, "a new dtype needs its place in kernels/copy/dtype.h");

// Collects violations up to a limit: a hostile manifest must not make a status of megabytes.
class Violations {
 public:
  explicit Violations(size_t limit) : limit_(limit) {}
  void Add(std::string field, std::string description) {
    if (list_.size() < limit_) list_.push_back({std::move(field), std::move(description)});
  }
  bool full() const { return list_.size() >= limit_; }
  bool empty() const { return list_.empty(); }
  absl::Status ToStatus() const { return InvalidFields(list_); }

 private:
  const size_t limit_;
  std::vector<FieldViolation> list_;
};

bool IsSafeRelativePath(const std::string& path) {
  if (path.empty() || path.front() == '/' || path.find('\0') != std::string::npos) return false;
  for (absl::string_view part : absl::StrSplit(path, '/')) {
    if (part.empty() || part == "." || part == "..") return false;
  }
  return true;
}

// More axes than any tensor has (torch itself stops at 64).
constexpr int kMaxAxes = 64;

// Bytes of a tensor, or -1 with a violation.
int64_t CheckedNumBytes(const v1::ManifestTensor& tensor, const std::string& field,
                        Violations* violations) {
  const DType dtype = DTypeFromProto(tensor.dtype());
  if (dtype == DType::kInvalid) {
    violations->Add(absl::StrCat(field, ".dtype"),
                    absl::StrCat("must be a known dtype, was ", tensor.dtype()));
    return -1;
  }
  if (tensor.shape_size() > kMaxAxes) {
    violations->Add(
        absl::StrCat(field, ".shape"),
        absl::StrCat("must have at most ", kMaxAxes, " axes, has ", tensor.shape_size()));
    return -1;
  }
  int64_t num_bytes = SizeOf(dtype);
  bool overflow = false;
  for (const int64_t extent : tensor.shape()) {
    if (extent < 0) {
      violations->Add(absl::StrCat(field, ".shape"),
                      absl::StrCat("must not be negative, has ", extent));
      return -1;
    }
    // A zero elsewhere must not hide an overflow: torch refuses such shapes too.
    if (__builtin_mul_overflow(num_bytes, std::max<int64_t>(extent, 1), &num_bytes)) {
      overflow = true;
      break;
    }
  }
  if (overflow) {
    violations->Add(absl::StrCat(field, ".shape"), "has more bytes than 64 bits can count");
    return -1;
  }
  if (tensor.strides().empty()) {
    return std::count(tensor.shape().begin(), tensor.shape().end(), 0) > 0 ? 0 : num_bytes;
  }
  int64_t reach = 0;
  if (!CheckedReach(tensor.shape(), tensor.strides(), &reach) ||
      __builtin_mul_overflow(reach, SizeOf(dtype), &num_bytes)) {
    violations->Add(
        absl::StrCat(field, ".strides"),
        absl::StrCat("must be those of a tensor of shape (", absl::StrJoin(tensor.shape(), ", "),
                     ") without an element twice, ", "are (", absl::StrJoin(tensor.strides(), ", "),
                     ")"));
    return -1;
  }
  return num_bytes;
}

void CheckFiles(const v1::Manifest& manifest, Violations* violations) {
  absl::flat_hash_map<absl::string_view, int> first;  // of each path
  for (int i = 0; i < manifest.files_size() && !violations->full(); ++i) {
    const v1::ManifestFile& file = manifest.files(i);
    const std::string field = absl::StrCat("manifest.files[", i, "]");
    if (!IsSafeRelativePath(file.path())) {
      violations->Add(
          absl::StrCat(field, ".path"),
          absl::StrCat("must be a relative path inside the checkpoint, was '", file.path(), "'"));
    } else if (const auto [place, is_new] = first.emplace(file.path(), i); !is_new) {
      const v1::ManifestFile& other = manifest.files(place->second);
      if (file.num_bytes() != other.num_bytes() || file.mtime_ns() != other.mtime_ns() ||
          file.header_digest() != other.header_digest()) {
        violations->Add(field, absl::StrCat("repeats '", file.path(), "' of files[", place->second,
                                            "], and must be alike"));
      }
    }
    if (file.num_bytes() < 0) {
      violations->Add(absl::StrCat(field, ".num_bytes"),
                      absl::StrCat("must not be negative, was ", file.num_bytes()));
    }
  }
}

// Appends tensor `i` of `from` to `to`, or a violation.
void AddTensor(const v1::Manifest& from, int i, Manifest* to, Violations* violations) {
  const v1::ManifestTensor& tensor = from.tensors(i);
  const std::string field = absl::StrCat("manifest.tensors[", i, "] ('", tensor.name(), "')");
  if (tensor.name().empty()) violations->Add(absl::StrCat(field, ".name"), "must not be empty");
  if (tensor.file() < 0 || tensor.file() >= from.files_size()) {
    violations->Add(absl::StrCat(field, ".file"),
                    absl::StrCat("must be in [0, ", from.files_size(), "), was ", tensor.file()));
    return;
  }
  const int64_t num_bytes = CheckedNumBytes(tensor, field, violations);
  if (num_bytes < 0) return;
  const int64_t file_bytes = from.files(tensor.file()).num_bytes();
  int64_t end;
  if (tensor.file_begin() < 0 || __builtin_add_overflow(tensor.file_begin(), num_bytes, &end) ||
      end > file_bytes) {
    violations->Add(
        absl::StrCat(field, ".file_begin"),
        absl::StrCat(num_bytes, " bytes at offset ", tensor.file_begin(), " do not fit '",
                     from.files(tensor.file()).path(), "' of ", file_bytes, " bytes"));
    return;
  }
  ManifestTensor out;
  out.tensor.name = tensor.name();
  out.tensor.dtype = DTypeFromProto(tensor.dtype());
  out.tensor.shape.assign(tensor.shape().begin(), tensor.shape().end());
  out.tensor.strides.assign(tensor.strides().begin(), tensor.strides().end());
  out.file = tensor.file();
  out.file_begin = tensor.file_begin();
  out.file_end = end;
  to->tensors.push_back(std::move(out));
}

// Order, overlap and names; the tensors themselves are already checked.
void CheckOrder(const Manifest& manifest, Violations* violations) {
  absl::flat_hash_set<absl::string_view> names;
  // Of the tensors of one file, the furthest end so far and who has it.
  int64_t end = 0;
  const ManifestTensor* last = nullptr;
  for (size_t i = 0; i < manifest.tensors.size() && !violations->full(); ++i) {
    const ManifestTensor& tensor = manifest.tensors[i];
    const std::string field = absl::StrCat("manifest.tensors[", i, "]");
    if (!names.insert(tensor.tensor.name).second) {
      violations->Add(field, absl::StrCat("repeats the name '", tensor.tensor.name, "'"));
    }
    if (i > 0) {
      const ManifestTensor& before = manifest.tensors[i - 1];
      if (std::tie(tensor.file, tensor.file_begin, tensor.tensor.name) <
          std::tie(before.file, before.file_begin, before.tensor.name)) {
        violations->Add(field, "tensors must be sorted by file, offset and name");
        return;
      }
      if (tensor.file != before.file) last = nullptr;
    }
    if (last != nullptr && tensor.file_begin < end && tensor.file_end > tensor.file_begin) {
      violations->Add(field, absl::StrCat("'", tensor.tensor.name, "' shares bytes with '",
                                          last->tensor.name, "'"));
    }
    if (last == nullptr || tensor.file_end > end) {
      end = tensor.file_end;
      last = &tensor;
    }
  }
}

}  // namespace

v1::Dtype DTypeToProto(DType dtype) { return static_cast<v1::Dtype>(dtype); }

DType DTypeFromProto(v1::Dtype dtype) {
  return v1::Dtype_IsValid(dtype) ? static_cast<DType>(dtype) : DType::kInvalid;
}

v1::CheckpointFormat CheckpointFormatToProto(CheckpointFormat format) {
  switch (format) {
    case CheckpointFormat::kAny:
      return v1::CHECKPOINT_FORMAT_UNSPECIFIED;
    case CheckpointFormat::kHuggingFace:
      return v1::CHECKPOINT_FORMAT_HUGGING_FACE;
    case CheckpointFormat::kDeepSpeed:
      return v1::CHECKPOINT_FORMAT_DEEPSPEED;
  }
  return v1::CHECKPOINT_FORMAT_UNSPECIFIED;
}

v1::ReadMode ReadModeToProto(ReadMode mode) {
  switch (mode) {
    case ReadMode::kParallel:
      return v1::READ_MODE_PARALLEL;
    case ReadMode::kLocal:
      return v1::READ_MODE_LOCAL;
    case ReadMode::kRank0:
      return v1::READ_MODE_RANK0;
  }
  return v1::READ_MODE_UNSPECIFIED;
}

v1::MoveMode MoveModeToProto(MoveMode mode) {
  switch (mode) {
    case MoveMode::kScatter:
      return v1::MOVE_MODE_SCATTER;
    case MoveMode::kBroadcast:
      return v1::MOVE_MODE_BROADCAST;
  }
  return v1::MOVE_MODE_UNSPECIFIED;
}

v1::Device LoadDeviceToProto(LoadDevice device) {
  switch (device) {
    case LoadDevice::kCpu:
      return v1::DEVICE_CPU;
    case LoadDevice::kCuda:
      return v1::DEVICE_CUDA;
  }
  return v1::DEVICE_UNSPECIFIED;
}

v1::Placement PlacementToProto(Placement placement) {
  switch (placement) {
    case Placement::kDevice:
      return v1::PLACEMENT_DEVICE;
    case Placement::kHost:
      return v1::PLACEMENT_HOST;
  }
  return v1::PLACEMENT_UNSPECIFIED;
}

v1::DtypePolicy DTypePolicyToProto(DTypePolicy policy) {
  switch (policy) {
    case DTypePolicy::kStored:
      return v1::DTYPE_POLICY_STORED;
    case DTypePolicy::kSpec:
      return v1::DTYPE_POLICY_SPEC;
    case DTypePolicy::kBFloat16:
      return v1::DTYPE_POLICY_BF16;
    case DTypePolicy::kFloat16:
      return v1::DTYPE_POLICY_FP16;
    case DTypePolicy::kFloat32:
      return v1::DTYPE_POLICY_FP32;
  }
  return v1::DTYPE_POLICY_UNSPECIFIED;
}

absl::StatusOr<CheckpointFormat> CheckpointFormatFromProto(v1::CheckpointFormat format) {
  switch (format) {
    case v1::CHECKPOINT_FORMAT_UNSPECIFIED:
      return CheckpointFormat::kAny;
    case v1::CHECKPOINT_FORMAT_HUGGING_FACE:
      return CheckpointFormat::kHuggingFace;
    case v1::CHECKPOINT_FORMAT_DEEPSPEED:
      return CheckpointFormat::kDeepSpeed;
    default:
      return InvalidFields(
          {{"checkpoint_format", absl::StrCat("must be a known format, was ", format)}});
  }
}

absl::StatusOr<ReadMode> ReadModeFromProto(v1::ReadMode mode) {
  switch (mode) {
    case v1::READ_MODE_UNSPECIFIED:
    case v1::READ_MODE_PARALLEL:
      return ReadMode::kParallel;
    case v1::READ_MODE_LOCAL:
      return ReadMode::kLocal;
    case v1::READ_MODE_RANK0:
      return ReadMode::kRank0;
    default:
      return InvalidFields({{"read_mode", absl::StrCat("must be a known mode, was ", mode)}});
  }
}

absl::StatusOr<LoadDevice> LoadDeviceFromProto(v1::Device device) {
  switch (device) {
    case v1::DEVICE_UNSPECIFIED:
    case v1::DEVICE_CPU:
      return LoadDevice::kCpu;
    case v1::DEVICE_CUDA:
      return LoadDevice::kCuda;
    default:
      return InvalidFields({{"device", absl::StrCat("must be a known device, was ", device)}});
  }
}

absl::StatusOr<Placement> PlacementFromProto(v1::Placement placement) {
  switch (placement) {
    case v1::PLACEMENT_UNSPECIFIED:
    case v1::PLACEMENT_DEVICE:
      return Placement::kDevice;
    case v1::PLACEMENT_HOST:
      return Placement::kHost;
    default:
      return InvalidFields(
          {{"placement", absl::StrCat("must be a known placement, was ", placement)}});
  }
}

absl::StatusOr<MoveMode> MoveModeFromProto(v1::MoveMode mode) {
  switch (mode) {
    case v1::MOVE_MODE_UNSPECIFIED:
    case v1::MOVE_MODE_SCATTER:
      return MoveMode::kScatter;
    case v1::MOVE_MODE_BROADCAST:
      return MoveMode::kBroadcast;
    default:
      return InvalidFields({{"move_mode", absl::StrCat("must be a known mode, was ", mode)}});
  }
}

absl::StatusOr<DTypePolicy> DTypePolicyFromProto(v1::DtypePolicy policy) {
  switch (policy) {
    case v1::DTYPE_POLICY_STORED:
      return DTypePolicy::kStored;
    case v1::DTYPE_POLICY_SPEC:
      return DTypePolicy::kSpec;
    case v1::DTYPE_POLICY_BF16:
      return DTypePolicy::kBFloat16;
    case v1::DTYPE_POLICY_FP16:
      return DTypePolicy::kFloat16;
    case v1::DTYPE_POLICY_FP32:
      return DTypePolicy::kFloat32;
    default:
      return InvalidFields({{"dtype", absl::StrCat("must be a known policy, was ", policy)}});
  }
}

v1::Manifest ManifestToProto(const Manifest& manifest) {
  v1::Manifest out;
  out.mutable_files()->Reserve(static_cast<int>(manifest.files.size()));
  for (const ManifestFile& file : manifest.files) {
    v1::ManifestFile* to = out.add_files();
    to->set_path(file.path);
    to->set_num_bytes(file.num_bytes);
    to->set_mtime_ns(file.mtime_ns);
    to->set_header_digest(file.header_digest);
  }
  out.mutable_tensors()->Reserve(static_cast<int>(manifest.tensors.size()));
  for (const ManifestTensor& tensor : manifest.tensors) {
    v1::ManifestTensor* to = out.add_tensors();
    to->set_name(tensor.tensor.name);
    to->set_dtype(DTypeToProto(tensor.tensor.dtype));
    to->mutable_shape()->Add(tensor.tensor.shape.begin(), tensor.tensor.shape.end());
    to->mutable_strides()->Add(tensor.tensor.strides.begin(), tensor.tensor.strides.end());
    to->set_file(tensor.file);
    to->set_file_begin(tensor.file_begin);
  }
  out.set_config_json(manifest.config_json);
  out.set_variant(manifest.variant);
  out.set_note(manifest.note);
  if (manifest.engine.has_value()) *out.mutable_engine() = EngineToProto(*manifest.engine);
  return out;
}

absl::StatusOr<Manifest> ManifestFromProto(const v1::Manifest& manifest) {
  Violations violations(kMaxManifestViolations);
  CheckFiles(manifest, &violations);
  Manifest out;
  out.tensors.reserve(manifest.tensors_size());
  for (int i = 0; i < manifest.tensors_size() && !violations.full(); ++i) {
    AddTensor(manifest, i, &out, &violations);
  }
  if (violations.empty()) CheckOrder(out, &violations);
  ZC_RETURN_IF_ERROR(violations.ToStatus());
  for (const v1::ManifestFile& file : manifest.files()) {
    out.files.push_back({file.path(), file.num_bytes(), file.mtime_ns(), file.header_digest()});
  }
  out.config_json = manifest.config_json();
  out.variant = manifest.variant();
  out.note = manifest.note();
  if (manifest.has_engine()) {
    ZC_ASSIGN_OR_RETURN(out.engine, EngineFromProto(manifest.engine(), out.tensors));
  }
  return out;
}

v1::Layout LayoutToProto(const Layout& layout) {
  v1::Layout out;
  out.set_world_size(layout.world_size);
  out.mutable_node_of_rank()->Add(layout.node_of_rank.begin(), layout.node_of_rank.end());
  out.set_num_nodes(layout.num_nodes);
  out.set_zero_stage(layout.zero_stage);
  out.set_hpz_partition_size(layout.hpz_partition_size);
  out.set_read_mode(ReadModeToProto(layout.read_mode));
  out.set_move_mode(MoveModeToProto(layout.move_mode));
  out.set_device(LoadDeviceToProto(layout.device));
  out.set_placement(PlacementToProto(layout.placement));
  out.set_dtype(DTypePolicyToProto(layout.dtype));
  out.set_round_bytes(layout.round_bytes);
  for (const std::string& pattern : layout.allow_missing) out.add_allow_missing(pattern);
  out.set_ignore_mismatched(layout.ignore_mismatched);
  out.set_dialect(layout.dialect);
  out.set_rule_table_json(layout.rule_table_json);
  out.set_weights_only(layout.weights_only);
  if (layout.round_robin_gradients.has_value()) {
    out.set_round_robin_gradients(*layout.round_robin_gradients);
  }
  if (layout.parameter_alignment.has_value()) {
    out.set_parameter_alignment(*layout.parameter_alignment);
  }
  return out;
}

absl::StatusOr<Layout> LayoutFromProto(const v1::Layout& layout) {
  std::vector<FieldViolation> violations;
  const auto take = [&violations](auto status_or, auto* to) {
    if (status_or.ok()) {
      *to = *status_or;
      return;
    }
    for (FieldViolation& violation : ViolationsOf(status_or.status())) {
      violations.push_back({absl::StrCat("layout.", violation.field), violation.description});
    }
  };
  Layout out;
  out.world_size = layout.world_size();
  out.num_nodes = layout.num_nodes();
  out.node_of_rank.assign(layout.node_of_rank().begin(), layout.node_of_rank().end());
  out.zero_stage = layout.zero_stage();
  out.hpz_partition_size = layout.hpz_partition_size();
  out.round_bytes = layout.round_bytes();
  out.allow_missing.assign(layout.allow_missing().begin(), layout.allow_missing().end());
  out.ignore_mismatched = layout.ignore_mismatched();
  out.dialect = layout.dialect();
  out.rule_table_json = layout.rule_table_json();
  out.weights_only = layout.weights_only();
  if (layout.has_round_robin_gradients()) {
    out.round_robin_gradients = layout.round_robin_gradients();
  }
  if (layout.has_parameter_alignment()) out.parameter_alignment = layout.parameter_alignment();
  take(ReadModeFromProto(layout.read_mode()), &out.read_mode);
  take(MoveModeFromProto(layout.move_mode()), &out.move_mode);
  take(LoadDeviceFromProto(layout.device()), &out.device);
  take(PlacementFromProto(layout.placement()), &out.placement);
  take(DTypePolicyFromProto(layout.dtype()), &out.dtype);

  if (out.world_size < 1) {
    violations.push_back(
        {"layout.world_size", absl::StrCat("must be at least 1, was ", out.world_size)});
  }
  if (out.num_nodes < 1) {
    violations.push_back(
        {"layout.num_nodes", absl::StrCat("must be at least 1, was ", out.num_nodes)});
  }
  if (static_cast<int64_t>(out.node_of_rank.size()) != out.world_size) {
    violations.push_back(
        {"layout.node_of_rank", absl::StrCat("must have one entry a rank: ", out.world_size,
                                             ", has ", out.node_of_rank.size())});
  }
  const bool in_range = std::all_of(out.node_of_rank.begin(), out.node_of_rank.end(),
                                    [&out](int32_t n) { return n >= 0 && n < out.num_nodes; });
  if (!in_range || !std::is_sorted(out.node_of_rank.begin(), out.node_of_rank.end())) {
    violations.push_back({"layout.node_of_rank", "must be node numbers that never decrease"});
  }
  if (out.zero_stage < 0 || out.zero_stage > 3) {
    violations.push_back(
        {"layout.zero_stage", absl::StrCat("must be 0 to 3, was ", out.zero_stage)});
  }
  if (out.hpz_partition_size < 0) {
    violations.push_back({"layout.hpz_partition_size",
                          absl::StrCat("must not be negative, was ", out.hpz_partition_size)});
  }
  if (out.round_bytes < 1) {
    violations.push_back(
        {"layout.round_bytes", absl::StrCat("must be at least 1, was ", out.round_bytes)});
  }
  ZC_RETURN_IF_ERROR(InvalidFields(violations));
  return out;
}

}  // namespace zerocast
