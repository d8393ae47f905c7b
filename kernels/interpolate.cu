// A point on the line between two tensors.
// Mathematics: out = r a + (1 - r) b, n elements, any shape. The gradients, r dout and (1 - r) dout, are fill.cu's fill_scaled.
// Threads: each takes runs of VEC neighbouring elements (each_vec).
// Preconditions: a and b have one shape; src/ops/interpolate.rs checks.
// Outputs: out `=`.
// Accumulation: none. Deterministic. No spills.
#include "lib/common.cuh"

extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS)
// out = r * a + (1 - r) * b
interpolate_forward(const float* a, const float* b, float* out, float r, int n) {
  each_vec(n, [&](int i, int count) {
    vec_store(out + i, vec_fma(vec_splat(r), vec_load(a + i, count), (1.0f - r) * vec_load(b + i, count)), count);
  });
}
