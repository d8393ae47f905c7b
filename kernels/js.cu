// Jensen-Shannon divergence of the softmax of two logit tensors at a temperature T, per row.
// Mathematics: u, v [N,K]; p = softmax(u/T), q = softmax(v/T), m = max((p+q)/2, floor); loss_n = sum_k (p
//   (log p - log m) + q (log q - log m))/2.
//   With h = (log p - log m + [m is at the floor]) / 2: du = g_n / T * p (h - sum_j p_j h_j), where g_n =
//   factor * dout[n * stride]; dv is the same with the sides swapped.
// Threads: a group of LANES threads per row; ROWS rows per block.
// Preconditions: u and v have one shape, T > 0; src/ops/js.rs checks. inv_temp is 1/T.
// Outputs: loss `=`; du `=` or `+=` (accumulate).
// Accumulation: float32, a partial sum for each lane, then a fixed tree; logarithms come from log-softmax.
//   Deterministic. No spills.
#include "lib/js.cuh"

// loss[n] = JS(softmax(u[n] / T), softmax(v[n] / T)), the mixture kept above the floor
extern "C" __global__ __launch_bounds__(ROW_THREADS) void js_forward(
    const float* u, const float* v, float* loss, float inv_temp, float floor, int n, int k) {
  const int row = thread_row(), lane = thread_lane();
  if (row >= n) return;
  const LogSoftmax log_p(u + row * k, inv_temp, lane, k), log_q(v + row * k, inv_temp, lane, k);
  const float divergence = js_divergence(log_p, log_q, floor, lane, k);
  if (lane == 0) loss[row] = divergence;
}

// du (+)= the gradient of one side, `own`; `other` is the other side's logits
extern "C" __global__ __launch_bounds__(ROW_THREADS) void js_backward(
    const float* grad_out, const float* own, const float* other, float* grad_in, float inv_temp, float floor,
    int stride, float factor, int n, int k, bool accumulate) {
  const int row = thread_row(), lane = thread_lane();
  if (row >= n) return;
  const LogSoftmax log_p(own + row * k, inv_temp, lane, k), log_q(other + row * k, inv_temp, lane, k);
  const float gradient = inv_temp * factor * grad_out[row * stride];
  js_gradient(log_p, log_p, log_q, floor, gradient, grad_in + row * k, lane, k, accumulate);
}
