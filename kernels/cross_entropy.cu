// Cross entropy of softmax(logits) and a class label, per row.
// Mathematics: logits z [N,K], labels y [N]; loss_n = logsumexp(z_n) - z_n[y_n]; dz = g_n * (softmax(z_n) -
//   onehot(y_n)), where g_n = factor * dout[n * stride]: stride 0 and factor 1/N for the mean, stride 1 and
//   factor 1 for losses per sample.
// Threads: a group of LANES threads per row; ROWS rows per block.
// Preconditions: labels has N entries; src/ops/cross_entropy.rs checks. A label outside 0..K gives NaN, loss
//   and gradient, and reads nothing.
// Outputs: loss `=`; dz `=` or `+=` (accumulate).
// Accumulation: float32, a partial sum for each lane, then a fixed tree; the maximum is subtracted first.
//   Deterministic. No spills.
#include "lib/rows.cuh"

// loss[n] = logsumexp(z[n]) - z[n, label]
extern "C" __global__ __launch_bounds__(ROW_THREADS) void cross_entropy_forward(
    const float* logits, const int* labels, float* loss, int n, int k) {
  const int row = thread_row(), lane = thread_lane();
  if (row >= n) return;
  const LogSoftmax log_p(logits + row * k, 1.0f, lane, k);
  const int label = labels[row];
  if (lane == 0) loss[row] = label >= 0 && label < k ? -log_p.at(label) : NAN;
}

// dz (+)= factor * dout * (softmax(z) - onehot(label))
extern "C" __global__ __launch_bounds__(ROW_THREADS) void cross_entropy_backward(
    const float* grad_out, const float* logits, const int* labels, float* grad_in, int stride, float factor,
    int n, int k, bool accumulate) {
  const int row = thread_row(), lane = thread_lane();
  if (row >= n) return;
  const LogSoftmax log_p(logits + row * k, 1.0f, lane, k);
  const int label = labels[row];
  const float gradient = label >= 0 && label < k ? factor * grad_out[row * stride] : NAN;
  each_pack(lane, k, [&](int i) {
    const Pack p = vec_exp(log_p(i));
    pack_put(grad_in + row * k + i, gradient * pack_pick(i, label, p - 1.0f, p), k - i, accumulate);
  });
}
