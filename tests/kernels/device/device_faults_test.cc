// Every CUDA call of the room fails once, at every place where it is made.  On the stand-ins.  The
// program runs itself as the process whose memory it opens by a legacy handle.

#include <cuda_runtime_api.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
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

namespace zerocast {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kBytes = 100000;

// What the other process does: it makes memory, tells its handle, and ends once it is told to.
absl::Status InChild() {
  ZC_ASSIGN_OR_RETURN(const std::vector<DeviceInfo> devices, ListDevices());
  ZC_ASSIGN_OR_RETURN(const DeviceBuffer memory,
                      DeviceBuffer::Create(devices.back().number, kBytes));
  ZC_ASSIGN_OR_RETURN(const std::string handle, ExportIpc(memory));
  std::printf("%s\n", absl::BytesToHexString(handle).c_str());
  std::fflush(stdout);
  std::getchar();
  return absl::OkStatus();
}

// This program as the other process.
class Exporter {
 public:
  Exporter() {
    int in[2], out[2];
    if (::pipe(in) != 0 || ::pipe(out) != 0) std::abort();
    pid_ = ::fork();
    if (pid_ == 0) {
      ::dup2(in[0], 0);
      ::dup2(out[1], 1);
      for (const int end : {in[0], in[1], out[0], out[1]}) ::close(end);
      ::execl("/proc/self/exe", "device_faults_test", "--export", nullptr);
      ::_exit(127);
    }
    ::close(in[0]);
    ::close(out[1]);
    end_ = in[1];
    char c;
    std::string line;
    while (::read(out[0], &c, 1) == 1 && c != '\n') line.push_back(c);
    ::close(out[0]);
    handle_ = absl::HexStringToBytes(line);
  }
  ~Exporter() {
    ::close(end_);
    int status = -1;
    EXPECT_EQ(::waitpid(pid_, &status, 0), pid_);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  }
  const std::string& handle() const { return handle_; }

 private:
  pid_t pid_ = -1;
  int end_ = -1;
  std::string handle_;
};

// All that the room does.  `handle_of_other` is another process's.
absl::Status UseAll(const std::string& handle_of_other) {
  ZC_ASSIGN_OR_RETURN(const std::vector<DeviceInfo> devices, ListDevices());
  const int device = devices.back().number;
  ZC_ASSIGN_OR_RETURN(const Stream stream, Stream::Create(device));
  ZC_ASSIGN_OR_RETURN(const Stream second, Stream::Create(device));
  ZC_ASSIGN_OR_RETURN(const Event event, Event::Create(device));
  ZC_ASSIGN_OR_RETURN(const DeviceBuffer memory, DeviceBuffer::Create(device, kBytes));
  ZC_ASSIGN_OR_RETURN(const PinnedBuffer pinned, PinnedBuffer::Create(device, kBytes));
  // Other pages each time: those of a call that could not unlock them stay locked.
  static auto* const all_pages = new std::vector<std::vector<std::byte>>;
  std::vector<std::byte>& pages = all_pages->emplace_back(kBytes);
  ZC_ASSIGN_OR_RETURN(const PinnedRange range, PinnedRange::Create(device, pages.data(), kBytes));
  ZC_RETURN_IF_ERROR(range.AddressOn(device).status());
  ZC_ASSIGN_OR_RETURN(const std::string handle, ExportIpc(memory));
  ZC_ASSIGN_OR_RETURN(const ExportableBuffer shared, ExportableBuffer::Create(device, kBytes));
  ZC_ASSIGN_OR_RETURN(const Descriptor descriptor, shared.Export());
  ZC_ASSIGN_OR_RETURN(const ExportableBuffer imported,
                      ExportableBuffer::Import(device, descriptor.get(), kBytes));
  ZC_ASSIGN_OR_RETURN(IpcBuffer opened, IpcBuffer::Import(device, handle_of_other, kBytes));
  ZC_RETURN_IF_ERROR(opened.Close());
  ZC_RETURN_IF_ERROR(event.Record(stream.get()));
  ZC_RETURN_IF_ERROR(second.WaitFor(event.get()));
  ZC_RETURN_IF_ERROR(event.Record(second.get()));
  return event.Wait(absl::Seconds(30));
}

struct Function {
  const char* name;
  bool in_destructor;  // only: nobody takes an error, and what is not given back stays
  bool also_in_destructor;
};
constexpr Function kFunctions[] = {
    // First: the driver's functions are looked up once in a process.
    {"cudaGetDriverEntryPointByVersion", false, false},
    {"cudaGetDeviceCount", false, false},
    {"cudaGetDeviceProperties", false, false},
    {"cudaDeviceGetPCIBusId", false, false},
    {"cudaGetDevice", false, false},
    {"cudaSetDevice", false, true},
    {"cudaStreamCreateWithFlags", false, false},
    {"cudaStreamWaitEvent", false, false},
    {"cudaStreamDestroy", true, false},
    {"cudaEventCreateWithFlags", false, false},
    {"cudaEventRecord", false, false},
    {"cudaEventQuery", false, false},
    {"cudaEventDestroy", true, false},
    {"cudaMalloc", false, false},
    {"cudaFree", true, false},
    {"cudaHostAlloc", false, false},
    {"cudaFreeHost", true, false},
    {"cudaHostRegister", false, false},
    {"cudaHostUnregister", true, false},
    {"cudaHostGetDevicePointer", false, false},
    {"cudaIpcGetMemHandle", false, false},
    {"cudaIpcOpenMemHandle", false, false},
    {"cudaIpcCloseMemHandle", false, false},
    {"cuDeviceGet", false, false},
    {"cuDeviceGetAttribute", false, false},
    {"cuPointerGetAttribute", false, false},
    {"cuMemGetAllocationGranularity", false, false},
    {"cuMemCreate", false, false},
    {"cuMemRelease", true, false},
    {"cuMemAddressReserve", false, false},
    {"cuMemAddressFree", true, false},
    {"cuMemMap", false, false},
    {"cuMemUnmap", true, false},
    {"cuMemSetAccess", false, false},
    {"cuMemExportToShareableHandle", false, false},
    {"cuMemImportFromShareableHandle", false, false},
};

class Faults : public ::testing::Test {
 protected:
  void SetUp() override {
    emu_ = cudaEmu();
    if (emu_ == nullptr) GTEST_SKIP() << "only the stand-ins fail on demand";
  }
  const CudaEmu* emu_ = nullptr;
};

TEST_F(Faults, EveryCallHasItsStatusAndLeavesNothingBehind) {
  const Exporter other;
  ASSERT_EQ(other.handle().size(), 64);
  int all = 0;
  int unnoticed = 0;
  for (const Function& function : kFunctions) {
    for (int call = 1;; ++call) {
      const uint64_t before = emu_->objectsAlive();
      emu_->fail(absl::StrCat(function.name, ":", call).c_str());
      const absl::Status status = UseAll(other.handle());
      const bool failed = emu_->failures() > 0;
      emu_->fail("");
      SCOPED_TRACE(absl::StrCat(function.name, " ", call, ": ", status.ToString()));
      if (!failed) {
        EXPECT_THAT(status, IsOk());
        EXPECT_GT(call, 1) << "never called";
        break;
      }
      ++all;
      unnoticed += status.ok();
      if (function.in_destructor) {
        EXPECT_THAT(status, IsOk());
        continue;
      }
      EXPECT_EQ(emu_->objectsAlive(), before);
      if (function.also_in_destructor && status.ok()) continue;
      EXPECT_THAT(status, ::testing::Not(IsOk()));
      // What was tried, CUDA's name for what happened.
      EXPECT_THAT(std::string(status.message()), HasSubstr(": cudaError"));
      EXPECT_EQ(cudaGetLastError(), cudaSuccess);
    }
  }
  // Whatever its name, a call that fails unnoticed is one of the destructors' above.
  int any = 0;
  int any_unnoticed = 0;
  for (;; ++any) {
    emu_->fail(absl::StrCat("cu*:", any + 1).c_str());
    const absl::Status status = UseAll(other.handle());
    if (emu_->failures() == 0) break;
    any_unnoticed += status.ok();
  }
  emu_->fail("");
  EXPECT_EQ(any_unnoticed, unnoticed);
  std::cout << all << " calls failed in turn by name, " << any << " by number\n";
}

// The list is complete.
TEST_F(Faults, NoFunctionIsCalledThatIsNotFailed) {
  const Exporter other;
  EXPECT_THAT(UseAll(other.handle()), IsOk());
  // What tells of errors, and what the stand-ins of others among them call.
  std::set<std::string> known = {"cudaGetLastError", "cudaGetErrorName", "cudaGetErrorString",
                                 "cudaStreamCreateWithPriority", "cudaEventRecordWithFlags"};
  for (const Function& function : kFunctions) known.insert(function.name);
  for (const absl::string_view name : absl::StrSplit(emu_->called(), ',')) {
    EXPECT_EQ(known.count(std::string(name)), 1) << name;
  }
}

// Whoever closes a legacy handle hears of it, and its end tries once more.
TEST_F(Faults, AHandleThatCannotBeClosedIsClosedAtItsEnd) {
  const Exporter other;
  const uint64_t before = emu_->objectsAlive();
  {
    ZC_ASSERT_OK_AND_ASSIGN(IpcBuffer opened, IpcBuffer::Import(1, other.handle(), kBytes));
    emu_->fail("cudaIpcCloseMemHandle:1");
    EXPECT_THAT(
        opened.Close(),
        StatusIs(absl::StatusCode::kInternal,
                 HasSubstr("close the legacy IPC handle of 100000 bytes on device 1: cudaError")));
    EXPECT_EQ(emu_->failures(), 1);
    EXPECT_EQ(opened.num_bytes(), kBytes) << "as before";
    EXPECT_EQ(emu_->objectsAlive(), before + 1);
  }
  EXPECT_EQ(emu_->objectsAlive(), before);
  emu_->fail("");
}

TEST_F(Faults, AHandleThatCannotBeClosedAtItsEndIsLogged) {
  const Exporter other;
  const uint64_t before = emu_->objectsAlive();
  ::testing::internal::CaptureStdout();
  {
    ZC_ASSERT_OK_AND_ASSIGN(const IpcBuffer opened, IpcBuffer::Import(1, other.handle(), kBytes));
    emu_->fail("cudaIpcCloseMemHandle:1");
  }
  const std::string logged = ::testing::internal::GetCapturedStdout();
  EXPECT_EQ(emu_->failures(), 1);
  emu_->fail("");
  EXPECT_THAT(logged,
              HasSubstr("close the legacy IPC handle of 100000 bytes on device 1: cudaError"));
  // The mapping stays, alone, until the process ends, and is found again by whoever opens it.
  EXPECT_EQ(emu_->objectsAlive(), before + 1);
  EXPECT_THAT(UseAll(other.handle()), IsOk());
  EXPECT_EQ(emu_->objectsAlive(), before + 1);
}

}  // namespace
}  // namespace zerocast

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--export") == 0) {
    const absl::Status status = zerocast::InChild();
    if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
    return status.ok() ? 0 : 1;
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
