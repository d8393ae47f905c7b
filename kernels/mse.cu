// Squared difference of two tensors, in all or row by row.
// Mathematics: partial_b = sum over the elements of block b of (a - b)^2; reduce.cu adds the n partial sums
//   and divides.
//   da = factor * dout * (a - b) with factor 2/n; the other side's gradient is the same with a and b swapped.
//   Row by row: out_n = 1/K sum_k (a_nk - b_nk)^2 for a, b [N,K].
// Threads: each takes runs of VEC neighbouring elements (each_vec); row by row a group of LANES threads per
//   row, ROWS rows per block.
// Preconditions: a and b have one shape; src/ops/mse.rs checks.
// Outputs: partial and out `=`; da `=` or `+=` (accumulate).
// Accumulation: float32, a partial sum for each lane of each thread, a fixed tree in the block.
//   Deterministic. No spills.
#include "lib/rows.cuh"

// partial[block] = the sum of (a - b)^2 over the block's elements
extern "C" __global__ __launch_bounds__(ELEMENTWISE_THREADS) void mse_forward(
    const float* a, const float* b, float* partial, int n) {
  SHARED(float, halves, SCRATCH);
  Scratch scratch(halves);
  Vec sum = vec_splat(0.0f);
  each_vec(n, [&](int i, int count) {
    const Vec d = vec_load(a + i, count) - vec_load(b + i, count);
    sum = vec_fma(d, d, sum);
  });
  const float total = block_sum<ELEMENTWISE_THREADS>(lane_sum(sum), scratch);
  if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

// da (+)= factor * dout * (a - b)
extern "C" __global__ __launch_bounds__(ELEMENTWISE_THREADS) void mse_backward(
    const float* grad_out, const float* a, const float* b, float* grad_in, float factor, int n,
    bool accumulate) {
  const float gradient = factor * *grad_out;
  each_vec(n, [&](int i, int count) {
    vec_put(grad_in + i, gradient * (vec_load(a + i, count) - vec_load(b + i, count)), count, accumulate);
  });
}

// out[row] = the mean of (a - b)^2 over the row's columns
extern "C" __global__ __launch_bounds__(ROW_THREADS) void mse_rows(
    const float* a, const float* b, float* out, int n, int k) {
  const int row = thread_row(), lane = thread_lane();
  if (row >= n) return;
  a += row * k;
  b += row * k;
  const float sum = row_sum(lane, k, [&](int i) {
    const Pack d = pack_load(a + i, k - i) - pack_load(b + i, k - i);
    return d * d;
  });
  if (lane == 0) out[row] = sum / k;
}
