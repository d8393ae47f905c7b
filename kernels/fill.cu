// Constants and scaling.
// Mathematics: out = value; out = factor * x. n elements, any shape.
// Threads: each takes runs of VEC neighbouring elements (each_vec).
// Preconditions: none.
// Outputs: fill `=`; scale `=` or `+=` (accumulate).
// Accumulation: none. Deterministic. No spills.
#include "lib/vec.cuh"

// out = value
extern "C" __global__ __launch_bounds__(ELEMENTWISE_THREADS) void fill_value(float* out, float value, int n) {
  each_vec(n, [&](int i, int count) { vec_store(out + i, vec_splat(value), count); });
}

// out (+)= factor * x
extern "C" __global__ __launch_bounds__(ELEMENTWISE_THREADS) void fill_scaled(
    const float* x, float* out, float factor, int n, bool accumulate) {
  each_vec(
      n, [&](int i, int count) { vec_put(out + i, factor * vec_load(x + i, count), count, accumulate); });
}
