#include "client/cli/socket_folder.h"

#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <memory>

#include "tests/status_matchers.h"
#include "tests/temp_dir.h"

namespace zerocast {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

namespace fs = std::filesystem;

void MakeSocket(const std::string& path) {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  EXPECT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ::close(fd);
}

// A process that makes a folder with a socket in it, and waits.
class Owner {
 public:
  explicit Owner(const std::string& parent) {
    int ready[2];
    EXPECT_EQ(::pipe(ready), 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      const auto folder = SocketFolder::Create(parent);
      if (!folder.ok()) ::_exit(1);
      MakeSocket(folder->path() + "/server.sock");
      (void)!::write(ready[1], folder->path().data(), folder->path().size());
      ::close(ready[1]);
      while (true) ::pause();
    }
    ::close(ready[1]);
    char path[256];
    const ssize_t got = ::read(ready[0], path, sizeof(path));
    ::close(ready[0]);
    path_.assign(path, got > 0 ? static_cast<size_t>(got) : 0);
    EXPECT_NE(path_, "");
  }
  ~Owner() { Kill(); }
  void Kill() {
    if (pid_ < 0) return;
    ::kill(pid_, SIGKILL);
    int status;
    EXPECT_EQ(::waitpid(pid_, &status, 0), pid_);
    pid_ = -1;
  }
  const std::string& path() const { return path_; }

 private:
  pid_t pid_ = -1;
  std::string path_;
};

class SocketFolderTest : public ::testing::Test {
 protected:
  std::vector<std::string> Folders() const {
    std::vector<std::string> paths;
    for (const auto& entry : fs::directory_iterator(dir_.path())) {
      paths.push_back(entry.path().string());
    }
    return paths;
  }
  const TempDir dir_;
};

TEST_F(SocketFolderTest, IsThisUsersAloneAndGoesWithItsContent) {
  {
    ZC_ASSERT_OK_AND_ASSIGN(const SocketFolder folder, SocketFolder::Create(dir_.path()));
    MakeSocket(folder.path() + "/node0.sock");
    struct stat info;
    ASSERT_EQ(::stat(folder.path().c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0700u);
    EXPECT_THAT(Folders(), UnorderedElementsAre(folder.path()));
  }
  EXPECT_THAT(Folders(), IsEmpty());
}

TEST_F(SocketFolderTest, WhatAKilledProcessLeavesTheNextOneRemoves) {
  Owner owner(dir_.path());
  owner.Kill();
  ASSERT_THAT(Folders(), UnorderedElementsAre(owner.path()));
  ZC_ASSERT_OK_AND_ASSIGN(const SocketFolder next, SocketFolder::Create(dir_.path()));
  EXPECT_THAT(Folders(), UnorderedElementsAre(next.path()));
}

TEST_F(SocketFolderTest, WhatALivingProcessHoldsStays) {
  const Owner owner(dir_.path());
  ZC_ASSERT_OK_AND_ASSIGN(const SocketFolder mine, SocketFolder::Create(dir_.path()));
  ZC_ASSERT_OK_AND_ASSIGN(const SocketFolder next, SocketFolder::Create(dir_.path()));
  EXPECT_THAT(Folders(), UnorderedElementsAre(owner.path(), mine.path(), next.path()));
  EXPECT_TRUE(fs::exists(owner.path() + "/server.sock"));
}

TEST_F(SocketFolderTest, WhatIsNotOursStays) {
  const std::string with_file = dir_.File("zerocast-embedded.backup");
  fs::create_directory(with_file);
  dir_.Write("zerocast-embedded.backup/notes", "keep");
  dir_.Write("zerocast-embedded.file", "keep");
  const std::string other = dir_.File("zerocast.AbCdEf");
  fs::create_directory(other);
  fs::create_directory(dir_.File("target"));
  fs::create_directory_symlink(dir_.File("target"), dir_.File("zerocast-embedded.link"));
  ZC_ASSERT_OK_AND_ASSIGN(const SocketFolder folder, SocketFolder::Create(dir_.path()));
  EXPECT_TRUE(fs::exists(with_file + "/notes"));
  EXPECT_TRUE(fs::exists(dir_.File("zerocast-embedded.file")));
  EXPECT_TRUE(fs::exists(other));
  EXPECT_TRUE(fs::exists(dir_.File("zerocast-embedded.link")));
  EXPECT_TRUE(fs::exists(dir_.File("target")));
}

TEST_F(SocketFolderTest, NamesWhereItCannotBe) {
  EXPECT_THAT(SocketFolder::Create(dir_.File("none")),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr(dir_.File("none"))));
}

TEST_F(SocketFolderTest, ManyAtOnceDisturbNobody) {
  std::vector<std::unique_ptr<Owner>> owners;
  std::vector<std::string> expected;
  for (int k = 0; k < 8; ++k) {
    owners.push_back(std::make_unique<Owner>(dir_.path()));
    expected.push_back(owners.back()->path());
  }
  EXPECT_THAT(Folders(), ::testing::UnorderedElementsAreArray(expected));
}

}  // namespace
}  // namespace zerocast
