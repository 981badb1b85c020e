// Shards on devices on their way to another process: by each way, and what keeps one from a better
// way.  The program runs itself as the process that takes a shard over.

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "client/agent/cuda/shard_memory.h"
#include "client/agent/handover.h"
#include "client/agent/shards.h"
#include "client/cpp/attach.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/base/status_macros.h"
#include "kernels/device/copy_to_device.h"
#include "kernels/device/devices.h"
#include "tests/client/agent/attach_client.h"
#include "tests/cuda_emu/cuda_emu.h"
#include "tests/status_matchers.h"
#include "tests/temp_dir.h"

namespace zerocast {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

constexpr char kLoad[] = "loads/abc";
constexpr char kToken[] = "secret";
constexpr int64_t kBytes = (3 << 20) + 6;

std::string BytesOf(int rank) {
  std::string bytes(kBytes, '\0');
  for (int64_t k = 0; k < kBytes; ++k)
    bytes[k] = static_cast<char>((k + k / 251 + 100 * rank) % 251);
  return bytes;
}

// ---- The other process ------------------------------------------------------------------------

absl::Status CheckBytes(const AttachedShard& shard, int rank) {
  std::string bytes(static_cast<size_t>(shard.num_bytes()), '\0');
  ZC_RETURN_IF_ERROR(shard.CopyToHost(0, absl::MakeSpan(bytes.data(), bytes.size())));
  if (bytes == BytesOf(rank)) return absl::OkStatus();
  return absl::DataLossError("other bytes than the agent wrote");
}

// Attaches, and checks way and bytes; tells so by a line, and ends once it is told to.
absl::Status InChild(const std::string& socket_path, int rank, const std::string& way) {
  AttachOptions options;
  options.socket_path = socket_path;
  options.load = kLoad;
  options.rank = rank;
  options.token = kToken;
  options.shared = true;
  ZC_ASSIGN_OR_RETURN(AttachedShard shard, Attach(options));
  if (shard.way() != way) {
    return absl::InternalError(absl::StrCat("way ", shard.way(), ": ", shard.because()));
  }
  if (shard.device_uuid().empty() != (way == "host_copy")) return absl::InternalError("where?");
  ZC_RETURN_IF_ERROR(CheckBytes(shard, rank));
  ZC_RETURN_IF_ERROR(shard.MoveToDevice());
  ZC_ASSIGN_OR_RETURN(const std::vector<DeviceInfo> devices, ListDevices());
  // The agent's device 0, which this process may see by another number.
  if (shard.device_uuid() != std::getenv("ZC_UUID")) return absl::InternalError("another device");
  ZC_RETURN_IF_ERROR(CheckBytes(shard, rank));
  std::printf("%s\n", shard.because().c_str());
  std::fflush(stdout);
  std::getchar();
  const absl::Status moved = shard.MoveToHost();
  if (shard.device_uuid().empty() != moved.ok()) return absl::InternalError("where to?");
  ZC_RETURN_IF_ERROR(CheckBytes(shard, rank));
  return moved;
}

// This program as the process that attaches to rank `rank`.
class Child {
 public:
  Child(const std::string& socket_path, int rank, const std::string& way, const std::string& uuid,
        const std::vector<std::pair<std::string, std::string>>& environment) {
    int in[2], out[2], error[2];
    if (::pipe(in) != 0 || ::pipe(out) != 0 || ::pipe(error) != 0) std::abort();
    pid_ = ::fork();
    if (pid_ == 0) {
      ::dup2(in[0], 0);
      ::dup2(out[1], 1);
      ::dup2(error[1], 2);
      for (const auto& end : {in, out, error}) ::close(end[0]), ::close(end[1]);
      ::setenv("ZC_UUID", uuid.c_str(), 1);
      for (const auto& [name, value] : environment) ::setenv(name.c_str(), value.c_str(), 1);
      ::execl("/proc/self/exe", "device_hand_over_test", "--attach", socket_path.c_str(),
              std::to_string(rank).c_str(), way.c_str(), nullptr);
      ::_exit(127);
    }
    ::close(in[0]);
    ::close(out[1]);
    ::close(error[1]);
    in_ = UniqueFd(in[1]);
    out_ = UniqueFd(out[0]);
    error_ = UniqueFd(error[0]);
  }
  // A line that it has printed; "" when it ended without one.
  std::string Line() {
    std::string line;
    char c;
    while (::read(out_.get(), &c, 1) == 1 && c != '\n') line.push_back(c);
    return line;
  }
  // Lets it end; its exit status, and what it wrote to stderr.
  int End(std::string* errors) {
    in_.Reset();
    char buffer[4096];
    for (ssize_t got; (got = ::read(error_.get(), buffer, sizeof(buffer))) > 0;) {
      errors->append(buffer, static_cast<size_t>(got));
    }
    int status = -1;
    return ::waitpid(pid_, &status, 0) == pid_ && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  pid_t pid_;
  UniqueFd in_, out_, error_;
};

// ---- The agent --------------------------------------------------------------------------------

class DeviceHandOver : public ::testing::Test {
 protected:
  void SetUp() override {
    const absl::StatusOr<std::vector<DeviceInfo>> devices = ListDevices();
    if (!devices.ok()) GTEST_SKIP() << devices.status();
    uuid_ = devices->front().uuid;
    maker_ = std::make_unique<ShardMemoryMaker>(devices->front());
  }
  void TearDown() override {
    if (cudaEmu() != nullptr) cudaEmu()->fail("");
  }

  // The hand-over socket with ranks 0 and 1 on device 0.
  void Start() {
    ShardIndex index;
    index.load = kLoad;
    index.world_size = 2;
    index.for_devices = true;
    std::vector<Arena> arenas;
    for (int rank = 0; rank < 2; ++rank) {
      ZC_ASSERT_OK_AND_ASSIGN(std::unique_ptr<DeviceMemory> memory, maker_->Make(kBytes));
      std::string bytes = BytesOf(rank);
      ASSERT_THAT(CopyToDevice(0, reinterpret_cast<std::byte*>(memory->data()),
                               absl::MakeSpan(bytes.data(), bytes.size()), /*locked=*/nullptr,
                               absl::Minutes(1)),
                  IsOk());
      arenas.push_back(Arena::OnDevice(std::move(memory)));
    }
    book_ = std::make_unique<ShardBook>(std::move(index), kToken, 0,
                                        ShardCache().Add({}, 0, std::move(arenas)));
    HandOverOptions options;
    options.socket_path = path_;
    options.offer = [this](const std::string&, int32_t rank, const std::string& token,
                           AttachMode mode, const std::function<bool()>& stopped) {
      return book_->Offer(rank, token, mode, stopped);
    };
    options.offer_copy = [this](const ShardOffer& offer, const std::string& why,
                                const std::function<bool()>& stopped) {
      return book_->OfferCopy(offer, why, stopped);
    };
    options.settle = [this](const ShardOffer& offer, bool acknowledged) {
      return book_->Settle(offer.rank, offer.mode, acknowledged, offer.lent.get());
    };
    ZC_ASSERT_OK_AND_ASSIGN(server_, HandOverServer::Start(std::move(options)));
  }

  // A process takes rank 0 over; what it says of why by no better way.
  std::string Take(const std::string& way,
                   const std::vector<std::pair<std::string, std::string>>& environment = {}) {
    Child child(path_, 0, way, uuid_, environment);
    std::string because = child.Line();
    std::string errors;
    EXPECT_EQ(child.End(&errors), 0) << errors;
    return because;
  }
  // It cannot; what it wrote.
  std::string Fail(const std::vector<std::pair<std::string, std::string>>& environment) {
    Child child(path_, 0, "none", uuid_, environment);
    EXPECT_EQ(child.Line(), "");
    std::string errors;
    EXPECT_EQ(child.End(&errors), 1) << errors;
    return errors;
  }
  // Fails calls of this process, the agent's, on the stand-ins.
  void FailHere(const std::string& plan) { cudaEmu()->fail(plan.c_str()); }

  const TempDir dir_;
  const std::string path_ = dir_.File("agent.sock");
  std::string uuid_;
  std::unique_ptr<ShardMemoryMaker> maker_;
  std::unique_ptr<ShardBook> book_;
  std::unique_ptr<HandOverServer> server_;
};

// Every call of that name fails as unsupported.
constexpr char kNoDescriptors[] = "cuMemCreate:1+:801";
constexpr char kNoHandlesEither[] = "cuMemCreate:1+:801,cudaIpcGetMemHandle:1+:801";

TEST_F(DeviceHandOver, ADescriptorIsTheFirstWay) {
  Start();
  const int64_t before = Arena::TotalBytes();
  Child child(path_, 0, "cuda_vmm", uuid_, {{"CUDA_VISIBLE_DEVICES", cudaEmu() ? "1,0" : "0"}});
  EXPECT_THAT(child.Line(), IsEmpty());
  EXPECT_EQ(Arena::TotalBytes(), before - kBytes) << "the agent has given it away";
  server_.reset();  // the memory outlives the agent
  book_.reset();
  std::string errors;
  EXPECT_EQ(child.End(&errors), 0) << errors;
}

TEST_F(DeviceHandOver, WithoutDescriptorsALegacyHandleIsTheWay) {
  if (cudaEmu() == nullptr) GTEST_SKIP() << "the stand-ins' alone: nothing else fails on demand";
  FailHere(kNoDescriptors);
  Start();
  const int64_t before = Arena::TotalBytes();
  Child child(path_, 0, "cuda_ipc", uuid_, {{"CUDA_VISIBLE_DEVICES", "1,0"}});
  EXPECT_THAT(child.Line(), HasSubstr("not cuda_vmm: allocate"));
  EXPECT_EQ(Arena::TotalBytes(), before) << "the memory is the agent's, which must keep it";
  EXPECT_THAT(book_->Offer(0, kToken, AttachMode::kShared),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("handed over")));
  std::string errors;
  EXPECT_EQ(child.End(&errors), 0) << errors;
  for (int k = 0; k < 5000 && Arena::TotalBytes() == before; ++k) ::usleep(1000);
  EXPECT_EQ(Arena::TotalBytes(), before - kBytes) << "the process is gone";
}

TEST_F(DeviceHandOver, TheAgentStopsAlthoughItsMemoryIsUsed) {
  if (cudaEmu() == nullptr) GTEST_SKIP() << "the stand-ins' alone: nothing else fails on demand";
  FailHere(kNoDescriptors);
  Start();
  Child child(path_, 0, "cuda_ipc", uuid_, {});
  EXPECT_THAT(child.Line(), Not(IsEmpty()));
  server_.reset();
  std::string errors;
  child.End(&errors);  // what becomes of it is the driver's
}

// What it has lent stays, although it serves nobody any more.
TEST_F(DeviceHandOver, AnAgentThatServesNoMoreKeepsWhatAProcessUses) {
  if (cudaEmu() == nullptr) GTEST_SKIP() << "the stand-ins' alone: nothing else fails on demand";
  FailHere(kNoDescriptors);
  Start();
  const int64_t before = Arena::TotalBytes();
  Child child(path_, 0, "cuda_ipc", uuid_, {});
  EXPECT_THAT(child.Line(), Not(IsEmpty()));
  server_->StopServing();
  book_.reset();
  EXPECT_NE(::access(path_.c_str(), F_OK), 0) << "nobody else may come";
  EXPECT_FALSE(server_->WaitUntilReturned(absl::Milliseconds(200)));
  EXPECT_EQ(Arena::TotalBytes(), before - kBytes) << "that of the rank which nobody took is gone";
  std::string errors;
  EXPECT_EQ(child.End(&errors), 0) << errors;  // which has read all of it again
  EXPECT_TRUE(server_->WaitUntilReturned(absl::Seconds(60)));
  EXPECT_EQ(Arena::TotalBytes(), before - 2 * kBytes);
}

TEST_F(DeviceHandOver, AnAgentThatHasLentNothingHasNothingToWaitFor) {
  Start();
  Child child(path_, 0, "cuda_vmm", uuid_, {});
  EXPECT_THAT(child.Line(), IsEmpty());
  server_->StopServing();
  EXPECT_TRUE(server_->WaitUntilReturned(absl::ZeroDuration()));
  std::string errors;
  EXPECT_EQ(child.End(&errors), 0) << errors;
}

TEST_F(DeviceHandOver, WithoutEitherTheShardIsCopied) {
  if (cudaEmu() == nullptr) GTEST_SKIP() << "the stand-ins' alone: nothing else fails on demand";
  FailHere(kNoHandlesEither);
  Start();
  const int64_t before = Arena::TotalBytes();
  const std::string because = Take("host_copy", {{"CUDA_VISIBLE_DEVICES", "1,0"}});
  EXPECT_THAT(because, HasSubstr("not cuda_vmm: allocate"));
  EXPECT_THAT(because, HasSubstr("not cuda_ipc: make a legacy IPC handle"));
  EXPECT_EQ(Arena::TotalBytes(), before - kBytes);
}

// Calls of the other process, of which it has another way.
constexpr char kNoImport[] = "cuMemImportFromShareableHandle:1:801";
constexpr char kNoImportNorHandle[] = "cuMemImportFromShareableHandle:1:801,cudaIpcOpenMemHandle:1";

TEST_F(DeviceHandOver, AProcessThatCannotImportGetsACopyByALegacyHandle) {
  if (cudaEmu() == nullptr) GTEST_SKIP() << "the stand-ins' alone: nothing else fails on demand";
  Start();
  const int64_t before = Arena::TotalBytes();
  Child child(path_, 0, "cuda_ipc", uuid_, {{"EMU_FAIL", kNoImport}});
  EXPECT_THAT(child.Line(), StartsWith("not cuda_vmm: the process cannot: "));
  EXPECT_EQ(Arena::TotalBytes(), before) << "the copy in the place of the shard";
  std::string errors;
  EXPECT_EQ(child.End(&errors), 0) << errors;
  for (int k = 0; k < 5000 && Arena::TotalBytes() == before; ++k) ::usleep(1000);
  EXPECT_EQ(Arena::TotalBytes(), before - kBytes) << "neither shard nor copy";
}

TEST_F(DeviceHandOver, AProcessThatCanNeitherGetsACopyInHostMemory) {
  if (cudaEmu() == nullptr) GTEST_SKIP() << "the stand-ins' alone: nothing else fails on demand";
  Start();
  const int64_t before = Arena::TotalBytes();
  const std::string because = Take("host_copy", {{"EMU_FAIL", kNoImportNorHandle}});
  EXPECT_THAT(because, StartsWith("not cuda_vmm: the process cannot: "));
  EXPECT_THAT(because, HasSubstr("; not cuda_ipc: the process cannot: open 16 bytes"));
  EXPECT_EQ(Arena::TotalBytes(), before - kBytes) << "neither shard nor copies";
}

TEST_F(DeviceHandOver, WithoutRoomForACopyBesideItThatIsMadeInHostMemory) {
  if (cudaEmu() == nullptr) GTEST_SKIP() << "the stand-ins' alone: nothing else fails on demand";
  Start();
  const int64_t before = Arena::TotalBytes();
  FailHere("cudaMalloc:2");  // behind that of the memory for trial
  const std::string because = Take("host_copy", {{"EMU_FAIL", kNoImport}});
  EXPECT_THAT(because, StartsWith("not cuda_vmm: the process cannot: "));
  EXPECT_THAT(because, HasSubstr("; not cuda_ipc: allocate"));
  EXPECT_THAT(because, HasSubstr("cudaErrorMemoryAllocation"));
  EXPECT_EQ(Arena::TotalBytes(), before - kBytes);
}

TEST_F(DeviceHandOver, AProcessThatCannotOpenAHandleGetsACopy) {
  if (cudaEmu() == nullptr) GTEST_SKIP() << "the stand-ins' alone: nothing else fails on demand";
  FailHere(kNoDescriptors);
  Start();
  const std::string because = Take("host_copy", {{"EMU_FAIL", "cudaIpcOpenMemHandle:1"}});
  EXPECT_THAT(because, HasSubstr("not cuda_vmm: allocate"));
  EXPECT_THAT(because, HasSubstr("not cuda_ipc: the process cannot: open 16 bytes"));
}

TEST_F(DeviceHandOver, AProcessThatCannotCloseAHandleGetsACopy) {
  if (cudaEmu() == nullptr) GTEST_SKIP() << "the stand-ins' alone: nothing else fails on demand";
  FailHere(kNoDescriptors);
  Start();
  const std::string because = Take("host_copy", {{"EMU_FAIL", "cudaIpcCloseMemHandle:1"}});
  EXPECT_THAT(because, HasSubstr("not cuda_ipc: the process cannot: close the legacy IPC handle of "
                                 "16 bytes on device 0: cudaError"));
}

// Its memory goes back to the agent with the process.
TEST_F(DeviceHandOver, AShardWhoseHandleCannotBeClosedStaysOnTheDevice) {
  if (cudaEmu() == nullptr) GTEST_SKIP() << "the stand-ins' alone: nothing else fails on demand";
  FailHere(kNoDescriptors);
  Start();
  const int64_t before = Arena::TotalBytes();
  // The first is that of the memory for trial; the shard's end closes it at the second try.
  Child child(path_, 0, "cuda_ipc", uuid_, {{"EMU_FAIL", "cudaIpcCloseMemHandle:2"}});
  EXPECT_THAT(child.Line(), HasSubstr("not cuda_vmm: allocate"));
  std::string errors;
  EXPECT_EQ(child.End(&errors), 1);
  EXPECT_THAT(errors, HasSubstr(absl::StrCat("close the legacy IPC handle of ", kBytes,
                                             " bytes on device 0: cudaError")));
  EXPECT_THAT(errors, Not(HasSubstr("where to?")));
  EXPECT_THAT(errors, Not(HasSubstr("leak")));
  for (int k = 0; k < 5000 && Arena::TotalBytes() == before; ++k) ::usleep(1000);
  EXPECT_EQ(Arena::TotalBytes(), before - kBytes);
}

TEST_F(DeviceHandOver, PagesThatCannotBeLockedAreCopiedAllTheSame) {
  if (cudaEmu() == nullptr) GTEST_SKIP() << "the stand-ins' alone: nothing else fails on demand";
  FailHere(kNoHandlesEither);
  Start();
  EXPECT_THAT(Take("host_copy", {{"EMU_FAIL", "cudaHostRegister:1"}}),
              HasSubstr("; copied from pages that are not locked: "));
}

TEST_F(DeviceHandOver, AProcessThatDoesNotSeeTheDeviceLeavesTheShardThere) {
  if (cudaEmu() == nullptr) GTEST_SKIP() << "needs two devices";
  Start();
  EXPECT_THAT(Fail({{"CUDA_VISIBLE_DEVICES", "1"}}), HasSubstr("this process sees only GPU-"));
  EXPECT_THAT(Take("cuda_vmm"), IsEmpty());
}

TEST_F(DeviceHandOver, AnImportThatFailsAfterTheAcknowledgementIsTold) {
  if (cudaEmu() == nullptr) GTEST_SKIP() << "the stand-ins' alone: nothing else fails on demand";
  Start();
  EXPECT_THAT(Fail({{"EMU_FAIL", "cuMemImportFromShareableHandle:2"}}),
              HasSubstr("acknowledged already (if it is lost, load it again)"));
  EXPECT_THAT(Fail({}), HasSubstr("handed over to another process"));
}

TEST_F(DeviceHandOver, ACopyThatFailsLeavesTheShardThere) {
  if (cudaEmu() == nullptr) GTEST_SKIP() << "the stand-ins' alone: nothing else fails on demand";
  Start();
  FailHere("cudaMemcpyAsync:1+");
  const std::string errors = Fail({{"EMU_FAIL", "cuMemImportFromShareableHandle:1"}});
  EXPECT_THAT(errors, HasSubstr("copy the shard of rank 0 of loads/abc to host memory"));
  EXPECT_THAT(errors, HasSubstr("cuMemImport") /* the emulator's own line */);
  FailHere("");
  EXPECT_THAT(Take("cuda_vmm"), IsEmpty());
}

TEST_F(DeviceHandOver, NoRoomIsNoReasonForAnotherWay) {
  if (cudaEmu() == nullptr) GTEST_SKIP() << "the stand-ins' alone: nothing else fails on demand";
  FailHere("cuMemCreate:2:2");  // the first is the memory for trial
  EXPECT_THAT(maker_->Make(kBytes),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("exportable")));
}

// On a real GPU, too.
TEST_F(DeviceHandOver, WhoSaysThatItCannotGetsHostMemory) {
  Start();
  AttachClient client(path_);
  json answer = client.Attach(kLoad, 1, kToken, "auto");
  EXPECT_THAT(answer["way"], ::testing::AnyOf("cuda_vmm", "cuda_ipc"));
  EXPECT_EQ(answer["mode"], "shared");
  EXPECT_EQ(answer["device"], uuid_);
  EXPECT_EQ(answer["trial"]["bytes"].get<std::string>().size(), 32);
  ASSERT_TRUE(client.Send({{"op", "cannot"}, {"why", "I do not want to"}}));
  answer = client.Receive();
  if (answer["way"] == "cuda_ipc") {
    EXPECT_EQ(answer["trial"]["handle"].get<std::string>().size(), 128);
    ASSERT_TRUE(client.Send({{"op", "cannot"}, {"why", "nor that"}}));
    answer = client.Receive();
  }
  EXPECT_EQ(answer["way"], "host_copy");
  EXPECT_THAT(answer["because"].get<std::string>(), HasSubstr("I do not want to"));
  EXPECT_FALSE(answer.contains("trial"));
  ASSERT_TRUE(client.Acknowledge());
  EXPECT_EQ(client.Receive(), (json{{"ok", true}}));
  void* const place = ::mmap(nullptr, kBytes, PROT_READ, MAP_SHARED, client.fd(), 0);
  ASSERT_NE(place, MAP_FAILED);
  EXPECT_EQ(std::string(static_cast<const char*>(place), kBytes), BytesOf(1));
  ::munmap(place, kBytes);
}

TEST_F(DeviceHandOver, BehindHostMemoryThereIsNoOtherWay) {
  Start();
  AttachClient client(path_);
  ASSERT_EQ(client.Attach(kLoad, 0, kToken, "shared")["ok"], true);
  json refused;
  for (int k = 0; k < 3; ++k) {
    ASSERT_TRUE(client.Send({{"op", "cannot"}, {"why", "nor that"}}));
    refused = client.Receive();
    if (refused["ok"] == false) break;
  }
  EXPECT_EQ(refused["error"]["code"], "FAILED_PRECONDITION");
  EXPECT_THAT(refused["error"]["message"].get<std::string>(), HasSubstr("nor that"));
  EXPECT_THAT(Take("cuda_vmm"), IsEmpty()) << "it stayed";
}

TEST_F(DeviceHandOver, APrivateOneIsRefused) {
  Start();
  EXPECT_THAT(book_->Offer(0, kToken, AttachMode::kPrivate),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("mode shared")));
}

}  // namespace
}  // namespace zerocast

int main(int argc, char** argv) {
  int rank = 0;
  if (argc == 5 && std::strcmp(argv[1], "--attach") == 0 && absl::SimpleAtoi(argv[3], &rank)) {
    const absl::Status status = zerocast::InChild(argv[2], rank, argv[4]);
    if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
    return status.ok() ? 0 : 1;
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
