// Fully connected layer.
// Mathematics: x [N,K], weight w [M,K], bias b [M] or none; out[n,m] = b[m] + sum_k x[n,k] w[m,k];
//   dx[n,k] = sum_m dout[n,m] w[m,k]; dw[m,k] = sum_n dout[n,m] x[n,k]; db[m] = sum_n dout[n,m].
// Threads: forward: a group of LANES threads takes a tile of TILE_ROWS x TILE_OUTPUTS dot products, GROUPS
//   tiles per block. Backward: all three are out[t,i] = sum_j c(j,t) m[j,i]; a thread takes a Pack of columns
//   i of a tile of rows t, and every SLICES-th j.
// Preconditions: shapes match; src/ops/linear.rs checks.
// Outputs: out `=`; dx, dw, db `=` or `+=` (accumulate).
// Accumulation: float32, fixed order: a partial sum for each lane (forward) or slice (backward), then a fixed
//   tree. Deterministic. No spills.
#include "lib/rows.cuh"

PER_DEVICE(GROUPS, 4, 16);
PER_DEVICE(FORWARD_THREADS, 128, 16);
PER_DEVICE(TILE_ROWS, 4, 4);
PER_DEVICE(TILE_OUTPUTS, 2, 2);

// out = x * transposed(weight) + bias
extern "C" __global__ __launch_bounds__(FORWARD_THREADS) void linear_forward(
    const float* x, const float* weight, NULLABLE const float* bias, float* out, int rows, int inputs,
    int outputs) {
  const int group = blockIdx.x * GROUPS + threadIdx.x / LANES, lane = threadIdx.x % LANES;
  const int tiles = ceil_div(outputs, TILE_OUTPUTS);
  const int row = group / tiles * TILE_ROWS, output = group % tiles * TILE_OUTPUTS;
  if (row >= rows) return;
  // Tiles at the edge compute their last row or output several times and store it once.
  const float *a[TILE_ROWS], *b[TILE_OUTPUTS];
  UNROLL
  for (int r = 0; r < TILE_ROWS; r++) a[r] = x + min(row + r, rows - 1) * inputs;
  UNROLL
  for (int o = 0; o < TILE_OUTPUTS; o++) b[o] = weight + min(output + o, outputs - 1) * inputs;
  Pack sum[TILE_ROWS][TILE_OUTPUTS];
  UNROLL
  for (int r = 0; r < TILE_ROWS; r++) {
    UNROLL
    for (int o = 0; o < TILE_OUTPUTS; o++) sum[r][o] = pack_splat(0.0f);
  }
  const auto step = [&](int i, int count) {
    Pack w[TILE_OUTPUTS];
    UNROLL
    for (int o = 0; o < TILE_OUTPUTS; o++) w[o] = pack_load(b[o] + i, count);
    UNROLL
    for (int r = 0; r < TILE_ROWS; r++) {
      const Pack v = pack_load(a[r] + i, count);
      UNROLL
      for (int o = 0; o < TILE_OUTPUTS; o++) sum[r][o] = vec_fma(v, w[o], sum[r][o]);
    }
  };
  int i = lane * PACK;
  for (; i + PACK <= inputs; i += LANES * PACK) step(i, PACK);
  if (i < inputs) step(i, inputs - i);
  UNROLL
  for (int r = 0; r < TILE_ROWS; r++) {
    UNROLL
    for (int o = 0; o < TILE_OUTPUTS; o++) {
      const float total = warp_sum<LANES>(lane_sum(sum[r][o]));
      if (lane == 0 && row + r < rows && output + o < outputs) {
        out[(row + r) * outputs + output + o] = bias ? total + bias[output + o] : total;
      }
    }
  }
}

PER_DEVICE(SLICES, 8, 1);
PER_DEVICE(BACKWARD_THREADS, 256, 1);
// Columns of a block, and tiles of TILE rows that it takes one after the other.
PER_DEVICE(COLUMNS, 32, 512);
PER_DEVICE(TILES, 1, 4);
PER_DEVICE(TILE, 4, 4);

// out[t,i] (+)= sum over j < inner of coefficient(j, t) * m[j,i], for t < rows and i < columns.
template <int tile, class F>
INLINE void product(
    const float* m, F coefficient, float* out, int rows, int inner, int columns, int accumulate) {
  SHARED(Pack, partial, SLICES * tile * LANES);
  const int slice = threadIdx.x / LANES, lane = threadIdx.x % LANES;
  const int end = min(columns, static_cast<int>(blockIdx.x + 1) * COLUMNS);
  const int last = min(rows, static_cast<int>(blockIdx.y + 1) * TILES * tile);
  for (int row = blockIdx.y * TILES * tile; row < last; row += tile) {
    for (int base = blockIdx.x * COLUMNS; base < end; base += LANES * PACK) {
      const int column = base + lane * PACK, count = end - column;
      Pack sum[tile];
      UNROLL
      for (int t = 0; t < tile; t++) sum[t] = pack_splat(0.0f);
      for (int j = slice; j < inner; j += SLICES) {
        const Pack v = pack_load(m + j * columns + column, count);
        // A tile at the edge computes its last row several times and stores it once.
        UNROLL
        for (int t = 0; t < tile; t++) sum[t] = vec_fma(coefficient(j, min(row + t, rows - 1)), v, sum[t]);
      }
      UNROLL
      for (int t = 0; t < tile; t++) partial[(slice * tile + t) * LANES + lane] = sum[t];
      __syncthreads();
      for (int t = slice; t < tile && row + t < rows; t += SLICES) {
        Pack total = partial[t * LANES + lane];
        for (int s = 1; s < SLICES; s++) total = total + partial[(s * tile + t) * LANES + lane];
        pack_put(out + (row + t) * columns + column, total, count, accumulate);
      }
      // No barrier: a block does not write `partial` again.
      static_assert(ONE_THREAD_BLOCKS || (TILES == 1 && COLUMNS == LANES * PACK), "a block makes one tile");
    }
  }
}

// dx (+)= dout * weight
extern "C" __global__ __launch_bounds__(BACKWARD_THREADS) void linear_backward_input(
    const float* grad_out, const float* weight, float* grad_in, int rows, int inputs, int outputs,
    bool accumulate) {
  product<TILE>(
      weight, [=](int m, int n) { return grad_out[n * outputs + m]; }, grad_in, rows, outputs, inputs,
      accumulate);
}

// dweight (+)= transposed(dout) * x
extern "C" __global__ __launch_bounds__(BACKWARD_THREADS) void linear_backward_weight(
    const float* grad_out, const float* x, float* grad_weight, int rows, int inputs, int outputs,
    bool accumulate) {
  product<TILE>(
      x, [=](int n, int m) { return grad_out[n * outputs + m]; }, grad_weight, outputs, rows, inputs,
      accumulate);
}

// dbias (+)= the column sums of dout
extern "C" __global__ __launch_bounds__(BACKWARD_THREADS) void linear_backward_bias(
    const float* grad_out, float* grad_bias, int rows, int outputs, bool accumulate) {
  product<1>(grad_out, [](int, int) { return 1.0f; }, grad_bias, 1, rows, outputs, accumulate);
}
