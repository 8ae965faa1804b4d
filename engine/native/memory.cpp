// Counts what libtorch allocates for this thread, for engine/src/native/memory.rs alone. No exception
// crosses this file, as in shim.cpp.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <utility>

#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include "guarded.h"

namespace {

// libtorch's allocators look it up where a profiler would be.
struct Counter final : c10::MemoryReportingInfoBase {
  void reportMemoryUsage(void*, int64_t change, size_t, size_t, c10::Device) override {
    if (!is_paused) {
      live += change;
      peak = std::max(peak, live);
    }
  }

  bool memoryProfilingEnabled() const override { return true; }

  int64_t live = 0;
  int64_t peak = 0;
  bool is_paused = false;
};

Counter* counter() {
  return dynamic_cast<Counter*>(
      c10::ThreadLocalDebugInfo::get(c10::DebugInfoKind::PROFILER_STATE));
}

}  // namespace

extern "C" {

// From now on this thread's allocations are counted. A message where they are already.
char* rustspeed_start_counting() {
  return guarded([] {
    if (c10::ThreadLocalDebugInfo::get(c10::DebugInfoKind::PROFILER_STATE) != nullptr) {
      throw std::runtime_error("something counts already");
    }
    c10::ThreadLocalDebugInfo::_push(c10::DebugInfoKind::PROFILER_STATE,
                                     std::make_shared<Counter>());
  });
}

// The most bytes that were live at once since rustspeed_start_counting; nothing is counted any
// more. 0 where nothing was.
uint64_t rustspeed_stop_counting() {
  const Counter* found = counter();
  if (found == nullptr) {
    return 0;
  }
  const uint64_t peak = static_cast<uint64_t>(found->peak);
  c10::ThreadLocalDebugInfo::_pop(c10::DebugInfoKind::PROFILER_STATE);
  return peak;
}

// Whether allocations that come now are counted, if this thread counts at all; as it was before.
uint8_t rustspeed_pause_counting(uint8_t is_paused) {
  Counter* found = counter();
  if (found == nullptr) {
    return is_paused;
  }
  return std::exchange(found->is_paused, is_paused != 0) ? 1 : 0;
}
}
