// Normalisation of images with fixed numbers per channel: the first layer of a network.
// Mathematics: y = (x - mean[c]) factor[c]; dx = factor[c] dy; n elements of [..., channels].
// Threads: each takes runs of VEC neighbouring elements (each_vec). mean and factor repeat with period `channels` for channels + VEC
//   entries, so that a run reads its channels as one vector wherever it starts.
// Preconditions: those lengths; checked by src/ops/normalize.rs.
// Outputs: y `=`; dx `=` or `+=` (accumulate).
// Accumulation: none. Deterministic. No spills.
#include "lib/lanes.cuh"

// VEC entries of a periodic array, from any phase.
INLINE Vec periodic_load(const float* from, int phase) {
#if HOST_SHAPES
  return vec_load(from + phase);
#else
  return vec_map([&](int i) { return __ldg(from + phase + i); });
#endif
}

extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS)
// y = (x - mean) factor
normalize_forward(const float* x, const float* mean, const float* factor, float* y, int channels, int n) {
  each_vec(n, [&](int i, int count) {
    const int phase = i % channels;
    row_store(y + i, (row_load(x + i, count, true) - periodic_load(mean, phase)) * periodic_load(factor, phase), count, true);
  });
}

extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS)
// dx (+)= factor dy
normalize_backward(const float* grad_out, const float* factor, float* grad_in, int channels, int n, bool accumulate) {
  each_vec(n, [&](int i, int count) {
    row_put(grad_in + i, row_load(grad_out + i, count, true) * periodic_load(factor, i % channels), count, true, accumulate);
  });
}
