// Pieces that the matrix kernels share: exact division by run-time constants, asynchronous copies, and the tile of the result that one
// thread holds in registers.
#pragma once
#include "common.cuh"

INLINE int round_up(int a, int b) { return (a + b - 1) / b * b; }

// Matrices that are read as B are cut into panels of 64, 32 or 16 columns: [panel][row][width], zeros behind the last column; the number of
// rows is rounded up to STEP_ROWS.
constexpr int STEP_ROWS = 4;
INLINE int panel_width(int columns) { return columns > 32 ? 64 : columns > 16 ? 32 : 16; }

// n / d for 0 <= n < 2^31, without a division.
struct Divider {
  uint64_t factor;
  int shift, divisor;
  INLINE explicit Divider(int d) : shift(31), divisor(d) {
    while ((1ll << (shift - 31)) < d) shift++;
    factor = ((1ull << shift) + d - 1) / d;
  }
  INLINE int quotient(int n) const { return static_cast<int>((n * factor) >> shift); }
};

// Floats that one asynchronous copy moves.
CONFIG(COPY, 4, 16)

// Copies COPY floats into shared memory, or zeros when not valid (then nothing is read). Visible after copies_wait and a barrier.
INLINE void copy_async(float* to, const float* from, bool valid) {
#ifdef SADDLE_HOST
  alignas(64) static const float zeros[COPY] = {};
  vec_store(to, vec_load(valid ? from : zeros));
#else
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(to))), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
#endif
}
INLINE void copies_wait() {
#ifndef SADDLE_HOST
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// What one thread computes of a block's tile with `width` columns: ROWS x (VECS * VEC) numbers, all in registers.
// COLUMN_THREADS threads share a row. On the host one thread is alone and goes over the block's tile piece by piece.
template <int width, int threads, int block_rows>
struct Tile {
#ifndef SADDLE_HOST
  static constexpr int VECS = 1, COLUMN_THREADS = width / VEC, ROW_THREADS = threads / COLUMN_THREADS, ROWS = block_rows / ROW_THREADS;
#else
  static constexpr int COLUMN_THREADS = 1, ROW_THREADS = 1;
#if defined(__AVX512F__)  // 32 registers of 16 floats
  static constexpr int VECS = width / VEC, ROWS = 16 / VECS;
#elif defined(__AVX__)  // 16 registers of 8 floats
  static constexpr int VECS = 1, ROWS = 6;
#elif defined(__aarch64__)  // 32 registers of 4 floats
  static constexpr int VECS = 1, ROWS = 6;
#else  // 16 registers of 4 floats
  static constexpr int VECS = 1, ROWS = 3;
#endif
#endif
  static constexpr int COLUMNS = VECS * VEC * COLUMN_THREADS, BLOCK_ROWS = ROWS * ROW_THREADS;
  Vec sum[ROWS][VECS];

  // f(sum, row, vec) for every Vec.
  template <class F>
  INLINE void each(F f) {
    UNROLL for (int r = 0; r < ROWS; r++) {
      UNROLL for (int v = 0; v < VECS; v++) f(sum[r][v], r, v);
    }
  }
  INLINE void clear() {
    each([](Vec& v, int, int) { v = vec_splat(0.0f); });
  }
  // sum[r][v] += a(r) * b[v]
  template <class A>
  INLINE void add(A a, const Vec (&b)[VECS]) {
    UNROLL for (int r = 0; r < ROWS; r++) {
      const float factor = a(r);
      UNROLL for (int v = 0; v < VECS; v++) sum[r][v] = vec_fma(vec_splat(factor), b[v], sum[r][v]);
    }
  }
  // The row and the column (within the piece) of this thread's number sum[r][v][0].
  static INLINE int row_of(int r) { return threadIdx.x / COLUMN_THREADS + r * ROW_THREADS; }
  static INLINE int column_of(int v) { return (threadIdx.x % COLUMN_THREADS + v * COLUMN_THREADS) * VEC; }
};

// Up to VEC numbers of a row of a matrix whose rows may start anywhere: `whole` says that rows are multiples of VEC long.
INLINE Vec load_columns(const float* from, int count, bool whole) {
  if (whole) return vec_load(from);
  Vec v = vec_splat(0.0f);
  UNROLL for (int i = 0; i < VEC; i++)
    if (i < count) v[i] = from[i];
  return v;
}
INLINE void store_columns(float* to, Vec v, int count, bool whole) {
  if (whole) return vec_store(to, v);
  UNROLL for (int i = 0; i < VEC; i++)
    if (i < count) to[i] = v[i];
}

// The sum of the numbers of a Vec, as a tree.
INLINE float lane_sum(Vec v) {
  float part[VEC];
  UNROLL for (int i = 0; i < VEC; i++) part[i] = v[i];
  UNROLL for (int step = VEC / 2; step > 0; step /= 2) {
    UNROLL for (int i = 0; i < step; i++) part[i] += part[i + step];
  }
  return part[0];
}
