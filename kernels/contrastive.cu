// The supervised contrastive loss of adversarial anchors, per anchor; the products of matrices are
// linear.cu's.
// Mathematics: features f [N,D]; u = f / max(|f|, floor). Anchors i are the adversarial images; a set has
//   members a with labels y_a: the clean images and, in a second block of columns, the adversarial ones
//   without i itself. s_ia = <u_i, u_a> / tau, p_ia = softmax over a;
//   P(i) are the members with y_a = y_i. loss_i = -1/|P(i)| sum over P(i) of log p_ia; d loss_i / d s_ia =
//   p_ia - [a in P(i)] / |P(i)|. df = (du - <u, du> u) / |f|, and du / floor where |f| is at the floor.
// Threads: a group of LANES threads per row; ROWS rows per block.
// Preconditions: labels has N entries, tau > 0, sizes match; src/ops/contrastive.rs checks. Labels are only
//   compared with each other.
// Outputs: units, norms, loss, scaled slopes `=`; similarities become slopes in place; df `=` or `+=`
//   (accumulate).
// Accumulation: float32, a partial sum for each lane (and, over features, of its Pack), then a fixed tree;
//   the maximum is subtracted first.
//   Deterministic. No spills.
#include "lib/rows.cuh"

// <a, b> of d numbers, in every lane.
INLINE float dot(const float* a, const float* b, int lane, int d) {
  Pack sum = pack_splat(0.0f);
  for (int i = lane * PACK; i < d; i += LANES * PACK)
    sum = vec_fma(pack_load(a + i, d - i), pack_load(b + i, d - i), sum);
  return warp_sum<LANES>(lane_sum(sum));
}

// units = f / max(|f|, floor), norms = |f|, per row
extern "C" __global__ __launch_bounds__(ROW_THREADS) void contrastive_units(
    const float* f, float* units, float* norms, float floor, int n, int d) {
  const int row = thread_row(), lane = thread_lane();
  if (row >= n) return;
  f += row * d;
  units += row * d;
  const float norm = sqrtf(dot(f, f, lane, d));
  const float divisor = norm < floor ? floor : norm;
  for (int i = lane * PACK; i < d; i += LANES * PACK)
    pack_put(units + i, pack_load(f + i, d - i) / divisor, d - i, 0);
  if (lane == 0) norms[row] = norm;
}

// df (+)= the gradient of contrastive_units
extern "C" __global__ __launch_bounds__(ROW_THREADS) void contrastive_units_backward(
    const float* grad_units, const float* units, const float* norms, float* grad_in, float floor, int n,
    int d, bool accumulate) {
  const int row = thread_row(), lane = thread_lane();
  if (row >= n) return;
  grad_units += row * d;
  units += row * d;
  grad_in += row * d;
  const float norm = norms[row], along = norm <= floor ? 0.0f : dot(grad_units, units, lane, d);
  const float inverse = 1.0f / (norm < floor ? floor : norm);
  for (int i = lane * PACK; i < d; i += LANES * PACK) {
    const Pack across = vec_fma(-along, pack_load(units + i, d - i), pack_load(grad_units + i, d - i));
    pack_put(grad_in + i, across * inverse, d - i, accumulate);
  }
}

// loss per anchor; `clean` and `adv`, <u_i, u_a> for the members of the set, become d loss_i / d <u_i, u_a>
extern "C" __global__ __launch_bounds__(ROW_THREADS) void contrastive_rows(
    float* clean, NULLABLE float* adv, const int* labels, float* loss, float inv_temp, int n) {
  const int row = thread_row(), lane = thread_lane();
  if (row >= n) return;
  clean += row * n;
  if (adv) adv += row * n;
  const int label = labels[row];
  // Calls f(similarity, is it a positive) for the members of the set that belong to this lane.
  const auto each = [&](auto f) {
    for (int a = lane; a < n; a += LANES) f(clean[a], labels[a] == label);
    if (adv) {
      for (int a = lane; a < n; a += LANES)
        if (a != row) f(adv[a], labels[a] == label);
    }
  };
  float top = -INFINITY;
  each([&](float& s, bool) { top = fmaxf(top, inv_temp * s); });
  top = warp_max<LANES>(top);
  // From here on similarities are relative to the largest one.
  float sum = 0.0f, positive_sum = 0.0f, positives = 0.0f;
  each([&](float& s, bool positive) {
    const float relative = inv_temp * s - top;
    if (positive) {
      positive_sum += relative;
      positives += 1.0f;
    }
    s = expf(relative);
    sum += s;
  });
  sum = warp_sum<LANES>(sum);
  const float share = 1.0f / warp_sum<LANES>(positives);
  positive_sum = warp_sum<LANES>(positive_sum);
  if (lane == 0) loss[row] = logf(sum) - share * positive_sum;
  const float inverse = 1.0f / sum;
  each([&](float& s, bool positive) { s = inv_temp * (inverse * s - (positive ? share : 0.0f)); });
  if (adv && row % LANES == lane) adv[row] = 0.0f;
}

// scaled = factor * dout per anchor * slopes
extern "C" __global__ __launch_bounds__(ROW_THREADS) void contrastive_scale(
    const float* grad_out, const float* slopes, float* scaled, int stride, float factor, int n) {
  const int row = thread_row(), lane = thread_lane();
  if (row >= n) return;
  slopes += row * n;
  scaled += row * n;
  const Pack gradient = pack_splat(factor * grad_out[row * stride]);
  for (int i = lane * PACK; i < n; i += LANES * PACK)
    pack_put(scaled + i, gradient * pack_load(slopes + i, n - i), n - i, 0);
}
