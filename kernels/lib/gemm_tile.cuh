// Pieces that the matrix kernels share: exact division by run-time constants, asynchronous copies, and the tile of the result that one
// thread holds in registers.
#pragma once
#include "lib/common.cuh"

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

// One machine register of floats. Sums live in these: a Vec that takes several registers would be kept in memory by the compiler.
#if !HOST_SHAPES
constexpr int REG = VEC;
typedef Vec Reg;
INLINE Reg reg_zero() { return vec_splat(0.0f); }
INLINE void reg_add_product(Reg& sum, float a, const Reg& b) { sum = vec_fma(vec_splat(a), b, sum); }
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

// Floats that one asynchronous copy moves.
CONFIG(COPY, 4, 16)

// Copies COPY floats into shared memory, or zeros when not valid (then nothing is read). Visible after copies_wait and a barrier.
INLINE void copy_async(float* to, const float* from, bool valid) {
#if HOST_SHAPES
  alignas(64) static const float zeros[COPY] = {};
  if (!valid) from = zeros;
  UNROLL for (int i = 0; i < COPY; i += REG) *reinterpret_cast<Reg*>(to + i) = reg_load(from + i);
#elif defined(SADDLE_HOST) || __CUDA_ARCH__ < 800
  // GPUs before sm_80 have no asynchronous copies. On the host, as the hardware does, this faults on addresses that are not multiples of 16 bytes.
  *reinterpret_cast<float4*>(to) = valid ? *reinterpret_cast<const float4*>(from) : make_float4(0, 0, 0, 0);
#else
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(to))), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
#endif
}
INLINE void copies_wait() {
#if !defined(SADDLE_HOST) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// What one thread computes of a block's tile with `width` columns: ROWS x (VECS * VEC) numbers, all in registers.
// COLUMN_THREADS threads share a row. On the host one thread is alone and goes over the block's tile piece by piece.
template <int width, int threads, int block_rows>
struct Tile {
#if !HOST_SHAPES
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
  static constexpr int PARTS = VEC / REG, COLUMNS = VECS * VEC * COLUMN_THREADS, BLOCK_ROWS = ROWS * ROW_THREADS;
  Reg sum[ROWS][VECS * PARTS];

  INLINE void clear() {
    UNROLL for (int r = 0; r < ROWS; r++) {
      UNROLL for (int i = 0; i < VECS * PARTS; i++) sum[r][i] = reg_zero();
    }
  }
  // sum += a(r) * b, where b points at the first of this thread's columns.
  template <class A>
  INLINE void add(A a, const float* b) {
    Reg columns[VECS * PARTS];
    UNROLL for (int i = 0; i < VECS * PARTS; i++) columns[i] = reg_load(b + i / PARTS * COLUMN_THREADS * VEC + i % PARTS * REG);
    UNROLL for (int r = 0; r < ROWS; r++) {
      const float factor = a(r);
      UNROLL for (int i = 0; i < VECS * PARTS; i++) reg_add_product(sum[r][i], factor, columns[i]);
    }
  }
  // f(Vec, row, vec) for every Vec of the sums.
  template <class F>
  INLINE void each(F f) const {
    UNROLL for (int r = 0; r < ROWS; r++) {
      UNROLL for (int v = 0; v < VECS; v++) f(*reinterpret_cast<const Vec*>(sum[r] + v * PARTS), r, v);
    }
  }
  // Sets the sums to what f(row, vec) points at.
  template <class F>
  INLINE void load(F f) {
    UNROLL for (int r = 0; r < ROWS; r++) {
      UNROLL for (int i = 0; i < VECS * PARTS; i++) sum[r][i] = reg_load(f(r, i / PARTS) + i % PARTS * REG);
    }
  }
  // The row and the column (within the piece) of this thread's Vec sum[r][v].
  static INLINE int row_of(int r) { return (ROW_THREADS > 1 ? threadIdx.x / COLUMN_THREADS : 0) + r * ROW_THREADS; }
  static INLINE int column_of(int v) { return ((COLUMN_THREADS > 1 ? threadIdx.x % COLUMN_THREADS : 0) + v * COLUMN_THREADS) * VEC; }
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

// The same for one register.
INLINE Reg load_register(const float* from, int count, bool whole) {
  if (whole) return reg_load(from);
  Reg v = reg_zero();
  UNROLL for (int i = 0; i < REG; i++)
    if (i < count) v[i] = from[i];
  return v;
}

// The sum of the numbers of VEC / REG registers, in the same order for every instruction set.
INLINE float lane_sum(const Reg (&v)[VEC / REG]) {
#if HOST_SHAPES
  typedef float Quarter __attribute__((vector_size(16), may_alias));
  const Quarter* const quarter = reinterpret_cast<const Quarter*>(v);
  const Quarter part = (quarter[0] + quarter[2]) + (quarter[1] + quarter[3]);
  return (part[0] + part[2]) + (part[1] + part[3]);
#else
  return ((v[0][0] + v[0][4]) + (v[0][2] + v[0][6])) + ((v[0][1] + v[0][5]) + (v[0][3] + v[0][7]));
#endif
}
