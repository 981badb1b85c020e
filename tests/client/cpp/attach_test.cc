#include "client/cpp/attach.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "absl/strings/str_cat.h"
#include "client/agent/unique_fd.h"
#include "server/base/clock.h"
#include "server/base/errors.h"
#include "tests/client/agent/handover_fixture.h"

namespace zerocast {
namespace {

using nlohmann::json;
using ::testing::_;
using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

AttachOptions To(const std::string& socket_path, int rank = 0) {
  AttachOptions options;
  options.socket_path = socket_path;
  options.load = kLoad;
  options.rank = rank;
  options.token = kToken;
  options.timeout = absl::Seconds(20);
  return options;
}

// Against the agent's own socket.
class AttachTest : public HandOverTest {
 protected:
  void SetUp() override { Start(Options()); }
};

TEST_F(AttachTest, GivesTheTensorsOfTheRankInTheArena) {
  ZC_ASSERT_OK_AND_ASSIGN(const AttachedShard shard, Attach(To(path_, 1)));
  EXPECT_EQ(shard.world_size(), 2);
  EXPECT_EQ(shard.plan_digest(), "d1");
  ASSERT_EQ(shard.num_bytes(), kBytes);
  EXPECT_EQ(std::string(shard.data(), kBytes), std::string(kBytes, 'b'));
  ASSERT_EQ(shard.tensors().size(), 2);
  const ShardTensor& tensor = shard.tensors()[0];
  EXPECT_EQ(tensor.name, "model.norm.weight");
  EXPECT_THAT(tensor.shape, ElementsAre(3, 5));
  EXPECT_EQ(tensor.dtype, DType::kBFloat16);
  EXPECT_EQ(tensor.offset, 64);
  EXPECT_EQ(tensor.elements, 8);
  EXPECT_EQ(tensor.num_elements, 15);
  EXPECT_TRUE(tensor.partitioned);
  EXPECT_FALSE(tensor.is_buffer);
  EXPECT_TRUE(tensor.is_filled);
  EXPECT_THAT(tensor.aliases, ElementsAre("other.name"));
  EXPECT_EQ(shard.secondary_group_size(), 2);
  EXPECT_EQ(tensor.secondary_offset, 192);
  EXPECT_EQ(tensor.secondary_elements, 16);
  EXPECT_EQ(shard.tensors()[1].secondary_elements, 0);
  EXPECT_FALSE(shard.tensors()[1].is_filled);
}

TEST_F(AttachTest, PrivateWritesStayHereAndTheShardStaysThere) {
  ZC_ASSERT_OK_AND_ASSIGN(const AttachedShard first, Attach(To(path_)));
  std::memset(first.data(), 'z', kBytes);
  ZC_ASSERT_OK_AND_ASSIGN(const AttachedShard second, Attach(To(path_)));
  EXPECT_EQ(std::string(second.data(), kBytes), std::string(kBytes, 'a'));
}

TEST_F(AttachTest, ASharedShardIsTakenOnceAndLeavesTheAgent) {
  AttachOptions options = To(path_);
  options.shared = true;
  const int64_t before = Arena::TotalBytes();
  {
    ZC_ASSERT_OK_AND_ASSIGN(const AttachedShard shard, Attach(options));
    EXPECT_EQ(Arena::TotalBytes(), before - kBytes);
    std::memset(shard.data(), 'z', kBytes);
    ZC_ASSERT_OK_AND_ASSIGN(const AttachedShard other, Attach(To(path_, 1)));
    EXPECT_EQ(other.data()[0], 'b');
  }
  const auto again = Attach(options);
  EXPECT_THAT(again, StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("handed over")));
  EXPECT_EQ(ReasonOf(again.status()), "WRONG_STATE");
}

TEST_F(AttachTest, RefusalsCarryTheAgentsWords) {
  AttachOptions options = To(path_);
  options.token = "wrong";
  const auto refused = Attach(options);
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("token")));
  EXPECT_EQ(ReasonOf(refused.status()), "PERMISSION_DENIED");
  const auto none = Attach(To(path_, 7));
  EXPECT_THAT(none, StatusIs(absl::StatusCode::kNotFound, HasSubstr("rank 7")));
  EXPECT_EQ(ReasonOf(none.status()), "NOT_FOUND");
}

TEST_F(AttachTest, LeavesNoDescriptorAndNoMapping) {
  const auto count = [](const char* what) {
    size_t found = 0;
    for (const auto& entry : std::filesystem::directory_iterator(what)) found += entry.exists();
    return found;
  };
  { ZC_ASSERT_OK_AND_ASSIGN(const AttachedShard first, Attach(To(path_))); }
  const size_t descriptors = count("/proc/self/fd");
  for (int k = 0; k < 20; ++k) {
    ZC_ASSERT_OK_AND_ASSIGN(const AttachedShard shard, Attach(To(path_)));
  }
  // The server's ends of the connections are closed by its own threads.
  for (int k = 0; k < 5000 && count("/proc/self/fd") > descriptors; ++k) ::usleep(1000);
  EXPECT_LE(count("/proc/self/fd"), descriptors);
}

// An agent that says what the test wants: one answer to each message of the one client.
class FakeAgent {
 public:
  struct Answer {
    std::string bytes;
    int fd = -1;           // goes along
    bool hang_up = false;  // after it
  };
  FakeAgent(const std::string& path, std::vector<Answer> answers) : answers_(std::move(answers)) {
    listener_ = UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), path.size());
    EXPECT_EQ(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(::listen(listener_.get(), 1), 0);
    thread_ = std::thread([this] { Serve(); });
  }
  ~FakeAgent() { Join(); }

  // The client's messages; once it has hung up.
  std::vector<json> Messages() {
    Join();
    return messages_;
  }

 private:
  void Join() {
    if (thread_.joinable()) thread_.join();
  }
  void Serve() {
    const UniqueFd socket(::accept(listener_.get(), nullptr, nullptr));
    for (size_t k = 0;; ++k) {
      std::string text;
      if (!Read(socket.get(), &text)) return;
      messages_.push_back(json::parse(text, nullptr, false));
      if (k >= answers_.size()) continue;
      Send(socket.get(), answers_[k]);
      if (answers_[k].hang_up) ::shutdown(socket.get(), SHUT_WR);
    }
  }
  static bool Read(int socket, std::string* text) {
    unsigned char prefix[4];
    if (::recv(socket, prefix, 4, MSG_WAITALL) != 4) return false;
    text->resize(prefix[0] | prefix[1] << 8);
    return ::recv(socket, text->data(), text->size(), MSG_WAITALL) ==
           static_cast<ssize_t>(text->size());
  }
  static void Send(int socket, const Answer& answer) {
    iovec part = {const_cast<char*>(answer.bytes.data()), answer.bytes.size()};
    msghdr message = {};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    if (answer.fd >= 0) {
      message.msg_control = control;
      message.msg_controllen = sizeof(control);
      cmsghdr* const header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(sizeof(int));
      std::memcpy(CMSG_DATA(header), &answer.fd, sizeof(int));
    }
    if (!answer.bytes.empty()) ::sendmsg(socket, &message, MSG_NOSIGNAL);
  }

  const std::vector<Answer> answers_;
  UniqueFd listener_;
  std::vector<json> messages_;
  std::thread thread_;
};

std::string Frame(const std::string& text) {
  std::string frame;
  for (int k = 0; k < 4; ++k) frame.push_back(static_cast<char>(text.size() >> (8 * k)));
  return frame + text;
}

json Target() {
  return {{"name", "w"},         {"shape", {4}},
          {"dtype", "float32"},  {"offset", 64},
          {"elements", 2},       {"num_elements", 4},
          {"partitioned", true}, {"buffer", false},
          {"filled", true},      {"aliases", json::array()}};
}
json Index() {
  return {{"ok", true},      {"load", kLoad},      {"rank", 0},
          {"world_size", 2}, {"plan_digest", "d"}, {"mode", "private"},
          {"way", "memfd"},  {"arena_bytes", 128}, {"targets", {Target()}}};
}
constexpr char kOk[] = R"({"ok":true})";

class FakeAgentTest : public ::testing::Test {
 protected:
  // Attaches to an agent that gives these answers.
  absl::StatusOr<AttachedShard> AttachTo(std::vector<FakeAgent::Answer> answers,
                                         absl::Duration timeout = absl::Seconds(20),
                                         bool shared = false) {
    std::filesystem::remove(path_);
    FakeAgent agent(path_, std::move(answers));
    AttachOptions options = To(path_);
    options.timeout = timeout;
    options.shared = shared;
    absl::StatusOr<AttachedShard> shard = Attach(options);
    messages_ = agent.Messages();
    return shard;
  }
  // An index that must be refused, before it is acknowledged.
  void ExpectRefused(const json& index) {
    EXPECT_THAT(AttachTo({{Frame(index.dump())}}), StatusIs(absl::StatusCode::kInternal, _))
        << index;
    EXPECT_EQ(messages_.size(), 1) << index;
  }
  static UniqueFd MakeArena(int64_t num_bytes) {
    UniqueFd arena(::memfd_create("fake", MFD_CLOEXEC));
    EXPECT_EQ(::ftruncate(arena.get(), num_bytes), 0);
    return arena;
  }

  const TempDir dir_;
  const std::string path_ = dir_.File("agent.sock");
  std::vector<json> messages_;
};

TEST_F(FakeAgentTest, SaysWhatTheProtocolSays) {
  const UniqueFd arena = MakeArena(128);
  EXPECT_THAT(AttachTo({{Frame(Index().dump())}, {Frame(kOk), arena.get()}}), IsOk());
  EXPECT_THAT(messages_, ElementsAre(json{{"op", "attach"},
                                          {"load", kLoad},
                                          {"rank", 0},
                                          {"token", kToken},
                                          {"mode", "private"}},
                                     json{{"op", "ack"}}));
}

TEST_F(FakeAgentTest, AShardOnADeviceThatIsNotHereIsRefusedUnacknowledged) {
  json index = Index();
  index["way"] = "cuda_vmm";
  ExpectRefused(index);  // on which device?
  index["device"] = "GPU-00000000-1111-2222-3333-444444444444";
  index["allocation_bytes"] = 1 << 21;
  EXPECT_THAT(AttachTo({{Frame(index.dump())}}), Not(IsOk()));
  EXPECT_EQ(messages_.size(), 1);
  index["way"] = "teleport";
  EXPECT_THAT(AttachTo({{Frame(index.dump())}}), StatusIs(absl::StatusCode::kUnimplemented, _));
  EXPECT_EQ(messages_.size(), 1);
}

TEST_F(FakeAgentTest, AnIndexThatDoesNotMatchItsArenaIsRefusedUnacknowledged) {
  for (const auto& [field, value] :
       std::vector<std::pair<const char*, json>>{{"offset", 121},  // its last byte lies outside
                                                 {"offset", 129},
                                                 {"offset", -4},
                                                 {"offset", 2},  // not where a float32 can be
                                                 {"elements", -1},
                                                 {"elements", int64_t{1} << 62},
                                                 {"num_elements", -1},
                                                 {"shape", {-4}},
                                                 {"shape", {"4"}},
                                                 {"dtype", "complex64"},
                                                 {"dtype", 3},
                                                 {"filled", 1},
                                                 {"name", 7}}) {
    json index = Index();
    index["targets"][0][field] = value;
    ExpectRefused(index);
  }
  for (const char* field :
       {"name", "shape", "dtype", "offset", "elements", "num_elements", "filled"}) {
    json index = Index();
    index["targets"][0].erase(field);
    ExpectRefused(index);
  }
}

TEST_F(FakeAgentTest, AnIndexWithoutItsPartsIsRefusedUnacknowledged) {
  for (const char* field : {"arena_bytes", "targets"}) {
    json index = Index();
    index.erase(field);
    ExpectRefused(index);
  }
  for (const auto& [field, value] :
       std::vector<std::pair<const char*, json>>{{"arena_bytes", -1},
                                                 {"arena_bytes", "128"},
                                                 {"arena_bytes", uint64_t{1} << 63},
                                                 {"targets", json::object()},
                                                 {"targets", {7}},
                                                 {"world_size", int64_t{1} << 40}}) {
    json index = Index();
    index[field] = value;
    ExpectRefused(index);
  }
}

TEST_F(FakeAgentTest, WhatIsNoAnswerIsRefused) {
  for (const std::string& text :
       {std::string(""), std::string("[]"), std::string("{"), std::string("\xff\xfe"),
        std::string(200000, '['), std::string(R"({"ok":false,"error":7})")}) {
    EXPECT_THAT(AttachTo({{Frame(text)}}), StatusIs(absl::StatusCode::kInternal, _));
  }
  EXPECT_THAT(AttachTo({{std::string("\xff\xff\xff\xff")}}),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("4294967295 bytes")));
}

TEST_F(FakeAgentTest, AnErrorOfAnyShapeIsAnError) {
  const auto error = AttachTo(
      {{Frame(R"({"ok":false,"error":{"code":"NOT_FOUND","message":"m","reason":"NOT_FOUND"}})")}});
  EXPECT_THAT(error, StatusIs(absl::StatusCode::kNotFound, "m"));
  EXPECT_EQ(ReasonOf(error.status()), "NOT_FOUND");
  for (const char* text : {R"({"ok":false})", R"({"ok":false,"error":{}})",
                           R"({"ok":false,"error":{"code":5,"message":[],"reason":{}}})",
                           R"({"ok":false,"error":{"code":"NO_SUCH","message":"m"}})"}) {
    EXPECT_THAT(AttachTo({{Frame(text)}}), StatusIs(absl::StatusCode::kInternal, _)) << text;
  }
}

TEST_F(FakeAgentTest, AnArenaThatIsSmallerThanItsIndexIsNotMapped) {
  const UniqueFd arena = MakeArena(127);
  EXPECT_THAT(AttachTo({{Frame(Index().dump())}, {Frame(kOk), arena.get()}}),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("smaller")));
}

TEST_F(FakeAgentTest, WithoutADescriptorThereIsNoShard) {
  EXPECT_THAT(AttachTo({{Frame(Index().dump())}, {Frame(kOk)}}),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("descriptor")));
}

TEST_F(FakeAgentTest, AnErrorAfterTheAcknowledgementIsTold) {
  const std::string error = Frame(R"({"ok":false,"error":{"code":"UNIMPLEMENTED","message":"m"}})");
  json index = Index();
  EXPECT_THAT(AttachTo({{Frame(index.dump())}, {error}}),
              StatusIs(absl::StatusCode::kUnimplemented,
                       AllOf(HasSubstr("take rank 0"), Not(HasSubstr("acknowledged")))));
  // What is shared has left the agent's books by then.
  index["mode"] = "shared";
  EXPECT_THAT(AttachTo({{Frame(index.dump())}, {error}}, absl::Seconds(20), /*shared=*/true),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("acknowledged")));
}

TEST_F(FakeAgentTest, AConnectionThatEndsInAnAnswerIsBroken) {
  const std::string frame = Frame(Index().dump());
  for (const size_t length : {size_t{0}, size_t{3}, size_t{4}, frame.size() - 1}) {
    const auto broken = AttachTo({{frame.substr(0, length), -1, /*hang_up=*/true}});
    EXPECT_THAT(broken, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("closed")));
    EXPECT_EQ(ReasonOf(broken.status()), "AGENT_LOST");
  }
  EXPECT_THAT(AttachTo({{frame, -1, /*hang_up=*/true}}),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr(kLoad)));
}

TEST_F(FakeAgentTest, ASilentAgentEndsByTheDeadline) {
  const std::string frame = Frame(Index().dump());
  const absl::Duration start = Clock::Real()->Steady();
  // Before the answer, in the middle of it, and after the acknowledgement.
  for (const std::string& answer : {std::string(), frame.substr(0, 9), frame}) {
    const auto silent = AttachTo({{answer}}, absl::Milliseconds(200));
    EXPECT_THAT(silent, StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr(path_)));
    EXPECT_EQ(ReasonOf(silent.status()), "DEADLINE_EXCEEDED");
  }
  EXPECT_GE(Clock::Real()->Steady() - start, absl::Milliseconds(600));
}

TEST_F(FakeAgentTest, AnAgentThatAcceptsNobodyEndsByTheDeadline) {
  const UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path_.data(), path_.size());
  const auto* const generic = reinterpret_cast<const sockaddr*>(&address);
  ASSERT_EQ(::bind(listener.get(), generic, sizeof(address)), 0);
  ASSERT_EQ(::listen(listener.get(), 0), 0);
  const UniqueFd first(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::connect(first.get(), generic, sizeof(address)), 0);  // fills the queue
  AttachOptions options = To(path_);
  options.timeout = absl::Milliseconds(200);
  EXPECT_THAT(Attach(options), StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr(path_)));
}

TEST_F(FakeAgentTest, NamesTheSocketThatNobodyListensOn) {
  const auto none = Attach(To(path_));
  EXPECT_THAT(none, StatusIs(absl::StatusCode::kNotFound, HasSubstr(path_)));
  EXPECT_EQ(ReasonOf(none.status()), "AGENT_LOST");
  {
    const UniqueFd dead(::socket(AF_UNIX, SOCK_STREAM, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path_.data(), path_.size());
    ASSERT_EQ(::bind(dead.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  }
  EXPECT_THAT(Attach(To(path_)), StatusIs(absl::StatusCode::kUnavailable, HasSubstr(path_)));
  EXPECT_THAT(Attach(To(std::string(200, 'x'))),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("socket")));
}

}  // namespace
}  // namespace zerocast
