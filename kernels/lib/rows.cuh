// Row-wise kernels: a row of a matrix [n, k] per group of LANES neighbouring threads, which is a warp on CUDA
// and one thread on the host. Launch with ceil(n / ROWS) blocks of ROW_THREADS. In these files `lane` is the
// number of a thread in its group.
#pragma once
#include "lib/pack.cuh"
#include "lib/reductions.cuh"

PER_DEVICE(LANES, 32, 1);          // threads that share a row
PER_DEVICE(ROWS, 8, 16);           // rows of a block
PER_DEVICE(ROW_THREADS, 256, 16);  // LANES * ROWS

// The row of this thread, which may lie past the last one, and its number in the group of the row. Groups are
// whole warps on CUDA, so that a group without a row may return before the others shuffle.
INLINE int thread_row() { return blockIdx.x * ROWS + threadIdx.x / LANES; }
INLINE int thread_lane() { return threadIdx.x % LANES; }

// Calls f(i) for the first columns i of the Packs of a row of k columns that belong to this lane.
template <class F>
INLINE void each_pack(int lane, int k, F f) {
  for (int i = lane * PACK; i < k; i += LANES * PACK) f(i);
}
// The sum over the columns of a row, in every lane. f(i) is the Pack that starts at column i; its lanes past
// the row do not count.
template <class F>
INLINE float row_sum(int lane, int k, F f) {
  Pack sum = pack_splat(0.0f);
  each_pack(lane, k, [&](int i) { sum = sum + pack_first(f(i), k - i, 0.0f); });
  return warp_sum<LANES>(lane_sum(sum));
}

// The Pack of a row that starts at column i; `count` floats are left.
INLINE Pack row_pack(const float* row, int i, int count) { return pack_load(row + i, count); }
template <class Row>
INLINE Pack row_pack(const Row& row, int i, int count) {
  return row.pack(i, count);
}

// log softmax(scale * row), read Pack by Pack. The maximum is subtracted first, so that logits of any size
// are safe; a NaN among them makes all entries NaN. All lanes of the group construct it together. The row is
// a pointer, or something whose pack(i, count) reads.
template <class Row>
struct LogSoftmaxOf {
  Row row;
  int columns;
  float scale, max, log_sum;

  INLINE LogSoftmaxOf(Row logits, float factor, int lane, int k) : row(logits), columns(k), scale(factor) {
    Pack top = pack_splat(-INFINITY);
    each_pack(lane, k, [&](int i) { top = vec_max(top, pack_first(scaled(i), k - i, -INFINITY)); });
    max = warp_max<LANES>(lane_max(top));
    log_sum = logf(row_sum(lane, k, [&](int i) { return vec_exp(scaled(i) - max); }));
  }
  INLINE Pack scaled(int i) const { return scale * row_pack(row, i, columns - i); }
  // The Pack that starts at column i.
  INLINE Pack operator()(int i) const { return (scaled(i) - max) - log_sum; }
  // One entry.
  INLINE float at(int i) const { return (scale * row[i] - max) - log_sum; }
};
typedef LogSoftmaxOf<const float*> LogSoftmax;

// probability * value, with 0 * infinity = 0: the term of a class in an expectation, also of a class that
// cannot occur.
INLINE Pack expect(Pack probability, Pack value) {
  return probability == 0.0f ? pack_splat(0.0f) : probability * value;
}

// A value and its column. NaN ranks above every number and the lower column wins a tie, as in PyTorch.
struct Best {
  float value;
  int at;

  // Whether a stable sort by descending value puts the other one first.
  INLINE bool is_outranked_by(float other, int other_at) const {
    const bool other_nan = other != other, nan = value != value;
    const bool equal = other == value || (other_nan && nan);
    return equal ? other_at < at : (other > value || (other_nan && !nan));
  }
  INLINE void offer(float other, int other_at) {
    if (is_outranked_by(other, other_at)) {
      value = other;
      at = other_at;
    }
  }
};

// The first largest of the entries of a row that take(value, column) admits, in every lane.
template <class Take>
INLINE Best row_best_of(const float* row, int lane, int k, Take take) {
  Best best = {-INFINITY, 0x7fffffff};
  for (int i = lane; i < k; i += LANES)
    if (take(row[i], i)) best.offer(row[i], i);
  UNROLL
  for (int step = LANES / 2; step > 0; step /= 2) {
    const float value = __shfl_xor_sync(0xffffffffu, best.value, step);
    const int at = __shfl_xor_sync(0xffffffffu, best.at, step);
    best.offer(value, at);
  }
  return best;
}
// The first largest entry of a row, the column `skip` left out (-1: none), in every lane.
INLINE Best row_best(const float* row, int lane, int k, int skip) {
  return row_best_of(row, lane, k, [=](float, int i) { return i != skip; });
}
// The entry that follows `before` in the order of descending values, in every lane; after the last one
// -infinity, in no column.
INLINE Best row_next(const float* row, int lane, int k, Best before) {
  return row_best_of(
      row, lane, k, [=](float value, int i) { return i != before.at && !before.is_outranked_by(value, i); });
}
