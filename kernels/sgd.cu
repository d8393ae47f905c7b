// One step of stochastic gradient descent with momentum, as PyTorch defines it, of all parameters of a
// network in one launch; and the moving average of weights, likewise.
// Mathematics: g = grad + decay w; velocity = momentum velocity + g (fresh: g); direction = velocity, or
//   g + momentum velocity (Nesterov), or g (no velocity); w -= lr direction. average = keep average + (1 -
//   keep) w; keep = 0 copies. Any number of tensors of any sizes.
// Threads: a block takes a chunk of one tensor, each thread runs of VEC neighbouring elements of it.
// Preconditions: a table with a row for each tensor: the number of blocks before its own, its size, and
//   addresses; equal sizes; src/ops/sgd.rs makes it and checks.
// Outputs: in place.
// Accumulation: none. Deterministic. No spills.
#include "lib/table.cuh"

// moves every w along its velocity, or along the gradient where there is none; a row is (first block,
// size, w, gradient, velocity or 0, whether the velocity's old content is not read)
extern "C" __global__ __launch_bounds__(ELEMENTWISE_THREADS) void sgd_step(
    const uint64_t* table, const float* lr, float momentum, float decay, bool nesterov, int tensors) {
  const uint64_t* const row = row_of_block(table, tensors, 6);
  float *const w = pointer<float>(row[2]), *const velocity = pointer<float>(row[4]);
  const float* const grad = pointer<const float>(row[3]);
  const bool fresh = row[5];
  const float rate = *lr;
  each_of_row(row, [&](int i, int count) {
    const Vec old = vec_load(w + i, count);
    Vec direction = vec_fma(decay, old, vec_load(grad + i, count));
    if (velocity) {
      const Vec v = fresh ? direction : vec_fma(momentum, vec_load(velocity + i, count), direction);
      vec_store(velocity + i, v, count);
      direction = nesterov ? vec_fma(momentum, v, direction) : v;
    }
    vec_store(w + i, vec_fma(-rate, direction, old), count);
  });
}

// average = keep average + rest w, or a copy for keep = 0, of all tensors; a row is (first block, size,
// average, w)
extern "C" __global__ __launch_bounds__(ELEMENTWISE_THREADS) void sgd_average(
    const uint64_t* table, float keep, float rest, int tensors) {
  const uint64_t* const row = row_of_block(table, tensors, 4);
  float* const average = pointer<float>(row[2]);
  const float* const w = pointer<const float>(row[3]);
  each_of_row(row, [&](int i, int count) {
    Vec mean = vec_load(w + i, count);
    if (keep != 0.0f) mean = vec_fma(keep, vec_load(average + i, count), rest * mean);
    vec_store(average + i, mean, count);
  });
}
