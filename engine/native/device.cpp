// GPUs through libtorch's generic interface, for engine/src/native/device.rs alone: no CUDA header is
// needed, and a libtorch without CUDA links. No exception crosses this file, as in shim.cpp.

#include <cstdint>
#include <cstdlib>
#include <string>
#include <unordered_set>

#include <ATen/core/Tensor.h>
#include <c10/core/AutogradState.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

#include "guarded.h"

namespace {

// libtorch warns in every pass of a recurrent layer whose weights are parts of a larger buffer, as
// ours are: cuDNN wants a copy of them. Once is enough for a log.
struct OnceEach final : c10::WarningHandler {
  void process(const c10::Warning& warning) override {
    if (told.insert(warning.msg()).second) {
      c10::WarningHandler::process(warning);
    }
  }
  std::unordered_set<std::string> told;
};

}  // namespace

extern "C" {

// What this thread makes from now on is on this GPU, and its backward passes run on this thread
// and not on one of autograd's: tensors and hooks stay where they are. The same warning is told once.
char* rustspeed_enter_cuda(int8_t index) {
  return guarded([&] {
    TORCH_CHECK(c10::impl::hasDeviceGuardImpl(c10::DeviceType::CUDA),
                "this libtorch has no CUDA");
    const c10::impl::VirtualGuardImpl guard(c10::DeviceType::CUDA);
    const int count = guard.deviceCount();
    TORCH_CHECK(index < count, "there is no GPU ", static_cast<int>(index), ": libtorch sees ",
                count);
    guard.setDevice(c10::Device(c10::DeviceType::CUDA, index));
    c10::AutogradState::get_tls_state().set_multithreading_enabled(false);
    // Lives as long as the thread's warnings may come: for good.
    thread_local auto* once = new OnceEach;
    c10::WarningUtils::set_warning_handler(once);
  });
}

// What the driver has free there, for whatever process.
char* rustspeed_free_cuda_bytes(int8_t index, uint64_t* bytes) {
  return guarded([&] {
    TORCH_CHECK(c10::impl::hasDeviceGuardImpl(c10::DeviceType::CUDA),
                "this libtorch has no CUDA");
    *bytes = at::getDeviceAllocator(c10::DeviceType::CUDA)->getMemoryInfo(index).first;
  });
}

// As rustspeed_resize_storage, by the allocator that the storage came from, whatever its device.
char* rustspeed_reallocate_storage(const at::Tensor* tensor, uint64_t bytes) {
  return guarded([&] {
    c10::StorageImpl* storage = tensor->storage().unsafeGetStorageImpl();
    TORCH_CHECK(storage->allocator() != nullptr, "the storage has no allocator");
    // The old memory goes before the new comes: both at once might not fit.
    storage->set_data_ptr_noswap(at::DataPtr(nullptr, storage->device()));
    storage->set_nbytes(0);
    if (bytes > 0) {
      storage->set_data_ptr_noswap(storage->allocator()->allocate(bytes));
      storage->set_nbytes(bytes);
    }
  });
}
}
