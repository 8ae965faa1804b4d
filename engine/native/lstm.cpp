// The LSTM layer of our `kernels` room as an operation of autograd, for engine/src/native/lstm.rs
// alone. No exception crosses this file, as in shim.cpp.

#include <array>
#include <cstdint>
#include <stdexcept>
#include <utility>

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include "guarded.h"

namespace {

using at::Tensor;

// As in lstm.rs.
struct Shape {
  uint64_t time;
  uint64_t batch;
  uint64_t inputs;
  uint64_t hidden;
  uint8_t reverse;
};

// Rows of (step, batch), `stride` floats apart, in `length` floats.
struct Rows {
  const float* values;
  uint64_t length;
  uint64_t stride;
};

// One call forward or backward; null is what that call does not use.
struct Call {
  Shape shape;
  Rows x;
  std::array<const float*, 4> weights;
  float* output;
  float* tape;
  Rows output_gradient;
  float* x_gradient;
  std::array<float*, 3> gradients;
};

// Returns 0, or something else and the reason as a C string in `reason`.
using Run = int32_t (*)(const Call* call, char* reason, uint64_t capacity);

struct Kernel {
  Run forward;
  Run backward;
  uint64_t output_stride;
  uint64_t tape_length;
};

void run(Run kernel, const Call& call) {
  char reason[256] = "";
  if (kernel(&call, reason, sizeof reason) != 0) {
    throw std::runtime_error(reason);
  }
}

// The tensor, or a copy of it, as rows.
std::pair<Tensor, Rows> rows_of(const Tensor& tensor) {
  const int64_t time = tensor.size(0), batch = tensor.size(1), width = tensor.size(2);
  const auto rows = [&](const Tensor& of, int64_t stride) {
    const int64_t length = (time * batch - 1) * stride + width;
    return std::pair<Tensor, Rows>(of, Rows{of.const_data_ptr<float>(),
                                            static_cast<uint64_t>(length),
                                            static_cast<uint64_t>(stride)});
  };
  if (!tensor.is_contiguous() && tensor.stride(2) == 1 && tensor.stride(1) >= width &&
      tensor.stride(0) == batch * tensor.stride(1)) {
    return rows(tensor, tensor.stride(1));
  }
  return rows(tensor.contiguous(), width);
}

Shape shape_of(const Tensor& x, const Tensor& weight_hh, bool reverse) {
  return Shape{static_cast<uint64_t>(x.size(0)), static_cast<uint64_t>(x.size(1)),
               static_cast<uint64_t>(x.size(2)), static_cast<uint64_t>(weight_hh.size(1)),
               static_cast<uint8_t>(reverse)};
}

// Weights are packed anew in forward and in backward and never kept: between the two they may be
// freed and gathered again.
struct Lstm final : torch::autograd::Function<Lstm> {
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& x,
                        const Tensor& weight_ih, const Tensor& weight_hh, const Tensor& bias_ih,
                        const Tensor& bias_hh, const Kernel& kernel, bool reverse) {
    const auto [x_held, x_rows] = rows_of(x);
    const int64_t stride = static_cast<int64_t>(kernel.output_stride);
    const Tensor memory = at::empty({x.size(0), x.size(1), stride}, x.options());
    const Tensor tape = at::empty({static_cast<int64_t>(kernel.tape_length)}, x.options());
    const std::array<Tensor, 4> weights{weight_ih.contiguous(), weight_hh.contiguous(),
                                        bias_ih.contiguous(), bias_hh.contiguous()};
    Call call{};
    call.shape = shape_of(x, weight_hh, reverse);
    call.x = x_rows;
    for (size_t i = 0; i < weights.size(); ++i) {
      call.weights[i] = weights[i].const_data_ptr<float>();
    }
    call.output = memory.mutable_data_ptr<float>();
    call.tape = tape.mutable_data_ptr<float>();
    run(kernel.forward, call);
    // The rows without the gaps between them, over the same memory; not a view, which autograd
    // would follow back to `memory`.
    const Tensor output =
        at::empty({0}, x.options())
            .set_(memory.storage(), 0, {x.size(0), x.size(1), weight_hh.size(1)},
                  {x.size(1) * stride, stride, 1});
    ctx->save_for_backward({x_held, weight_ih, weight_hh, output, tape});
    ctx->saved_data["backward"] = reinterpret_cast<int64_t>(kernel.backward);
    ctx->saved_data["reverse"] = reverse;
    return output;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& gradients) {
    if (at::GradMode::is_enabled()) {
      throw std::runtime_error("the LSTM kernel has no second derivative");
    }
    if (!gradients[0].defined()) {
      return torch::autograd::variable_list(7);
    }
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &output = saved[3], &tape = saved[4];
    const Tensor weight_ih = saved[1].contiguous(), weight_hh = saved[2].contiguous();
    const auto [x_held, x_rows] = rows_of(x);
    const auto [gradient_held, gradient_rows] = rows_of(gradients[0]);
    const Tensor x_gradient =
        ctx->needs_input_grad(0) ? at::empty(x.sizes(), x.options()) : Tensor();
    const Tensor ih_gradient = at::empty(weight_ih.sizes(), x.options());
    const Tensor hh_gradient = at::empty(weight_hh.sizes(), x.options());
    const Tensor bias_gradient = at::empty({weight_hh.size(0)}, x.options());

    Call call{};
    call.shape = shape_of(x, weight_hh, ctx->saved_data["reverse"].toBool());
    call.x = x_rows;
    call.weights = {weight_ih.const_data_ptr<float>(), weight_hh.const_data_ptr<float>()};
    // The kernel only reads them in backward.
    call.output = const_cast<float*>(output.const_data_ptr<float>());
    call.tape = const_cast<float*>(tape.const_data_ptr<float>());
    call.output_gradient = gradient_rows;
    call.x_gradient = x_gradient.defined() ? x_gradient.mutable_data_ptr<float>() : nullptr;
    call.gradients = {ih_gradient.mutable_data_ptr<float>(),
                      hh_gradient.mutable_data_ptr<float>(),
                      bias_gradient.mutable_data_ptr<float>()};
    run(reinterpret_cast<Run>(ctx->saved_data["backward"].toInt()), call);
    return {x_gradient, ih_gradient, hh_gradient, bias_gradient, bias_gradient, Tensor(),
            Tensor()};
  }
};

}  // namespace

extern "C" {

// `inputs`: x, weight_ih, weight_hh, bias_ih, bias_hh; fp32 on the CPU with shapes that fit, which
// lstm.rs has checked. The result is the caller's, or null with a message.
Tensor* rustspeed_lstm(const Tensor* const* inputs, const Kernel* kernel, uint8_t reverse,
                       char** message) {
  Tensor* result = nullptr;
  *message = guarded([&] {
    result = new Tensor(Lstm::apply(*inputs[0], *inputs[1], *inputs[2], *inputs[3], *inputs[4],
                                    *kernel, reverse != 0));
  });
  return result;
}
}
