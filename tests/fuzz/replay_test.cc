// The corpus of a fuzz target (ZC_FUZZ_CORPUS), and what was found with it, as an ordinary test.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace zerocast {
namespace {

TEST(FuzzCorpus, RunsThrough) {
  const char* source = std::getenv("ZC_SOURCE_DIR");
  ASSERT_NE(source, nullptr);
  int inputs = 0;
  for (const auto& entry : std::filesystem::directory_iterator(
           std::string(source) + "/tests/fuzz/corpus/" ZC_FUZZ_CORPUS)) {
    SCOPED_TRACE(entry.path().string());
    std::ifstream file(entry.path(), std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(file)),
                            std::istreambuf_iterator<char>());
    EXPECT_EQ(LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()),
              0);
    ++inputs;
  }
  EXPECT_GE(inputs, ZC_FUZZ_LEAST_INPUTS);
}

}  // namespace
}  // namespace zerocast
