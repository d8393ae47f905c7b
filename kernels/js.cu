// Jensen-Shannon divergence of the softmax of two logit tensors at a temperature T, per row.
// Mathematics: u, v [N,K]; p = softmax(u/T), q = softmax(v/T), m = max((p+q)/2, floor); loss_n = sum_k (p (log p - log m) + q (log q - log m))/2.
//   With h = (log p - log m + [m is at the floor]) / 2: du = g_n / T * p (h - sum_j p_j h_j), where g_n = factor * dout[n * stride]; dv is
//   the same with the sides swapped.
// Threads: a group of LANES threads a row; ROWS rows a block.
// Preconditions: u and v have one shape, T > 0; src/ops/js.rs checks. sharpness is 1/T.
// Outputs: loss `=`; du `=` or `+=` (accumulate).
// Accumulation: float32, a partial sum for each lane, then a fixed tree; logarithms come from log-softmax. Deterministic. No spills.
#include "lib/rows.cuh"

CONFIG(LANES, 32, 1)
CONFIG(ROWS, 8, 16)
CONFIG(THREADS, 256, 16)

extern "C" __global__ void __launch_bounds__(THREADS)
// loss[n] = JS(softmax(u[n] / T), softmax(v[n] / T)), the mixture kept above the floor
js_forward(const float* u, const float* v, float* loss, float sharpness, float floor, int n, int k) {
  const int row = blockIdx.x * ROWS + threadIdx.x / LANES, lane = threadIdx.x % LANES;
  if (row >= n) return;
  const LogSoftmax<LANES> log_p(u + row * k, sharpness, lane, k), log_q(v + row * k, sharpness, lane, k);
  const float divergence = row_sum<LANES>(lane, k, [&](int i) {
    const Pack p = pack_exp(log_p(i)), q = pack_exp(log_q(i)), log_m = pack_log(pack_max(pack_splat(floor), 0.5f * (p + q)));
    return expect(p, log_p(i) - log_m) + expect(q, log_q(i) - log_m);
  });
  if (lane == 0) loss[row] = 0.5f * divergence;
}

extern "C" __global__ void __launch_bounds__(THREADS)
// du (+)= the gradient of one side, `own`; `other` is the other side's logits
js_backward(const float* grad_out, const float* own, const float* other, float* grad_in, float sharpness, float floor, int stride,
            float factor, int n, int k, int accumulate) {
  const int row = blockIdx.x * ROWS + threadIdx.x / LANES, lane = threadIdx.x % LANES;
  if (row >= n) return;
  const LogSoftmax<LANES> log_p(own + row * k, sharpness, lane, k), log_q(other + row * k, sharpness, lane, k);
  // Twice the derivative of the loss for p_i, up to a constant that softmax's derivative removes.
  const auto slope = [&](int i, Pack p) {
    const Pack m = 0.5f * (p + pack_exp(log_q(i)));
    return log_p(i) - pack_log(pack_max(pack_splat(floor), m)) + (m < floor ? pack_splat(1.0f) : pack_splat(0.0f));
  };
  const float mean = row_sum<LANES>(lane, k, [&](int i) {
    const Pack p = pack_exp(log_p(i));
    return expect(p, slope(i, p));
  });
  const float gradient = 0.5f * sharpness * factor * grad_out[row * stride];
  row_each<LANES>(lane, k, [&](int i) {
    const Pack p = pack_exp(log_p(i));
    pack_put(grad_in + row * k + i, pack_splat(gradient) * expect(p, slope(i, p) - pack_splat(mean)), k - i, accumulate);
  });
}
