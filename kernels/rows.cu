// Rows of a matrix [N, size] picked, put back and judged: what attacks do with the images that are still in play.
// Mathematics: gather: to[i] = from[rows[i]]; scatter: to[rows[i]] = from[i]; restore: to[n] = from[n] where keep[n] = 0;
//   unbeaten: value[n] = infinity where correct[n], else 0; within: flag[n] = [value[n] <= limit].
// Threads: gather, scatter, restore: a block per row, one thread on the host; the others one thread a value.
// Preconditions: rows are inside both matrices, and different in scatter; src/ops/rows.rs checks sizes, its callers make the rows.
// Outputs: gather, unbeaten and within `=`; scatter and restore `=` for the rows named, the others stay.
// Accumulation: none. Deterministic. No spills.
#include "lib/lanes.cuh"

CONFIG(ROW_THREADS, 128, 1)
CONFIG(THREADS, 256, 1)
CONFIG(CHUNK, 256, 1024)  // values of a block

INLINE void copy_row(const float* from, float* to, int size) {
  const bool aligned = rows_aligned(size);
  for (int i = threadIdx.x * VEC; i < size; i += ROW_THREADS * VEC) {
    const int count = row_count(i, size);
    row_store(to + i, row_load(from + i, count, aligned), count, aligned);
  }
}
template <class F>
INLINE void each_of_block(int n, F f) {
  const int first = blockIdx.x * CHUNK;
  for (int i = first + threadIdx.x; i < min(n, first + CHUNK); i += THREADS) f(i);
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS)
// to[i] = from[rows[i]]
rows_gather(const float* from, const int* rows, float* to, int size) {
  copy_row(from + rows[blockIdx.x] * size, to + blockIdx.x * size, size);
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS)
// to[rows[i]] = from[i]
rows_scatter(const float* from, const int* rows, float* to, int size) {
  copy_row(from + blockIdx.x * size, to + rows[blockIdx.x] * size, size);
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS)
// to[n] = from[n] where keep[n] is 0
rows_restore(const float* from, const int* keep, float* to, int size) {
  if (keep[blockIdx.x] == 0) copy_row(from + blockIdx.x * size, to + blockIdx.x * size, size);
}

extern "C" __global__ void __launch_bounds__(THREADS)
// value[n] = infinity where correct[n], else 0
rows_unbeaten(const int* correct, float* value, int n) {
  each_of_block(n, [&](int i) { value[i] = correct[i] ? INFINITY : 0.0f; });
}

extern "C" __global__ void __launch_bounds__(THREADS)
// flag[n] = 1 where value[n] <= limit, else 0
rows_within(const float* value, int* flag, float limit, int n) {
  each_of_block(n, [&](int i) { flag[i] = value[i] <= limit ? 1 : 0; });
}
