#include "client/agent/mounts.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace zerocast {
namespace {

constexpr absl::string_view kMountinfo =
    "22 1 259:1 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p1 rw\n"
    "36 22 0:40 / /models rw,relatime shared:7 master:2 - nfs4 nas:/models rw,vers=4.2\n"
    "37 22 0:41 / /scratch rw,noatime - lustre mgs@tcp:/scratch rw\n"
    "38 22 0:42 / /fuse rw - fuse.gcsfuse bucket rw\n"
    "39 22 0:43 / /bee rw - beegfs beegfs_nodev rw\n"
    "40 22 0:44 / /run rw shared:5 - tmpfs tmpfs rw\n";

TEST(Mounts, NamesFileSystemsOfServersByTypeAndSource) {
  const Mounts mounts = Mounts::Parse(kMountinfo);
  EXPECT_EQ(mounts.NameOf(makedev(0, 40)), "nfs4 nas:/models");
  EXPECT_EQ(mounts.NameOf(makedev(0, 41)), "lustre mgs@tcp:/scratch");
}

TEST(Mounts, NamesAllOthersByDevice) {
  const Mounts mounts = Mounts::Parse(kMountinfo);
  for (const uint64_t device :
       {makedev(259, 1), makedev(0, 42), makedev(0, 43), makedev(0, 44), makedev(0, 99)}) {
    EXPECT_EQ(mounts.NameOf(device), absl::StrCat(device));
  }
}

TEST(Mounts, TheOrderOfMountingDecidesNothing) {
  const std::string a = "1 0 0:40 / /a rw - nfs nas:/a rw\n";
  const std::string b = "2 0 0:40 /b /b rw - nfs nas:/a/b rw\n";
  EXPECT_EQ(Mounts::Parse(a + b).NameOf(makedev(0, 40)), "nfs nas:/a");
  EXPECT_EQ(Mounts::Parse(b + a).NameOf(makedev(0, 40)), "nfs nas:/a");
}

TEST(Mounts, LinesOfAnotherFormArePassedOver) {
  for (const absl::string_view line :
       {"", "-", "36 35 0:40", "36 35 0:40 / /m rw - nfs", "36 35 0:40 / /m rw nfs nas:/m rw",
        "36 35 0:x / /m rw - nfs nas:/m rw", "36 35 040 / /m rw - nfs nas:/m rw",
        "36 35 0:40:1 / /m rw - nfs nas:/m rw"}) {
    EXPECT_EQ(Mounts::Parse(line).NameOf(makedev(0, 40)), absl::StrCat(makedev(0, 40))) << line;
  }
}

TEST(Mounts, ReadsThoseOfThisProcess) {
  struct stat info;
  ASSERT_EQ(::stat("/proc", &info), 0);
  EXPECT_EQ(Mounts::Read().NameOf(info.st_dev), absl::StrCat(info.st_dev));
}

}  // namespace
}  // namespace zerocast
