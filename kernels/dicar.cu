// DICAR: the Jensen-Shannon divergence between what a network says of mixed images and the mixture of what it
//   says of the two views, over S.
// Mathematics: u [B,K] with row j for the member S_j; z1 and z2 [R,K], a view of image i at row i + o1 (i +
//   o2). P = softmax(u_j / T);
//   Q = softmax((r z1 + (1-r) z2) / T) (mix_probabilities = 0) or r softmax(z1 / T) + (1-r) softmax(z2 / T)
//   (1), views of S_j. loss_j = JS(P, Q) / |S|, the mixture kept above the floor as in js.cu; 0 for j >= |S|,
//   so that the sum over j is the loss. The gradients are those of js.cu; a view's is r or 1-r times that of
//   its softmax (of Q itself, or of the summand).
// Threads: a group of LANES threads per row; ROWS rows per block.
// Preconditions: shapes and offsets fit, T > 0; src/ops/dicar.rs checks. 0 <= r <= 1. inv_temp is 1/T.
// Outputs: loss `=`; du and dz `=` or `+=` (accumulate), 0 for rows without a member.
// Accumulation: float32, a partial sum for each lane, then a fixed tree; logarithms come from log-softmax.
//   Deterministic. No spills.
#include "lib/js.cuh"

// r a + (1 - r) b, entry by entry.
struct MixedRow {
  const float *a, *b;
  float r;
  INLINE Pack pack(int i, int count) const {
    return vec_fma(r, pack_load(a + i, count), (1.0f - r) * pack_load(b + i, count));
  }
};

// log(weight_a p_a + weight_b p_b), with the logarithms of all four.
struct LogMixture {
  LogSoftmax a, b;
  float log_weight_a, log_weight_b;
  INLINE Pack operator()(int i) const {
    const Pack x = a(i) + log_weight_a, y = b(i) + log_weight_b, top = vec_max(x, y);
    return top + vec_log(vec_exp(x - top) + vec_exp(y - top));
  }
};

// Calls f(log Q, log s1, log s2): the target of a member and the softmaxes through which its views enter.
template <class F>
INLINE void with_target(
    const float* z1, const float* z2, float r, float inv_temp, int mix_probabilities, int lane, int k, F f) {
  if (mix_probabilities) {
    const LogSoftmax log_a(z1, inv_temp, lane, k), log_b(z2, inv_temp, lane, k);
    f(LogMixture{log_a, log_b, logf(r), logf(1.0f - r)}, log_a, log_b);
  } else {
    const LogSoftmaxOf<MixedRow> log_q(MixedRow{z1, z2, r}, inv_temp, lane, k);
    f(log_q, log_q, log_q);
  }
}

// loss[j] = the divergence of the j-th member of S over |S|, 0 after the last
extern "C" __global__ __launch_bounds__(ROW_THREADS) void dicar_forward(
    const float* u, const float* z1, int offset1, const float* z2, int offset2, const int* members,
    const int* index, float* loss, const float* mix, float inv_temp, float floor, bool mix_probabilities,
    int n, int k) {
  const int row = thread_row(), lane = thread_lane();
  if (row >= n) return;
  if (row >= *members) {
    if (lane == 0) loss[row] = 0.0f;
    return;
  }
  const float *const first = z1 + (index[row] + offset1) * k, *const second = z2 + (index[row] + offset2) * k;
  const LogSoftmax log_p(u + row * k, inv_temp, lane, k);
  with_target(
      first, second, *mix, inv_temp, mix_probabilities, lane, k,
      [&](const auto& log_q, const auto&, const auto&) {
        const float divergence = js_divergence(log_p, log_q, floor, lane, k);
        if (lane == 0) loss[row] = divergence / *members;
      });
}

// du (+)= the gradient of the mixed images' logits
extern "C" __global__ __launch_bounds__(ROW_THREADS) void dicar_backward_mixed(
    const float* grad_out, const float* u, const float* z1, int offset1, const float* z2, int offset2,
    const int* members, const int* index, float* grad_in, const float* mix, float inv_temp, float floor,
    bool mix_probabilities, int n, int k, bool accumulate) {
  const int row = thread_row(), lane = thread_lane();
  if (row >= n) return;
  float* const to = grad_in + row * k;
  if (row >= *members) {
    for (int i = lane; i < k; i += LANES) put(to + i, 0.0f, accumulate);
    return;
  }
  const float *const first = z1 + (index[row] + offset1) * k, *const second = z2 + (index[row] + offset2) * k;
  const float gradient = inv_temp * *grad_out / *members;
  const LogSoftmax log_p(u + row * k, inv_temp, lane, k);
  with_target(
      first, second, *mix, inv_temp, mix_probabilities, lane, k,
      [&](const auto& log_q, const auto&, const auto&) {
        js_gradient(log_p, log_p, log_q, floor, gradient, to, lane, k, accumulate);
      });
}

// dz (+)= the gradient of the logits of view 1 (views = 1), view 2 (2), or both in one tensor (3) of n rows;
// B images
extern "C" __global__ __launch_bounds__(ROW_THREADS) void dicar_backward_views(
    const float* grad_out, const float* u, const float* z1, int offset1, const float* z2, int offset2,
    const int* members, const int* position, float* grad_in, const float* mix, float inv_temp, float floor,
    bool mix_probabilities, int views, int images, int n, int k, bool accumulate) {
  const int row = thread_row(), lane = thread_lane();
  if (row >= n) return;
  float* const to = grad_in + row * k;
  // The place in S of the image whose view 1 or 2 this row is, or -1.
  const auto place = [&](int view, int offset) {
    const int image = row - offset;
    return (views & view) && image >= 0 && image < images ? position[image] : -1;
  };
  const auto add = [&](int at, int image, bool is_first) {
    const float *const first = z1 + (image + offset1) * k, *const second = z2 + (image + offset2) * k;
    const float gradient = (is_first ? *mix : 1.0f - *mix) * inv_temp * *grad_out / *members;
    const LogSoftmax log_p(u + at * k, inv_temp, lane, k);
    with_target(
        first, second, *mix, inv_temp, mix_probabilities, lane, k,
        [&](const auto& log_q, const auto& log_a, const auto& log_b) {
          js_gradient(is_first ? log_a : log_b, log_q, log_p, floor, gradient, to, lane, k, accumulate);
        });
    accumulate = 1;
  };
  const int as_first = place(1, offset1), as_second = place(2, offset2);
  if (as_first >= 0) add(as_first, row - offset1, true);
  if (as_second >= 0) add(as_second, row - offset2, false);
  if (accumulate) return;
  for (int i = lane; i < k; i += LANES) to[i] = 0.0f;
}
