// Predicted classes, whether they are right, and the class of any rank.
// Mathematics: logits z [N,K]; class_n = the first k with the largest z_n[k]; correct_n = [class_n == y_n],
//   or with wrong = 1 its opposite; ranked_n = the class in place rank_n, counted from 1, of a stable sort of
//   z_n by falling value.
// Threads: a group of LANES threads per row, ROWS rows per block.
// Preconditions: labels has N entries and K >= 1; src/ops/predict.rs checks. A label outside 0..K is never
//   right.
//   A rank outside 1..K gives class -1. NaN ranks above every number, as in PyTorch: a row with NaN predicts
//   the column of its first NaN.
// Outputs: `=`.
// Accumulation: integers. Deterministic. No spills.
#include "lib/rows.cuh"

// classes[n] = the column of the first largest logit
extern "C" __global__ __launch_bounds__(ROW_THREADS) void predict_argmax(
    const float* logits, int* classes, int n, int k) {
  const int row = thread_row(), lane = thread_lane();
  if (row >= n) return;
  const Best best = row_best(logits + row * k, lane, k, -1);
  if (lane == 0) classes[row] = best.at;
}

// flags[n] = 1 where the first largest logit is at the label (wrong = 1: is not), else 0
extern "C" __global__ __launch_bounds__(ROW_THREADS) void predict_correct(
    const float* logits, const int* labels, int* flags, int n, int k, bool wrong) {
  const int row = thread_row(), lane = thread_lane();
  if (row >= n) return;
  const Best best = row_best(logits + row * k, lane, k, -1);
  if (lane == 0) flags[row] = (best.at == labels[row]) != wrong ? 1 : 0;
}

// classes[n] = the column of the logit of rank ranks[n]
extern "C" __global__ __launch_bounds__(ROW_THREADS) void predict_ranked(
    const float* logits, const int* ranks, int* classes, int n, int k) {
  const int row = thread_row(), lane = thread_lane();
  if (row >= n) return;
  const int rank = ranks[row];
  Best best = {INFINITY, -1};
  if (rank >= 1 && rank <= k) {
    best = row_best(logits + row * k, lane, k, -1);
    for (int i = 1; i < rank; i++) best = row_next(logits + row * k, lane, k, best);
  }
  if (lane == 0) classes[row] = best.at;
}
