// Difference of two logits of each row.
// Mathematics: logits z [N,K], classes y and t [N]; out_n = z_n[t_n] - z_n[y_n]; dz[t] = g_n, dz[y] = -g_n,
//   else 0 (all 0 where t = y).
// Threads: one a row forward; one an entry of the gradient backward.
// Preconditions: y and t have N entries; src/ops/logit_difference.rs checks. A class outside 0..K gives NaN
//   and a gradient of NaN.
// Outputs: out `=`; dz `=` or `+=` (accumulate).
// Accumulation: none. Deterministic. No spills.
#include "lib/common.cuh"

PER_DEVICE(THREADS, 256, 1);
PER_DEVICE(CHUNK, 256, 1024);  // rows or entries of a block

// out[n] = z[n, t] - z[n, y]
extern "C" __global__ __launch_bounds__(THREADS) void logit_difference_forward(
    const float* logits, const int* y, const int* t, float* out, int n, int k) {
  each_of_chunk<CHUNK, THREADS, 1>(blockIdx.x, n, [&](int row, int) {
    const bool inside = y[row] >= 0 && y[row] < k && t[row] >= 0 && t[row] < k;
    out[row] = inside ? logits[row * k + t[row]] - logits[row * k + y[row]] : NAN;
  });
}

// dz (+)= the gradient of the difference at t, its opposite at y
extern "C" __global__ __launch_bounds__(THREADS) void logit_difference_backward(
    const float* grad_out, const int* y, const int* t, float* grad_in, int n, int k, bool accumulate) {
  each_of_chunk<CHUNK, THREADS, 1>(blockIdx.x, n * k, [&](int i, int) {
    const int row = i / k, column = i % k;
    const bool inside = y[row] >= 0 && y[row] < k && t[row] >= 0 && t[row] < k;
    const float sign = static_cast<float>((column == t[row]) - (column == y[row]));
    // 0 * g would turn an infinite gradient into NaN.
    put(grad_in + i, !inside ? NAN : sign == 0.0f ? 0.0f : sign * grad_out[row], accumulate);
  });
}
