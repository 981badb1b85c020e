// Every CUDA call of the room fails once, at every place where it is made.  On the stand-ins.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <iostream>
#include <string>
#include <vector>

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

namespace zerocast {
namespace {

using ::testing::HasSubstr;

// All that the room does, but for the other process's end of a legacy handle.
absl::Status UseAll() {
  constexpr int64_t kBytes = 100000;
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
  int all = 0;
  int unnoticed = 0;
  for (const Function& function : kFunctions) {
    for (int call = 1;; ++call) {
      const uint64_t before = emu_->objectsAlive();
      emu_->fail(absl::StrCat(function.name, ":", call).c_str());
      const absl::Status status = UseAll();
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
    const absl::Status status = UseAll();
    if (emu_->failures() == 0) break;
    any_unnoticed += status.ok();
  }
  emu_->fail("");
  EXPECT_EQ(any_unnoticed, unnoticed);
  std::cout << all << " calls failed in turn by name, " << any << " by number\n";
}

}  // namespace
}  // namespace zerocast
