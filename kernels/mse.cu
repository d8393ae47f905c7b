// Squared difference of two tensors.
// Mathematics: partial_b = sum over the elements of block b of (a - b)^2; reduce.cu adds the n partial sums and divides.
//   da = factor * dout * (a - b) with factor 2/n; the other side's gradient is the same with a and b swapped.
// Threads: each takes runs of VEC neighbouring elements (each_vec).
// Preconditions: a and b have one shape; src/ops/mse.rs checks.
// Outputs: partial `=`; da `=` or `+=` (accumulate).
// Accumulation: float32, a partial sum for each lane of each thread, a fixed tree in the block. Deterministic. No spills.
#include "lib/rows.cuh"

CONFIG(LANES, 32, 1)

extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS)
// partial[block] = the sum of (a - b)^2 over the block's elements
mse_forward(const float* a, const float* b, float* partial, int n) {
  Vec sum = vec_splat(0.0f);
  each_vec(n, [&](int i, int count) {
    const Vec d = vec_load(a + i, count) - vec_load(b + i, count);
    sum = vec_fma(d, d, sum);
  });
  const float total = block_sum<ELEMENTWISE_THREADS, LANES>(vec_total(sum));
  if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS)
// da (+)= factor * dout * (a - b)
mse_backward(const float* grad_out, const float* a, const float* b, float* grad_in, float factor, int n, int accumulate) {
  const float gradient = factor * *grad_out;
  each_vec(n, [&](int i, int count) {
    vec_put(grad_in + i, gradient * (vec_load(a + i, count) - vec_load(b + i, count)), count, accumulate);
  });
}
