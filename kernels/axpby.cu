// A weighted sum of two tensors.
// Mathematics: out = alpha a + beta b, n elements, any shape. The gradients, alpha dout and beta dout, are
//   fill.cu's fill_scaled.
// Threads: each takes runs of VEC neighbouring elements (each_vec).
// Preconditions: a and b have one shape; src/ops/axpby.rs checks.
// Outputs: out `=`.
// Accumulation: none. Deterministic. No spills.
#include "lib/vec.cuh"

// Zeros of either sign become -0, which changes no number that it is added to.
INLINE Vec vec_negative_zeros(Vec v) {
#if ONE_THREAD_BLOCKS
  return v == 0.0f ? vec_splat(-0.0f) : v;
#else
  return vec_map([&](int i) { return v[i] == 0.0f ? -0.0f : v[i]; });
#endif
}

// out = alpha * a + beta * b; alpha 1 and beta 0 give a, the signs of its zeros included
extern "C" __global__ __launch_bounds__(ELEMENTWISE_THREADS) void axpby_forward(
    const float* a, const float* b, float* out, float alpha, float beta, int n) {
  each_vec(n, [&](int i, int count) {
    const Vec second = vec_negative_zeros(beta * vec_load(b + i, count));
    vec_store(out + i, vec_fma(alpha, vec_load(a + i, count), second), count);
  });
}
