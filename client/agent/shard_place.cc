#include "client/agent/shard_place.h"

#include "client/agent/shards.h"

namespace zerocast {

std::string ArenasText(const Layout& layout, bool has_devices) {
  if (layout.device == LoadDevice::kCpu) return "";
  if (!has_devices) return "in host memory (--no-gpu)";
  return LieOnDevices(layout) ? "on GPUs" : "in host memory that GPUs fill";
}

void TellWay(const Layout& layout, bool has_devices, absl::Span<const Arena> arenas,
             NodeProgress* progress) {
  if (layout.device == LoadDevice::kCpu) return;
  // They are as large on the host as on the device.
  if (has_devices) progress->device_buffer_bytes = progress->buffer_bytes;
  if (!LieOnDevices(layout)) {
    progress->hand_over_way = "memfd";
    return;
  }
  if (!has_devices) {
    progress->hand_over_way = "host_copy";
    progress->hand_over_because = kNoGpuWay;
    return;
  }
  progress->device_arena_bytes = progress->arena_bytes;
  for (const Arena& arena : arenas) {
    progress->hand_over_way = arena.device()->ticket().way;
    progress->hand_over_because = arena.device()->because();
    // Of several devices, the one that has the worst.
    if (!progress->hand_over_because.empty()) return;
  }
}

}  // namespace zerocast
