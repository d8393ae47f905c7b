// The two losses of MART, per row.
// Mathematics: logits z, z' [N,K], labels y [N]; p = softmax(z), q = softmax(z').
//   bce: loss_n = -log q_y - log(R), R = (1 - q_r) + margin, r the first largest class but y;
//     dz'_k = g_n (q_k - [k = y] + q_r ([k = r] - q_k) / R).
//   weighted_kl: loss_n = D W, D = sum_k p_k h_k, h_k = log p_k - log(q_k + floor), W = (1 - p_y) + margin;
//     dz_k = g_n (W p_k (h_k - D) - D p_y ([k = y] - p_k)); with s_k = p_k q_k / (q_k + floor): dz'_k = g_n W (q_k sum_j s_j - s_k).
//   g_n = factor * dout[n * stride]. Every 1 - p_k is the sum of the other classes: near p_k = 1 a difference would have no digits left.
// Threads: a group of LANES threads a row; ROWS rows a block.
// Preconditions: z and z' have one shape, labels has N entries, K >= 2 for bce; src/ops/mart.rs checks. A label outside 0..K gives NaN, loss
//   and gradient, and reads nothing.
// Outputs: loss `=`; dz, dz' `=` or `+=` (accumulate).
// Accumulation: float32, a partial sum for each lane, then a fixed tree; logarithms come from log-softmax. Deterministic. No spills.
#include "lib/rows.cuh"

CONFIG(LANES, 32, 1)
CONFIG(ROWS, 8, 16)
CONFIG(THREADS, 256, 16)

// 1 - the probability of class `without`.
INLINE float rest(const LogSoftmax<LANES>& log_p, int without, int lane, int k) {
  return row_sum<LANES>(lane, k, [&](int i) { return i == without ? 0.0f : expf(log_p(i)); });
}

extern "C" __global__ void __launch_bounds__(THREADS)
// loss[n] = cross entropy - log(1 - the largest probability of a wrong class + margin)
mart_bce_forward(const float* logits, const int* labels, float* loss, float margin, int n, int k) {
  const int row = blockIdx.x * ROWS + threadIdx.x / LANES, lane = threadIdx.x % LANES;
  if (row >= n) return;
  const LogSoftmax<LANES> log_q(logits + row * k, 1.0f, lane, k);
  const int label = labels[row];
  const Best rival = row_best<LANES>(logits + row * k, lane, k, label);
  const float others = rest(log_q, rival.at, lane, k);
  if (lane == 0) loss[row] = label >= 0 && label < k ? -log_q(label) - logf(others + margin) : NAN;
}

extern "C" __global__ void __launch_bounds__(THREADS)
// dz' (+)= the gradient of mart_bce_forward
mart_bce_backward(const float* grad_out, const float* logits, const int* labels, float* grad_in, float margin, int stride, float factor,
                  int n, int k, int accumulate) {
  const int row = blockIdx.x * ROWS + threadIdx.x / LANES, lane = threadIdx.x % LANES;
  if (row >= n) return;
  const LogSoftmax<LANES> log_q(logits + row * k, 1.0f, lane, k);
  const int label = labels[row];
  const Best rival = row_best<LANES>(logits + row * k, lane, k, label);
  const float others = rest(log_q, rival.at, lane, k), pull = expf(log_q(rival.at)) / (others + margin);
  const float gradient = label >= 0 && label < k ? factor * grad_out[row * stride] : NAN;
  for (int i = lane; i < k; i += LANES) {
    const float q = expf(log_q(i));
    const float towards_label = i == label ? q - 1.0f : q, off_rival = i == rival.at ? others : -q;
    put(grad_in + row * k + i, gradient * (towards_label + pull * off_rival), accumulate);
  }
}

// What the three kernels of the weighted divergence need of a row.
struct Weighted {
  LogSoftmax<LANES> log_p, log_q;
  float floor, others, weight;
  int label;

  INLINE Weighted(const float* z, const float* z_adv, const int* labels, float margin, float least, int row, int lane, int k)
      : log_p(z + row * k, 1.0f, lane, k), log_q(z_adv + row * k, 1.0f, lane, k), floor(least), label(labels[row]) {
    others = rest(log_p, label, lane, k);
    weight = label >= 0 && label < k ? others + margin : NAN;
  }
  INLINE float surprise(int i) const { return log_p(i) - logf(expf(log_q(i)) + floor); }
  INLINE float divergence(int lane, int k) const {
    return row_sum<LANES>(lane, k, [&](int i) { return expect(expf(log_p(i)), surprise(i)); });
  }
};

extern "C" __global__ void __launch_bounds__(THREADS)
// loss[n] = KL(p || q + floor) * (1 - p[label] + margin)
mart_kl_forward(const float* z, const float* z_adv, const int* labels, float* loss, float margin, float floor, int n, int k) {
  const int row = blockIdx.x * ROWS + threadIdx.x / LANES, lane = threadIdx.x % LANES;
  if (row >= n) return;
  const Weighted pair(z, z_adv, labels, margin, floor, row, lane, k);
  const float divergence = pair.divergence(lane, k);
  if (lane == 0) loss[row] = divergence * pair.weight;
}

extern "C" __global__ void __launch_bounds__(THREADS)
// dz (+)= the gradient of the clean side, through the divergence and the weight
mart_kl_backward_clean(const float* grad_out, const float* z, const float* z_adv, const int* labels, float* grad_in, float margin,
                       float floor, int stride, float factor, int n, int k, int accumulate) {
  const int row = blockIdx.x * ROWS + threadIdx.x / LANES, lane = threadIdx.x % LANES;
  if (row >= n) return;
  const Weighted pair(z, z_adv, labels, margin, floor, row, lane, k);
  const float divergence = pair.divergence(lane, k), gradient = factor * grad_out[row * stride];
  const float sure = pair.weight == pair.weight ? expf(pair.log_p(pair.label)) : NAN;
  for (int i = lane; i < k; i += LANES) {
    const float p = expf(pair.log_p(i)), off_label = i == pair.label ? pair.others : -p;
    const float slope = pair.weight * expect(p, pair.surprise(i) - divergence) - divergence * sure * off_label;
    put(grad_in + row * k + i, gradient * slope, accumulate);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
// dz' (+)= the gradient of the adversarial side
mart_kl_backward_adv(const float* grad_out, const float* z, const float* z_adv, const int* labels, float* grad_in, float margin,
                     float floor, int stride, float factor, int n, int k, int accumulate) {
  const int row = blockIdx.x * ROWS + threadIdx.x / LANES, lane = threadIdx.x % LANES;
  if (row >= n) return;
  const Weighted pair(z, z_adv, labels, margin, floor, row, lane, k);
  const auto share = [&](int i, float q) { return expf(pair.log_p(i)) * (q / (q + floor)); };
  const float total = row_sum<LANES>(lane, k, [&](int i) { return share(i, expf(pair.log_q(i))); });
  const float gradient = factor * grad_out[row * stride] * pair.weight;
  for (int i = lane; i < k; i += LANES) {
    const float q = expf(pair.log_q(i));
    put(grad_in + row * k + i, gradient * (q * total - share(i, q)), accumulate);
  }
}
