// What orders the work of a GPU, for engine/src/native/lane.rs alone: streams and events through
// libtorch's generic interface, without a CUDA header. No exception crosses this file, as in shim.cpp.

#include <cstdint>
#include <memory>
#include <optional>

#include <c10/core/Event.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "guarded.h"

namespace {

// A stream of a GPU: one of its own, or whatever the calling thread computes on.
struct Lane {
  c10::Stream current() const { return guard.getStream(device); }
  c10::Stream stream() const { return own.value_or(current()); }

  c10::Device device;
  c10::impl::VirtualGuardImpl guard{c10::DeviceType::CUDA};
  std::optional<c10::Stream> own;
};

std::unique_ptr<c10::Event> mark(const c10::Stream& stream) {
  auto event = std::make_unique<c10::Event>(c10::DeviceType::CUDA);
  event->record(stream);
  return event;
}

}  // namespace

extern "C" {

char* rustspeed_open_lane(int8_t index, uint8_t is_own, Lane** lane) {
  return guarded([&] {
    auto opened = std::make_unique<Lane>(Lane{c10::Device(c10::DeviceType::CUDA, index)});
    if (is_own != 0) {
      opened->own = opened->guard.getStreamFromGlobalPool(opened->device, /*isHighPriority=*/true);
    }
    *lane = opened.release();
  });
}

// What comes on the lane from now on runs after all that this thread has asked for so far. `handle`
// is the cudaStream_t.
char* rustspeed_enter_lane(const Lane* lane, void** handle) {
  return guarded([&] {
    if (lane->own) {
      mark(lane->current())->block(*lane->own);
    }
    *handle = lane->stream().native_handle();
  });
}

// Behind all that is on the lane.
char* rustspeed_mark_lane(const Lane* lane, c10::Event** event) {
  return guarded([&] { *event = mark(lane->stream()).release(); });
}

// What this thread asks for from now on runs after the mark.
char* rustspeed_await_mark(const Lane* lane, const c10::Event* event) {
  return guarded([&] { event->block(lane->current()); });
}

// From any thread. That is on the event's GPU from now on: who drops an event comes back to the
// thread's own GPU, which would else be the first one and get a context of this process.
char* rustspeed_is_mark_passed(const c10::Event* event, uint8_t* is_passed) {
  return guarded([&] {
    c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA).setDevice(event->device());
    *is_passed = event->query() ? 1 : 0;
  });
}

void rustspeed_drop_mark(c10::Event* event) { delete event; }

void rustspeed_close_lane(Lane* lane) { delete lane; }
}
