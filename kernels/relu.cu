// ReLU with a bit mask.
// Mathematics: y = max(x, 0); mask bit = x > 0; dx = dy where the bit is set, else 0. n elements, any shape.
//   NaN stays NaN forward.
// Threads: each takes runs of VEC neighbouring elements (each_vec).
// Preconditions: mask has mask_bytes(n) bytes; checked by src/ops/relu.rs.
// Outputs: y and mask `=`; dx `=`.
// Accumulation: none. Deterministic. No spills.
#include "lib/vec.cuh"

// y = max(x, 0) and, if a mask is given, a bit per element that says where x > 0
extern "C" __global__ __launch_bounds__(ELEMENTWISE_THREADS) void relu_forward(
    const T* x, T* y, NULLABLE uint8_t* mask, int n) {
  each_vec(n, [&](int i, int count) {
    const Vec v = vec_load(x + i, count);
    const VecBits positive = vec_positive(v);
    vec_store(y + i, vec_relu(v), count);
    if (mask) mask_store(mask, i, positive);
  });
}

// dx = dy where the mask bit is set
extern "C" __global__ __launch_bounds__(ELEMENTWISE_THREADS) void relu_backward(
    const T* grad_out, const uint8_t* mask, T* grad_in, int n) {
  each_vec(n, [&](int i, int count) {
    vec_store(grad_in + i, vec_keep(vec_load(grad_out + i, count), mask_load(mask, i)), count);
  });
}
