// Batch normalisation over the channels of [rows, channels] (NHWC: rows = N H W), optionally followed by ReLU.
// With `existing` and per_image > 0 only the first *existing images of per_image rows are there: all sums run over their rows, y and dx are 0
//   behind them. With `existing` and per_image = 0 all rows are there. Either way running statistics stay when *existing is 0.
// Mathematics: mean and variance per channel; y = (x - mean) k + b with k = w / sqrt(var + eps), then max(y, 0) if asked.
//   db = sum dy; dw = sum dy (x - mean) / sqrt(var + eps); with batch statistics
//   dx = k (dy - db / rows - (x - mean) dw / (rows sqrt(var + eps))), with running ones dx = k dy. dy is 0 where ReLU cut y off.
// Threads: column passes (statistics, sums) give a block a chunk of rows and a tile of channel groups (VEC channels each): on CUDA
//   `side` groups lie side by side and THREADS / side lanes share the rows; on the host one thread goes group by group over its rows.
//   Finishing passes give a block one group, and its lanes share the chunks. Element passes walk over (row, group) pairs.
// Preconditions: rows, channels >= 1, rows * channels < 2^31; a mask only when channels % VEC == 0; checked by src/ops/batch_norm.rs.
// Outputs: dx `=` or `+=` (accumulate); all others `=`; running statistics in place.
// Accumulation: float32, fixed order. Variance: BATCH rows at a time in two passes inside registers, merged into a lane's (mean, squared
//   deviation) with Chan's formula; lanes and chunks are then merged as sums around a first mean. No difference of large squares occurs.
// Deterministic. No spills.
//
// `stats` has four rows of padded(channels) floats: mean, 1 / sqrt(var + eps), k, b. `partial` has two such rows a chunk.
#include "lib/lanes.cuh"

CONFIG(THREADS, 256, 1)
CONFIG(TILE, 8, 65536)          // groups that a block of a column pass walks over
CONFIG(BATCH, 4, 8)             // rows that a thread holds in registers at once
CONFIG(PAIRS, 256, 256)         // (row, group) pairs of a block of an element pass
CONFIG(FINISH_THREADS, 128, 1)

INLINE int padded(int channels) { return ceil_div(channels, VEC) * VEC; }

// Rows of the images that exist.
INLINE int existing_rows(const int* existing, int per_image, int rows) {
  return existing && per_image > 0 ? existing_images(existing, rows / per_image) * per_image : rows;
}

// The sum of v over threads whose number is the same modulo side, in all of them. scratch has threads * VEC floats.
template <int threads>
INLINE Vec lanes_sum(Vec v, float* scratch, int side) {
  if (threads == 1) return v;
  float* mine = scratch + threadIdx.x * VEC;
  vec_store(mine, v);
  for (int step = threads / 2; step >= side; step /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < step) vec_store(mine, vec_load(mine) + vec_load(mine + step * VEC));
  }
  __syncthreads();
  const Vec total = vec_load(scratch + threadIdx.x % side * VEC);
  __syncthreads();
  return total;
}

// The value of the first of those threads, in all of them.
template <int threads>
INLINE Vec lanes_first(Vec v, float* scratch, int side) {
  if (threads == 1) return v;
  if (static_cast<int>(threadIdx.x) < side) vec_store(scratch + threadIdx.x * VEC, v);
  __syncthreads();
  const Vec first = vec_load(scratch + threadIdx.x % side * VEC);
  __syncthreads();
  return first;
}

// A column pass: calls f(channel, row, end, step) for every group of this block, in all threads at once (f may meet at barriers). The
// thread's rows are row, row + step, ... below end; channel may lie behind the last one.
template <class F>
INLINE void each_column(int rows, int channels, int side, int rows_per_block, F f) {
  const int first = blockIdx.x * rows_per_block;
  if (first >= rows) return;
  const int end = rows - first < rows_per_block ? rows : first + rows_per_block;
  const int last = min(ceil_div(channels, VEC), (static_cast<int>(blockIdx.y) + 1) * TILE);
  for (int group = blockIdx.y * TILE; group < last; group += side) {
    f((group + threadIdx.x % side) * VEC, first + threadIdx.x / side, end, THREADS / side);
  }
}

// An element pass: calls f(offset, channel, count) for the pairs of this block.
template <class F>
INLINE void each_pair(int rows, int channels, F f) {
  const int groups = ceil_div(channels, VEC), pairs = rows * groups;
  const int first = blockIdx.x * PAIRS;
  const int end = pairs - first < PAIRS ? pairs : first + PAIRS;
  int row = first / groups, group = first % groups;
  for (int at = first + threadIdx.x; at < end; at += THREADS) {
    if (THREADS > 1) row = at / groups, group = at % groups;
    f(row * channels + group * VEC, group * VEC, row_count(group * VEC, channels));
    // One thread steps on without a division.
    if (THREADS == 1 && ++group == groups) group = 0, row++;
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
// mean and squared deviation per channel of a chunk of rows
batch_norm_statistics(const float* x, float* partial, NULLABLE const int* existing, int per_image, int rows, int channels, int side,
                      int rows_per_block) {
  SHARED(float, scratch, THREADS * VEC);
  rows = existing_rows(existing, per_image, rows);
  const bool aligned = rows_aligned(channels);
  each_column(rows, channels, side, rows_per_block, [&](int channel, int row, int end, int step) {
    const int count = row_count(channel, channels);
    const float* from = x + channel;
    Vec mean = vec_splat(0.0f), squares = vec_splat(0.0f);
    float seen = 0.0f;
    for (; row + (BATCH - 1) * step < end; row += BATCH * step) {
      Vec v[BATCH], sum[BATCH];
      UNROLL for (int i = 0; i < BATCH; i++) sum[i] = v[i] = row_load(from + (row + i * step) * channels, count, aligned);
      UNROLL for (int half = BATCH / 2; half > 0; half /= 2) {
        UNROLL for (int i = 0; i < half; i++) sum[i] = sum[i] + sum[i + half];
      }
      const Vec centre = (1.0f / BATCH) * sum[0];
      Vec deviation = vec_splat(0.0f);
      UNROLL for (int i = 0; i < BATCH; i++) deviation = vec_fma(v[i] - centre, v[i] - centre, deviation);
      const float share = BATCH / (seen + BATCH);
      const Vec apart = centre - mean;
      mean = vec_fma(vec_splat(share), apart, mean);
      squares = squares + vec_fma(vec_splat(seen * share), apart * apart, deviation);
      seen += BATCH;
    }
    for (; row < end; row += step) {
      const float share = 1.0f / (seen + 1.0f);
      const Vec apart = row_load(from + row * channels, count, aligned) - mean;
      mean = vec_fma(vec_splat(share), apart, mean);
      squares = vec_fma(vec_splat(seen * share), apart * apart, squares);
      seen += 1.0f;
    }
    if (THREADS > 1) {
      const Vec around = lanes_first<THREADS>(mean, scratch, side);
      const float chunk = static_cast<float>(end - static_cast<int>(blockIdx.x) * rows_per_block);
      const Vec moved = (1.0f / chunk) * lanes_sum<THREADS>(seen * (mean - around), scratch, side);
      const Vec apart = mean - around - moved;
      squares = lanes_sum<THREADS>(vec_fma(vec_splat(seen), apart * apart, squares), scratch, side);
      mean = around + moved;
    }
    if (static_cast<int>(threadIdx.x) < side && count > 0) {
      float* to = partial + blockIdx.x * 2 * padded(channels) + channel;
      vec_store(to, mean);
      vec_store(to + padded(channels), squares);
    }
  });
}

// Writes one group of `stats`; a padding lane gets zeros.
INLINE void store_stats(float* stats, int channel, int channels, Vec mean, Vec inverse, const float* weight, const float* bias) {
  const int row = padded(channels), count = row_count(channel, channels);
  vec_store(stats + channel, mean);
  vec_store(stats + row + channel, inverse);
  vec_store(stats + 2 * row + channel, row_load(weight + channel, count, true) * inverse);
  vec_store(stats + 3 * row + channel, row_load(bias + channel, count, true));
}

INLINE Vec inverse_deviation(Vec variance, float eps) {
  Vec inverse;
  UNROLL for (int i = 0; i < VEC; i++) inverse[i] = 1.0f / sqrtf(variance[i] + eps);
  return inverse;
}

extern "C" __global__ void __launch_bounds__(FINISH_THREADS)
// merges the chunks' statistics; updates the running ones if given (unbiased variance)
batch_norm_finish(const float* partial, const float* weight, const float* bias, NULLABLE float* running_mean, NULLABLE float* running_var,
                  float* stats, NULLABLE const int* existing, int per_image, int rows, int channels, int rows_per_block, float eps,
                  float momentum) {
  SHARED(float, scratch, FINISH_THREADS * VEC);
  const int channel = blockIdx.x * VEC, count = row_count(channel, channels), row = padded(channels);
  const float* from = partial + channel;
  rows = existing_rows(existing, per_image, rows);
  const int chunks = ceil_div(rows, rows_per_block);
  const float share = 1.0f / max(rows, 1);
  const Vec around = rows > 0 ? vec_load(from) : vec_splat(0.0f);
  Vec moved = vec_splat(0.0f), squares = vec_splat(0.0f);
  const auto size = [&](int chunk) { return vec_splat(static_cast<float>(min(rows_per_block, rows - chunk * rows_per_block))); };
  for (int i = threadIdx.x; i < chunks; i += FINISH_THREADS) moved = vec_fma(size(i), vec_load(from + i * 2 * row) - around, moved);
  moved = share * lanes_sum<FINISH_THREADS>(moved, scratch, 1);
  for (int i = threadIdx.x; i < chunks; i += FINISH_THREADS) {
    const Vec apart = vec_load(from + i * 2 * row) - around - moved;
    squares = squares + vec_fma(size(i), apart * apart, vec_load(from + (i * 2 + 1) * row));
  }
  squares = lanes_sum<FINISH_THREADS>(squares, scratch, 1);
  if (threadIdx.x > 0) return;
  const Vec mean = around + moved;
  store_stats(stats, channel, channels, mean, inverse_deviation(share * squares, eps), weight, bias);
  if (running_mean == nullptr || running_var == nullptr || (existing && *existing <= 0)) return;
  const Vec unbiased = (1.0f / max(rows - 1, 1)) * squares;
  const Vec old_mean = row_load(running_mean + channel, count, true), old_var = row_load(running_var + channel, count, true);
  row_store(running_mean + channel, (1.0f - momentum) * old_mean + momentum * mean, count, true);
  row_store(running_var + channel, (1.0f - momentum) * old_var + momentum * unbiased, count, true);
}

extern "C" __global__ void __launch_bounds__(32)
// `stats` from running statistics
batch_norm_running(const float* running_mean, const float* running_var, const float* weight, const float* bias, float* stats, int channels,
                   float eps) {
  const int channel = (blockIdx.x * 32 + threadIdx.x) * VEC, count = row_count(channel, channels);
  if (count == 0) return;
  const Vec inverse = inverse_deviation(row_load(running_var + channel, count, true), eps);
  store_stats(stats, channel, channels, row_load(running_mean + channel, count, true), inverse, weight, bias);
}

extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS)
// running statistics as a factor and a summand per channel
batch_norm_fold(const float* weight, const float* bias, const float* running_mean, const float* running_var, float* scale, float* shift,
                int channels, float eps) {
  each_vec(channels, [&](int i, int count) {
    const Vec k = row_load(weight + i, count, true) * inverse_deviation(row_load(running_var + i, count, true), eps);
    row_store(scale + i, k, count, true);
    row_store(shift + i, row_load(bias + i, count, true) - row_load(running_mean + i, count, true) * k, count, true);
  });
}

extern "C" __global__ void __launch_bounds__(THREADS)
// y = (x - mean) k + b, then ReLU with a bit mask if asked
batch_norm_apply(const float* x, const float* stats, float* y, NULLABLE uint8_t* mask, NULLABLE const int* existing, int per_image, int rows,
                 int channels, bool relu) {
  const bool aligned = rows_aligned(channels);
  const int row = padded(channels), end = existing_rows(existing, per_image, rows) * channels;
  each_pair(rows, channels, [&](int offset, int channel, int count) {
    Vec v = vec_splat(0.0f);
    if (offset < end) {
      const Vec apart = row_load(x + offset, count, aligned) - vec_load(stats + channel);
      v = vec_fma(apart, vec_load(stats + 2 * row + channel), vec_load(stats + 3 * row + channel));
    }
    row_store(y + offset, relu ? vec_relu(v) : v, count, aligned);
    if (mask) mask_store(mask, offset, vec_positive(v));
  });
}

// The gradient behind ReLU.
INLINE Vec load_grad(const float* grad_out, const uint8_t* mask, int offset, int count, bool aligned) {
  const Vec grad = row_load(grad_out + offset, count, aligned);
  return mask ? vec_keep(grad, mask_load(mask, offset)) : grad;
}

extern "C" __global__ void __launch_bounds__(THREADS)
// sums of dy and of dy (x - mean) per channel over a chunk of rows
batch_norm_sums(const float* grad_out, NULLABLE const uint8_t* mask, const float* x, const float* stats, float* partial,
                NULLABLE const int* existing, int per_image, int rows, int channels, int side, int rows_per_block) {
  SHARED(float, scratch, THREADS * VEC);
  rows = existing_rows(existing, per_image, rows);
  const bool aligned = rows_aligned(channels);
  each_column(rows, channels, side, rows_per_block, [&](int channel, int row, int end, int step) {
    const int count = row_count(channel, channels);
    if (count == 0) row = end;
    const Vec mean = count > 0 ? vec_load(stats + channel) : vec_splat(0.0f);
    // BATCH independent chains of additions.
    Vec sum[BATCH], product[BATCH];
    UNROLL for (int i = 0; i < BATCH; i++) sum[i] = product[i] = vec_splat(0.0f);
    for (; row < end; row += BATCH * step) {
      UNROLL for (int i = 0; i < BATCH; i++) {
        if (row + i * step < end) {
          const int offset = (row + i * step) * channels + channel;
          const Vec grad = load_grad(grad_out, mask, offset, count, aligned);
          sum[i] = sum[i] + grad;
          product[i] = vec_fma(grad, row_load(x + offset, count, aligned) - mean, product[i]);
        }
      }
    }
    UNROLL for (int half = BATCH / 2; half > 0; half /= 2) {
      UNROLL for (int i = 0; i < half; i++) sum[i] = sum[i] + sum[i + half], product[i] = product[i] + product[i + half];
    }
    const Vec total = lanes_sum<THREADS>(sum[0], scratch, side);
    const Vec products = lanes_sum<THREADS>(product[0], scratch, side);
    if (static_cast<int>(threadIdx.x) < side && count > 0) {
      float* to = partial + blockIdx.x * 2 * padded(channels) + channel;
      vec_store(to, total);
      vec_store(to + padded(channels), products);
    }
  });
}

extern "C" __global__ void __launch_bounds__(FINISH_THREADS)
// dw and db from the chunks' sums, and what dx takes from them: factors of x - mean and summands
batch_norm_sums_finish(const float* partial, const float* stats, NULLABLE float* grad_weight, NULLABLE float* grad_bias,
                       NULLABLE float* coefficients, NULLABLE const int* existing, int per_image, int rows, int channels,
                       int rows_per_block) {
  SHARED(float, scratch, FINISH_THREADS * VEC);
  rows = existing_rows(existing, per_image, rows);
  const int chunks = ceil_div(rows, rows_per_block);
  const int channel = blockIdx.x * VEC, count = row_count(channel, channels), row = padded(channels);
  Vec sum = vec_splat(0.0f), product = vec_splat(0.0f);
  for (int i = threadIdx.x; i < chunks; i += FINISH_THREADS) {
    sum = sum + vec_load(partial + i * 2 * row + channel);
    product = product + vec_load(partial + (i * 2 + 1) * row + channel);
  }
  sum = lanes_sum<FINISH_THREADS>(sum, scratch, 1);
  product = lanes_sum<FINISH_THREADS>(product, scratch, 1);
  if (threadIdx.x > 0) return;
  const Vec inverse = vec_load(stats + row + channel), k = vec_load(stats + 2 * row + channel);
  const Vec scaled = inverse * product;
  if (grad_weight) row_store(grad_weight + channel, scaled, count, true);
  if (grad_bias) row_store(grad_bias + channel, sum, count, true);
  if (coefficients) {
    const float share = -1.0f / max(rows, 1);
    vec_store(coefficients + channel, share * (k * inverse * scaled));
    vec_store(coefficients + row + channel, share * (k * sum));
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
// dx (+)= k dy and, with batch statistics, what flows through them
batch_norm_backward(const float* grad_out, NULLABLE const uint8_t* mask, const float* x, const float* stats,
                    NULLABLE const float* coefficients, float* grad_in, NULLABLE const int* existing, int per_image, int rows, int channels,
                    bool accumulate) {
  const bool aligned = rows_aligned(channels);
  const int row = padded(channels), end = existing_rows(existing, per_image, rows) * channels;
  each_pair(rows, channels, [&](int offset, int channel, int count) {
    if (offset >= end) return row_put(grad_in + offset, vec_splat(0.0f), count, aligned, accumulate);
    const Vec grad = load_grad(grad_out, mask, offset, count, aligned), k = vec_load(stats + 2 * row + channel);
    Vec v = k * grad;
    if (coefficients) {
      const Vec apart = row_load(x + offset, count, aligned) - vec_load(stats + channel);
      v = vec_fma(apart, vec_load(coefficients + channel), vec_fma(k, grad, vec_load(coefficients + row + channel)));
    }
    row_put(grad_in + offset, v, count, aligned, accumulate);
  });
}
