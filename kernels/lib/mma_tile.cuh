// The tile of C = A B that a block accumulates on tensor cores, and the ring of k-tiles that feeds it.
//
// A k-tile is 128 bytes of K for each of ROWS rows of A and COLUMNS columns of B: 64 numbers of bf16, 32 of
// float. The ring holds STAGES of them: while the block multiplies one, the copies of the next STAGES - 1 are
// under way.
#pragma once
#include "lib/mma.cuh"

#if TENSOR_CORES

// A tile of C: its warps form a grid of ROW_WARPS x COLUMN_WARPS, and each accumulates ROW_MMAS x COLUMN_MMAS
// products of 16 x 8.
template <int rows, int columns, int row_warps, int column_warps>
struct Tile {
  static constexpr int ROWS = rows, COLUMNS = columns, STAGES = 3;
  static constexpr int ROW_WARPS = row_warps, COLUMN_WARPS = column_warps;
  static constexpr int THREADS = 32 * row_warps * column_warps;
  static constexpr int WARP_ROWS = rows / row_warps, WARP_COLUMNS = columns / column_warps;
  static constexpr int ROW_MMAS = WARP_ROWS / 16, COLUMN_MMAS = WARP_COLUMNS / 8;
  static constexpr int A_BYTES = rows * ROW_BYTES, STAGE_BYTES = (rows + columns) * ROW_BYTES;
  // Eight floats more than a row of C keep the lanes of an access in different banks.
  static constexpr int C_STRIDE = columns + 8;
  static_assert(rows * C_STRIDE * 4 <= STAGES * STAGE_BYTES, "C fits into the ring");
  static_assert(rows <= THREADS, "a thread locates one row");
  static_assert(COLUMN_MMAS % 2 == 0, "a load brings the columns of two products");
};
typedef Tile<128, 128, 2, 4> Tile128x128;
typedef Tile<128, 64, 2, 2> Tile128x64;
typedef Tile<64, 64, 2, 2> Tile64x64;

// The sums of a warp.
template <class Tile>
struct WarpTile {
  float sum[Tile::ROW_MMAS][Tile::COLUMN_MMAS][4];

  INLINE WarpTile() {
    UNROLL
    for (int i = 0; i < Tile::ROW_MMAS; i++) {
      UNROLL
      for (int j = 0; j < Tile::COLUMN_MMAS; j++) {
        UNROLL
        for (int k = 0; k < 4; k++) sum[i][j][k] = 0.0f;
      }
    }
  }
  static INLINE int first_row() { return threadIdx.x / 32 % Tile::ROW_WARPS * Tile::WARP_ROWS; }
  static INLINE int first_column() { return threadIdx.x / 32 / Tile::ROW_WARPS * Tile::WARP_COLUMNS; }

  // Adds the products of 32 bytes of K.
  template <class T>
  INLINE void add(const uint32_t (&a)[Tile::ROW_MMAS][4], const uint32_t (&b)[Tile::COLUMN_MMAS][2]) {
    UNROLL
    for (int i = 0; i < Tile::ROW_MMAS; i++) {
      UNROLL
      for (int j = 0; j < Tile::COLUMN_MMAS; j++) multiply_add<T>(sum[i][j], a[i], b[j]);
    }
  }
  // Calls f(x, y, row, column) for every pair of neighbouring sums of this thread.
  template <class F>
  INLINE void each_pair(F f) const {
    const int row = first_row() + threadIdx.x % 32 / 4, column = first_column() + threadIdx.x % 4 * 2;
    UNROLL
    for (int i = 0; i < Tile::ROW_MMAS; i++) {
      UNROLL
      for (int j = 0; j < Tile::COLUMN_MMAS; j++) {
        f(sum[i][j][0], sum[i][j][1], row + i * 16, column + j * 8);
        f(sum[i][j][2], sum[i][j][3], row + i * 16 + 8, column + j * 8);
      }
    }
  }
};

// Multiplies k_tiles k-tiles: copy(stage) starts the copies of the next one, multiply(stage) is called once
// they have arrived. All copies have, and all warps are done with the ring, when it returns.
template <class Tile, class Copy, class Multiply>
INLINE void run_ring(int k_tiles, SharedAddress ring, Copy copy, Multiply multiply) {
  UNROLL
  for (int i = 0; i < Tile::STAGES - 1; i++) {
    if (i < k_tiles) copy(ring + i * Tile::STAGE_BYTES);
    copies_commit();
  }
  int read = 0, written = Tile::STAGES - 1;
  NO_UNROLL
  for (int i = 0; i < k_tiles; i++) {
    copies_wait_for<Tile::STAGES - 2>();
    __syncthreads();
    if (i + Tile::STAGES - 1 < k_tiles) copy(ring + written * Tile::STAGE_BYTES);
    copies_commit();
    multiply(ring + read * Tile::STAGE_BYTES);
    read = read + 1 == Tile::STAGES ? 0 : read + 1;
    written = written + 1 == Tile::STAGES ? 0 : written + 1;
  }
  __syncthreads();
}

#endif
