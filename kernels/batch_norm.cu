// Batch normalisation over the channels of [rows, channels] (NHWC: rows = N H W), optionally followed by ReLU
// (Ioffe and Szegedy 2015, arXiv 1502.03167).
// With `num_valid` and per_image > 0 only the first *num_valid images of per_image rows are valid: all sums
//   run over their rows; y and dx are 0 after them. With `num_valid` and per_image = 0 all rows are valid.
//   Either way the running statistics stay when *num_valid is 0.
// Mathematics: mean and variance per channel; y = (x - mean) scale + shift with scale = w / sqrt(var + eps)
//   and shift = b, then max(y, 0) if asked.
//   db = sum dy; dw = sum dy (x - mean) / sqrt(var + eps); with batch statistics
//   dx = scale (dy - db / rows - (x - mean) dw / (rows sqrt(var + eps))), with running ones dx = scale dy.
//   dy is 0 where ReLU cut y off.
// Threads: column passes (statistics, sums) give a block a chunk of rows and a tile of channel groups (VEC
//   channels each): on CUDA `side` groups lie side by side and THREADS / side threads share the rows; on the
//   host one thread goes group by group over its rows. Finalizing passes give a block one group, and its
//   threads share the chunks. Element passes walk over (row, group) pairs.
// Preconditions: rows, channels >= 1, rows * channels < 2^31; a mask only when channels % VEC == 0; checked
//   by src/ops/batch_norm.rs.
// Outputs: dx `=` or `+=` (accumulate); all others `=`; running statistics in place.
// Accumulation: float32, fixed order. A thread keeps n, mean and M2 = sum (x - mean)^2 of its rows. It merges
//   BATCH rows at a time (Chan, Golub and LeVeque 1979) and the rest one by one (Welford 1962):
//     delta = mean_b - mean;  mean += delta n_b / (n + n_b);  M2 += M2_b + delta^2 n n_b / (n + n_b).
//   Threads, and then chunks, are merged around a pivot, which is the mean of the first of them:
//     mean = pivot + sum n_i (mean_i - pivot) / n;  M2 = sum (M2_i + n_i (mean_i - mean)^2).
//   No difference of large squares occurs. Deterministic. No spills.
//
// `stats` has four rows of padded(channels) floats: mean, 1 / sqrt(var + eps), scale, shift. `partial` has
// two rows per chunk: mean and M2, or the two sums of the backward pass. Mean and M2 may come from the
// convolution before (conv2d_mma.cu) instead of from batch_norm_statistics: its blocks are the chunks.
#include "lib/table.cuh"

PER_DEVICE(THREADS, 256, 1);
PER_DEVICE(TILE, 8, 65536);   // groups that a block of a column pass walks over
PER_DEVICE(BATCH, 4, 8);      // rows that a thread holds in registers at once
PER_DEVICE(PAIRS, 256, 256);  // (row, group) pairs of a block of an element pass
PER_DEVICE(FINALIZE_THREADS, 128, 1);

INLINE int padded(int channels) { return ceil_div(channels, VEC) * VEC; }

// The number of valid rows.
INLINE int valid_rows(const int* num_valid, int per_image, int rows) {
  return num_valid && per_image > 0 ? valid_images(num_valid, rows / per_image) * per_image : rows;
}

// The sum of v over the threads of a group (whose numbers are equal modulo side), in the first of them.
// scratch has threads * VEC floats.
template <int threads>
INLINE Vec column_sum_first(Vec v, float* scratch, int side) {
  if (threads == 1) return v;
  float* mine = scratch + threadIdx.x * VEC;
  vec_store(mine, v);
  for (int step = threads / 2; step >= side; step /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < step) vec_store(mine, vec_load(mine) + vec_load(mine + step * VEC));
  }
  return vec_load(mine);
}

// The same in all threads of the group. scratch may be used again.
template <int threads>
INLINE Vec column_sum(Vec v, float* scratch, int side) {
  if (threads == 1) return v;
  column_sum_first<threads>(v, scratch, side);
  __syncthreads();
  const Vec total = vec_load(scratch + threadIdx.x % side * VEC);
  __syncthreads();
  return total;
}

// Broadcasts the value of the first thread of a group to all of them.
template <int threads>
INLINE Vec column_broadcast(Vec v, float* scratch, int side) {
  if (threads == 1) return v;
  if (static_cast<int>(threadIdx.x) < side) vec_store(scratch + threadIdx.x * VEC, v);
  __syncthreads();
  const Vec first = vec_load(scratch + threadIdx.x % side * VEC);
  __syncthreads();
  return first;
}

// A column pass: calls f(channel, row, end, step) for every group of this block, in all threads at once (f
// may wait at barriers). The thread's rows are row, row + step, ... below end; channel may lie past the
// last one. On CUDA it is called once: side is TILE, or no fewer than the groups.
template <class F>
INLINE void each_column(int rows, int channels, int side, int rows_per_block, F f) {
  const int first = blockIdx.x * rows_per_block;
  if (first >= rows) return;
  const int end = rows - first < rows_per_block ? rows : first + rows_per_block;
  const int last = min(ceil_div(channels, VEC), (static_cast<int>(blockIdx.y) + 1) * TILE);
  for (int group = blockIdx.y * TILE; group < last; group += side) {
    f((group + threadIdx.x % side) * VEC, first + threadIdx.x / side, end, THREADS / side);
    if (THREADS > 1) break;
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
    if (THREADS > 1) {
      row = at / groups;
      group = at % groups;
    }
    f(row * channels + group * VEC, group * VEC, run_length(group * VEC, channels));
    // One thread steps on without a division.
    if (THREADS == 1 && ++group == groups) {
      group = 0;
      row++;
    }
  }
}

// mean and M2 per channel of a chunk of rows
extern "C" __global__ __launch_bounds__(THREADS) void batch_norm_statistics(
    const T* x, float* partial, NULLABLE const int* num_valid, int per_image, int rows, int channels,
    int side, int rows_per_block) {
  SHARED(float, scratch, VEC* THREADS);
  rows = valid_rows(num_valid, per_image, rows);
  const bool aligned = rows_aligned<T>(channels);
  each_column(rows, channels, side, rows_per_block, [&](int channel, int row, int end, int step) {
    const int count = run_length(channel, channels);
    const T* from = x + channel;
    float n = 0.0f;
    Vec mean = vec_splat(0.0f), M2 = vec_splat(0.0f);
    for (; row + (BATCH - 1) * step < end; row += BATCH * step) {
      // Mean and M2 of BATCH rows in registers, in two passes over them.
      Vec v[BATCH], sum[BATCH];
      UNROLL
      for (int i = 0; i < BATCH; i++) {
        v[i] = vec_load(from + (row + i * step) * channels, count, aligned);
        sum[i] = v[i];
      }
      UNROLL
      for (int half = BATCH / 2; half > 0; half /= 2) {
        UNROLL
        for (int i = 0; i < half; i++) sum[i] = sum[i] + sum[i + half];
      }
      const Vec batch_mean = (1.0f / BATCH) * sum[0];
      Vec batch_M2 = vec_splat(0.0f);
      UNROLL
      for (int i = 0; i < BATCH; i++) batch_M2 = vec_fma(v[i] - batch_mean, v[i] - batch_mean, batch_M2);
      // Chan's merge.
      const float share = BATCH / (n + BATCH);
      const Vec delta = batch_mean - mean;
      mean = vec_fma(share, delta, mean);
      M2 = M2 + vec_fma(n * share, delta * delta, batch_M2);
      n += BATCH;
    }
    for (; row < end; row += step) {
      // Welford's update.
      const float share = 1.0f / (n + 1.0f);
      const Vec delta = vec_load(from + row * channels, count, aligned) - mean;
      mean = vec_fma(share, delta, mean);
      M2 = vec_fma(n * share, delta * delta, M2);
      n += 1.0f;
    }
    if (THREADS > 1) {
      const Vec pivot = column_broadcast<THREADS>(mean, scratch, side);
      const float chunk_n = static_cast<float>(end - static_cast<int>(blockIdx.x) * rows_per_block);
      const Vec offset = (1.0f / chunk_n) * column_sum<THREADS>(n * (mean - pivot), scratch, side);
      const Vec delta = mean - pivot - offset;
      M2 = column_sum_first<THREADS>(vec_fma(n, delta * delta, M2), scratch, side);
      mean = pivot + offset;
    }
    if (static_cast<int>(threadIdx.x) < side && count > 0) {
      float* to = partial + blockIdx.x * 2 * padded(channels) + channel;
      vec_store(to, mean);
      vec_store(to + padded(channels), M2);
    }
  });
}

// Writes one group of `stats`; a padding lane gets zeros.
INLINE void store_stats(
    float* stats, int channel, int channels, Vec mean, Vec inverse, const float* weight, const float* bias) {
  const int row = padded(channels), count = run_length(channel, channels);
  vec_store(stats + channel, mean);
  vec_store(stats + row + channel, inverse);
  vec_store(stats + 2 * row + channel, vec_load(weight + channel, count) * inverse);
  vec_store(stats + 3 * row + channel, vec_load(bias + channel, count));
}

INLINE Vec inverse_deviation(Vec variance, float eps) {
  Vec inverse;
  UNROLL
  for (int i = 0; i < VEC; i++) inverse[i] = 1.0f / sqrtf(variance[i] + eps);
  return inverse;
}

// merges the chunks' statistics; updates the running ones if given (unbiased variance)
extern "C" __global__ __launch_bounds__(FINALIZE_THREADS) void batch_norm_finish(
    const float* partial, const float* weight, const float* bias, NULLABLE float* running_mean,
    NULLABLE float* running_var, float* stats, NULLABLE const int* num_valid, int per_image, int rows,
    int channels, int rows_per_block, float eps, float momentum) {
  SHARED(float, scratch, VEC* FINALIZE_THREADS);
  const int channel = blockIdx.x * VEC, count = run_length(channel, channels), row = padded(channels);
  const float* from = partial + channel;
  rows = valid_rows(num_valid, per_image, rows);
  const int chunks = ceil_div(rows, rows_per_block);
  const float share = 1.0f / max(rows, 1);
  const Vec pivot = rows > 0 ? vec_load(from) : vec_splat(0.0f);
  Vec offset = vec_splat(0.0f), M2 = vec_splat(0.0f);
  const auto size = [&](int chunk) {
    return vec_splat(static_cast<float>(min(rows_per_block, rows - chunk * rows_per_block)));
  };
  for (int i = threadIdx.x; i < chunks; i += FINALIZE_THREADS)
    offset = vec_fma(size(i), vec_load(from + i * 2 * row) - pivot, offset);
  offset = share * column_sum<FINALIZE_THREADS>(offset, scratch, 1);
  for (int i = threadIdx.x; i < chunks; i += FINALIZE_THREADS) {
    const Vec delta = vec_load(from + i * 2 * row) - pivot - offset;
    M2 = M2 + vec_fma(size(i), delta * delta, vec_load(from + (i * 2 + 1) * row));
  }
  M2 = column_sum_first<FINALIZE_THREADS>(M2, scratch, 1);
  if (threadIdx.x > 0) return;
  const Vec mean = pivot + offset;
  store_stats(stats, channel, channels, mean, inverse_deviation(share * M2, eps), weight, bias);
  if (running_mean == nullptr || running_var == nullptr || (num_valid && *num_valid <= 0)) return;
  const Vec unbiased = (1.0f / max(rows - 1, 1)) * M2;
  const Vec old_mean = vec_load(running_mean + channel, count);
  const Vec old_var = vec_load(running_var + channel, count);
  vec_store(running_mean + channel, (1.0f - momentum) * old_mean + momentum * mean, count);
  vec_store(running_var + channel, (1.0f - momentum) * old_var + momentum * unbiased, count);
}

// `stats` from running statistics
extern "C" __global__ __launch_bounds__(32) void batch_norm_running(
    const float* running_mean, const float* running_var, const float* weight, const float* bias, float* stats,
    int channels, float eps) {
  const int channel = (blockIdx.x * 32 + threadIdx.x) * VEC, count = run_length(channel, channels);
  if (count == 0) return;
  const Vec inverse = inverse_deviation(vec_load(running_var + channel, count), eps);
  store_stats(stats, channel, channels, vec_load(running_mean + channel, count), inverse, weight, bias);
}

// scale and shift per channel from running statistics, with the mean folded into the shift, of all batch
// norms of a network; a row is (first block, channels, weight, bias, running mean, running variance, scale,
// shift)
extern "C" __global__ __launch_bounds__(ELEMENTWISE_THREADS) void batch_norm_fold(
    const uint64_t* table, float eps, int norms) {
  const uint64_t* const row = row_of_block(table, norms, 8);
  const float *const weight = pointer<const float>(row[2]), *const bias = pointer<const float>(row[3]);
  const float *const mean = pointer<const float>(row[4]), *const var = pointer<const float>(row[5]);
  float *const scale = pointer<float>(row[6]), *const shift = pointer<float>(row[7]);
  each_of_row(row, [&](int i, int count) {
    const Vec factor = vec_load(weight + i, count) * inverse_deviation(vec_load(var + i, count), eps);
    vec_store(scale + i, factor, count);
    vec_store(shift + i, vec_load(bias + i, count) - vec_load(mean + i, count) * factor, count);
  });
}

// y = (x - mean) scale + shift, then ReLU with a bit mask if asked
extern "C" __global__ __launch_bounds__(THREADS) void batch_norm_apply(
    const T* x, const float* stats, T* y, NULLABLE uint8_t* mask, NULLABLE const int* num_valid,
    int per_image, int rows, int channels, bool relu) {
  const bool aligned = rows_aligned<T>(channels);
  const int row = padded(channels), end = valid_rows(num_valid, per_image, rows) * channels;
  each_pair(rows, channels, [&](int offset, int channel, int count) {
    Vec v = vec_splat(0.0f);
    if (offset < end) {
      const Vec centered = vec_load(x + offset, count, aligned) - vec_load(stats + channel);
      v = vec_fma(centered, vec_load(stats + 2 * row + channel), vec_load(stats + 3 * row + channel));
    }
    vec_store(y + offset, relu ? vec_relu(v) : v, count, aligned);
    if (mask) mask_store(mask, offset, vec_positive(v));
  });
}

// The gradient of the ReLU's input.
template <class T>
INLINE Vec load_grad(const T* grad_out, const uint8_t* mask, int offset, int count, bool aligned) {
  const Vec grad = vec_load(grad_out + offset, count, aligned);
  return mask ? vec_keep(grad, mask_load(mask, offset)) : grad;
}

// sums of dy and of dy (x - mean) per channel over a chunk of rows
extern "C" __global__ __launch_bounds__(THREADS) void batch_norm_sums(
    const T* grad_out, NULLABLE const uint8_t* mask, const T* x, const float* stats, float* partial,
    NULLABLE const int* num_valid, int per_image, int rows, int channels, int side, int rows_per_block) {
  SHARED(float, scratch, VEC* THREADS);
  rows = valid_rows(num_valid, per_image, rows);
  const bool aligned = rows_aligned<T>(channels);
  each_column(rows, channels, side, rows_per_block, [&](int channel, int row, int end, int step) {
    const int count = run_length(channel, channels);
    if (count == 0) row = end;
    const Vec mean = count > 0 ? vec_load(stats + channel) : vec_splat(0.0f);
    // BATCH independent chains of additions.
    Vec sum[BATCH], product[BATCH];
    UNROLL
    for (int i = 0; i < BATCH; i++) {
      sum[i] = vec_splat(0.0f);
      product[i] = vec_splat(0.0f);
    }
    for (; row < end; row += BATCH * step) {
      UNROLL
      for (int i = 0; i < BATCH; i++) {
        if (row + i * step < end) {
          const int offset = (row + i * step) * channels + channel;
          const Vec grad = load_grad(grad_out, mask, offset, count, aligned);
          sum[i] = sum[i] + grad;
          product[i] = vec_fma(grad, vec_load(x + offset, count, aligned) - mean, product[i]);
        }
      }
    }
    UNROLL
    for (int half = BATCH / 2; half > 0; half /= 2) {
      UNROLL
      for (int i = 0; i < half; i++) {
        sum[i] = sum[i] + sum[i + half];
        product[i] = product[i] + product[i + half];
      }
    }
    const Vec total = column_sum<THREADS>(sum[0], scratch, side);
    const Vec products = column_sum_first<THREADS>(product[0], scratch, side);
    if (static_cast<int>(threadIdx.x) < side && count > 0) {
      float* to = partial + blockIdx.x * 2 * padded(channels) + channel;
      vec_store(to, total);
      vec_store(to + padded(channels), products);
    }
  });
}

// dw and db from the chunks' sums, and the coefficients of dx: a factor of x - mean and a summand
extern "C" __global__ __launch_bounds__(FINALIZE_THREADS) void batch_norm_sums_finish(
    const float* partial, const float* stats, NULLABLE float* grad_weight, NULLABLE float* grad_bias,
    NULLABLE float* coefficients, NULLABLE const int* num_valid, int per_image, int rows, int channels,
    int rows_per_block) {
  SHARED(float, scratch, VEC* FINALIZE_THREADS);
  rows = valid_rows(num_valid, per_image, rows);
  const int chunks = ceil_div(rows, rows_per_block);
  const int channel = blockIdx.x * VEC, count = run_length(channel, channels), row = padded(channels);
  Vec sum = vec_splat(0.0f), product = vec_splat(0.0f);
  for (int i = threadIdx.x; i < chunks; i += FINALIZE_THREADS) {
    sum = sum + vec_load(partial + i * 2 * row + channel);
    product = product + vec_load(partial + (i * 2 + 1) * row + channel);
  }
  sum = column_sum<FINALIZE_THREADS>(sum, scratch, 1);
  product = column_sum_first<FINALIZE_THREADS>(product, scratch, 1);
  if (threadIdx.x > 0) return;
  const Vec inverse = vec_load(stats + row + channel), scale = vec_load(stats + 2 * row + channel);
  const Vec grad_w = inverse * product;
  if (grad_weight) vec_store(grad_weight + channel, grad_w, count);
  if (grad_bias) vec_store(grad_bias + channel, sum, count);
  if (coefficients) {
    const float share = -1.0f / max(rows, 1);
    vec_store(coefficients + channel, share * (scale * inverse * grad_w));
    vec_store(coefficients + row + channel, share * (scale * sum));
  }
}

// dx (+)= scale dy and, with batch statistics, the gradient through them
extern "C" __global__ __launch_bounds__(THREADS) void batch_norm_backward(
    const T* grad_out, NULLABLE const uint8_t* mask, const T* x, const float* stats,
    NULLABLE const float* coefficients, T* grad_in, NULLABLE const int* num_valid, int per_image, int rows,
    int channels, bool accumulate) {
  const bool aligned = rows_aligned<T>(channels);
  const int row = padded(channels), end = valid_rows(num_valid, per_image, rows) * channels;
  each_pair(rows, channels, [&](int offset, int channel, int count) {
    if (offset >= end) return vec_put(grad_in + offset, vec_splat(0.0f), count, accumulate, aligned);
    const Vec grad = load_grad(grad_out, mask, offset, count, aligned);
    const Vec scale = vec_load(stats + 2 * row + channel);
    Vec v = scale * grad;
    if (coefficients) {
      const Vec centered = vec_load(x + offset, count, aligned) - vec_load(stats + channel);
      v = vec_fma(
          centered, vec_load(coefficients + channel),
          vec_fma(scale, grad, vec_load(coefficients + row + channel)));
    }
    vec_put(grad_in + offset, v, count, accumulate, aligned);
  });
}
