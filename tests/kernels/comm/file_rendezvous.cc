#include "tests/kernels/comm/file_rendezvous.h"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "kernels/comm/deadline.h"

namespace zerocast {

std::string FileRendezvous::Path(absl::string_view key) const {
  return absl::StrCat(folder_, "/", absl::StrReplaceAll(key, {{"/", "."}}));
}

absl::Status FileRendezvous::Put(absl::string_view key, absl::string_view value) {
  const std::string path = Path(key);
  const std::string unfinished = absl::StrCat(path, "~", getpid());
  {
    std::ofstream file(unfinished, std::ios::binary);
    file << value;
    if (!file.flush()) return absl::UnavailableError(absl::StrCat("write ", unfinished));
  }
  if (std::rename(unfinished.c_str(), path.c_str()) != 0) {
    return absl::UnavailableError(absl::StrCat("rename ", unfinished));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> FileRendezvous::Get(absl::string_view key, absl::Duration timeout) {
  const Deadline deadline(timeout);
  for (;;) {
    std::ifstream file(Path(key), std::ios::binary);
    if (file) return std::string(std::istreambuf_iterator<char>(file), {});
    if (deadline.Passed()) return absl::DeadlineExceededError(absl::StrCat("nobody put ", key));
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

}  // namespace zerocast
