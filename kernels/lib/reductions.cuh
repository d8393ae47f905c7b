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

// Shared memory of block_sums and block_max, in two halves that they use in turn, so that each needs only
// one barrier: before a half is written again, all threads have met at the other half's barrier, and so have
// finished reading it.
//   SHARED(float, halves, SCRATCH);
//   Scratch scratch(halves);
constexpr int SCRATCH = 64;
struct Scratch {
  float* const halves;
  int at = 0;
  INLINE explicit Scratch(float* halves) : halves(halves) {}
  INLINE float* next() { return halves + (at = SCRATCH / 2 - at); }
};

// n sums over a block of `threads` threads. All threads of the block call it.
template <int threads, int n>
INLINE void block_sums(float (&values)[n], Scratch& scratch) {
  if (threads == 1) return;
  static_assert(n * threads / 32 <= SCRATCH / 2, "a half holds n sums of each warp");
  float* const half = scratch.next();
  UNROLL
  for (int j = 0; j < n; j++) {
    values[j] = warp_sum<32>(values[j]);
    if (threadIdx.x % 32 == 0) half[threadIdx.x / 32 * n + j] = values[j];
  }
  __syncthreads();
  UNROLL
  for (int j = 0; j < n; j++) {
    values[j] = 0;
    for (int warp = 0; warp < threads / 32; warp++) values[j] += half[warp * n + j];
  }
}
template <int threads>
INLINE float block_sum(float value, Scratch& scratch) {
  float values[1] = {value};
  block_sums<threads>(values, scratch);
  return values[0];
}
template <int threads>
INLINE float block_max(float value, Scratch& scratch) {
  if (threads == 1) return value;
  float* const half = scratch.next();
  value = warp_max<32>(value);
  if (threadIdx.x % 32 == 0) half[threadIdx.x / 32] = value;
  __syncthreads();
  for (int warp = 0; warp < threads / 32; warp++) value = fmaxf(value, half[warp]);
  return value;
}
