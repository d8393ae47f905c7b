// Sum of two arrays.
// Mathematics: out = a + b; sum += a. n elements, any shape.
// Threads: each takes runs of VEC neighbouring elements (each_vec).
// Preconditions: equal lengths; checked by src/ops/add.rs.
// Outputs: add_forward `=`, add_into `+=`.
// Accumulation: none. Deterministic. No spills.
#include "lib/vec.cuh"

// out = a + b
extern "C" __global__ __launch_bounds__(ELEMENTWISE_THREADS) void add_forward(
    const T* a, const T* b, T* out, int n) {
  each_vec(n, [&](int i, int count) {
    vec_store(out + i, vec_load(a + i, count) + vec_load(b + i, count), count);
  });
}

// sum += a
extern "C" __global__ __launch_bounds__(ELEMENTWISE_THREADS) void add_into(const T* a, T* sum, int n) {
  each_vec(n, [&](int i, int count) { vec_put(sum + i, vec_load(a + i, count), count, 1); });
}
