// Between float32 and bf16.
// Mathematics: bf16 keeps the upper half of a float32, rounded to nearest, ties to even; from bf16 to float32
//   nothing is lost. tf32, the format of tensor cores, keeps 10 bits after the point in a float32, rounded to
//   nearest, ties away from zero. n elements, any shape.
// Threads: each takes runs of VEC neighbouring elements (each_vec).
// Preconditions: equal lengths; checked by src/ops/cast.rs.
// Outputs: `=` or `+=` (accumulate); cast_to_tf32 `=`.
// Accumulation: none. Deterministic. No spills.
#include "lib/vec.cuh"

// out (+)= x
extern "C" __global__ __launch_bounds__(ELEMENTWISE_THREADS) void cast_to_f32(
    const bf16* x, float* out, int n, bool accumulate) {
  each_vec(n, [&](int i, int count) { vec_put(out + i, vec_load(x + i, count), count, accumulate); });
}

// out (+)= x, rounded to bf16
extern "C" __global__ __launch_bounds__(ELEMENTWISE_THREADS) void cast_to_bf16(
    const float* x, bf16* out, int n, bool accumulate) {
  each_vec(n, [&](int i, int count) { vec_put(out + i, vec_load(x + i, count), count, accumulate); });
}

// out = x, rounded to tf32
extern "C" __global__ __launch_bounds__(ELEMENTWISE_THREADS) void cast_to_tf32(
    const float* x, float* out, int n) {
  each_vec(n, [&](int i, int count) { vec_store(out + i, vec_tf32(vec_load(x + i, count)), count); });
}
