// Kernels with one block per sample: SAMPLE_THREADS threads walk over the sample's runs of VEC elements and
// reduce over the block.
#pragma once
#include "lib/reductions.cuh"
#include "lib/vec.cuh"

// Calls f(i, count) for the runs of a sample of `size` elements that this thread owns.
template <class F>
INLINE void each_of_sample(int size, F f) {
  for (int i = threadIdx.x * VEC; i < size; i += SAMPLE_THREADS * VEC) f(i, run_length(i, size));
}
