// One step of projected gradient ascent, in place on the adversarial images.
// Mathematics: Linf: x' <- clip01(clip(x' + a sign(g), x - eps, x + eps)).
//   L2, per sample: d <- x' + a g / (|g| + 1e-8) - x; d <- d min(1, eps / |d|); x' <- clip01(x + d).
//   Momentum, per sample: m <- mu m + g / |g|_1, where a gradient of less than 1e-30 adds nothing.
//   sign(0) = 0. NaN in g becomes NaN in x' (in L2 in the whole sample): the next loss is NaN, which stops a
//   training run, where a comparison that treats NaN as 0 would hide it.
// Threads: Linf: runs of VEC neighbouring elements (each_vec). L2, momentum: a block per sample, one thread
//   on the host.
// Preconditions: equal shapes; checked by src/ops/attack_step.rs.
// Outputs: adv and m in place.
// Accumulation: norms in float32, VEC sums per thread, then a fixed tree. |g| above 1.8e19 counts as
//   infinite:
//   no step. Deterministic.
// No spills.
#include "lib/linf_step.cuh"
#include "lib/sample.cuh"

// adv = clip01(clip(adv + alpha sign(grad), x - eps, x + eps))
extern "C" __global__ __launch_bounds__(ELEMENTWISE_THREADS) void attack_step_linf(
    float* adv, const float* grad, const float* x, float alpha, float eps, int n) {
  each_vec(n, [&](int i, int count) {
    const Vec from = vec_load(adv + i, count), gradient = vec_load(grad + i, count);
    vec_store(adv + i, linf_step(from, gradient, vec_load(x + i, count), alpha, eps), count);
  });
}

// per sample: adv = clip01(x + d), d the normalised step from adv, projected to the L2 ball
extern "C" __global__ __launch_bounds__(SAMPLE_THREADS) void attack_step_l2(
    float* adv, const float* grad, const float* x, float alpha, float eps, int size) {
  SHARED(float, halves, SCRATCH);
  Scratch scratch(halves);
  const bool aligned = rows_aligned(size);
  const int start = blockIdx.x * size;
  adv += start;
  grad += start;
  x += start;
  Vec squares = vec_splat(0.0f);
  each_of_sample(size, [&](int i, int count) {
    const Vec g = vec_load(grad + i, count, aligned);
    squares = vec_fma(g, g, squares);
  });
  const float step = alpha / (sqrtf(block_sum<SAMPLE_THREADS>(lane_sum(squares), scratch)) + 1e-8f);
  const auto moved = [&](int i, int count) {
    const Vec here = vec_load(adv + i, count, aligned) - vec_load(x + i, count, aligned);
    return vec_fma(step, vec_load(grad + i, count, aligned), here);
  };
  squares = vec_splat(0.0f);
  each_of_sample(size, [&](int i, int count) {
    const Vec d = moved(i, count);
    squares = vec_fma(d, d, squares);
  });
  const float norm = sqrtf(block_sum<SAMPLE_THREADS>(lane_sum(squares), scratch));
  const Vec shrink = vec_splat(norm > eps ? eps / norm : 1.0f);
  each_of_sample(size, [&](int i, int count) {
    vec_store(
        adv + i, vec_clip01(vec_fma(shrink, moved(i, count), vec_load(x + i, count, aligned))), count,
        aligned);
  });
}

// per sample: momentum = mu momentum + grad / |grad|_1
extern "C" __global__ __launch_bounds__(SAMPLE_THREADS) void attack_step_momentum(
    float* momentum, const float* grad, float mu, int size) {
  SHARED(float, halves, SCRATCH);
  Scratch scratch(halves);
  const bool aligned = rows_aligned(size);
  momentum += blockIdx.x * size;
  grad += blockIdx.x * size;
  Vec sum = vec_splat(0.0f);
  each_of_sample(size, [&](int i, int count) {
    const Vec g = vec_load(grad + i, count, aligned);
    sum = sum + vec_max(g, -1.0f * g);
  });
  const float norm = block_sum<SAMPLE_THREADS>(lane_sum(sum), scratch);
  const Vec scale = vec_splat(norm < 1e-30f ? 0.0f : 1.0f / norm);
  each_of_sample(size, [&](int i, int count) {
    const Vec kept = mu * vec_load(momentum + i, count, aligned);
    vec_store(momentum + i, vec_fma(scale, vec_load(grad + i, count, aligned), kept), count, aligned);
  });
}
