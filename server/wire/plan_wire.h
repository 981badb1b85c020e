#ifndef ZEROCAST_SERVER_WIRE_PLAN_WIRE_H_
#define ZEROCAST_SERVER_WIRE_PLAN_WIRE_H_

#include "absl/status/statusor.h"
#include "kernels/copy/dtype.h"
#include "server/plan/layout.h"
#include "server/plan/manifest.h"
#include "zerocast/v1/plan.pb.h"

namespace zerocast {

// The numbers are equal; FromProto gives kInvalid for DTYPE_UNSPECIFIED and for numbers not known.
v1::Dtype DTypeToProto(DType dtype);
DType DTypeFromProto(v1::Dtype dtype);

v1::CheckpointFormat CheckpointFormatToProto(CheckpointFormat format);
v1::ReadMode ReadModeToProto(ReadMode mode);
v1::MoveMode MoveModeToProto(MoveMode mode);
v1::Device LoadDeviceToProto(LoadDevice device);
v1::Placement PlacementToProto(Placement placement);
v1::DtypePolicy DTypePolicyToProto(DTypePolicy policy);

// UNSPECIFIED gives the server's choice: kAny, kParallel, kScatter, kCpu, kDevice.
// Errors: INVALID_ARGUMENT for a number that is not known.
absl::StatusOr<CheckpointFormat> CheckpointFormatFromProto(v1::CheckpointFormat format);
absl::StatusOr<ReadMode> ReadModeFromProto(v1::ReadMode mode);
absl::StatusOr<MoveMode> MoveModeFromProto(v1::MoveMode mode);
absl::StatusOr<LoadDevice> LoadDeviceFromProto(v1::Device device);
absl::StatusOr<Placement> PlacementFromProto(v1::Placement placement);
// Errors: INVALID_ARGUMENT for UNSPECIFIED, which only the job's config can resolve, and for a
// number that is not known.
absl::StatusOr<DTypePolicy> DTypePolicyFromProto(v1::DtypePolicy policy);

// The manifest of a checkpoint.  FromProto checks what Manifest promises: paths relative and
// without "..", entries of one path alike, names present and unique, known dtypes, strides that
// nest, data inside its file, sorted by (file, file_begin, name), no two tensors of one entry
// sharing a byte.  Errors: INVALID_ARGUMENT, reason INVALID_FIELDS, naming
// field and tensor; the first kMaxManifestViolations of them.
inline constexpr int kMaxManifestViolations = 16;
v1::Manifest ManifestToProto(const Manifest& manifest);
absl::StatusOr<Manifest> ManifestFromProto(const v1::Manifest& manifest);

// Errors of FromProto: INVALID_ARGUMENT, reason INVALID_FIELDS, with every field that contradicts
// the comments of Layout.
v1::Layout LayoutToProto(const Layout& layout);
absl::StatusOr<Layout> LayoutFromProto(const v1::Layout& layout);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_WIRE_PLAN_WIRE_H_
