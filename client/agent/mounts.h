#ifndef ZEROCAST_CLIENT_AGENT_MOUNTS_H_
#define ZEROCAST_CLIENT_AGENT_MOUNTS_H_

#include <cstdint>
#include <map>
#include <string>

#include "absl/strings/string_view.h"

namespace zerocast {

// The file systems that are mounted here, under names that tell one from another: on every node
// the same one where they come from a server of files (the device number of a network mount is
// another one on each node), the device number otherwise.  A value; threads may read it at once.
class Mounts {
 public:
  // `mountinfo` is in the form of /proc/self/mountinfo (proc_pid_mountinfo(5)); lines of another
  // form are passed over.  Pure.
  static Mounts Parse(absl::string_view mountinfo);

  // Of this process's mount namespace, now.  Asks no file system.  Where /proc does not tell, every
  // name is a device number: files are read again then, and never confused.
  static Mounts Read();

  // `device` is a file's st_dev.
  std::string NameOf(uint64_t device) const;

 private:
  std::map<uint64_t, std::string> shared_;  // by device
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_MOUNTS_H_
