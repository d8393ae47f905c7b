// Points that have withstood an attack so far, and what is kept of those that have not.
// Mathematics: take: out[m] = x[rows[m]]. Settle: with right_n whether the clean image n and held_n whether
//   its candidate is classified correctly, success_n = not (right_n and held_n), out_n = candidate_n where
//   right_n and not held_n, else x_n. Merge: where broken_m, found[rows[m]] = x[m] and success[rows[m]] = 1.
//   Samples have `size` elements.
// Threads: a block per sample, one thread on the host.
// Preconditions: rows lie inside and, in merge, differ; the caller's, see src/ops/gather.rs, which checks
//   the lengths. A row outside gives NaN in take and is left out in merge.
// Outputs: take, settle `=`; merge overwrites the samples that are broken.
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

// out = the candidate where only it is misclassified, else x; success = 1 where out is misclassified
extern "C" __global__ __launch_bounds__(SAMPLE_THREADS) void gather_select(
    const float* x, const float* candidate, const int* right, const int* held, float* out, int* success,
    int size) {
  const int n = blockIdx.x;
  const bool fooled = right[n] && !held[n];
  copy_sample((fooled ? candidate : x) + n * size, out + n * size, size);
  if (threadIdx.x == 0) success[n] = fooled || !right[n];
}

// found[rows[m]] = x[m] and success[rows[m]] = 1 where broken[m]
extern "C" __global__ __launch_bounds__(SAMPLE_THREADS) void gather_scatter(
    const float* x, const int* broken, const int* rows, float* found, int* success, int known, int size) {
  const int m = blockIdx.x, row = rows[m];
  if (!broken[m] || row < 0 || row >= known) return;
  copy_sample(x + m * size, found + row * size, size);
  if (threadIdx.x == 0) success[row] = 1;
}
