// What a training step takes of its epoch: the images of its batch with their labels, the learning rate, the
// weight of the mixture.
// Mathematics: s = at[0]; indices = order[s B .. s B + n], y their labels, rate = rates[s], mix = mixes[s];
//   then at = (s + 1, s): the next step, and the one under way.
// Threads: one block.
// Preconditions: n <= B; src/ops/feed.rs checks. Past the epoch's end indices and labels are -1, rate and mix
//   NaN. An index without a label has label -1.
// Outputs: `=`.
// Accumulation: none. Deterministic. No spills.
#include "lib/common.cuh"

PER_DEVICE(THREADS, 256, 1);

// the batch and the numbers of the next step, which becomes the one under way
extern "C" __global__ __launch_bounds__(THREADS) void feed_next(
    const int* order, const int* labels, const float* rates, const float* mixes, int* at, int* indices,
    int* y, float* rate, float* mix, int batch, int n, int images, int known, int steps) {
  const int step = at[0];
  __syncthreads();
  const bool exists = step >= 0 && step < steps;
  for (int i = threadIdx.x; i < n; i += THREADS) {
    const int image = exists && step * batch + i < images ? order[step * batch + i] : -1;
    indices[i] = image;
    y[i] = image >= 0 && image < known ? labels[image] : -1;
  }
  if (threadIdx.x > 0) return;
  *rate = exists ? rates[step] : NAN;
  *mix = exists ? mixes[step] : NAN;
  at[0] = step + 1;
  at[1] = step;
}
