// Kernels with one block per sample: SAMPLE_THREADS threads walk over the sample's runs of VEC elements and
// reduce over the block.
#pragma once
#include "lib/reductions.cuh"
#include "lib/vec.cuh"

// Calls f(i, count) for the runs of a sample of `size` elements that this thread owns. Not unrolled: an image
// of 32x32x3 gives a thread one run or two.
template <class F>
INLINE void each_of_sample(int size, F f) {
  NO_UNROLL
  for (int i = threadIdx.x * VEC; i < size; i += SAMPLE_THREADS * VEC) f(i, run_length(i, size));
}
