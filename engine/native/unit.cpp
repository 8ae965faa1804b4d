// What a unit of a model needs of autograd and storage beyond tch, for engine/src/native/unit.rs
// alone: a call before its backward, a forward that is computed again in backward, and parameter
// memory that comes and goes. No exception crosses this file, as in shim.cpp.

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <utility>

#include <ATen/core/Tensor.h>
#include <ATen/native/Resize.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/autograd/variable.h>

#include "guarded.h"

namespace {

// Both return 0, or something else where they failed and keep the reason themselves.
using Before = int32_t (*)(void* context);
using Recompute = int32_t (*)(void* context, const at::Tensor* input, const at::Tensor* gradient,
                              at::Tensor* input_gradient);
using Drop = void (*)(void* context);

// The reason is the callback's; this only ends the backward that called it.
void check(int32_t status) {
  if (status != 0) {
    throw std::runtime_error("a unit's backward was called off");
  }
}

// Stands in the graph for a whole unit. It keeps the unit's input alone; the unit's own graph is
// built in backward, run and dropped again.
struct RecomputedUnit final : torch::autograd::Node {
  RecomputedUnit(const at::Tensor& input, Recompute recompute, std::shared_ptr<void> context)
      : torch::autograd::Node(torch::autograd::collect_next_edges(input)),
        input_(input, /*is_output=*/false),
        recompute_(recompute),
        context_(std::move(context)) {}

  torch::autograd::variable_list apply(torch::autograd::variable_list&& gradients) override {
    at::Tensor input_gradient;
    if (gradients.at(0).defined()) {
      const at::Tensor input = input_.unpack().detach();
      input.set_requires_grad(task_should_compute_output(0));
      check(recompute_(context_.get(), &input, &gradients[0], &input_gradient));
    }
    return {input_gradient};
  }

  void release_variables() override { input_.reset_data(); }

  std::string name() const override { return "RecomputedUnit"; }

  torch::autograd::SavedVariable input_;
  Recompute recompute_;
  std::shared_ptr<void> context_;
};

}  // namespace

extern "C" {

// The context is dropped with the graph, and on an error.
char* rustspeed_before_backward(const at::Tensor* output, Before before, Drop drop,
                                void* context) {
  return guarded([&] {
    std::shared_ptr<void> held(context, drop);
    output->register_hook(
        [held, before](const at::TensorBase&) -> void { check(before(held.get())); });
  });
}

// `output` is what the unit made of `input` without a graph; it becomes a part of the graph.
char* rustspeed_recompute_in_backward(const at::Tensor* input, at::Tensor* output,
                                      Recompute recompute, Drop drop, void* context) {
  return guarded([&] {
    std::shared_ptr<void> held(context, drop);
    std::shared_ptr<RecomputedUnit> node(new RecomputedUnit(*input, recompute, std::move(held)),
                                         torch::autograd::deleteNode);
    // A unit may hand its input through; the input's own place in the graph must stay.
    *output = output->detach();
    torch::autograd::set_history(*output, node);
  });
}

// Backward from a tensor that is no scalar. May be called inside another backward.
char* rustspeed_backward(const at::Tensor* output, const at::Tensor* gradient) {
  return guarded([&] { torch::autograd::backward({*output}, {*gradient}); });
}

void rustspeed_assign(at::Tensor* to, const at::Tensor* from) { *to = *from; }

// Of all tensors that share the storage. Zero gives its memory back; what was there is lost.
char* rustspeed_resize_storage(const at::Tensor* tensor, uint64_t bytes) {
  return guarded([&] {
    at::native::resize_bytes_cpu(tensor->storage().unsafeGetStorageImpl(), bytes);
  });
}

// What its memory really takes: none has no address either.
uint64_t rustspeed_storage_bytes(const at::Tensor* tensor) {
  const c10::Storage& storage = tensor->storage();
  return storage.data() == nullptr ? 0 : storage.nbytes();
}
}
