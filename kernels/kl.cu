// Kullback-Leibler divergence of the softmax of two logit tensors, per row.
// Mathematics: u, v [N,K]; p = softmax(u), q = softmax(v); loss_n = sum_k p_k (log p_k - log q_k);
//   du_k = g_n * p_k ((log p_k - log q_k) - loss_n); dv_k = g_n * (q_k - p_k), where g_n = factor * dout[n * stride].
// Threads: a group of LANES threads a row; ROWS rows a block.
// Preconditions: u and v have one shape; src/ops/kl.rs checks.
// Outputs: loss `=`; du, dv `=` or `+=` (accumulate).
// Accumulation: float32, a partial sum for each lane, then a fixed tree; logarithms come from log-softmax. Deterministic. No spills.
#include "lib/rows.cuh"

CONFIG(LANES, 32, 1)
CONFIG(ROWS, 8, 16)
CONFIG(THREADS, 256, 16)

// Both distributions of one row.
struct Pair {
  LogSoftmax<LANES> log_p, log_q;

  INLINE Pair(const float* u, const float* v, int lane, int k) : log_p(u, 1.0f, lane, k), log_q(v, 1.0f, lane, k) {}
  INLINE float divergence(int lane, int k) const {
    return row_sum<LANES>(lane, k, [&](int i) { return expect(pack_exp(log_p(i)), log_p(i) - log_q(i)); });
  }
};

extern "C" __global__ void __launch_bounds__(THREADS)
// loss[n] = KL(softmax(u[n]) || softmax(v[n]))
kl_forward(const float* u, const float* v, float* loss, int n, int k) {
  const int row = blockIdx.x * ROWS + threadIdx.x / LANES, lane = threadIdx.x % LANES;
  if (row >= n) return;
  const Pair pair(u + row * k, v + row * k, lane, k);
  const float divergence = pair.divergence(lane, k);
  if (lane == 0) loss[row] = divergence;
}

extern "C" __global__ void __launch_bounds__(THREADS)
// du (+)= factor * dout * p * (log p - log q - KL), the gradient of the first side
kl_backward_first(const float* grad_out, const float* u, const float* v, float* grad_in, int stride, float factor, int n, int k,
                  bool accumulate) {
  const int row = blockIdx.x * ROWS + threadIdx.x / LANES, lane = threadIdx.x % LANES;
  if (row >= n) return;
  const Pair pair(u + row * k, v + row * k, lane, k);
  const float divergence = pair.divergence(lane, k), gradient = factor * grad_out[row * stride];
  row_each<LANES>(lane, k, [&](int i) {
    const Pack log_p = pair.log_p(i), excess = log_p - pair.log_q(i) - pack_splat(divergence);
    pack_put(grad_in + row * k + i, pack_splat(gradient) * expect(pack_exp(log_p), excess), k - i, accumulate);
  });
}

extern "C" __global__ void __launch_bounds__(THREADS)
// dv (+)= factor * dout * (q - p), the gradient of the second side
kl_backward_second(const float* grad_out, const float* u, const float* v, float* grad_in, int stride, float factor, int n, int k,
                   bool accumulate) {
  const int row = blockIdx.x * ROWS + threadIdx.x / LANES, lane = threadIdx.x % LANES;
  if (row >= n) return;
  const Pair pair(u + row * k, v + row * k, lane, k);
  const float gradient = factor * grad_out[row * stride];
  row_each<LANES>(lane, k, [&](int i) {
    const Pack excess = pack_exp(pair.log_q(i)) - pack_exp(pair.log_p(i));
    pack_put(grad_in + row * k + i, pack_splat(gradient) * excess, k - i, accumulate);
  });
}
