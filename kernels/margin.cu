// Margin of the labelled class over its strongest rival, per row.
// Mathematics: logits z [N,K], labels y [N]; m_n = max(z_n[y] - max_{k != y} z_n[k], floor); dz[y] = g_n,
//   dz[first largest rival] = -g_n, else 0; nothing where the floor is the larger one.
// Threads: a group of LANES threads per row; ROWS rows per block.
// Preconditions: labels has N entries and K >= 2; src/ops/margin.rs checks. A label outside 0..K gives a NaN
//   margin and a NaN gradient.
//   A NaN among the logits gives a NaN margin.
// Outputs: margin `=`; dz `=` or `+=` (accumulate).
// Accumulation: none. Deterministic. No spills.
#include "lib/rows.cuh"

// margin[n] = max(z[n, label] - the largest other logit, floor)
extern "C" __global__ __launch_bounds__(ROW_THREADS) void margin_forward(
    const float* logits, const int* labels, float* margin, float floor, int n, int k) {
  const int row = thread_row(), lane = thread_lane();
  if (row >= n) return;
  const int label = labels[row];
  const Best rival = row_best(logits + row * k, lane, k, label);
  const float value = label >= 0 && label < k ? logits[row * k + label] - rival.value : NAN;
  if (lane == 0) margin[row] = value < floor ? floor : value;
}

// dz (+)= dmargin at the label, -dmargin at the first largest rival
extern "C" __global__ __launch_bounds__(ROW_THREADS) void margin_backward(
    const float* grad_out, const float* logits, const int* labels, float* grad_in, float floor, int n, int k,
    bool accumulate) {
  const int row = thread_row(), lane = thread_lane();
  if (row >= n) return;
  const int label = labels[row];
  const Best rival = row_best(logits + row * k, lane, k, label);
  const bool exists = label >= 0 && label < k;
  const float gradient = !exists ? NAN : logits[row * k + label] - rival.value < floor ? 0.0f : grad_out[row];
  for (int i = lane; i < k; i += LANES) {
    put(grad_in + row * k + i,
        i == label                 ? gradient
        : i == rival.at || !exists ? -gradient
                                   : 0.0f,
        accumulate);
  }
}
