// Parts of arrays: rows of a tensor, tensors joined, labels repeated.
// Mathematics: out[to + i] (+)= x[from + i] for i < n; labels: out = [y; y].
// Threads: each takes runs of VEC neighbouring elements (each_vec).
// Preconditions: both parts lie inside their arrays; src/ops/slice.rs checks.
// Outputs: `=` or `+=` (accumulate); what lies outside the part is not touched.
// Accumulation: none. Deterministic. No spills.
#include "lib/sample.cuh"

// out[to..to + n] (+)= x[from..from + n]
extern "C" __global__ __launch_bounds__(ELEMENTWISE_THREADS) void slice_copy(
    const float* x, float* out, int from, int to, int n, bool accumulate) {
  const bool reads_aligned = rows_aligned(from), writes_aligned = rows_aligned(to);
  each_vec(n, [&](int i, int count) {
    Vec v = vec_load(x + from + i, count, reads_aligned);
    vec_put(out + to + i, v, count, accumulate, writes_aligned);
  });
}

// out = [labels; labels]
extern "C" __global__ __launch_bounds__(ELEMENTWISE_THREADS) void slice_repeat_labels(
    const int* labels, int* out, int n) {
  each_vec(n, [&](int i, int count) {
    for (int at = i; at < i + count; at++) out[at] = out[n + at] = labels[at];
  });
}
