// Difference of logits ratio, per row, untargeted and targeted.
// Mathematics: logits z [N,K], labels y [N]; z_(1) >= z_(2) >= ... are z_n in the order of a stable sort by
//   falling value: of equal logits the first is the larger one. loss_n = -A/D with A = z_y - z_o and D =
//   z_(1) - w (z_(3) + [targeted] z_(4)) + 1e-12.
//   Untargeted: o is the first in that order that is not y, w = 1. Targeted: o = targets[n], w = 1/2.
//   dz = g_n (-(e_y - e_o)/D + A (e_(1) - w e_(3) - w [targeted] e_(4))/D^2), where g_n = factor * dout[n *
//   stride].
// Threads: a group of LANES threads per row; ROWS rows per block.
// Preconditions: labels, and targets if given, have N entries; K >= 3, targeted K >= 4; src/ops/dlr.rs
//   checks. A label or a target outside 0..K gives NaN, loss and gradient, and reads nothing. A NaN among the
//   logits gives a NaN loss.
// Outputs: loss `=`; dz `=` or `+=` (accumulate).
// Accumulation: none. Deterministic. No spills.
#include "lib/rows.cuh"

// The parts of the loss of a row; `fourth` is -1 where there is none.
struct Ratio {
  int label, other, first, third, fourth;
  float weight, numerator, denominator;

  INLINE Ratio(const float* z, int y, const int* targets, int row, int lane, int k)
      : label(y),
        fourth(-1),
        weight(1.0f) {
    const Best one = row_best(z, lane, k, -1);
    const Best two = row_next(z, lane, k, one);
    const Best three = row_next(z, lane, k, two);
    first = one.at;
    third = three.at;
    other = one.at == y ? two.at : one.at;
    float low = three.value;
    if (targets) {
      const Best four = row_next(z, lane, k, three);
      fourth = four.at;
      other = targets[row];
      weight = 0.5f;
      low = 0.5f * (three.value + four.value);
    }
    const bool exists = y >= 0 && y < k && other >= 0 && other < k;
    numerator = exists ? z[y] - z[other] : NAN;
    denominator = one.value - low + 1e-12f;
  }
  INLINE float loss() const { return -numerator / denominator; }
  INLINE float slope(int i) const {
    const float over = (i == label ? 1.0f : 0.0f) - (i == other ? 1.0f : 0.0f);
    const float under = (i == first ? 1.0f : 0.0f) - (i == third || i == fourth ? weight : 0.0f);
    return (numerator / denominator * under - over) / denominator;
  }
};

// loss[n] = -(z[n, label] - z[n, other]) / (the spread of the largest logits)
extern "C" __global__ __launch_bounds__(ROW_THREADS) void dlr_forward(
    const float* logits, const int* labels, NULLABLE const int* targets, float* loss, int n, int k) {
  const int row = thread_row(), lane = thread_lane();
  if (row >= n) return;
  const Ratio ratio(logits + row * k, labels[row], targets, row, lane, k);
  if (lane == 0) loss[row] = ratio.loss();
}

// dz (+)= factor * dout * the gradient of numerator and denominator
extern "C" __global__ __launch_bounds__(ROW_THREADS) void dlr_backward(
    const float* grad_out, const float* logits, const int* labels, NULLABLE const int* targets,
    float* grad_in, int stride, float factor, int n, int k, bool accumulate) {
  const int row = thread_row(), lane = thread_lane();
  if (row >= n) return;
  const Ratio ratio(logits + row * k, labels[row], targets, row, lane, k);
  const float gradient = factor * grad_out[row * stride];
  for (int i = lane; i < k; i += LANES) put(grad_in + row * k + i, gradient * ratio.slope(i), accumulate);
}
