// Points that have withstood an attack so far, and what is kept of those that have not.
// Mathematics: rows: out[m] = x[rows[m]]. Select: out_n = chosen_n ? a_n : b_n. Scatter: where chosen_m,
//   out[rows[m]] = x[m]. Samples have `size` elements.
// Threads: a block per sample, one thread on the host.
// Preconditions: rows lie inside and, in scatter, differ; the caller's, see src/ops/gather.rs, which checks
//   the lengths. A row outside gives NaN in rows and is left out in scatter.
// Outputs: rows, select `=`; scatter overwrites the samples that are chosen.
// Accumulation: none. Deterministic. No spills.
#include "lib/sample.cuh"

INLINE void copy_sample(const float* from, float* to, int size) {
  const bool aligned = rows_aligned(size);
  each_of_sample(
      size, [&](int i, int count) { vec_store(to + i, vec_load(from + i, count, aligned), count, aligned); });
}

// out[m] = x[rows[m]], NaN where there is none
extern "C" __global__ __launch_bounds__(SAMPLE_THREADS) void gather_rows(
    const float* x, const int* rows, float* out, int known, int size) {
  const int row = rows[blockIdx.x];
  out += blockIdx.x * size;
  if (row >= 0 && row < known) return copy_sample(x + row * size, out, size);
  const bool aligned = rows_aligned(size);
  each_of_sample(size, [&](int i, int count) { vec_store(out + i, vec_splat(NAN), count, aligned); });
}

// out = a where chosen, else b
extern "C" __global__ __launch_bounds__(SAMPLE_THREADS) void gather_select(
    const int* chosen, const float* a, const float* b, float* out, int size) {
  const int n = blockIdx.x;
  copy_sample((chosen[n] ? a : b) + n * size, out + n * size, size);
}

// out[rows[m]] = x[m] where chosen[m]
extern "C" __global__ __launch_bounds__(SAMPLE_THREADS) void gather_scatter(
    const float* x, const int* chosen, const int* rows, float* out, int known, int size) {
  const int m = blockIdx.x, row = rows[m];
  if (chosen[m] && row >= 0 && row < known) copy_sample(x + m * size, out + row * size, size);
}
