// The functions behind cuda_emu.h.
#include "tests/cuda_emu/cuda_emu.h"

#include "runtime.h"

using namespace emu;

namespace {

void add(CudaEmuTraffic& to, const ptxrun::Traffic& t) {
  to.instructions += t.instructions;
  to.requestedBytes += t.requestedBytes;
  to.usefulBytes += t.usefulBytes;
  to.sectors += t.sectors;
}

int kernelStats(const char* nameContains, CudaEmuStats* out) {
  *out = CudaEmuStats();
  int kernels = 0;
  for (auto& [symbol, s] : Runtime::get().kernelStats()) {
    if (ptxrun::readableName(symbol).find(nameContains) == std::string::npos) continue;
    ++kernels;
    out->launches += s.launches;
    out->warpInstructions += s.total.warpInstructions;
    out->threadInstructions += s.total.threadInstructions;
    add(out->load, s.total.globalLoad);
    add(out->store, s.total.globalStore);
    add(out->atomic, s.total.globalAtomic);
    out->sharedInstructions += s.total.shared.instructions;
    out->sharedWavefronts += s.total.shared.wavefronts;
    out->bankConflicts += s.total.shared.wavefronts - s.total.shared.ideal;
    out->localBytes += s.total.localBytes;
    out->barriers += s.total.barriers;
  }
  return kernels;
}

const char* called() {
  thread_local std::string text;
  text.clear();
  for (const std::string& name : Runtime::get().called()) text += (text.empty() ? "" : ",") + name;
  return text.c_str();
}

uint64_t allocated(int device) {
  std::lock_guard<std::mutex> lock(Runtime::get().mutex);
  return Runtime::get().devices.at(size_t(device))->used;
}

uint64_t mostAllocated(int device) {
  std::lock_guard<std::mutex> lock(Runtime::get().mutex);
  return Runtime::get().devices.at(size_t(device))->mostUsed;
}

void resetMostAllocated() {
  std::lock_guard<std::mutex> lock(Runtime::get().mutex);
  for (auto& d : Runtime::get().devices) d->mostUsed = d->used;
}

const char* lastReport() {
  thread_local std::string text;
  text = Runtime::get().lastReport();
  return text.c_str();
}

}  // namespace

extern "C" const CudaEmu* emuForTests() {
  static const CudaEmu kTable = {
      [](int on) { Runtime::get().settings.stats = on; },
      [] { Runtime::get().resetStats(); },
      kernelStats,
      [](const char* plan) { Runtime::get().planFailures(plan); },
      [] { return Runtime::get().failures(); },
      lastReport,
      [] { return uint64_t(Runtime::get().alive()); },
      [] { return Runtime::get().settings.seed; },
      called,
      [] { return Runtime::get().bytesToDevices.load(); },
      [] { return Runtime::get().bytesToHost.load(); },
      allocated,
      mostAllocated,
      resetMostAllocated,
  };
  return &kTable;
}
