// The two losses of MART, per row.
// Mathematics: logits z, z' [N,K], labels y [N]; p = softmax(z), q = softmax(z').
//   boosted_ce: loss_n = -log q_y - log(R), R = (1 - q_r) + margin, r the first largest class but y;
//     dz'_k = g_n (q_k - [k = y] + q_r ([k = r] - q_k) / R).
//   weighted_kl: loss_n = D W, D = sum_k p_k h_k, h_k = log p_k - log(q_k + floor), W = (1 - p_y) + margin;
//     dz_k = g_n (W p_k (h_k - D) - D p_y ([k = y] - p_k)); with s_k = p_k q_k / (q_k + floor): dz'_k = g_n W
//     (q_k sum_j s_j - s_k).
//   g_n = factor * dout[n * stride]. Every 1 - p_k is the sum of the other classes: near p_k = 1 a difference
//   would have no digits left.
// Threads: a group of LANES threads per row; ROWS rows per block.
// Preconditions: z and z' have one shape, labels has N entries, K >= 2 for boosted_ce; src/ops/mart.rs
//   checks. A label outside 0..K gives NaN, loss and gradient, and reads nothing.
// Outputs: loss `=`; dz, dz' `=` or `+=` (accumulate).
// Accumulation: float32, a partial sum for each lane, then a fixed tree; logarithms come from log-softmax.
//   Deterministic. No spills.
#include "lib/rows.cuh"

// 1 - the probability of class `without`.
INLINE float rest(const LogSoftmax& log_p, int without, int lane, int k) {
  return row_sum(lane, k, [&](int i) { return pack_pick(i, without, pack_splat(0.0f), vec_exp(log_p(i))); });
}

// loss[n] = cross entropy - log(1 - the largest probability of a wrong class + margin)
extern "C" __global__ __launch_bounds__(ROW_THREADS) void mart_boosted_ce_forward(
    const float* logits, const int* labels, float* loss, float margin, int n, int k) {
  const int row = thread_row(), lane = thread_lane();
  if (row >= n) return;
  const LogSoftmax log_q(logits + row * k, 1.0f, lane, k);
  const int label = labels[row];
  const Best rival = row_best(logits + row * k, lane, k, label);
  const float others = rest(log_q, rival.at, lane, k);
  if (lane == 0) loss[row] = label >= 0 && label < k ? -log_q.at(label) - logf(others + margin) : NAN;
}

// dz' (+)= the gradient of mart_boosted_ce_forward
extern "C" __global__ __launch_bounds__(ROW_THREADS) void mart_boosted_ce_backward(
    const float* grad_out, const float* logits, const int* labels, float* grad_in, float margin, int stride,
    float factor, int n, int k, bool accumulate) {
  const int row = thread_row(), lane = thread_lane();
  if (row >= n) return;
  const LogSoftmax log_q(logits + row * k, 1.0f, lane, k);
  const int label = labels[row];
  const Best rival = row_best(logits + row * k, lane, k, label);
  const float others = rest(log_q, rival.at, lane, k), pull = expf(log_q.at(rival.at)) / (others + margin);
  const float gradient = label >= 0 && label < k ? factor * grad_out[row * stride] : NAN;
  each_pack(lane, k, [&](int i) {
    const Pack q = vec_exp(log_q(i)), zero = pack_splat(0.0f);
    const Pack towards_label = pack_pick(i, label, q - 1.0f, q);
    const Pack off_rival = pack_pick(i, rival.at, pack_splat(others), zero - q);
    const Pack slope = vec_fma(pull, off_rival, towards_label);
    pack_put(grad_in + row * k + i, gradient * slope, k - i, accumulate);
  });
}

// The terms of a row that the three kernels of the weighted divergence share.
struct Weighted {
  LogSoftmax log_p, log_q;
  float floor, others, weight;
  int label;

  INLINE Weighted(
      const float* z, const float* z_adv, const int* labels, float margin, float least, int row, int lane,
      int k)
      : log_p(z + row * k, 1.0f, lane, k),
        log_q(z_adv + row * k, 1.0f, lane, k),
        floor(least),
        label(labels[row]) {
    others = rest(log_p, label, lane, k);
    weight = label >= 0 && label < k ? others + margin : NAN;
  }
  INLINE Pack surprise(int i) const { return log_p(i) - vec_log(vec_exp(log_q(i)) + floor); }
  INLINE float divergence(int lane, int k) const {
    return row_sum(lane, k, [&](int i) { return expect(vec_exp(log_p(i)), surprise(i)); });
  }
};

// loss[n] = KL(p || q + floor) * (1 - p[label] + margin)
extern "C" __global__ __launch_bounds__(ROW_THREADS) void mart_kl_forward(
    const float* z, const float* z_adv, const int* labels, float* loss, float margin, float floor, int n,
    int k) {
  const int row = thread_row(), lane = thread_lane();
  if (row >= n) return;
  const Weighted pair(z, z_adv, labels, margin, floor, row, lane, k);
  const float divergence = pair.divergence(lane, k);
  if (lane == 0) loss[row] = divergence * pair.weight;
}

// dz (+)= the gradient of the clean side, through the divergence and the weight
extern "C" __global__ __launch_bounds__(ROW_THREADS) void mart_kl_backward_clean(
    const float* grad_out, const float* z, const float* z_adv, const int* labels, float* grad_in,
    float margin, float floor, int stride, float factor, int n, int k, bool accumulate) {
  const int row = thread_row(), lane = thread_lane();
  if (row >= n) return;
  const Weighted pair(z, z_adv, labels, margin, floor, row, lane, k);
  const float divergence = pair.divergence(lane, k), gradient = factor * grad_out[row * stride];
  const float sure = pair.weight == pair.weight ? expf(pair.log_p.at(pair.label)) : NAN;
  each_pack(lane, k, [&](int i) {
    const Pack p = vec_exp(pair.log_p(i));
    const Pack off_label = pack_pick(i, pair.label, pack_splat(pair.others), pack_splat(0.0f) - p);
    const Pack through_divergence = pair.weight * expect(p, pair.surprise(i) - divergence);
    const Pack slope = vec_fma(-divergence * sure, off_label, through_divergence);
    pack_put(grad_in + row * k + i, gradient * slope, k - i, accumulate);
  });
}

// dz' (+)= the gradient of the adversarial side
extern "C" __global__ __launch_bounds__(ROW_THREADS) void mart_kl_backward_adv(
    const float* grad_out, const float* z, const float* z_adv, const int* labels, float* grad_in,
    float margin, float floor, int stride, float factor, int n, int k, bool accumulate) {
  const int row = thread_row(), lane = thread_lane();
  if (row >= n) return;
  const Weighted pair(z, z_adv, labels, margin, floor, row, lane, k);
  const auto share = [&](int i, Pack q) { return vec_exp(pair.log_p(i)) * (q / (q + floor)); };
  const float total = row_sum(lane, k, [&](int i) { return share(i, vec_exp(pair.log_q(i))); });
  const float gradient = factor * grad_out[row * stride] * pair.weight;
  each_pack(lane, k, [&](int i) {
    const Pack q = vec_exp(pair.log_q(i)), slope = q * total - share(i, q);
    pack_put(grad_in + row * k + i, gradient * slope, k - i, accumulate);
  });
}
