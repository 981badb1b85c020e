#include "client/agent/handover.h"

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "server/base/errors.h"
#include "tests/client/agent/handover_fixture.h"

namespace zerocast {
namespace {

using nlohmann::json;
using ::testing::_;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST_F(HandOverTest, GivesTheIndexAndTheArena) {
  Start(Options());
  AttachClient client(path_);
  const json answer = client.Attach(kLoad, 1, kToken, "shared");
  EXPECT_EQ(answer["ok"], true);
  EXPECT_EQ(answer["way"], "memfd");
  EXPECT_EQ(answer["mode"], "shared");
  EXPECT_EQ(answer["arena_bytes"], kBytes);
  EXPECT_EQ(answer["world_size"], 2);
  EXPECT_EQ(answer["plan_digest"], "d1");
  EXPECT_EQ(answer["secondary_group_size"], 2);
  EXPECT_FALSE(answer["targets"][1].contains("secondary_elements"));
  EXPECT_EQ(answer["targets"][0], json({{"name", "model.norm.weight"},
                                        {"shape", {3, 5}},
                                        {"dtype", "bfloat16"},
                                        {"offset", 64},
                                        {"elements", 8},
                                        {"num_elements", 15},
                                        {"partitioned", true},
                                        {"secondary_offset", 192},
                                        {"secondary_elements", 16},
                                        {"buffer", false},
                                        {"state", false},
                                        {"filled", true},
                                        {"aliases", {"other.name"}}}));
  ASSERT_TRUE(client.Acknowledge());
  EXPECT_EQ(client.Receive(), json({{"ok", true}}));
  ASSERT_GE(client.fd(), 0);
  char bytes[2];
  EXPECT_EQ(::pread(client.fd(), bytes, 2, kBytes - 2), 2);
  EXPECT_EQ(std::string(bytes, 2), "bb");
}

TEST_F(HandOverTest, ASharedShardLeavesTheBooksAtTheAcknowledgement) {
  Start(Options());
  const int64_t before = Arena::TotalBytes();
  AttachClient client(path_);
  client.Attach(kLoad, 0, kToken, "shared");
  EXPECT_EQ(Arena::TotalBytes(), before);
  ASSERT_TRUE(client.Acknowledge());
  EXPECT_EQ(client.Receive(), json({{"ok", true}}));
  EXPECT_EQ(Arena::TotalBytes(), before - kBytes);
  EXPECT_FALSE(book_->empty());

  EXPECT_EQ(CodeOf(AttachClient(path_).Attach(kLoad, 0, kToken, "shared")), "FAILED_PRECONDITION");
  EXPECT_EQ(CodeOf(AttachClient(path_).Attach(kLoad, 0, kToken, "private")), "FAILED_PRECONDITION");
}

TEST_F(HandOverTest, MarksWhatTheCheckpointDoesNotFill) {
  Start(Options());
  const json answer = AttachClient(path_).Attach(kLoad, 0, kToken, "private");
  ASSERT_EQ(answer["targets"].size(), 2u);
  EXPECT_EQ(answer["targets"][0]["filled"], true);
  EXPECT_EQ(answer["targets"][1]["name"], "lm_head.weight");
  EXPECT_EQ(answer["targets"][1]["filled"], false);
}

TEST_F(HandOverTest, WithoutAnAcknowledgementNothingIsGivenAndTheShardStays) {
  Start(Options());
  const int64_t before = Arena::TotalBytes();
  for (const std::string mode : {"shared", "private"}) {
    AttachClient client(path_);
    EXPECT_EQ(client.Attach(kLoad, mode == "shared" ? 0 : 1, kToken, mode)["ok"], true);
    if (mode == "shared") {
      EXPECT_EQ(CodeOf(AttachClient(path_).Attach(kLoad, 0, kToken, "shared")),
                "FAILED_PRECONDITION");
    }
    // Whatever else the agent sends until it gives up comes without a descriptor too.
    ASSERT_TRUE(client.Send({{"op", "nack"}}));
    EXPECT_EQ(CodeOf(client.Receive()), "INVALID_ARGUMENT");
    EXPECT_TRUE(client.Receive().is_discarded());
    EXPECT_LT(client.fd(), 0) << mode;
  }
  WaitForSettled(2);
  EXPECT_EQ(Arena::TotalBytes(), before);
  AttachClient next(path_);
  EXPECT_EQ(next.Attach(kLoad, 0, kToken, "shared")["ok"], true);
  ASSERT_TRUE(next.Acknowledge());
  EXPECT_EQ(next.Receive()["ok"], true);
  EXPECT_GE(next.fd(), 0);
}

TEST_F(HandOverTest, AClientThatDiesBeforeItAcknowledgesLeavesTheShard) {
  Start(Options());
  AttachClient(path_).Attach(kLoad, 0, kToken, "shared");
  WaitForSettled(1);
  EXPECT_EQ(AttachClient(path_).Attach(kLoad, 0, kToken, "shared")["ok"], true);
}

TEST_F(HandOverTest, AClientThatDiesAfterItsAcknowledgementTakesTheShardAlong) {
  HandOverOptions options = Options();
  // The books change only once the client is dead: it can never read the descriptor.
  bool dead = false;
  options.settle = [this, &dead, settle = options.settle](const ShardOffer& offer,
                                                          bool acknowledged) {
    EXPECT_TRUE(acknowledged);
    {
      MutexLock lock(&mutex_);
      while (!dead) changed_.WaitWithTimeout(&mutex_, absl::Seconds(10));
    }
    return settle(offer, acknowledged);
  };
  Start(std::move(options));
  const int64_t before = Arena::TotalBytes();
  {
    AttachClient client(path_);
    EXPECT_EQ(client.Attach(kLoad, 0, kToken, "shared")["ok"], true);
    EXPECT_TRUE(client.Acknowledge());
  }
  {
    MutexLock lock(&mutex_);
    dead = true;
    changed_.SignalAll();
  }
  WaitForSettled(1);
  EXPECT_EQ(Arena::TotalBytes(), before - kBytes);
  EXPECT_EQ(CodeOf(AttachClient(path_).Attach(kLoad, 0, kToken, "shared")), "FAILED_PRECONDITION");
  EXPECT_EQ(CodeOf(AttachClient(path_).Attach(kLoad, 0, kToken, "private")), "FAILED_PRECONDITION");
  EXPECT_EQ(Arena::TotalBytes(), before - kBytes);
}

TEST_F(HandOverTest, TheDescriptorComesAfterTheBooksHaveChanged) {
  HandOverOptions options = Options();
  bool held_in_settle = true;
  options.settle = [this, &held_in_settle, settle = options.settle](const ShardOffer& offer,
                                                                    bool acknowledged) {
    const absl::Status settled = settle(offer, acknowledged);
    held_in_settle = book_->Offer(0, kToken, AttachMode::kPrivate).ok();
    return settled;
  };
  Start(std::move(options));
  AttachClient client(path_);
  client.Attach(kLoad, 0, kToken, "shared");
  EXPECT_LT(client.fd(), 0);
  ASSERT_TRUE(client.Acknowledge());
  EXPECT_EQ(client.Receive()["ok"], true);
  EXPECT_GE(client.fd(), 0);
  EXPECT_FALSE(held_in_settle);
}

TEST_F(HandOverTest, WritesOfAPrivateMappingNeverReachTheAgentsArena) {
  Start(Options());
  AttachClient client(path_);
  client.Attach(kLoad, 0, kToken, "private");
  ASSERT_TRUE(client.Acknowledge());
  EXPECT_EQ(client.Receive()["ok"], true);
  void* const place = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, client.fd(), 0);
  ASSERT_NE(place, MAP_FAILED);
  EXPECT_EQ(static_cast<char*>(place)[0], 'a');
  std::memset(place, 'z', kBytes);
  EXPECT_EQ(std::string(data_[0], kBytes), std::string(kBytes, 'a'));
  ::munmap(place, kBytes);
  EXPECT_EQ(::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, client.fd(), 0),
            MAP_FAILED);
  EXPECT_LT(::pwrite(client.fd(), "z", 1, 0), 0);

  AttachClient next(path_);
  EXPECT_EQ(next.Attach(kLoad, 0, kToken, "private")["ok"], true);
  ASSERT_TRUE(next.Acknowledge());
  EXPECT_EQ(next.Receive()["ok"], true);
  char byte;
  EXPECT_EQ(::pread(next.fd(), &byte, 1, 17), 1);
  EXPECT_EQ(byte, 'a');
}

TEST_F(HandOverTest, RefusesAnotherToken) {
  Start(Options());
  for (const std::string token : {"", "secre", "secret2", "Secret"}) {
    const json answer = AttachClient(path_).Attach(kLoad, 0, token, "shared");
    EXPECT_EQ(CodeOf(answer), "PERMISSION_DENIED") << token;
    EXPECT_EQ(answer["error"]["reason"], "PERMISSION_DENIED");
  }
}

TEST_F(HandOverTest, RefusesAnotherRankAndAnotherLoad) {
  Start(Options());
  EXPECT_EQ(CodeOf(AttachClient(path_).Attach(kLoad, 2, kToken, "shared")), "NOT_FOUND");
  EXPECT_EQ(CodeOf(AttachClient(path_).Attach("loads/other", 0, kToken, "shared")), "NOT_FOUND");
}

TEST_F(HandOverTest, AnswersWhatItDoesNotUnderstand) {
  Start(Options());
  const std::string deep(2000, '[');
  std::string deep_frame = {'\xd0', '\x07', 0, 0};
  for (const std::string& bytes :
       {std::string("\xff\xff\xff\xff", 4), deep_frame + deep, std::string("\x02\0\0\0{}", 6),
        std::string("\x01\0\0\0x", 5), std::string("\0\0\0\0", 4)}) {
    AttachClient client(path_);
    client.SendRaw(bytes);
    EXPECT_EQ(CodeOf(client.Receive()), "INVALID_ARGUMENT");
  }
  for (const json& request :
       {json{{"op", "detach"}}, json{{"op", "attach"}, {"load", 1}}, json{{"op", "ack"}},
        json{{"op", "attach"}, {"load", kLoad}, {"token", kToken}, {"mode", "x"}, {"rank", 0}},
        json{{"op", "attach"},
             {"load", kLoad},
             {"token", kToken},
             {"mode", "shared"},
             {"rank", int64_t{1} << 40}}}) {
    AttachClient client(path_);
    client.Send(request);
    EXPECT_EQ(CodeOf(client.Receive()), "INVALID_ARGUMENT") << request;
  }
}

TEST_F(HandOverTest, AGarbledAcknowledgementIsNone) {
  Start(Options());
  AttachClient client(path_);
  client.Attach(kLoad, 0, kToken, "shared");
  client.Send({{"op", "nack"}});
  EXPECT_EQ(CodeOf(client.Receive()), "INVALID_ARGUMENT");
  WaitForSettled(1);
  EXPECT_EQ(AttachClient(path_).Attach(kLoad, 0, kToken, "shared")["ok"], true);
}

TEST_F(HandOverTest, AutoIsSharedWhereThatIsPossibleAndElsePrivate) {
  Start(Options());
  AttachClient first(path_);
  EXPECT_EQ(first.Attach(kLoad, 0, kToken, "auto")["mode"], "shared");
  AttachClient second(path_);
  EXPECT_EQ(second.Attach(kLoad, 1, kToken, "private")["mode"], "private");
  AttachClient third(path_);
  EXPECT_EQ(third.Attach(kLoad, 1, kToken, "auto")["mode"], "private");
  AttachClient fourth(path_);
  EXPECT_EQ(CodeOf(fourth.Attach(kLoad, 0, kToken, "auto")), "FAILED_PRECONDITION");
}

TEST_F(HandOverTest, AnUnacknowledgedPrivateOfferLeavesTheShardAsItWas) {
  Start(Options());
  {
    AttachClient client(path_);
    EXPECT_EQ(client.Attach(kLoad, 0, kToken, "private")["ok"], true);
    const json meanwhile = AttachClient(path_).Attach(kLoad, 0, kToken, "shared");
    EXPECT_EQ(CodeOf(meanwhile), "FAILED_PRECONDITION");
    EXPECT_THAT(meanwhile["error"]["message"].get<std::string>(),
                HasSubstr("is being handed over"));
  }
  WaitForSettled(1);
  AttachClient client(path_);
  EXPECT_EQ(client.Attach(kLoad, 0, kToken, "shared")["ok"], true);
  ASSERT_TRUE(client.Acknowledge());
  EXPECT_EQ(client.Receive()["ok"], true);
  // Not sealed: the new owner may write.
  EXPECT_EQ(::pwrite(client.fd(), "z", 1, 0), 1);
}

TEST_F(HandOverTest, AnUnacknowledgedSharedOfferLeavesTheShardAsItWas) {
  Start(Options());
  AttachClient(path_).Attach(kLoad, 0, kToken, "shared");
  WaitForSettled(1);
  AttachClient client(path_);
  EXPECT_EQ(client.Attach(kLoad, 0, kToken, "private")["ok"], true);
  ASSERT_TRUE(client.Acknowledge());
  EXPECT_EQ(client.Receive()["ok"], true);
  EXPECT_LT(::pwrite(client.fd(), "z", 1, 0), 0);  // sealed
}

TEST_F(HandOverTest, AnAcknowledgedPrivateShardIsNotGivenAsShared) {
  Start(Options());
  AttachClient client(path_);
  client.Attach(kLoad, 0, kToken, "private");
  ASSERT_TRUE(client.Acknowledge());
  EXPECT_EQ(client.Receive()["ok"], true);
  const json refused = AttachClient(path_).Attach(kLoad, 0, kToken, "shared");
  EXPECT_EQ(CodeOf(refused), "FAILED_PRECONDITION");
  EXPECT_THAT(refused["error"]["message"].get<std::string>(), HasSubstr("hold it privately"));
  EXPECT_EQ(refused["error"]["reason"], "WRONG_STATE");
}

TEST_F(HandOverTest, WhatCannotBeSettledIsNotGiven) {
  HandOverOptions options = Options();
  options.settle = [](const ShardOffer&, bool) { return absl::UnimplementedError("no seals"); };
  Start(std::move(options));
  AttachClient client(path_);
  client.Attach(kLoad, 0, kToken, "private");
  ASSERT_TRUE(client.Acknowledge());
  EXPECT_EQ(CodeOf(client.Receive()), "UNIMPLEMENTED");
  EXPECT_LT(client.fd(), 0);
}

TEST_F(HandOverTest, ExpiredShardsAreFreedAndSayWhyTakenOnesStay) {
  Start(Options());
  AttachClient client(path_);
  client.Attach(kLoad, 0, kToken, "private");
  ASSERT_TRUE(client.Acknowledge());
  EXPECT_EQ(client.Receive()["ok"], true);
  const int64_t before = Arena::TotalBytes();
  EXPECT_THAT(book_->Expire("nobody came"), ElementsAre(1));
  EXPECT_THAT(book_->Expire("nobody came"), IsEmpty());
  EXPECT_EQ(Arena::TotalBytes(), before - kBytes);
  for (const char* mode : {"shared", "private"}) {
    const json refused = AttachClient(path_).Attach(kLoad, 1, kToken, mode);
    EXPECT_EQ(CodeOf(refused), "FAILED_PRECONDITION");
    EXPECT_THAT(refused["error"]["message"].get<std::string>(), HasSubstr("nobody came"));
  }
  EXPECT_FALSE(book_->empty());
  EXPECT_EQ(AttachClient(path_).Attach(kLoad, 0, kToken, "private")["ok"], true);
}

TEST_F(HandOverTest, AShardThatIsBeingOfferedDoesNotExpire) {
  Start(Options());
  AttachClient shared(path_), private_client(path_);
  shared.Attach(kLoad, 0, kToken, "shared");
  private_client.Attach(kLoad, 1, kToken, "private");
  EXPECT_THAT(book_->Expire("nobody came"), IsEmpty());
  for (AttachClient* client : {&shared, &private_client}) {
    ASSERT_TRUE(client->Acknowledge());
    EXPECT_EQ(client->Receive()["ok"], true);
    EXPECT_GE(client->fd(), 0);
  }
}

TEST_F(HandOverTest, TheSocketHasItsModeAndGoesWithTheServer) {
  Start(Options());
  struct stat info;
  ASSERT_EQ(::stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0660u);
  server_.reset();
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(HandOverTest, RefusesASocketThatSomebodyListensOn) {
  Start(Options());
  EXPECT_THAT(HandOverServer::Start(Options()),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr(path_)));
  EXPECT_EQ(AttachClient(path_).Attach(kLoad, 0, kToken, "private")["ok"], true);
}

TEST_F(HandOverTest, ReplacesTheSocketOfADeadAgent) {
  const std::string path = dir_.File("agent.sock");
  {
    const UniqueFd dead(::socket(AF_UNIX, SOCK_STREAM, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
    ASSERT_EQ(::bind(dead.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  }
  Start(Options());
  EXPECT_EQ(AttachClient(path_).Attach(kLoad, 0, kToken, "private")["ok"], true);
}

TEST_F(HandOverTest, NamesWhatKeepsItFromListening) {
  HandOverOptions options = Options();
  options.socket_path = dir_.File("none/agent.sock");
  EXPECT_THAT(HandOverServer::Start(options),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("none/agent.sock")));
  options.socket_path = dir_.Write("file", "");
  EXPECT_THAT(HandOverServer::Start(options),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not a socket")));
  options.socket_path = dir_.File(std::string(120, 'x'));
  EXPECT_THAT(HandOverServer::Start(options), StatusIs(absl::StatusCode::kInvalidArgument, _));
}

TEST_F(HandOverTest, StoppingEndsOpenConnectionsAtOnce) {
  HandOverOptions options = Options();
  options.frame_timeout = absl::Hours(1);
  Start(std::move(options));
  AttachClient waiting(path_);
  waiting.Attach(kLoad, 0, kToken, "shared");
  server_.reset();  // hangs here when it does not
  EXPECT_FALSE(book_->empty());
}

}  // namespace
}  // namespace zerocast
