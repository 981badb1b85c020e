// Device memory that several processes share, and what devices say of themselves.  The program runs
// itself as the other process.

#include <cuda_runtime_api.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/base/status_macros.h"
#include "kernels/device/buffer.h"
#include "kernels/device/cuda_status.h"
#include "kernels/device/devices.h"
#include "kernels/device/event.h"
#include "kernels/device/exportable_buffer.h"
#include "kernels/device/ipc_buffer.h"
#include "kernels/device/stream.h"
#include "tests/cuda_emu/cuda_emu.h"
#include "tests/status_matchers.h"
#include "tests/temp_dir.h"

namespace zerocast {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr int64_t kBytes = (3 << 20) + 5;

absl::Status Copy(void* to, const void* from, int64_t num_bytes) {
  ZC_ASSIGN_OR_RETURN(const Stream stream, Stream::Create(0));
  ZC_ASSIGN_OR_RETURN(const Event event, Event::Create(0));
  ZC_RETURN_IF_ERROR(ToStatus(cudaMemcpyAsync(to, from, num_bytes, cudaMemcpyDefault, stream.get()),
                              "copy for a test"));
  ZC_RETURN_IF_ERROR(event.Record(stream.get()));
  return event.Wait(absl::Seconds(30));
}

// Bytes that begin with `first` and go on by a rule.
absl::Status Write(std::byte* device, int first) {
  ZC_ASSIGN_OR_RETURN(const PinnedBuffer host, PinnedBuffer::Create(0, kBytes));
  for (int64_t i = 0; i < kBytes; ++i) host.data()[i] = static_cast<std::byte>(first + i + i / 251);
  return Copy(device, host.data(), kBytes);
}

absl::Status Check(const std::byte* device, int first) {
  ZC_ASSIGN_OR_RETURN(const PinnedBuffer host, PinnedBuffer::Create(0, kBytes));
  ZC_RETURN_IF_ERROR(Copy(host.data(), device, kBytes));
  for (int64_t i = 0; i < kBytes; ++i) {
    if (host.data()[i] != static_cast<std::byte>(first + i + i / 251)) {
      return absl::InternalError("other bytes than were written");
    }
  }
  return absl::OkStatus();
}

// What the other process does: it checks the bytes, and writes others.
absl::Status InChild(const std::string& way, const std::string& handle) {
  if (way == "--descriptor") {
    int descriptor = -1;
    if (!absl::SimpleAtoi(handle, &descriptor)) return absl::InvalidArgumentError(handle);
    ZC_ASSIGN_OR_RETURN(const ExportableBuffer buffer,
                        ExportableBuffer::Import(0, descriptor, kBytes));
    ZC_RETURN_IF_ERROR(Check(buffer.data(), 1));
    return Write(buffer.data(), 2);
  }
  ZC_ASSIGN_OR_RETURN(const IpcBuffer buffer,
                      IpcBuffer::Import(0, absl::HexStringToBytes(handle), kBytes));
  ZC_RETURN_IF_ERROR(Check(buffer.data(), 1));
  return Write(buffer.data(), 2);
}

// What the other process does where calls fail by `plan`, and what came of it, as lines.
std::string InChildFailing(const std::string& plan, const std::string& handle) {
  const CudaEmu* const emu = cudaEmu();
  const uint64_t before = emu->objectsAlive();
  emu->fail(plan.c_str());
  const absl::Status status = InChild("--ipc", handle);
  const uint64_t failures = emu->failures();
  emu->fail("");
  return absl::StrCat("failed ", failures, "\nkept ", emu->objectsAlive() - before, "\nstatus ",
                      status.ToString(), "\n");
}

// Runs this program anew, as `way handle`; its exit status.
int RunChild(const std::string& way, const std::string& handle) {
  const pid_t child = fork();
  if (child == 0) {
    execl("/proc/self/exe", "sharing_test", way.c_str(), handle.c_str(), nullptr);
    _exit(127);
  }
  int status = -1;
  return waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// The same with calls that fail; all that it prints.
std::string RunFailingChild(const std::string& plan, const std::string& handle) {
  int ends[2];
  if (pipe(ends) != 0) return "no pipe";
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDOUT_FILENO);
    dup2(ends[1], STDERR_FILENO);
    execl("/proc/self/exe", "sharing_test", "--failing", plan.c_str(), handle.c_str(), nullptr);
    _exit(127);
  }
  close(ends[1]);
  std::string printed;
  char part[4096];
  for (ssize_t got; (got = read(ends[0], part, sizeof(part))) > 0;) printed.append(part, got);
  close(ends[0]);
  int status = -1;
  const bool ended = waitpid(child, &status, 0) == child && WIFEXITED(status);
  return absl::StrCat(printed, ended ? "ended" : "crashed");
}

class Sharing : public ::testing::Test {
 protected:
  void SetUp() override {
    const absl::StatusOr<int> count = DeviceCount();
    if (!count.ok()) GTEST_SKIP() << count.status();
  }
};

TEST_F(Sharing, AnotherProcessReadsAndWritesByADescriptor) {
  if (const absl::Status can = CanExport(0); absl::IsUnimplemented(can)) GTEST_SKIP() << can;
  ZC_ASSERT_OK_AND_ASSIGN(const ExportableBuffer buffer, ExportableBuffer::Create(0, kBytes));
  ASSERT_THAT(Write(buffer.data(), 1), IsOk());
  ZC_ASSERT_OK_AND_ASSIGN(const Descriptor descriptor, buffer.Export());
  ASSERT_EQ(fcntl(descriptor.get(), F_SETFD, 0), 0);
  EXPECT_EQ(RunChild("--descriptor", std::to_string(descriptor.get())), 0);
  EXPECT_THAT(Check(buffer.data(), 2), IsOk());
}

TEST_F(Sharing, TheMemoryOutlivesItsMakerByADescriptor) {
  if (const absl::Status can = CanExport(0); absl::IsUnimplemented(can)) GTEST_SKIP() << can;
  Descriptor descriptor;
  {
    ZC_ASSERT_OK_AND_ASSIGN(const ExportableBuffer buffer, ExportableBuffer::Create(0, kBytes));
    ASSERT_THAT(Write(buffer.data(), 1), IsOk());
    ZC_ASSERT_OK_AND_ASSIGN(descriptor, buffer.Export());
  }
  ZC_ASSERT_OK_AND_ASSIGN(const ExportableBuffer again,
                          ExportableBuffer::Import(0, descriptor.get(), kBytes));
  descriptor.Reset();
  EXPECT_THAT(Check(again.data(), 1), IsOk());
}

TEST_F(Sharing, SizesAreWholeGranules) {
  if (const absl::Status can = CanExport(0); absl::IsUnimplemented(can)) GTEST_SKIP() << can;
  ZC_ASSERT_OK_AND_ASSIGN(ExportableBuffer buffer, ExportableBuffer::Create(0, 1));
  EXPECT_EQ(buffer.num_bytes(), 1);
  EXPECT_GT(buffer.mapped_bytes(), 1);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % buffer.mapped_bytes(), 0);
  const ExportableBuffer other = std::move(buffer);
  EXPECT_EQ(buffer.num_bytes(), 0);  // NOLINT(bugprone-use-after-move): the state is promised
  EXPECT_EQ(buffer.data(), nullptr);
  EXPECT_EQ(other.num_bytes(), 1);
}

TEST_F(Sharing, RefusesWhatIsNoMemory) {
  if (const absl::Status can = CanExport(0); absl::IsUnimplemented(can)) GTEST_SKIP() << can;
  EXPECT_THAT(ExportableBuffer::Create(0, 0),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("at least 1")));
  EXPECT_THAT(
      ExportableBuffer::Create(0, int64_t{1} << 50).status().message(),
      HasSubstr("allocate 1125899906842624 bytes of exportable memory on device 0: cudaErr"));
  const Descriptor null(open("/dev/null", O_RDWR | O_CLOEXEC));
  EXPECT_FALSE(ExportableBuffer::Import(0, null.get(), kBytes).ok());
  EXPECT_THAT(ExportableBuffer::Import(0, -1, kBytes).status().message(),
              HasSubstr("from file descriptor -1"));
}

TEST_F(Sharing, AnotherProcessReadsAndWritesByALegacyHandle) {
  ZC_ASSERT_OK_AND_ASSIGN(const DeviceBuffer buffer, DeviceBuffer::Create(0, kBytes));
  ASSERT_THAT(Write(buffer.data(), 1), IsOk());
  const absl::StatusOr<std::string> handle = ExportIpc(buffer);
  if (absl::IsUnimplemented(handle.status())) GTEST_SKIP() << handle.status();
  ASSERT_THAT(handle, IsOk());
  const int status = RunChild("--ipc", absl::BytesToHexString(*handle));
  if (status != 0 && cudaEmu() == nullptr) {
    GTEST_SKIP() << "another process cannot open legacy handles on this machine";
  }
  EXPECT_EQ(status, 0);
  EXPECT_THAT(Check(buffer.data(), 2), IsOk());
  EXPECT_THAT(IpcBuffer::Import(0, "short", kBytes),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("5 bytes, not 64")));
}

TEST_F(Sharing, NoCallOfTheOtherProcessFailsInSilence) {
  if (cudaEmu() == nullptr) GTEST_SKIP() << "only the stand-ins fail on demand";
  ZC_ASSERT_OK_AND_ASSIGN(const DeviceBuffer buffer, DeviceBuffer::Create(0, kBytes));
  ZC_ASSERT_OK_AND_ASSIGN(const std::string bytes, ExportIpc(buffer));
  const std::string handle = absl::BytesToHexString(bytes);
  const auto run = [&](const std::string& plan) {
    EXPECT_THAT(Write(buffer.data(), 1), IsOk());
    return RunFailingChild(plan, handle);
  };
  // Whatever its name: an error or a line of the log, never nothing.
  int all = 0;
  for (;; ++all) {
    const std::string printed = run(absl::StrCat("cu*:", all + 1));
    ASSERT_THAT(printed, HasSubstr("ended")) << all;
    if (absl::StrContains(printed, "failed 0")) break;
    EXPECT_THAT(printed, HasSubstr(": cudaError")) << all;
  }
  EXPECT_GT(all, 20);
  std::cout << all << " calls of the other process failed in turn\n";
}

TEST_F(Sharing, ExportableMemoryHasNoLegacyHandle) {
  if (cudaEmu() == nullptr) GTEST_SKIP() << "the driver decides";
  ZC_ASSERT_OK_AND_ASSIGN(const DeviceBuffer buffer, DeviceBuffer::Create(0, kBytes));
  ZC_ASSERT_OK_AND_ASSIGN(const std::string handle, ExportIpc(buffer));
  EXPECT_FALSE(IpcBuffer::Import(0, handle, kBytes).ok()) << "a handle of this very process";
}

TEST_F(Sharing, LockedPagesOfOthersAreCopiedFrom) {
  std::vector<unsigned char> pages(kBytes, 7);
  ZC_ASSERT_OK_AND_ASSIGN(const DeviceBuffer buffer, DeviceBuffer::Create(0, kBytes));
  {
    ZC_ASSERT_OK_AND_ASSIGN(const PinnedRange range, PinnedRange::Create(0, pages.data(), kBytes));
    EXPECT_THAT(Copy(buffer.data(), pages.data(), kBytes), IsOk());
    EXPECT_FALSE(PinnedRange::Create(0, pages.data(), kBytes).ok()) << "locked already";
    pages.assign(kBytes, 0);
    EXPECT_THAT(Copy(pages.data(), buffer.data(), kBytes), IsOk());
  }
  EXPECT_EQ(pages, std::vector<unsigned char>(kBytes, 7));
}

TEST_F(Sharing, DevicesAreDescribed) {
  const TempDir sys;
  ZC_ASSERT_OK_AND_ASSIGN(const std::vector<DeviceInfo> devices, ListDevices(sys.path()));
  ZC_ASSERT_OK_AND_ASSIGN(const int count, DeviceCount());
  ASSERT_THAT(devices, SizeIs(count));
  for (const DeviceInfo& info : devices) {
    EXPECT_FALSE(info.name.empty());
    EXPECT_THAT(info.uuid,
                ::testing::MatchesRegex("GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"));
    EXPECT_GT(info.total_bytes, 1 << 20);
    EXPECT_GE(info.compute_capability, 80);
    EXPECT_EQ(info.numa_node, -1) << "nothing says it";
    ZC_ASSERT_OK_AND_ASSIGN(const DeviceInfo found, FindDevice(info.uuid));
    EXPECT_EQ(found.number, info.number);
  }
  const std::string folder = sys.path() + "/bus/pci/devices/" + devices[0].pci_bus_id;
  ASSERT_EQ(std::system(("mkdir -p " + folder + " && echo 1 > " + folder + "/numa_node").c_str()),
            0);
  ZC_ASSERT_OK_AND_ASSIGN(const std::vector<DeviceInfo> again, ListDevices(sys.path()));
  EXPECT_EQ(again[0].numa_node, 1);
  EXPECT_THAT(FindDevice("GPU-0"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(devices[0].uuid)));
}

}  // namespace
}  // namespace zerocast

int main(int argc, char** argv) {
  if (argc == 4 && std::strcmp(argv[1], "--failing") == 0) {
    std::printf("%s", zerocast::InChildFailing(argv[2], argv[3]).c_str());
    return 0;
  }
  if (argc == 3 && std::strncmp(argv[1], "--gtest", 7) != 0) {
    const absl::Status status = zerocast::InChild(argv[1], argv[2]);
    if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
    return status.ok() ? 0 : 1;
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
