// The common parts of the two convolution GEMMs: the layout of B, fast division by run-time constants,
// asynchronous copies, and the tile of C that one thread holds in registers.
#pragma once
#include "lib/vec.cuh"

INLINE int round_up(int a, int b) { return (a + b - 1) / b * b; }

// The matrix B is cut into panels of 64, 32 or 16 columns: [panel][row][width], zeros after the last column;
// the number of rows is rounded up to STEP_ROWS. panel_slot orders the columns of a row.
constexpr int STEP_ROWS = 4;
INLINE int panel_width(int columns) { return columns > 32 ? 64 : columns > 16 ? 32 : 16; }

// Division by a run-time constant as a multiplication and a shift (Granlund and Montgomery 1994), exact for
// 0 <= n < 2^31.
struct FastDivmod {
  uint64_t factor;
  int shift, divisor;
  INLINE explicit FastDivmod(int d) : shift(31), divisor(d) {
    while ((1ll << (shift - 31)) < d) shift++;
    factor = ((1ull << shift) + d - 1) / d;
  }
  INLINE int div(int n) const { return static_cast<int>((n * factor) >> shift); }
};

// Reg: one machine register of floats, a part of a Vec. Accumulators are Regs, because g++ keeps a Vec that
// takes several registers in memory. On CUDA, where registers are single floats anyway, a Reg is a Vec.
#if !ONE_THREAD_BLOCKS
constexpr int REG = VEC;
typedef Vec Reg;
INLINE Reg reg_zero() { return vec_splat(0.0f); }
INLINE void reg_add_product(Reg& sum, float a, const Reg& b) { sum = vec_fma(a, b, sum); }
INLINE void reg_add_product(Reg& sum, const Reg& a, const Reg& b) { sum = vec_fma(a, b, sum); }
#else
#if defined(__AVX512F__)
constexpr int REG = 16;
#elif defined(__AVX__)
constexpr int REG = 8;
#else
constexpr int REG = 4;
#endif
typedef float Reg __attribute__((vector_size(4 * REG), aligned(4), may_alias));
INLINE Reg reg_zero() { return Reg{}; }
INLINE void reg_add_product(Reg& sum, float a, const Reg& b) { sum += a * b; }
INLINE void reg_add_product(Reg& sum, const Reg& a, const Reg& b) { sum += a * b; }
#endif
INLINE Reg reg_load(const float* from) { return *reinterpret_cast<const Reg*>(from); }

// Where a column lies in its panel's row. On CUDA the first halves of all Vecs come before the second halves.
// Example, width 32: columns 0-3 8-11 16-19 24-27 | 4-7 12-15 20-23 28-31. The eight threads that one access
// to shared memory serves then read neighbouring 16-byte words. With the columns in order they would read
// every other one, and those of threads c and c + 4 are in the same banks.
INLINE int panel_slot(int column, int width) {
#if ONE_THREAD_BLOCKS
  return column;
#else
  return column / VEC * (VEC / 2) + column % (VEC / 2) + column / (VEC / 2) % 2 * (width / 2);
#endif
}
// The Reg of a panel's row that starts at `column`, a multiple of REG.
INLINE Reg panel_load(const float* row, int column, int width) {
#if ONE_THREAD_BLOCKS
  return reg_load(row + column);
#else
  const float* const low = row + column / 2;
  Reg v;
  *reinterpret_cast<float4*>(v.lane) = *reinterpret_cast<const float4*>(low);
  *reinterpret_cast<float4*>(v.lane + VEC / 2) = *reinterpret_cast<const float4*>(low + width / 2);
  return v;
#endif
}

// Floats that one asynchronous copy moves.
PER_DEVICE(COPY, 4, 16);

// Copies COPY floats into shared memory, or zeros if not valid (then nothing is read). Visible after
// copies_wait and a barrier.
INLINE void copy_async(float* to, const float* from, bool valid) {
#if ONE_THREAD_BLOCKS
  alignas(64) static const float zeros[COPY] = {};
  if (!valid) from = zeros;
  UNROLL
  for (int i = 0; i < COPY; i += REG) *reinterpret_cast<Reg*>(to + i) = reg_load(from + i);
#elif defined(SADDLE_HOST) || __CUDA_ARCH__ < 800
  // GPUs before sm_80 have no asynchronous copies. On the host, as the hardware does, this faults on
  // addresses that are not multiples of 16 bytes.
  *reinterpret_cast<float4*>(to) = valid ? *reinterpret_cast<const float4*>(from) : make_float4(0, 0, 0, 0);
#else
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(to))),
               "l"(from), "r"(valid ? 16 : 0)
               : "memory");
#endif
}
INLINE void copies_wait() {
#if !defined(SADDLE_HOST) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// The part of a block's tile of C, block_rows x width, that one thread accumulates in registers: ROWS rows x
// VECS vectors. On CUDA the threads of a block form a grid of ROW_THREADS x COLUMN_THREADS and cover the
// block's tile at once: with 128 threads and 128 x 64, 16 x 8 threads hold 8 rows x 1 Vec of 8 columns each.
// On the host one thread goes over the block's tile piece by piece; a piece fills the registers of the CPU:
// with AVX-512 and 64 columns, 4 rows x 4 vectors in 16 of the 32 registers.
template <int width, int threads, int block_rows>
struct Tile {
#if !ONE_THREAD_BLOCKS
  static constexpr int VECS = 1;
  static constexpr int COLUMN_THREADS = width / VEC;
  static constexpr int ROW_THREADS = threads / COLUMN_THREADS;
  static constexpr int ROWS = block_rows / ROW_THREADS;
#else
  static constexpr int COLUMN_THREADS = 1, ROW_THREADS = 1;
#if defined(__AVX512F__)    // 32 registers of 16 floats
  static constexpr int VECS = width / VEC, ROWS = 16 / VECS;
#elif defined(__AVX__)      // 16 registers of 8 floats
  static constexpr int VECS = 1, ROWS = 6;
#elif defined(__aarch64__)  // 32 registers of 4 floats
  static constexpr int VECS = 1, ROWS = 6;
#else                       // 16 registers of 4 floats
  static constexpr int VECS = 1, ROWS = 3;
#endif
#endif
  static constexpr int PARTS = VEC / REG;
  static constexpr int COLUMNS = VECS * VEC * COLUMN_THREADS;
  static constexpr int BLOCK_ROWS = ROWS * ROW_THREADS;
  Reg sum[ROWS][VECS * PARTS];

  INLINE void clear() {
    UNROLL
    for (int r = 0; r < ROWS; r++) {
      UNROLL
      for (int i = 0; i < VECS * PARTS; i++) sum[r][i] = reg_zero();
    }
  }
  // sum += a(r) * b, where b is a row of a panel, on the host from the piece's first column on.
  template <class A>
  INLINE void add(A a, const float* b) {
    Reg columns[VECS * PARTS];
    UNROLL
    for (int i = 0; i < VECS * PARTS; i++)
      columns[i] = panel_load(b, column_of(i / PARTS) + i % PARTS * REG, width);
    UNROLL
    for (int r = 0; r < ROWS; r++) {
      const float factor = a(r);
      UNROLL
      for (int i = 0; i < VECS * PARTS; i++) reg_add_product(sum[r][i], factor, columns[i]);
    }
  }
  // Calls f(sum, row, vec) for every Vec of the sums.
  template <class F>
  INLINE void each(F f) const {
    UNROLL
    for (int r = 0; r < ROWS; r++) {
      UNROLL
      for (int v = 0; v < VECS; v++) f(*reinterpret_cast<const Vec*>(sum[r] + v * PARTS), r, v);
    }
  }
  // Sets the sums to what f(row, vec) points at.
  template <class F>
  INLINE void load(F f) {
    UNROLL
    for (int r = 0; r < ROWS; r++) {
      UNROLL
      for (int i = 0; i < VECS * PARTS; i++) sum[r][i] = reg_load(f(r, i / PARTS) + i % PARTS * REG);
    }
  }
  // The row and the column (within the piece) of this thread's Vec sum[r][v].
  static INLINE int row_of(int r) {
    return (ROW_THREADS > 1 ? threadIdx.x / COLUMN_THREADS : 0) + r * ROW_THREADS;
  }
  static INLINE int column_of(int v) {
    return ((COLUMN_THREADS > 1 ? threadIdx.x % COLUMN_THREADS : 0) + v * COLUMN_THREADS) * VEC;
  }
};

// The first `count` of REG floats, zeros after them.
INLINE Reg reg_load(const float* from, int count, bool aligned) {
  if (aligned && count >= REG) return reg_load(from);
  Reg v = reg_zero();
  UNROLL
  for (int i = 0; i < REG; i++) {
    if (i < count) v[i] = from[i];
  }
  return v;
}

// The same of bf16.
INLINE Reg reg_load(const bf16* from, int count, bool aligned) {
#if !ONE_THREAD_BLOCKS
  if (aligned && count >= REG) return vec_load(from);
#endif
  Reg v = reg_zero();
  UNROLL
  for (int i = 0; i < REG; i++) {
    if (i < count) v[i] = to_float(from[i]);
  }
  return v;
}

// The sum of the lanes of the registers of a Vec.
INLINE float lane_sum(const Reg (&v)[VEC / REG]) { return lane_sum(*reinterpret_cast<const Vec*>(v)); }
