#ifndef ZEROCAST_CLIENT_CLI_SOCKET_FOLDER_H_
#define ZEROCAST_CLIENT_CLI_SOCKET_FOLDER_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace zerocast {

// A folder that only this user can enter, for the sockets of this process; removed with its
// content. Move-only.
//
// A process that is killed leaves its folder behind; the next Create() of the same user removes it.
// What tells a dead process's folder from a living one's is a lock on the folder (flock), which the
// kernel drops with the process: no process number that another one may have by now.
class SocketFolder {
 public:
  // "zerocast-embedded.XXXXXX" in `parent`.  Errors: those of mkdtemp(3), reason IO_ERROR.
  static absl::StatusOr<SocketFolder> Create(const std::string& parent);
  // Where Create should: XDG_RUNTIME_DIR, else /tmp.
  static std::string DefaultParent();

  SocketFolder() = default;
  SocketFolder(SocketFolder&& other) noexcept;
  SocketFolder& operator=(SocketFolder&& other) noexcept;
  ~SocketFolder();

  const std::string& path() const { return path_; }

 private:
  std::string path_;
  int lock_ = -1;  // the folder, opened and locked
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_CLI_SOCKET_FOLDER_H_
