// One step of stochastic gradient descent with momentum, as PyTorch defines it; and the moving average of
// weights.
// Mathematics: g = grad + decay w; velocity = momentum velocity + g (first step: g); direction = velocity, or
//   g + momentum velocity (Nesterov), or g (no momentum); w -= lr direction. average = keep average + (1 -
//   keep) w. n elements, any shape.
// Threads: each takes runs of VEC neighbouring elements (each_vec).
// Preconditions: equal lengths; checked by src/ops/sgd.rs.
// Outputs: in place.
// Accumulation: none. Deterministic. No spills.
#include "lib/sample.cuh"

// moves w along the velocity; without velocity along the gradient; with `first` the velocity's old content is
// not read
extern "C" __global__ __launch_bounds__(ELEMENTWISE_THREADS) void sgd_step(
    float* w, const float* grad, NULLABLE float* velocity, float lr, float momentum, float decay,
    bool nesterov, bool first, int n) {
  each_vec(n, [&](int i, int count) {
    const Vec old = vec_load(w + i, count);
    Vec direction = vec_fma(decay, old, vec_load(grad + i, count));
    if (velocity) {
      const Vec v = first ? direction : vec_fma(momentum, vec_load(velocity + i, count), direction);
      vec_store(velocity + i, v, count);
      direction = nesterov ? vec_fma(momentum, v, direction) : v;
    }
    vec_store(w + i, vec_fma(-lr, direction, old), count);
  });
}

// average = keep average + (1 - keep) w
extern "C" __global__ __launch_bounds__(ELEMENTWISE_THREADS) void sgd_average(
    float* average, const float* w, float keep, float rest, int n) {
  each_vec(n, [&](int i, int count) {
    vec_store(average + i, vec_fma(keep, vec_load(average + i, count), rest * vec_load(w + i, count)), count);
  });
}
