#include "kernels/copy/dtype.h"

#include <cstring>

namespace zerocast {
namespace {

struct Names {
  const char* torch;
  const char* safetensors;
};

// In the order of DType.
constexpr Names kNames[] = {
    {"invalid", ""},
    {"bool", "BOOL"},
    {"uint8", "U8"},
    {"int8", "I8"},
    {"uint16", "U16"},
    {"int16", "I16"},
    {"uint32", "U32"},
    {"int32", "I32"},
    {"uint64", "U64"},
    {"int64", "I64"},
    {"float8_e4m3fn", "F8_E4M3"},
    {"float8_e5m2", "F8_E5M2"},
    {"float16", "F16"},
    {"bfloat16", "BF16"},
    {"float32", "F32"},
    {"float64", "F64"},
    {"float8_e8m0fnu", "F8_E8M0"},
};
constexpr int kNumDTypes = static_cast<int>(sizeof(kNames) / sizeof(kNames[0]));
static_assert(kNumDTypes == static_cast<int>(DType::kFloat8E8M0) + 1, "one pair of names a DType");

}  // namespace

const char* DTypeName(DType dtype) { return kNames[static_cast<int>(dtype)].torch; }

DType DTypeFromName(const char* name) {
  for (int i = 1; i < kNumDTypes; ++i) {
    if (std::strcmp(kNames[i].torch, name) == 0) return static_cast<DType>(i);
  }
  return DType::kInvalid;
}

const char* SafetensorsName(DType dtype) { return kNames[static_cast<int>(dtype)].safetensors; }

DType DTypeFromSafetensors(const char* name) {
  for (int i = 1; i < kNumDTypes; ++i) {
    if (std::strcmp(kNames[i].safetensors, name) == 0) return static_cast<DType>(i);
  }
  return DType::kInvalid;
}

}  // namespace zerocast
