// Bytes as a pickle: what is read can be written, and then reads and writes the same.
#include <cstddef>
#include <cstdint>
#include <string>

#include "client/formats/pickle.h"
#include "client/formats/pickle_writer.h"
#include "tests/fuzz/check.h"

namespace zerocast {
namespace {

constexpr int64_t kMaxBytes = 16 << 20;

// The pickle of what `stream` holds; empty where it cannot be written.
std::string Rewritten(const std::string& stream) {
  PickleGraph graph;
  const auto root = ReadPickle(graph.Own(stream), "again", 0, &graph);
  FuzzCheck(root.ok(), "what was written reads");
  const auto written = WritePickle(graph, *root, kMaxBytes);
  return written.ok() ? *written : "";
}

}  // namespace
}  // namespace zerocast

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace zerocast;
  PickleGraph graph;
  const std::string stream(reinterpret_cast<const char*>(data), size);
  int64_t num_bytes = 0;
  const auto root = ReadPickle(graph.Own(stream), "input", 0, &graph, &num_bytes);
  FuzzCheck(graph.num_nodes() <= static_cast<int64_t>(size), "no more nodes than bytes");
  FuzzCheck(num_bytes <= static_cast<int64_t>(size), "it ends in the input");
  if (!root.ok()) return 0;
  FuzzCheck(!graph.Describe(*root).empty(), "every value has a description");
  const auto written = WritePickle(graph, *root, kMaxBytes);
  if (!written.ok()) return 0;
  // Bytes and sets become calls by the first writing, so the second is the one that stays.
  const std::string second = Rewritten(*written);
  if (!second.empty()) FuzzCheck(Rewritten(second) == second, "it writes the same again");
  return 0;
}
