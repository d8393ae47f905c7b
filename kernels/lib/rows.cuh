// Helpers of kernels that work on the rows of a matrix, and of kernels that sum.
//
// A row-wise kernel gives a row to a group of LANES neighbouring threads: a warp on CUDA, one thread on the host. Such a file declares
//   CONFIG(LANES, 32, 1)     threads of a group
//   CONFIG(ROWS, 8, 16)      rows of a block
//   CONFIG(THREADS, 256, 16) their product
// and launches ceil(n / ROWS) blocks. Groups are whole warps, so a group without a row may return early.
#pragma once
#include "lib/pack.cuh"

// Calls f(i) for the first columns i of the Packs of a row of k columns that belong to this lane.
template <int lanes, class F>
INLINE void row_each(int lane, int k, F f) {
  for (int i = lane * PACK; i < k; i += lanes * PACK) f(i);
}
// The sum over the columns of a row, in every lane; f(i) is the Pack that starts at column i, and what it has behind the row does not count.
template <int lanes, class F>
INLINE float row_sum(int lane, int k, F f) {
  Pack sum = pack_splat(0.0f);
  row_each<lanes>(lane, k, [&](int i) { sum = sum + pack_first(f(i), k - i, 0.0f); });
  return group_sum<lanes>(pack_total(sum));
}

// The Pack of a row that starts at column i; `count` floats are left.
INLINE Pack row_pack(const float* row, int i, int count) { return pack_load(row + i, count); }
template <class Row>
INLINE Pack row_pack(const Row& row, int i, int count) {
  return row.pack(i, count);
}

// log softmax(scale * row), read Pack by Pack. The maximum is subtracted first, so that logits of any size are safe; a NaN among them
// makes all entries NaN. All lanes of the group construct it together. The row is a pointer, or something whose pack(i, count) reads.
template <int lanes, class Row = const float*>
struct LogSoftmax {
  Row row;
  int columns;
  float scale, max, log_sum;

  INLINE LogSoftmax(Row logits, float factor, int lane, int k) : row(logits), columns(k), scale(factor) {
    Pack top = pack_splat(-INFINITY);
    row_each<lanes>(lane, k, [&](int i) { top = pack_max(top, pack_first(scaled(i), k - i, -INFINITY)); });
    max = group_max<lanes>(pack_largest(top));
    log_sum = logf(row_sum<lanes>(lane, k, [&](int i) { return pack_exp(scaled(i) - pack_splat(max)); }));
  }
  INLINE Pack scaled(int i) const { return pack_splat(scale) * row_pack(row, i, columns - i); }
  // The Pack that starts at column i.
  INLINE Pack operator()(int i) const { return (scaled(i) - pack_splat(max)) - pack_splat(log_sum); }
  // One entry.
  INLINE float at(int i) const { return (scale * row[i] - max) - log_sum; }
};

// probability * value, with 0 * infinity = 0: what a class that cannot occur adds to an expectation.
INLINE Pack expect(Pack probability, Pack value) { return probability == 0.0f ? pack_splat(0.0f) : probability * value; }

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
