// Vectors along rows of any length, and comparisons of vectors that keep NaN.
//
// A row of `length` floats is walked over in groups of VEC; the last group has fewer elements. On CUDA only rows whose length is a
// multiple of four start where two float4 may be loaded: others are read one float at a time. The host loads from anywhere.
#pragma once
#include "lib/common.cuh"

// Whether every row of this length starts where vec_load may load on this device.
INLINE bool rows_aligned(int length) {
#if HOST_SHAPES
  return true;
#else
  return length % 4 == 0;
#endif
}
// The first `count` (0 to VEC) floats at `from`, zeros behind them. The loop has a fixed length: a vector stays in registers.
INLINE Vec row_load(const float* from, int count, bool aligned) {
  if (aligned && count == VEC) return vec_load(from);
  Vec v = vec_splat(0.0f);
  UNROLL for (int i = 0; i < VEC; i++) {
    if (i < count) v[i] = from[i];
  }
  return v;
}
INLINE void row_store(float* to, Vec v, int count, bool aligned) {
  if (aligned && count == VEC) return vec_store(to, v);
  UNROLL for (int i = 0; i < VEC; i++) {
    if (i < count) to[i] = v[i];
  }
}
// `=` or, with accumulate, `+=`.
INLINE void row_put(float* to, Vec v, int count, bool aligned, int accumulate) {
  row_store(to, accumulate ? row_load(to, count, aligned) + v : v, count, aligned);
}
// How many of VEC elements that start at `first` exist in a row of `length`.
INLINE int row_count(int first, int length) { return min(VEC, max(0, length - first)); }

// max(v, low) and min(v, high); NaN in v stays NaN.
INLINE Vec vec_at_least(Vec v, Vec low) { return vec_max(low, v); }
INLINE Vec vec_at_most(Vec v, Vec high) {
#if HOST_SHAPES
  return high < v ? high : v;
#else
  return vec_map([&](int i) { return high[i] < v[i] ? high[i] : v[i]; });
#endif
}
INLINE Vec vec_clip01(Vec v) { return vec_at_most(vec_at_least(v, vec_splat(0.0f)), vec_splat(1.0f)); }
// size where v > 0, -size where v < 0, and v itself where it is 0 or NaN.
INLINE Vec vec_signed(float size, Vec v) {
#if HOST_SHAPES
  const Vec up = vec_splat(size), down = vec_splat(-size);
  return v > 0.0f ? up : (v < 0.0f ? down : v);
#else
  return vec_map([&](int i) { return v[i] > 0.0f ? size : v[i] < 0.0f ? -size : v[i]; });
#endif
}
// The sum of the lanes, as a fixed tree.
INLINE float vec_sum(Vec v) {
  UNROLL for (int step = VEC / 2; step > 0; step /= 2) {
    UNROLL for (int i = 0; i < step; i++) v[i] += v[i + step];
  }
  return v[0];
}

// Kernels that give a sample to a block of SAMPLE_THREADS: calls f(i, count) for the runs of VEC elements that this thread owns.
template <class F>
INLINE void each_of_sample(int size, F f) {
  for (int i = threadIdx.x * VEC; i < size; i += SAMPLE_THREADS * VEC) f(i, row_count(i, size));
}

// The sum of a value over a block of `threads` threads, in every thread, as a fixed tree. scratch has threads / 32 floats and may be
// used again afterwards. All threads call it.
template <int threads>
INLINE float block_sum(float value, float* scratch) {
  if (threads == 1) return value;
  value = group_sum<32>(value);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  float total = 0.0f;
  for (int warp = 0; warp < threads / 32; warp++) total += scratch[warp];
  __syncthreads();
  return total;
}
// The same for the largest value.
template <int threads>
INLINE float block_max(float value, float* scratch) {
  if (threads == 1) return value;
  value = group_max<32>(value);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  for (int warp = 0; warp < threads / 32; warp++) value = fmaxf(value, scratch[warp]);
  __syncthreads();
  return value;
}
