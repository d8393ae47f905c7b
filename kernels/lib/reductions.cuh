// Sums and maxima over threads: of a warp or a part of it (shuffles), and of a block (shuffles, then shared
// memory). Every thread gets the result. The order of additions is fixed, so that results repeat bit for bit.
#pragma once
#include "lib/common.cuh"

// Over `lanes` neighbouring threads: a power of two, at most 32, starting at a multiple of itself. All
// threads of the warp call it.
template <int lanes, class T>
INLINE T warp_sum(T value) {
  UNROLL
  for (int step = lanes / 2; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}
template <int lanes>
INLINE float warp_max(float value) {
  UNROLL
  for (int step = lanes / 2; step > 0; step /= 2) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, step));
  }
  return value;
}

// Shared memory that block_sum and block_max need, in elements.
constexpr int SCRATCH = 32;

// n sums over a block of `threads` threads. scratch has n * threads / 32 elements and may be used again
// afterwards. All threads of the block call it.
template <int threads, class T, int n>
INLINE void block_sums(T (&values)[n], T* scratch) {
  if (threads == 1) return;
  UNROLL
  for (int j = 0; j < n; j++) {
    values[j] = warp_sum<32>(values[j]);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32 * n + j] = values[j];
  }
  __syncthreads();
  UNROLL
  for (int j = 0; j < n; j++) {
    values[j] = 0;
    for (int warp = 0; warp < threads / 32; warp++) values[j] += scratch[warp * n + j];
  }
  __syncthreads();
}
template <int threads, class T>
INLINE T block_sum(T value, T* scratch) {
  T values[1] = {value};
  block_sums<threads>(values, scratch);
  return values[0];
}
template <int threads>
INLINE float block_max(float value, float* scratch) {
  if (threads == 1) return value;
  value = warp_max<32>(value);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  for (int warp = 0; warp < threads / 32; warp++) value = fmaxf(value, scratch[warp]);
  __syncthreads();
  return value;
}
