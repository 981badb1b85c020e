// What is special to the Gloo transport: strangers, epochs, damage, resources.

#include "kernels/comm/gloo.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <future>
#include <mutex>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "kernels/base/status_macros.h"
#include "kernels/comm/map_rendezvous.h"
#include "kernels/comm/socket_address.h"
#include "tests/kernels/comm/group.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kLong = absl::Seconds(60);
constexpr absl::Duration kShort = absl::Milliseconds(300);

GlooOptions Options(int rank, int size, Rendezvous* rendezvous) {
  GlooOptions options;
  options.rank = rank;
  options.size = size;
  options.nonce = 42;
  options.rendezvous = rendezvous;
  options.connect_timeout = kLong;
  return options;
}

// Connects `size` participants; `change` may alter the options of each.
std::vector<absl::Status> Connect(
    int size, Rendezvous* rendezvous, Group* group,
    const std::function<void(GlooOptions&)>& change = [](GlooOptions&) {}) {
  group->resize(size);
  return RunAll(size, [&](int r) {
    GlooOptions options = Options(r, size, rendezvous);
    change(options);
    absl::StatusOr<std::unique_ptr<Communicator>> made = MakeGlooCommunicator(options);
    if (made.ok()) (*group)[r] = *std::move(made);
    return made.status();
  });
}

// Sends `num_bytes` of value rank + 1 to every peer and checks what comes back.
absl::Status Ring(Communicator& self, int64_t num_bytes, absl::Duration timeout) {
  const int size = self.size();
  const int next = (self.rank() + 1) % size;
  const int previous = (self.rank() + size - 1) % size;
  std::string out(num_bytes, static_cast<char>(self.rank() + 1));
  std::string in(num_bytes, 0);
  ZC_RETURN_IF_ERROR(
      self.Exchange({{next, out.data(), num_bytes}}, {{previous, in.data(), num_bytes}}, timeout));
  return in == std::string(num_bytes, static_cast<char>(previous + 1))
             ? absl::OkStatus()
             : absl::InternalError("wrong bytes");
}

void ExpectWorks(Group& group) {
  for (const absl::Status& status : RunAll(static_cast<int>(group.size()),
                                           [&](int r) { return Ring(*group[r], 70001, kLong); })) {
    EXPECT_THAT(status, IsOk());
  }
}

// A rendezvous whose entries can be seen and changed on their way in.
class ChangedRendezvous : public Rendezvous {
 public:
  using Change = std::function<std::string(const std::string& key, const std::string& value)>;
  explicit ChangedRendezvous(Change change) : change_(std::move(change)) {}

  absl::Status Put(absl::string_view key, absl::string_view value) override {
    return map_.Put(key, change_(std::string(key), std::string(value)));
  }
  absl::StatusOr<std::string> Get(absl::string_view key, absl::Duration timeout) override {
    return map_.Get(key, timeout);
  }

 private:
  MapRendezvous map_;
  const Change change_;
};

std::vector<std::string> AddressesIn(const std::string& entry) {
  std::vector<std::string> result;
  for (const std::string& word : std::vector<std::string>(absl::StrSplit(entry, ' '))) {
    if (absl::StrContains(word, ':')) result.push_back(word);
  }
  return result;
}

// A connected socket, or -1.
int Dial(const std::string& text) {
  const absl::StatusOr<SocketAddress> address = ParseAddress(text);
  EXPECT_THAT(address, IsOk());
  const int fd = ::socket(address->storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  EXPECT_EQ(::connect(fd, reinterpret_cast<const sockaddr*>(&address->storage), address->length), 0)
      << text;
  return fd;
}

// Strangers that come to every port before any peer can know it.
class Strangers {
 public:
  // Each stranger sends `bytes`; when `stays` it keeps the connection until the end of the test.
  Strangers(std::string bytes, bool stays) : bytes_(std::move(bytes)), stays_(stays) {}
  ~Strangers() {
    for (const int fd : fds_) ::close(fd);
  }

  std::string Visit(const std::string& entry) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const std::string& address : AddressesIn(entry)) {
      for (int i = 0; i < 3; ++i) {
        const int fd = Dial(address);
        ::send(fd, bytes_.data(), bytes_.size(), MSG_NOSIGNAL);
        ++num_visits_;
        if (stays_) {
          fds_.push_back(fd);
        } else {
          ::close(fd);
        }
      }
    }
    return entry;
  }
  int num_visits() const { return num_visits_; }

 private:
  const std::string bytes_;
  const bool stays_;
  std::mutex mutex_;
  std::vector<int> fds_;
  int num_visits_ = 0;
};

struct StrangerCase {
  const char* name;
  std::string bytes;
  bool stays;
};

// A header of Gloo that names an operation nobody has begun: as it is, Gloo ends the process.
std::string GlooHeader(uint64_t opcode) {
  const uint64_t header[6] = {48 + 100, opcode, 7, 0, 100, 0};
  return std::string(reinterpret_cast<const char*>(header), sizeof(header)) + std::string(100, 'x');
}

class StrangerTest : public ::testing::TestWithParam<StrangerCase> {};
INSTANTIATE_TEST_SUITE_P(
    All, StrangerTest,
    ::testing::Values(StrangerCase{"ConnectsAndCloses", "", false},
                      StrangerCase{"ConnectsAndStays", "", true},
                      StrangerCase{"SendsGarbage", std::string(1000, '\xA5'), true},
                      StrangerCase{"SendsGarbageAndCloses", std::string(1000, '\xA5'), false},
                      StrangerCase{"SendsZeros", std::string(1000, '\0'), true},
                      StrangerCase{"SendsHalfAGreeting", "ZCLINK1Q", true},
                      StrangerCase{"SendsAWrongGreeting", "ZCLINK1Q" + std::string(16, 1), true},
                      StrangerCase{"SpeaksGloo", GlooHeader(1), true},
                      StrangerCase{"AsksForHttp", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", true}),
    [](const auto& info) { return info.param.name; });

TEST_P(StrangerTest, ChangesNothing) {
  Strangers strangers(GetParam().bytes, GetParam().stays);
  ChangedRendezvous rendezvous(
      [&](const std::string&, const std::string& entry) { return strangers.Visit(entry); });
  Group group;
  for (const absl::Status& status : Connect(3, &rendezvous, &group)) EXPECT_THAT(status, IsOk());
  ASSERT_FALSE(HasFailure());
  EXPECT_EQ(strangers.num_visits(), 3 * 2 * 3);
  ExpectWorks(group);
}

TEST(Stranger, KeepsComingWhileParticipantsConnect) {
  std::atomic<bool> stop{false};
  std::atomic<int> num_visits{0};
  std::vector<std::thread> scanners;
  std::mutex mutex;
  ChangedRendezvous rendezvous([&](const std::string&, const std::string& entry) {
    const std::lock_guard<std::mutex> lock(mutex);
    for (const std::string& text : AddressesIn(entry)) {
      scanners.emplace_back([&, address = *ParseAddress(text)] {
        while (!stop) {
          const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
          const auto* sockaddr_in = reinterpret_cast<const sockaddr*>(&address.storage);
          if (::connect(fd, sockaddr_in, address.length) == 0) ++num_visits;
          ::close(fd);
        }
      });
    }
    while (num_visits < 10) std::this_thread::yield();
    return entry;
  });
  Group group;
  for (const absl::Status& status : Connect(3, &rendezvous, &group)) EXPECT_THAT(status, IsOk());
  stop = true;
  for (std::thread& scanner : scanners) scanner.join();
  ASSERT_FALSE(HasFailure());
  ExpectWorks(group);
}

TEST(Nonce, OfAnotherEpochIsRefused) {
  MapRendezvous rendezvous;
  Group group;
  const auto statuses = Connect(2, &rendezvous, &group, [](GlooOptions& options) {
    options.nonce = 100 + options.rank;
    options.connect_timeout = absl::Seconds(2);
  });
  // One of the two calls and is told; the other waits for the right one, and says who came.
  const bool first_called = absl::IsDataLoss(statuses[0]);
  EXPECT_THAT(statuses[first_called ? 0 : 1],
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("another epoch")));
  EXPECT_THAT(statuses[first_called ? 1 : 0],
              StatusIs(absl::StatusCode::kDeadlineExceeded,
                       HasSubstr("1 callers of another epoch were refused")));
}

TEST(Connecting, EndsAtItsDeadlineAndNamesWhoIsMissing) {
  MapRendezvous rendezvous;
  const absl::Time start = absl::Now();
  const auto statuses = RunAll(4, [&](int r) {
    if (r == 1 || r == 3) return absl::OkStatus();
    GlooOptions options = Options(r, 4, &rendezvous);
    options.connect_timeout = kShort;
    return MakeGlooCommunicator(options).status();
  });
  EXPECT_LT(absl::Now() - start, absl::Seconds(20));
  for (const int r : {0, 2}) {
    EXPECT_THAT(statuses[r], StatusIs(absl::StatusCode::kDeadlineExceeded,
                                      HasSubstr("address from participants 1, 3 within 300ms")));
  }
}

TEST(Connecting, NamesAPeerThatPublishesButNeverAnswers) {
  // A listener of ours that accepts nothing beyond its backlog's handshake.
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ZC_ASSERT_OK_AND_ASSIGN(SocketAddress address, ResolveBindAddress("127.0.0.1"));
  ASSERT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address.storage), address.length), 0);
  ASSERT_EQ(::listen(fd, 8), 0);
  ASSERT_EQ(::getsockname(fd, reinterpret_cast<sockaddr*>(&address.storage), &address.length), 0);
  MapRendezvous rendezvous;
  ASSERT_THAT(
      rendezvous.Put("gloo/1", absl::StrCat("zc-gloo-1 ", FormatAddress(address.storage), " -")),
      IsOk());
  GlooOptions options = Options(0, 2, &rendezvous);
  options.connect_timeout = kShort;
  options.bind_host = "127.0.0.2";  // the higher address calls
  EXPECT_THAT(MakeGlooCommunicator(options),
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("with participant 1")));
  ::close(fd);
}

TEST(Connecting, NamesAPeerWhoseEntryCannotBeRead) {
  for (const char* entry : {"", "zc-gloo-2 127.0.0.1:9 -", "zc-gloo-1 127.0.0.1:9",
                            "zc-gloo-1 127.0.0.1 -", "zc-gloo-1 - -"}) {
    MapRendezvous rendezvous;
    ASSERT_THAT(rendezvous.Put("gloo/1", entry), IsOk());
    EXPECT_THAT(MakeGlooCommunicator(Options(0, 2, &rendezvous)),
                StatusIs(absl::StatusCode::kDataLoss, HasSubstr("entry of participant 1")))
        << entry;
  }
}

TEST(Connecting, CanBeCancelled) {
  MapRendezvous rendezvous;
  GlooOptions options = Options(0, 2, &rendezvous);
  std::atomic<bool> cancelled{false};
  options.cancelled = [&] { return cancelled.load(); };
  auto made =
      std::async(std::launch::async, [&] { return MakeGlooCommunicator(options).status(); });
  cancelled = true;
  EXPECT_THAT(made.get(), StatusIs(absl::StatusCode::kCancelled, HasSubstr("participant 0 of 2")));
}

TEST(Connecting, PassesOnThatTheRendezvousWasCancelled) {
  MapRendezvous rendezvous;
  rendezvous.Cancel("no more");
  EXPECT_THAT(MakeGlooCommunicator(Options(0, 2, &rendezvous)),
              StatusIs(absl::StatusCode::kCancelled, HasSubstr("no more")));
}

TEST(Options, AreChecked) {
  MapRendezvous rendezvous;
  EXPECT_THAT(MakeGlooCommunicator(Options(2, 2, &rendezvous)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("participant 2 of 2")));
  EXPECT_THAT(MakeGlooCommunicator(Options(0, 2, nullptr)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("rendezvous")));
  for (const char* host : {"0.0.0.0", "::", "192.0.2.77", "no such host", ""}) {
    GlooOptions options = Options(0, 2, &rendezvous);
    options.bind_host = host;
    EXPECT_THAT(MakeGlooCommunicator(options),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("bind_host")))
        << host;
  }
}

TEST(Options, ASingleParticipantNeedsNoNetwork) {
  GlooOptions options = Options(0, 1, nullptr);
  options.bind_host = "no such host";
  ZC_ASSERT_OK_AND_ASSIGN(auto self, MakeGlooCommunicator(options));
  EXPECT_EQ(self->transport(), "gloo");
  char byte = 0;
  EXPECT_THAT(self->Broadcast(&byte, 1, 0, kLong), IsOk());
}

TEST(Options, TheBindHostMayBeAnInterface) {
  MapRendezvous rendezvous;
  Group group;
  const auto statuses =
      Connect(2, &rendezvous, &group, [](GlooOptions& options) { options.bind_host = "lo"; });
  for (const absl::Status& status : statuses) ASSERT_THAT(status, IsOk());
  ExpectWorks(group);
}

TEST(Options, TheBindHostMayBeIpv6) {
  if (!ResolveBindAddress("::1").ok()) GTEST_SKIP() << "this machine has no IPv6 loopback";
  MapRendezvous rendezvous;
  Group group;
  const auto statuses =
      Connect(2, &rendezvous, &group, [](GlooOptions& options) { options.bind_host = "::1"; });
  for (const absl::Status& status : statuses) ASSERT_THAT(status, IsOk());
  ExpectWorks(group);
}

TEST(Addresses, AreReadBackAsWritten) {
  for (const char* text : {"192.0.2.7:1", "127.0.0.1:65535", "[::1]:80", "[2001:db8::7]:4711"}) {
    ZC_ASSERT_OK_AND_ASSIGN(const SocketAddress address, ParseAddress(text));
    EXPECT_EQ(FormatAddress(address.storage), text);
  }
  for (const char* text : {"", ":1", "1.2.3.4", "1.2.3.4:0", "1.2.3.4:65536", "1.2.3.4:x", "::1:80",
                           "[1.2.3.4]:5", "[]:1", "a.b:1"}) {
    EXPECT_THAT(ParseAddress(text),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("parse address")))
        << text;
  }
}

// Passes one connection on, both ways, and flips a bit in the middle of the first long run of
// `marker` bytes that it sees.
class FlippingProxy {
 public:
  FlippingProxy(const std::string& to, unsigned char marker) : to_(to), marker_(marker) {
    SocketAddress address = *ResolveBindAddress("127.0.0.2");
    listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT_EQ(::bind(listener_, reinterpret_cast<sockaddr*>(&address.storage), address.length), 0);
    EXPECT_EQ(::listen(listener_, 8), 0);
    ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address.storage), &address.length);
    address_ = FormatAddress(address.storage);
    thread_ = std::thread([this] { Run(); });
  }
  ~FlippingProxy() {
    ::shutdown(listener_, SHUT_RDWR);
    thread_.join();
    ::close(listener_);
  }
  const std::string& address() const { return address_; }
  bool flipped() const { return flipped_; }

 private:
  void Run() {
    const int from = ::accept(listener_, nullptr, nullptr);
    if (from < 0) return;
    const int to = Dial(to_);
    std::thread back([&] { Pump(to, from); });
    Pump(from, to);
    back.join();
    ::close(from);
    ::close(to);
  }

  void Pump(int from, int to) {
    std::string buffer(1 << 16, 0);
    for (;;) {
      const ssize_t got = ::recv(from, buffer.data(), buffer.size(), 0);
      if (got <= 0) break;
      const std::string run(1000, static_cast<char>(marker_));
      const size_t at = absl::string_view(buffer.data(), got).find(run);
      if (at != std::string::npos && !flipped_.exchange(true)) buffer[at + 500] ^= 1;
      for (ssize_t sent = 0; sent < got;) {
        const ssize_t n = ::send(to, buffer.data() + sent, got - sent, MSG_NOSIGNAL);
        if (n <= 0) break;
        sent += n;
      }
    }
    ::shutdown(to, SHUT_RDWR);
    ::shutdown(from, SHUT_RDWR);
  }

  const std::string to_;
  const unsigned char marker_;
  int listener_ = -1;
  std::string address_;
  std::atomic<bool> flipped_{false};
  std::thread thread_;
};

// Two participants with a proxy between them.  The higher address calls, so participant 1, on
// 127.0.0.3, calls participant 0, on 127.0.0.1, by way of the proxy, on 127.0.0.2.
class Damage : public ::testing::Test {
 protected:
  void ConnectWithMarker(unsigned char marker) {
    ChangedRendezvous rendezvous([&](const std::string& key, const std::string& entry) {
      if (key != "gloo/0") return entry;
      proxy_ = std::make_unique<FlippingProxy>(AddressesIn(entry)[0], marker);
      return absl::StrCat("zc-gloo-1 - ", proxy_->address());
    });
    for (const absl::Status& status : Connect(2, &rendezvous, &group_, [](GlooOptions& options) {
           options.bind_host = options.rank == 0 ? "127.0.0.1" : "127.0.0.3";
         })) {
      ASSERT_THAT(status, IsOk());
    }
  }

  std::unique_ptr<FlippingProxy> proxy_;
  Group group_;
};

TEST_F(Damage, IsFoundByTheReceiverAndNamesTheSender) {
  ConnectWithMarker(2);  // what participant 1 sends
  const auto statuses = RunAll(2, [&](int r) { return Ring(*group_[r], 100000, kLong); });
  EXPECT_TRUE(proxy_->flipped());
  EXPECT_THAT(statuses[0], StatusIs(absl::StatusCode::kDataLoss, HasSubstr("from participant 1")));
  EXPECT_THAT(Ring(*group_[0], 1, kLong),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("digest")));
}

TEST_F(Damage, OfABroadcastIsFound) {
  ConnectWithMarker(9);
  const auto statuses = RunAll(2, [&](int r) {
    std::string data(50000, static_cast<char>(r == 0 ? 9 : 0));
    return group_[r]->Broadcast(data.data(), 50000, 0, kLong);
  });
  EXPECT_TRUE(proxy_->flipped());
  EXPECT_THAT(statuses[1], StatusIs(absl::StatusCode::kDataLoss, HasSubstr("from participant 0")));
}

TEST_F(Damage, AProxyThatChangesNothingIsNotDamage) {
  ConnectWithMarker(77);
  ExpectWorks(group_);
  EXPECT_FALSE(proxy_->flipped());
}

size_t CountEntries(const char* folder) {
  size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    static_cast<void>(entry);
    ++count;
  }
  return count;
}

TEST(Resources, AreAllReturned) {
  const auto cycle = [] {
    MapRendezvous rendezvous;
    Group group;
    for (const absl::Status& status : Connect(3, &rendezvous, &group)) {
      ASSERT_THAT(status, IsOk());
    }
    ExpectWorks(group);
    group[1]->Abort("in every cycle");
  };
  const auto failing_cycle = [] {
    Strangers strangers("x", /*stays=*/true);
    ChangedRendezvous visited(
        [&](const std::string&, const std::string& entry) { return strangers.Visit(entry); });
    GlooOptions options = Options(0, 3, &visited);
    options.connect_timeout = absl::Milliseconds(5);
    EXPECT_THAT(MakeGlooCommunicator(options),
                StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("participants 1, 2")));
  };
  cycle();
  const size_t fds = CountEntries("/proc/self/fd");
  const size_t threads = CountEntries("/proc/self/task");
  for (int i = 0; i < 50; ++i) {
    cycle();
    failing_cycle();
  }
  EXPECT_EQ(CountEntries("/proc/self/fd"), fds);
  // The kernel takes a joined thread out of the list a moment later.
  const absl::Time end = absl::Now() + absl::Seconds(10);
  while (CountEntries("/proc/self/task") > threads && absl::Now() < end) std::this_thread::yield();
  EXPECT_EQ(CountEntries("/proc/self/task"), threads);
}

}  // namespace
}  // namespace zerocast
