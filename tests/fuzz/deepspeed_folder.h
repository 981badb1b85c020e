#ifndef ZEROCAST_TESTS_FUZZ_DEEPSPEED_FOLDER_H_
#define ZEROCAST_TESTS_FUZZ_DEEPSPEED_FOLDER_H_

#include <string>

namespace zerocast {

// A folder of its own for what one run writes, in memory where the machine has such a file system:
// each file is flushed.  Removed with everything in it.
class Scratch {
 public:
  Scratch();
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// What of a folder could be read.
struct FolderReading {
  bool is_checkpoint = false;  // ReadZeroCheckpoint took it
  int num_written = 0;         // how many of the folders that are made of it were written
};

// Reads `folder` as a DeepSpeed checkpoint in every way that there is, makes of it what can be made
// in `outputs`, an empty folder, and ends the process where something does not hold that holds for
// every folder, however wrong (README.md).  `outputs` is empty again at the end.
FolderReading CheckDeepSpeedFolder(const std::string& folder, const std::string& outputs);

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_FUZZ_DEEPSPEED_FOLDER_H_
