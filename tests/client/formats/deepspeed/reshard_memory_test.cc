// What resharding holds of a checkpoint that is larger than all it may hold.
#include <algorithm>
#include <atomic>
#include <fstream>
#include <string>

#include "client/formats/deepspeed/reshard.h"
#include "tests/client/formats/deepspeed/universal_model.h"
#include "tests/status_matchers.h"
#include "tests/temp_dir.h"

namespace zerocast {
namespace {

constexpr int64_t kMostBytes = int64_t{256} << 20;

// RssAnon and RssShmem of this process.
int64_t HeldBytes() {
  std::ifstream status("/proc/self/status");
  int64_t kib = 0;
  for (std::string line; std::getline(status, line);) {
    for (const char* const field : {"RssAnon:", "RssShmem:"}) {
      if (line.rfind(field, 0) == 0) kib += std::stoll(line.substr(line.find(':') + 1));
    }
  }
  return kib * 1024;
}

TEST(ReshardMemory, IsBoundedWhateverTheSize) {
  const TempDir temp;
  {
    Model model;
    model.sub_group_size = 1000000000;
    Weight weight;
    weight.name = "large";
    weight.num_elements = 24 << 20;  // three states of 96 MiB
    weight.shape = {weight.num_elements};
    for (std::string& state : weight.states) {
      state.assign(static_cast<size_t>(4 * weight.num_elements), 'x');
    }
    model.weights.push_back(std::move(weight));
    ASSERT_GT(HeldBytes(), kMostBytes);  // so it would be seen
    ASSERT_THAT(WriteUniversal(model, temp.File("in/global_step4_universal")), IsOk());
    temp.Write("in/latest_universal", "global_step4_universal");
  }
  std::atomic<int64_t> most{0};
  PieceCopier::Options options;
  options.num_threads = 8;
  options.keep_going = [&most] {
    const int64_t now = HeldBytes();
    for (int64_t seen = most; now > seen && !most.compare_exchange_weak(seen, now);) {
    }
    return absl::OkStatus();
  };
  std::string from = temp.File("in");
  for (const int64_t world_size : {3, 0}) {
    ZC_ASSERT_OK_AND_ASSIGN(const ZeroCheckpoint checkpoint, ReadZeroCheckpoint(from, ""));
    from = temp.File("out" + std::to_string(world_size));
    ZC_ASSERT_OK_AND_ASSIGN(OutputFolder folder, OutputFolder::Create(from));
    ASSERT_THAT(world_size > 0 ? ReshardCheckpoint(checkpoint, world_size, folder, options)
                               : WriteUniversalCheckpoint(checkpoint, folder, options),
                IsOk());
    ASSERT_THAT(folder.Commit(), IsOk());
  }
  EXPECT_GT(most.load(), 0);
  EXPECT_LE(most.load(), kMostBytes);
}

}  // namespace
}  // namespace zerocast
