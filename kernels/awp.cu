// Moves a weight along its gradient, as far as a share of the weight's own norm.
// Mathematics: out = w + gamma |w| / (|g| + floor) g, both norms L2 over all n elements, any shape.
// Threads: squares and move: each takes runs of VEC neighbouring elements (each_vec); ratio: one block, each
//   thread adds runs of VEC sums.
// Preconditions: equal lengths; parts has two floats for every block of awp_squares; src/ops/awp.rs
//   checks.
// Outputs: parts, ratio, out `=`.
// Accumulation: float32: a sum for each lane of each thread, a fixed tree over the block, then the same over
//   the blocks' sums. Deterministic.
//   No spills.
#include "lib/sample.cuh"

PER_DEVICE(RATIO_THREADS, 256, 1);

// parts[b] = the sum of w * w over block b, parts[blocks + b] = that of g * g
extern "C" __global__ __launch_bounds__(ELEMENTWISE_THREADS) void awp_squares(
    const float* w, const float* g, float* parts, int n) {
  SHARED(float, halves, SCRATCH);
  Scratch scratch(halves);
  Vec own = vec_splat(0.0f), along = vec_splat(0.0f);
  each_vec(n, [&](int i, int count) {
    const Vec weight = vec_load(w + i, count), gradient = vec_load(g + i, count);
    own = vec_fma(weight, weight, own);
    along = vec_fma(gradient, gradient, along);
  });
  const float own_sum = block_sum<ELEMENTWISE_THREADS>(lane_sum(own), scratch);
  const float along_sum = block_sum<ELEMENTWISE_THREADS>(lane_sum(along), scratch);
  if (threadIdx.x == 0) {
    parts[blockIdx.x] = own_sum;
    parts[gridDim.x + blockIdx.x] = along_sum;
  }
}

// The square root of the sum of the n floats from `first` on, in every thread of the only block.
INLINE float norm_of(const float* parts, int first, int n, Scratch& scratch) {
  const bool aligned = rows_aligned(first);
  Vec sum = vec_splat(0.0f);
  NO_UNROLL
  for (int i = threadIdx.x * VEC; i < n; i += RATIO_THREADS * VEC)
    sum = sum + vec_load(parts + first + i, run_length(i, n), aligned);
  return sqrtf(block_sum<RATIO_THREADS>(lane_sum(sum), scratch));
}

// ratio = gamma * |w| / (|g| + floor)
extern "C" __global__ __launch_bounds__(RATIO_THREADS) void awp_ratio(
    const float* parts, float* ratio, float gamma, float floor, int blocks) {
  SHARED(float, halves, SCRATCH);
  Scratch scratch(halves);
  const float own = norm_of(parts, 0, blocks, scratch), along = norm_of(parts, blocks, blocks, scratch);
  if (threadIdx.x == 0) *ratio = gamma * own / (along + floor);
}

// out = w + ratio * g
extern "C" __global__ __launch_bounds__(ELEMENTWISE_THREADS) void awp_apply(
    const float* w, const float* g, const float* ratio, float* out, int n) {
  const Vec step = vec_splat(*ratio);
  each_vec(n, [&](int i, int count) {
    vec_store(out + i, vec_fma(step, vec_load(g + i, count), vec_load(w + i, count)), count);
  });
}
