// Who connects to the hand-over socket: many, silent, and strangers.

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "client/agent/unique_fd.h"
#include "tests/client/agent/handover_fixture.h"

namespace zerocast {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

TEST_F(HandOverTest, SilentClientsBlockNobodyAndAreDropped) {
  HandOverOptions options = Options();
  options.request_timeout = absl::Milliseconds(200);
  Start(std::move(options));
  std::vector<std::unique_ptr<AttachClient>> silent;
  for (int k = 0; k < 10; ++k) {
    silent.push_back(std::make_unique<AttachClient>(path_));
    if (k % 2 == 0) silent.back()->SendRaw("\x10");
  }
  EXPECT_EQ(AttachClient(path_).Attach(kLoad, 0, kToken, "private")["ok"], true);
  for (const auto& client : silent) {
    EXPECT_EQ(CodeOf(client->Receive()), "DEADLINE_EXCEEDED");
    EXPECT_TRUE(client->Receive().is_discarded());
  }
}

TEST_F(HandOverTest, TwoHundredIdleConnectionsKeepNobodyOut) {
  HandOverOptions options = Options();
  options.request_timeout = absl::Hours(1);
  Start(std::move(options));
  std::vector<std::unique_ptr<AttachClient>> idle;
  for (int k = 0; k < 200; ++k) idle.push_back(std::make_unique<AttachClient>(path_));
  AttachClient client(path_);
  EXPECT_EQ(client.Attach(kLoad, 0, kToken, "shared")["ok"], true);
  ASSERT_TRUE(client.Acknowledge());
  EXPECT_EQ(client.Receive()["ok"], true);
  // Each of them may still ask.
  EXPECT_EQ(idle[17]->Attach(kLoad, 1, kToken, "private")["ok"], true);
}

TEST_F(HandOverTest, TooManyIdleConnectionsAreAnsweredAndMakeRoomByThemselves) {
  HandOverOptions options = Options();
  options.max_waiting = 20;  // 10 of one user
  options.request_timeout = absl::Seconds(2);
  Start(std::move(options));
  std::vector<std::unique_ptr<AttachClient>> idle;
  for (int k = 0; k < 10; ++k) idle.push_back(std::make_unique<AttachClient>(path_));
  const json refused = AttachClient(path_).Attach(kLoad, 0, kToken, "private");
  EXPECT_EQ(CodeOf(refused), "RESOURCE_EXHAUSTED");
  EXPECT_THAT(refused["error"]["message"].get<std::string>(), HasSubstr("try again in 2s"));
  EXPECT_EQ(refused["error"]["reason"], "RESOURCE_EXHAUSTED");
  for (const auto& client : idle) EXPECT_EQ(CodeOf(client->Receive()), "DEADLINE_EXCEEDED");
  EXPECT_EQ(AttachClient(path_).Attach(kLoad, 0, kToken, "private")["ok"], true);
}

TEST_F(HandOverTest, AClientThatGoesWithoutAWordMakesRoom) {
  HandOverOptions options = Options();
  options.max_waiting = 2;  // 1 of one user
  options.request_timeout = absl::Hours(1);
  Start(std::move(options));
  for (int k = 0; k < 50; ++k) AttachClient gone(path_);
  // The last one's end may be seen after the next connection.
  json answer = json::object();
  for (int k = 0; k < 1000 && answer.value("ok", false) == false; ++k) {
    answer = AttachClient(path_).Attach(kLoad, 0, kToken, "private");
  }
  EXPECT_EQ(answer["ok"], true);
}

TEST_F(HandOverTest, BeyondItsConnectionsItSaysSoAndServesAgainLater) {
  HandOverOptions options = Options();
  options.max_connections = 1;
  Start(std::move(options));
  AttachClient first(path_);
  first.Attach(kLoad, 0, kToken, "shared");  // holds its connection until the ack
  const json refused = AttachClient(path_).Attach(kLoad, 1, kToken, "private");
  EXPECT_EQ(CodeOf(refused), "RESOURCE_EXHAUSTED");
  EXPECT_THAT(refused["error"]["message"].get<std::string>(), HasSubstr("1 processes"));
  first.Acknowledge();
  EXPECT_EQ(first.Receive()["ok"], true);
  EXPECT_TRUE(first.Receive().is_discarded());  // the server has closed it
  EXPECT_EQ(AttachClient(path_).Attach(kLoad, 1, kToken, "private")["ok"], true);
}

// Another user's process: asks for a shard as soon as it is told to, and tells what it was
// answered.
class ForeignProcess {
 public:
  static constexpr uid_t kUid = 65534;

  // Forks: before the test has threads.
  ForeignProcess(const std::string& socket_path, const std::string& request) {
    int go[2], answer[2];
    EXPECT_EQ(::pipe(go), 0);
    EXPECT_EQ(::pipe(answer), 0);
    pid_ = ::fork();
    if (pid_ == 0) Run(socket_path, request, go[0], answer[1]);
    ::close(go[0]);
    ::close(answer[1]);
    go_ = UniqueFd(go[1]);
    answer_ = UniqueFd(answer[0]);
  }
  ~ForeignProcess() {
    go_.Reset();
    int status;
    EXPECT_EQ(::waitpid(pid_, &status, 0), pid_);
  }
  // All that it got; "setresuid" when it could not become another user.
  std::string Ask() {
    EXPECT_EQ(::write(go_.get(), "g", 1), 1);
    std::string bytes;
    char chunk[4096];
    for (ssize_t got; (got = ::read(answer_.get(), chunk, sizeof(chunk))) > 0;) {
      bytes.append(chunk, static_cast<size_t>(got));
    }
    return bytes;
  }

 private:
  // Nothing but system calls.
  [[noreturn]] static void Run(const std::string& path, const std::string& request, int go,
                               int answer) {
    char byte;
    if (::read(go, &byte, 1) != 1) ::_exit(1);
    // The system call itself: libc's would look for other threads of the parent.
    if (::syscall(SYS_setresuid, kUid, kUid, kUid) != 0) {
      (void)!::write(answer, "setresuid", 9);
      ::_exit(1);
    }
    const int socket = ::socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), path.size());
    if (::connect(socket, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
      (void)!::write(answer, "connect", 7);
      ::_exit(1);
    }
    (void)!::send(socket, request.data(), request.size(), MSG_NOSIGNAL);
    char chunk[4096];
    for (ssize_t got; (got = ::recv(socket, chunk, sizeof(chunk), 0)) > 0;) {
      (void)!::write(answer, chunk, static_cast<size_t>(got));
    }
    ::_exit(0);
  }

  pid_t pid_ = -1;
  UniqueFd go_, answer_;
};

class ForeignUserTest : public HandOverTest {
 protected:
  // What a process of another user is answered; skips where this one cannot make such a process.
  void Ask(std::vector<uid_t> allowed, std::string* answer) {
    if (::geteuid() != 0) GTEST_SKIP() << "a process of another user can be made by root only";
    // Everybody may reach the socket: only the agent refuses.
    ASSERT_EQ(::chmod(dir_.path().c_str(), 0755), 0);
    HandOverOptions options = Options();
    options.mode = 0666;
    options.frame_timeout = absl::Milliseconds(500);  // it never acknowledges
    options.allowed_uids = std::move(allowed);
    const std::string text =
        json{{"op", "attach"}, {"load", kLoad}, {"rank", 0}, {"token", kToken}, {"mode", "private"}}
            .dump();
    std::string frame(4, '\0');
    frame[0] = static_cast<char>(text.size());
    ForeignProcess process(options.socket_path, frame + text);
    Start(std::move(options));
    *answer = process.Ask();
    if (*answer == "setresuid") GTEST_SKIP() << "this root may not become another user";
  }
};

TEST_F(ForeignUserTest, IsRefusedWhateverItKnows) {
  std::string answer;
  Ask({}, &answer);
  if (IsSkipped()) return;
  ASSERT_GT(answer.size(), 4u);
  const json refused = json::parse(answer.substr(4), nullptr, false);
  EXPECT_EQ(CodeOf(refused), "PERMISSION_DENIED");
  EXPECT_EQ(refused["error"]["reason"], "PERMISSION_DENIED");
  EXPECT_THAT(refused["error"]["message"].get<std::string>(),
              ::testing::AllOf(HasSubstr("user 65534"), HasSubstr("--allow-uid 65534")));
}

TEST_F(ForeignUserTest, IsServedWhereItIsAllowed) {
  std::string answer;
  Ask({ForeignProcess::kUid}, &answer);
  if (IsSkipped()) return;
  EXPECT_THAT(answer, HasSubstr("\"plan_digest\":\"d1\""));
}

}  // namespace
}  // namespace zerocast
