// Sum of n values to one, and its gradient.
// Mathematics: out = factor * sum_i x_i (factor 1: sum, 1/n: mean); dx_i = factor * dout.
// Threads: forward is one block, each thread adds runs of VEC elements (meant for up to some ten thousand
//   values: the losses of a batch or the partial sums of another kernel); backward takes runs of VEC
//     neighbouring elements.
// Preconditions: none beyond the lengths that src/ops/reduce.rs passes.
// Outputs: out `=`; dx `=` or `+=` (accumulate).
// Accumulation: float32, a partial sum for each lane of each thread, then a fixed tree. Deterministic. No
//   spills.
#include "lib/reductions.cuh"
#include "lib/vec.cuh"

PER_DEVICE(THREADS, 256, 1);

// out = factor * the sum of x
extern "C" __global__ __launch_bounds__(THREADS) void reduce_forward(
    const float* x, float* out, float factor, int n) {
  SHARED(float, halves, SCRATCH);
  Scratch scratch(halves);
  Vec sum = vec_splat(0.0f);
  NO_UNROLL
  for (int i = threadIdx.x * VEC; i < n; i += THREADS * VEC) sum = sum + vec_load(x + i, run_length(i, n));
  const float total = block_sum<THREADS>(lane_sum(sum), scratch);
  if (threadIdx.x == 0) *out = factor * total;
}

// dx (+)= factor * dout for every element
extern "C" __global__ __launch_bounds__(ELEMENTWISE_THREADS) void reduce_backward(
    const float* grad_out, float* grad_in, float factor, int n, bool accumulate) {
  const Vec gradient = vec_splat(factor * *grad_out);
  each_vec(n, [&](int i, int count) { vec_put(grad_in + i, gradient, count, accumulate); });
}
