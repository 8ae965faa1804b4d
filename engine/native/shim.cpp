// What tch lacks and libtorch has, for engine/src/native.rs alone. No exception crosses this file:
// every function returns nullptr, or a message that rustspeed_free_message takes back.

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

#include <ATen/Version.h>
#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/version.h>

#include "guarded.h"

namespace {

// What a gradient is made of; the codes of engine/src/native.rs. Of the last, `values` is the
// at::Tensor itself, wherever it is.
enum class Element : uint8_t { kFloat = 0, kBFloat16 = 1, kHalf = 2, kTensor = 3 };

using Callback = void (*)(void* context, uint64_t index, Element element, const void* values,
                          uint64_t count);

Element element_of(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return Element::kFloat;
    case at::kBFloat16:
      return Element::kBFloat16;
    case at::kHalf:
      return Element::kHalf;
    default:
      TORCH_CHECK(false, "a gradient of ", tensor.scalar_type(), ", not of 32 or 16 bits");
  }
}

// Called once a leaf's gradient of this backward is complete. The gradient is handed on and then
// dropped: whoever wants to keep it copies it, and no second full set of gradients builds up.
struct GradientHook final : torch::autograd::PostAccumulateGradHook {
  GradientHook(Callback callback, void* context, uint64_t index, bool stays)
      : callback_(callback), context_(context), index_(index), stays_(stays) {}

  void operator()(const at::Tensor& leaf) override {
    at::Tensor& gradient = leaf.mutable_grad();
    if (stays_) {
      const at::Tensor dense = gradient.contiguous();
      hand_over(Element::kTensor, &dense, dense);
    } else {
      // Of a GPU: as a copy on the host, which is there when this returns.
      const at::Tensor dense = gradient.cpu().contiguous();
      hand_over(element_of(dense), dense.const_data_ptr(), dense);
    }
    gradient.reset();
  }

  void hand_over(Element element, const void* values, const at::Tensor& dense) const {
    callback_(context_, index_, element, values, static_cast<uint64_t>(dense.numel()));
  }

  Callback callback_;
  void* context_;
  uint64_t index_;
  bool stays_;
};

}  // namespace

extern "C" {

// A gradient that `stays` where it is is handed over as a tensor, else as numbers on the host.
char* rustspeed_hook_gradient(at::Tensor* leaf, Callback callback, void* context, uint64_t index,
                              uint8_t stays) {
  return guarded([&] {
    torch::autograd::impl::set_post_acc_grad_hooks(
        *leaf, std::make_unique<GradientHook>(callback, context, index, stays != 0));
  });
}

char* rustspeed_unhook_gradient(at::Tensor* leaf) {
  return guarded([&] { torch::autograd::impl::set_post_acc_grad_hooks(*leaf, nullptr); });
}

// A copy: "AVX512", "AVX2", "DEFAULT"; the kernels that libtorch dispatches to on this machine.
char* rustspeed_cpu_capability(char** message) {
  char* capability = nullptr;
  *message = guarded([&] { capability = strdup(at::get_cpu_capability().c_str()); });
  return capability;
}

// Static: the version of the headers that this was built with, such as "2.11.0".
const char* rustspeed_libtorch_version() { return TORCH_VERSION; }

void rustspeed_free_message(char* message) { free(message); }
}
