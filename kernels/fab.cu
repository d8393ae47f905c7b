// Steps of FAB, the fast adaptive boundary attack, on the rows of a batch [N, size].
// Mathematics: with the linear model z_t - z_y = h + <w, . - x_k> around x_k, d1 and d2 the shortest steps
//   (Linf or L2) within [0, 1] from x_k and from x to where it is 0 (lib/hyperplane.cuh), al = min(|d1| /
//   (|d1| + |d2|), alpha_max), norms at least 1e-8:
//     step:    x_k <- clip01((1 - al)(x_k + eta d1) + al (x + eta d2))
//     keep:    where x_k is misclassified: adv <- x_k and best <- |x_k - x| if that is less than best; then
//       x_k <- x + beta (x_k - x)
//     within:  [best <= eps]
//     nearest: (h, w) <- (h_k, w_k) and distance <- |h_k| / (|w_k|_dual + 1e-12) if that is less than
//       distance and k is not the label
// Threads: a block per row, one thread on the host.
// Preconditions: rows of equal size, x and x_k in [0, 1]; checked by src/ops/fab.rs. NaN in h or w gives a
//   NaN or a finite point; a NaN point is never kept.
// Outputs: in place.
// Accumulation: float32, VEC sums per thread, then a fixed tree, all of them over one row: a row's bits do
//   not depend on its batch.
//   Deterministic. No spills.
#include "lib/hyperplane.cuh"

constexpr float LEAST_NORM = 1e-8f;

template <bool euclidean>
INLINE void step_row(
    float* walk, const float* x, const float* w, float h, float alpha_max, float eta, int size) {
  SHARED(float, halves, SCRATCH);
  Scratch scratch(halves);
  typedef Step<euclidean> Steps;
  const bool aligned = rows_aligned(size);
  Vec products = vec_splat(0.0f), largest = vec_splat(0.0f);
  each_of_sample(size, [&](int i, int count) {
    const Vec slope = vec_load(w + i, count, aligned);
    products = vec_fma(slope, vec_load(x + i, count, aligned) - vec_load(walk + i, count, aligned), products);
    largest = vec_max(vec_abs(slope), largest);
  });
  const float unit = unit_of(block_max<SAMPLE_THREADS>(lane_max(largest), scratch));
  const float h_at_x = h + block_sum<SAMPLE_THREADS>(lane_sum(products), scratch);
  const Steps d1(walk, w, size, h, unit, scratch), d2(x, w, size, h_at_x, unit, scratch);
  const float a1 = fmaxf(row_norm<euclidean>(size, scratch, d1), LEAST_NORM);
  const float a2 = fmaxf(row_norm<euclidean>(size, scratch, d2), LEAST_NORM);
  const float alpha = fminf(fmaxf(a1 / (a1 + a2), 0.0f), alpha_max);
  // A thread reads and writes its own runs only.
  each_of_sample(size, [&](int i, int count) {
    const Vec far = vec_splat(eta);
    const Vec from_walk = vec_fma(far, d1(i, count), vec_load(walk + i, count, aligned));
    const Vec from_x = vec_fma(far, d2(i, count), vec_load(x + i, count, aligned));
    vec_store(walk + i, vec_clip01((1.0f - alpha) * from_walk + alpha * from_x), count, aligned);
  });
}

// one step of the walk, shortest in Linf
extern "C" __global__ __launch_bounds__(SAMPLE_THREADS) void fab_step_linf(
    float* walk, const float* x, const float* w, const float* h, float alpha_max, float eta, int size) {
  const int row = blockIdx.x, start = row * size;
  step_row<false>(walk + start, x + start, w + start, h[row], alpha_max, eta, size);
}

// one step of the walk, shortest in L2
extern "C" __global__ __launch_bounds__(SAMPLE_THREADS) void fab_step_l2(
    float* walk, const float* x, const float* w, const float* h, float alpha_max, float eta, int size) {
  const int row = blockIdx.x, start = row * size;
  step_row<true>(walk + start, x + start, w + start, h[row], alpha_max, eta, size);
}

template <bool euclidean>
INLINE void keep_row(float* walk, const float* x, float* best, float* adv, float beta, int size) {
  SHARED(float, halves, SCRATCH);
  Scratch scratch(halves);
  const bool aligned = rows_aligned(size);
  const float before = *best;
  const float norm = row_norm<euclidean>(size, scratch, [&](int i, int count) {
    return vec_load(walk + i, count, aligned) - vec_load(x + i, count, aligned);
  });
  const bool closer = norm < before;
  // All threads have read *best before they met in row_norm.
  if (closer && threadIdx.x == 0) *best = norm;
  each_of_sample(size, [&](int i, int count) {
    const Vec point = vec_load(walk + i, count, aligned), centre = vec_load(x + i, count, aligned);
    if (closer) vec_store(adv + i, point, count, aligned);
    vec_store(walk + i, vec_fma(beta, point - centre, centre), count, aligned);
  });
}

// where misclassified: the point is kept if it is the closest in Linf, and the walk goes back towards x
extern "C" __global__ __launch_bounds__(SAMPLE_THREADS) void fab_keep_linf(
    float* walk, const float* x, const int* correct, float* best, float* adv, float beta, int size) {
  const int row = blockIdx.x, start = row * size;
  if (correct[row] == 0) keep_row<false>(walk + start, x + start, best + row, adv + start, beta, size);
}

// where misclassified: the point is kept if it is the closest in L2, and the walk goes back towards x
extern "C" __global__ __launch_bounds__(SAMPLE_THREADS) void fab_keep_l2(
    float* walk, const float* x, const int* correct, float* best, float* adv, float beta, int size) {
  const int row = blockIdx.x, start = row * size;
  if (correct[row] == 0) keep_row<true>(walk + start, x + start, best + row, adv + start, beta, size);
}

// the hyperplane of class k replaces the nearest one where it is nearer; dual 1: distance by |w|_1, dual 2:
// by |w|_2; first: replace always
extern "C" __global__ __launch_bounds__(SAMPLE_THREADS) void fab_nearest(
    const float* w_k, const float* h_k, const int* labels, float* w, float* h, float* distance, int k,
    int dual, bool first, int size) {
  SHARED(float, halves, SCRATCH);
  Scratch scratch(halves);
  const int row = blockIdx.x, start = row * size;
  const bool aligned = rows_aligned(size);
  const float before = first ? INFINITY : distance[row];
  Vec total = vec_splat(0.0f);
  each_of_sample(size, [&](int i, int count) {
    const Vec slope = vec_load(w_k + start + i, count, aligned);
    total = dual == 1 ? total + vec_abs(slope) : vec_fma(slope, slope, total);
  });
  const float sum = block_sum<SAMPLE_THREADS>(lane_sum(total), scratch);
  const float here =
      labels[row] == k ? INFINITY : fabsf(h_k[row]) / ((dual == 1 ? sum : sqrtf(sum)) + 1e-12f);
  if (!first && !(here < before)) return;
  // All threads have read the distance before they met in block_sum.
  if (threadIdx.x == 0) {
    distance[row] = here;
    h[row] = h_k[row];
  }
  each_of_sample(size, [&](int i, int count) {
    vec_store(w + start + i, vec_load(w_k + start + i, count, aligned), count, aligned);
  });
}

// within[n] = 1 where best[n] <= eps, else 0
extern "C" __global__ __launch_bounds__(ELEMENTWISE_THREADS) void fab_within(
    const float* best, int* within, float eps, int n) {
  each_vec(n, [&](int i, int count) {
    for (int j = i; j < i + count; j++) within[j] = best[j] <= eps ? 1 : 0;
  });
}
