// Helpers of kernels that work on the rows of a matrix, and of kernels that sum.
//
// A row-wise kernel gives a row to a group of LANES neighbouring threads: a warp on CUDA, one thread on the host. Such a file declares
//   CONFIG(LANES, 32, 1)     threads of a group
//   CONFIG(ROWS, 8, 16)      rows of a block
//   CONFIG(THREADS, 256, 16) their product
// and launches ceil(n / ROWS) blocks. Groups are whole warps, so a group without a row may return early.
#pragma once
#include "lib/common.cuh"

// A Pack is what one thread takes of a matrix whose rows are not aligned: one float on CUDA, where neighbouring threads make the access
// wide, and a Vec on the host. `count` says how many floats are left; a count of zero or less reads zeros and stores nothing.
CONFIG(PACK, 1, 16)
#if HOST_SHAPES
typedef Vec Pack;
INLINE Pack pack_splat(float value) { return vec_splat(value); }
INLINE Pack pack_load(const float* from, int count) { return vec_load(from, count); }
INLINE void pack_put(float* to, Pack v, int count, int accumulate) { vec_put(to, v, count, accumulate); }
INLINE Pack pack_fma(Pack a, Pack b, Pack c) { return vec_fma(a, b, c); }
// The sum of the lanes, by halves.
INLINE float pack_total(Pack v) {
  typedef float Quarter __attribute__((vector_size(16)));
  Quarter q[4];
  memcpy(q, &v, sizeof(v));
  const Quarter sum = (q[0] + q[2]) + (q[1] + q[3]);
  return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}
INLINE float vec_total(Vec v) { return pack_total(v); }
#else
typedef float Pack;
INLINE Pack pack_splat(float value) { return value; }
INLINE Pack pack_load(const float* from, int count) { return count > 0 ? *from : 0.0f; }
INLINE void pack_put(float* to, Pack v, int count, int accumulate) {
  if (count > 0) put(to, v, accumulate);
}
INLINE Pack pack_fma(Pack a, Pack b, Pack c) { return fmaf(a, b, c); }
INLINE float pack_total(Pack v) { return v; }
INLINE float vec_total(Vec v) { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }
#endif

// The sum of f(i) over the columns i < k of a row, in every lane.
template <int lanes, class F>
INLINE float row_sum(int lane, int k, F f) {
  float sum = 0.0f;
  for (int i = lane; i < k; i += lanes) sum += f(i);
  return group_sum<lanes>(sum);
}

// log softmax(scale * row), read entry by entry. The maximum is subtracted first, so that logits of any size are safe; a NaN among them
// makes all entries NaN. All lanes of the group construct it together.
template <int lanes>
struct LogSoftmax {
  const float* row;
  float scale, max, log_sum;

  INLINE LogSoftmax(const float* logits, float factor, int lane, int k) : row(logits), scale(factor), max(-INFINITY) {
    for (int i = lane; i < k; i += lanes) max = fmaxf(max, scale * row[i]);
    max = group_max<lanes>(max);
    const float top = max;
    log_sum = logf(row_sum<lanes>(lane, k, [=](int i) { return expf(factor * logits[i] - top); }));
  }
  INLINE float operator()(int i) const { return (scale * row[i] - max) - log_sum; }
};

// probability * value, with 0 * infinity = 0: what a class that cannot occur adds to an expectation.
INLINE float expect(float probability, float value) { return probability == 0.0f ? 0.0f : probability * value; }

// A value and its column. NaN ranks above every number and the lower column wins a tie, as in PyTorch.
struct Best {
  float value;
  int at;

  // Whether a stable sort by falling value puts the other one first.
  INLINE bool behind(float other, int other_at) const {
    const bool other_nan = other != other, nan = value != value;
    const bool equal = other == value || (other_nan && nan);
    return equal ? other_at < at : (other > value || (other_nan && !nan));
  }
  INLINE void offer(float other, int other_at) {
    if (behind(other, other_at)) {
      value = other;
      at = other_at;
    }
  }
};

// The first largest of the entries of a row that take(value, column) admits, in every lane.
template <int lanes, class Take>
INLINE Best row_best_of(const float* row, int lane, int k, Take take) {
  Best best = {-INFINITY, 0x7fffffff};
  for (int i = lane; i < k; i += lanes)
    if (take(row[i], i)) best.offer(row[i], i);
  UNROLL for (int step = lanes / 2; step > 0; step /= 2) {
    const float value = __shfl_xor_sync(0xffffffffu, best.value, step);
    const int at = __shfl_xor_sync(0xffffffffu, best.at, step);
    best.offer(value, at);
  }
  return best;
}
// The first largest entry of a row, the column `skip` left out (-1: none), in every lane.
template <int lanes>
INLINE Best row_best(const float* row, int lane, int k, int skip) {
  return row_best_of<lanes>(row, lane, k, [=](float, int i) { return i != skip; });
}
// The entry that follows `before` in the order of falling values, in every lane; behind the last one it is -infinity in no column.
template <int lanes>
INLINE Best row_next(const float* row, int lane, int k, Best before) {
  return row_best_of<lanes>(row, lane, k, [=](float value, int i) { return i != before.at && !before.behind(value, i); });
}

// The sum of one value a thread over the block, in every thread, in a fixed order. Called at most once by a kernel: nothing waits until all
// have read the partial sums.
template <int threads, int lanes, class T>
INLINE T block_sum(T value) {
  SHARED(T, parts, threads / lanes);
  UNROLL for (int step = lanes / 2; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  if (threadIdx.x % lanes == 0) parts[threadIdx.x / lanes] = value;
  __syncthreads();
  T total = 0;
  for (int i = 0; i < threads / lanes; i++) total += parts[i];
  return total;
}
