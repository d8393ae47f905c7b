// One step of stochastic gradient descent with momentum, as PyTorch defines it; and the moving average of weights.
// Mathematics: g = grad + decay w; velocity = momentum velocity + g (first step: g); direction = velocity, or g + momentum velocity
//   (Nesterov), or g (no momentum); w -= lr direction. average = keep average + (1 - keep) w. n elements, any shape.
// Threads: each takes runs of VEC neighbouring elements (each_vec).
// Preconditions: equal lengths; checked by src/ops/sgd.rs.
// Outputs: in place.
// Accumulation: none. Deterministic. No spills.
#include "lib/lanes.cuh"

extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS)
// moves w along the velocity; without velocity along the gradient; with `first` the velocity's old content is not read
sgd_step(float* w, const float* grad, NULLABLE float* velocity, float lr, float momentum, float decay, bool nesterov, bool first, int n) {
  each_vec(n, [&](int i, int count) {
    const Vec old = row_load(w + i, count, true);
    Vec direction = vec_fma(vec_splat(decay), old, row_load(grad + i, count, true));
    if (velocity) {
      const Vec v = first ? direction : vec_fma(vec_splat(momentum), row_load(velocity + i, count, true), direction);
      row_store(velocity + i, v, count, true);
      direction = nesterov ? vec_fma(vec_splat(momentum), v, direction) : v;
    }
    row_store(w + i, vec_fma(vec_splat(-lr), direction, old), count, true);
  });
}

extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS)
// average = keep average + (1 - keep) w
sgd_average(float* average, const float* w, float keep, float rest, int n) {
  each_vec(n, [&](int i, int count) {
    row_store(average + i, vec_fma(vec_splat(keep), row_load(average + i, count, true), rest * row_load(w + i, count, true)), count, true);
  });
}
