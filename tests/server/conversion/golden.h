#ifndef ZEROCAST_TESTS_SERVER_CONVERSION_GOLDEN_H_
#define ZEROCAST_TESTS_SERVER_CONVERSION_GOLDEN_H_

// Reading the recorded data of the real libraries: JSON lines, checkpoints, digests.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "kernels/copy/dtype.h"

namespace zerocast {

// The folder that the environment variable `override_variable` names, else `name` in the test data.
std::string GoldenFolder(const char* override_variable, const std::string& name);

// A whole file, decompressed where it is gzip; aborts the test binary where it cannot be read.
std::string ReadWholeFile(const std::string& path);
// The same by lines; a line ends at \n only.
std::vector<std::string> ReadLines(const std::string& path);

// Lower-case hex.
std::string Sha256Hex(const std::string& bytes);

struct StoredTensor {
  DType dtype = DType::kInvalid;
  std::vector<int64_t> shape;
  std::string bytes;
};

// Every tensor of every *.safetensors file of a folder.
std::map<std::string, StoredTensor> ReadSafetensors(const std::string& folder);

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_SERVER_CONVERSION_GOLDEN_H_
