// The boundary split of a batch by its margins at three places, and the choice between two tensors image by
// image.
// Mathematics: z, z', z'' [N,K], labels y [N]; margin m_n = z_n[y] - max_{k != y} z_n[k] of each; correct:
//   the first largest logit is at y;
//   boundary (strict): z is correct, z' and z'' are not; boundary (otherwise): z'' is not. out_n = flag_n ?
//   a_n : b_n.
// Threads: a group of LANES threads per row, ROWS rows per block; the choice takes runs of VEC neighbouring
//   elements (each_vec).
// Preconditions: one shape, N labels and flags, K >= 2; src/ops/split.rs checks. A label outside 0..K gives
//   NaN margins and is never correct. NaN ranks above every number, as in predict.cu.
// Outputs: `=`.
// Accumulation: none. Deterministic. No spills.
#include "lib/rows.cuh"

// Whether the first largest logit is at the label; the margin goes to *margin.
INLINE bool judge(const float* row, int label, float* margin, int lane, int k) {
  Best best = row_best(row, lane, k, label);
  const bool labelled = label >= 0 && label < k;
  if (lane == 0) *margin = labelled ? row[label] - best.value : NAN;
  if (labelled) best.offer(row[label], label);
  return labelled && best.at == label;
}

// margins at X, X' and X'', whether X is classified correctly, and whether it lies at the boundary
extern "C" __global__ __launch_bounds__(ROW_THREADS) void split_margins(
    const float* z, const float* z_adv, const float* z_reduced, const int* labels, float* clean, float* adv,
    float* reduced, uint8_t* boundary, uint8_t* correct, bool strict, int n, int k) {
  const int row = thread_row(), lane = thread_lane();
  if (row >= n) return;
  const int label = labels[row];
  const bool right = judge(z + row * k, label, clean + row, lane, k);
  const bool right_adv = judge(z_adv + row * k, label, adv + row, lane, k);
  const bool right_reduced = judge(z_reduced + row * k, label, reduced + row, lane, k);
  if (lane > 0) return;
  correct[row] = right;
  boundary[row] = strict ? right && !right_adv && !right_reduced : !right_reduced;
}

// out[n] = flags[n] ? a[n] : b[n], images of `size` elements
extern "C" __global__ __launch_bounds__(ELEMENTWISE_THREADS) void split_select(
    const float* a, const float* b, const uint8_t* flags, float* out, int n, int size) {
  each_vec(n, [&](int i, int count) {
    const int image = i / size;
    if (i - image * size + count <= size) {
      vec_store(out + i, vec_load((flags[image] ? a : b) + i, count), count);
    } else {
      for (int j = i; j < i + count; j++) out[j] = (flags[j / size] ? a : b)[j];
    }
  });
}
