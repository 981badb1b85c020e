#include "client/agent/mounts.h"

#include <sys/sysmacros.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <iterator>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace zerocast {
namespace {

// File systems whose source names the server and what it exports, and whose inodes are the
// server's. Not among them: beegfs, whose source is the same for every server, and those of FUSE,
// most of which number their inodes as they meet them.
bool IsSharedType(absl::string_view type) {
  static constexpr std::array<absl::string_view, 8> kTypes = {"ceph", "cifs", "gpfs", "lustre",
                                                              "nfs",  "nfs4", "smb3", "wekafs"};
  return std::find(kTypes.begin(), kTypes.end(), type) != kTypes.end();
}

bool ParseDevice(absl::string_view text, uint64_t* device) {
  const std::vector<absl::string_view> parts = absl::StrSplit(text, ':');
  unsigned int numbers[2];
  if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &numbers[0]) ||
      !absl::SimpleAtoi(parts[1], &numbers[1])) {
    return false;
  }
  *device = makedev(numbers[0], numbers[1]);
  return true;
}

}  // namespace

Mounts Mounts::Parse(absl::string_view mountinfo) {
  constexpr size_t kDevice = 2;
  constexpr size_t kFirstOptional = 6;
  Mounts mounts;
  for (const absl::string_view line : absl::StrSplit(mountinfo, '\n')) {
    const std::vector<absl::string_view> fields = absl::StrSplit(line, ' ');
    if (fields.size() < kFirstOptional) continue;
    // Any number of optional fields, a hyphen, then the type and the source.
    const auto hyphen = std::find(fields.begin() + kFirstOptional, fields.end(), "-");
    uint64_t device = 0;
    if (fields.end() - hyphen < 3 || !ParseDevice(fields[kDevice], &device)) continue;
    if (!IsSharedType(hyphen[1])) continue;
    std::string name = absl::StrCat(hyphen[1], " ", hyphen[2]);
    const auto [known, is_new] = mounts.shared_.try_emplace(device, name);
    // Mounted at several places, maybe as parts of one export: the order of mounting decides
    // nothing.
    if (!is_new && name < known->second) known->second = std::move(name);
  }
  return mounts;
}

Mounts Mounts::Read() {
  std::ifstream file("/proc/self/mountinfo");
  return Parse(std::string(std::istreambuf_iterator<char>(file), {}));
}

std::string Mounts::NameOf(uint64_t device) const {
  const auto found = shared_.find(device);
  return found == shared_.end() ? absl::StrCat(device) : found->second;
}

}  // namespace zerocast
