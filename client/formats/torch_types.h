#ifndef ZEROCAST_CLIENT_FORMATS_TORCH_TYPES_H_
#define ZEROCAST_CLIENT_FORMATS_TORCH_TYPES_H_

#include <cstdint>

#include "absl/strings/string_view.h"
#include "kernels/copy/dtype.h"

namespace zerocast {

// A class of torch storages: its name, its element type, bytes of one element.
struct TorchStorageClass {
  absl::string_view name;
  DType dtype;  // kInvalid: untyped, or a type that zerocast has not
  int64_t element_bytes;
};

// torch.NAME, and torch.storage.UntypedStorage.
inline constexpr TorchStorageClass kTorchStorageClasses[] = {
    {"FloatStorage", DType::kFloat32, 4},
    {"BFloat16Storage", DType::kBFloat16, 2},
    {"HalfStorage", DType::kFloat16, 2},
    {"DoubleStorage", DType::kFloat64, 8},
    {"LongStorage", DType::kInt64, 8},
    {"IntStorage", DType::kInt32, 4},
    {"ShortStorage", DType::kInt16, 2},
    {"CharStorage", DType::kInt8, 1},
    {"ByteStorage", DType::kUInt8, 1},
    {"BoolStorage", DType::kBool, 1},
    {"UntypedStorage", DType::kInvalid, 1},
    {"ComplexFloatStorage", DType::kInvalid, 8},
    {"ComplexDoubleStorage", DType::kInvalid, 16},
    {"QInt8Storage", DType::kInvalid, 1},
    {"QUInt8Storage", DType::kInvalid, 1},
    {"QInt32Storage", DType::kInvalid, 4},
    {"QUInt4x2Storage", DType::kInvalid, 1},
    {"QUInt2x4Storage", DType::kInvalid, 1},
};

// Null when unknown.
inline const TorchStorageClass* FindTorchStorageClass(absl::string_view name) {
  for (const TorchStorageClass& known : kTorchStorageClasses) {
    if (known.name == name) return &known;
  }
  return nullptr;
}

// The typed class of `dtype`; null for those that torch saves untyped (unsigned beyond uint8, 8-bit
// floats).
inline const TorchStorageClass* FindTorchStorageClass(DType dtype) {
  for (const TorchStorageClass& known : kTorchStorageClasses) {
    if (dtype != DType::kInvalid && known.dtype == dtype) return &known;
  }
  return nullptr;
}

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_FORMATS_TORCH_TYPES_H_
