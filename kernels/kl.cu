// Kullback-Leibler divergence of the softmax of two logit tensors, per row.
// Mathematics: u, v [N,K]; p = softmax(u), q = softmax(v); loss_n = sum_k p_k (log p_k - log q_k);
//   du_k = g_n * p_k ((log p_k - log q_k) - loss_n); dv_k = g_n * (q_k - p_k), where g_n = factor * dout[n *
//   stride].
// Threads: a group of LANES threads per row; ROWS rows per block.
// Preconditions: u and v have one shape; src/ops/kl.rs checks.
// Outputs: loss `=`; du, dv `=` or `+=` (accumulate).
// Accumulation: float32, a partial sum for each lane, then a fixed tree; logarithms come from log-softmax.
//   Deterministic. No spills.
#include "lib/rows.cuh"

// Both distributions of one row.
struct Pair {
  LogSoftmax log_p, log_q;

  INLINE Pair(const float* u, const float* v, int lane, int k)
      : log_p(u, 1.0f, lane, k),
        log_q(v, 1.0f, lane, k) {}
  INLINE float divergence(int lane, int k) const {
    return row_sum(lane, k, [&](int i) { return expect(vec_exp(log_p(i)), log_p(i) - log_q(i)); });
  }
};

// loss[n] = KL(softmax(u[n]) || softmax(v[n]))
extern "C" __global__ __launch_bounds__(ROW_THREADS) void kl_forward(
    const float* u, const float* v, float* loss, int n, int k) {
  const int row = thread_row(), lane = thread_lane();
  if (row >= n) return;
  const Pair pair(u + row * k, v + row * k, lane, k);
  const float divergence = pair.divergence(lane, k);
  if (lane == 0) loss[row] = divergence;
}

// du (+)= factor * dout * p * (log p - log q - KL), the gradient of the first side
extern "C" __global__ __launch_bounds__(ROW_THREADS) void kl_backward_first(
    const float* grad_out, const float* u, const float* v, float* grad_in, int stride, float factor, int n,
    int k, bool accumulate) {
  const int row = thread_row(), lane = thread_lane();
  if (row >= n) return;
  const Pair pair(u + row * k, v + row * k, lane, k);
  const float divergence = pair.divergence(lane, k), gradient = factor * grad_out[row * stride];
  each_pack(lane, k, [&](int i) {
    const Pack log_p = pair.log_p(i), excess = log_p - pair.log_q(i) - divergence;
    pack_put(grad_in + row * k + i, gradient * expect(vec_exp(log_p), excess), k - i, accumulate);
  });
}

// dv (+)= factor * dout * (q - p), the gradient of the second side
extern "C" __global__ __launch_bounds__(ROW_THREADS) void kl_backward_second(
    const float* grad_out, const float* u, const float* v, float* grad_in, int stride, float factor, int n,
    int k, bool accumulate) {
  const int row = thread_row(), lane = thread_lane();
  if (row >= n) return;
  const Pair pair(u + row * k, v + row * k, lane, k);
  const float gradient = factor * grad_out[row * stride];
  each_pack(lane, k, [&](int i) {
    const Pack excess = vec_exp(pair.log_q(i)) - vec_exp(pair.log_p(i));
    pack_put(grad_in + row * k + i, gradient * excess, k - i, accumulate);
  });
}
