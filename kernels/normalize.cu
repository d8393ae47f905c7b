// Normalisation of images with fixed numbers per channel: the first layer of a network.
// Mathematics: y = (x - mean[c]) factor[c]; dx = factor[c] dy; n elements of [..., channels].
// Threads: each takes runs of VEC neighbouring elements (each_vec). mean and factor repeat with period
//   `channels` for channels + VEC entries, so that a run reads its channels as one vector wherever it starts.
// Preconditions: those lengths; checked by src/ops/normalize.rs.
// Outputs: y `=`; dx `=` or `+=` (accumulate).
// Accumulation: none. Deterministic. No spills.
#include "lib/sample.cuh"

// y = (x - mean) factor
extern "C" __global__ __launch_bounds__(ELEMENTWISE_THREADS) void normalize_forward(
    const float* x, const float* mean, const float* factor, float* y, int channels, int n) {
  each_vec(n, [&](int i, int count) {
    const int phase = i % channels;
    vec_store(
        y + i, (vec_load(x + i, count) - periodic_load(mean, phase)) * periodic_load(factor, phase), count);
  });
}

// dx (+)= factor dy
extern "C" __global__ __launch_bounds__(ELEMENTWISE_THREADS) void normalize_backward(
    const float* grad_out, const float* factor, float* grad_in, int channels, int n, bool accumulate) {
  each_vec(n, [&](int i, int count) {
    vec_put(
        grad_in + i, vec_load(grad_out + i, count) * periodic_load(factor, i % channels), count, accumulate);
  });
}
