#ifndef ZEROCAST_TESTS_CLIENT_FORMATS_DEEPSPEED_ZERO_BYTES_H_
#define ZEROCAST_TESTS_CLIENT_FORMATS_DEEPSPEED_ZERO_BYTES_H_

#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "client/formats/deepspeed/zero_checkpoint.h"
#include "client/formats/file.h"
#include "kernels/copy/cast.h"

namespace zerocast {

// The recorded folders, unpacked.
inline std::string DeepSpeedFolder(const std::string& name) {
  return std::string(std::getenv("ZC_DEEPSPEED_FOLDERS")) + "/" + name;
}

// The bytes of pieces that must follow each other from element 0 on; what is wrong instead.
inline std::string PieceBytes(const ZeroCheckpoint& checkpoint,
                              const std::vector<ZeroPiece>& pieces) {
  std::string bytes;
  int64_t offset = 0;
  for (const ZeroPiece& piece : pieces) {
    if (piece.offset != offset) return "gap at element " + std::to_string(offset);
    offset += piece.from.num_elements;
    const ZeroStorage& storage = checkpoint.storages[static_cast<size_t>(piece.from.storage)];
    const int64_t num_bytes = piece.from.num_elements * SizeOf(piece.from.dtype);
    if (piece.from.file_begin < storage.file_begin ||
        piece.from.file_begin + num_bytes > storage.file_begin + storage.num_bytes) {
      return "outside its storage";
    }
    const std::string& path = checkpoint.files[static_cast<size_t>(storage.file)].path;
    const auto file = InputFile::Open(checkpoint.folder + "/" + path);
    if (!file.ok()) return file.status().ToString();
    const auto part = file->Read(piece.from.file_begin, num_bytes);
    if (!part.ok()) return part.status().ToString();
    bytes += *part;
  }
  return bytes;
}

inline std::string StateBytes(const ZeroCheckpoint& checkpoint, const ZeroParameter& parameter,
                              size_t state) {
  return PieceBytes(checkpoint, StatePieces(checkpoint, parameter, state));
}

// Floating elements as float32; others as they are.
inline std::string AsFloat32(const std::string& bytes, DType dtype) {
  std::string wide;
  if (dtype != DType::kBFloat16 && dtype != DType::kFloat16) return bytes;
  for (size_t k = 0; k < bytes.size(); k += 2) {
    const uint16_t narrow = static_cast<uint16_t>(static_cast<unsigned char>(bytes[k]) |
                                                  static_cast<unsigned char>(bytes[k + 1]) << 8);
    const uint32_t bits = dtype == DType::kBFloat16
                              ? CastElement<DType::kBFloat16, DType::kFloat32>(narrow)
                              : CastElement<DType::kFloat16, DType::kFloat32>(narrow);
    for (int shift = 0; shift < 32; shift += 8) wide.push_back(static_cast<char>(bits >> shift));
  }
  return wide;
}

// The recorded checkpoints; the resharded and universal ones of NAME are NAME-to-wN and NAME-uni.
inline const std::map<std::string, std::vector<std::string>>& RecordedFolders() {
  static const auto* const folders = new std::map<std::string, std::vector<std::string>>{
      {"c2", {}},
      {"ernie-z1-w3", {"-to-w1", "-to-w2"}},
      {"keep_c1", {}},
      {"mixtral-z3-w2", {"-to-w1", "-to-w3", "-uni"}},
      {"olmoe-z3-w2", {"-to-w3"}},
      {"qwen3moe-z2-w2", {"-to-w1", "-to-w3"}},
      {"tiny-z1-w2-fp16", {"-to-w3"}},
      {"tiny-z2-w4", {"-to-w3", "-uni"}},
  };
  return *folders;
}

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_CLIENT_FORMATS_DEEPSPEED_ZERO_BYTES_H_
