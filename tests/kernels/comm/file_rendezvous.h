#ifndef ZEROCAST_TESTS_KERNELS_COMM_FILE_RENDEZVOUS_H_
#define ZEROCAST_TESTS_KERNELS_COMM_FILE_RENDEZVOUS_H_

#include <string>

#include "kernels/comm/communicator.h"

namespace zerocast {

// A Rendezvous of processes of one machine: each entry is a file in a folder of theirs.
class FileRendezvous : public Rendezvous {
 public:
  explicit FileRendezvous(std::string folder) : folder_(std::move(folder)) {}

  absl::Status Put(absl::string_view key, absl::string_view value) override;
  absl::StatusOr<std::string> Get(absl::string_view key, absl::Duration timeout) override;

 private:
  std::string Path(absl::string_view key) const;
  const std::string folder_;
};

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_KERNELS_COMM_FILE_RENDEZVOUS_H_
