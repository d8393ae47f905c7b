// The mean over the pixels of an image, for global_avg_pool.cu and head.cu.
#pragma once
#include "lib/pack.cuh"

// Of a Pack of channels: `x` is theirs at the first pixel, `count` channels are left from there on. Four
// partial sums: pixel p goes to sum p mod 4.
template <class T>
INLINE Pack pixel_mean(const T* x, int pixels, int channels, int count) {
  Pack sum[4];
  UNROLL
  for (int j = 0; j < 4; j++) sum[j] = pack_splat(0.0f);
  int p = 0;
  for (; p + 4 <= pixels; p += 4) {
    UNROLL
    for (int j = 0; j < 4; j++) sum[j] = sum[j] + pack_load(x + (p + j) * channels, count);
  }
  UNROLL
  for (int j = 0; j < 3; j++)
    if (p + j < pixels) sum[j] = sum[j] + pack_load(x + (p + j) * channels, count);
  return ((sum[0] + sum[1]) + (sum[2] + sum[3])) * (1.0f / pixels);
}
