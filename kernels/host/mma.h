// Matrix instructions of a warp on a CPU. All threads of a block run on one OS thread: each lane leaves its
// operands where the others find them, and the lanes of the warp meet before and after they read.
#pragma once
#include "shim.h"

struct SaddleFragment {
  const unsigned char* row;
  unsigned a[4], b[2];
};
static thread_local SaddleFragment saddle_fragments[1024];

// The fragment of this warp's lane 0.
__forceinline__ SaddleFragment* saddle_warp() { return saddle_fragments + saddle_block->thread / 32 * 32; }

// ldmatrix of four 8x8 matrices of 16-bit numbers: lane 8 m + i names row i of matrix m.
inline void saddle_load_matrices(unsigned (&to)[4], const unsigned char* row, bool transposed) {
  SaddleFragment* const warp = saddle_warp();
  const int lane = SADDLE_LANE;
  warp[lane].row = row;
  __syncwarp();
  for (int m = 0; m < 4; m++) {
    unsigned char bytes[4];
    for (int half = 0; half < 2; half++) {
      const int i = lane / 4, j = lane % 4 * 2 + half;
      const unsigned char* const from = warp[8 * m + (transposed ? j : i)].row;
      memcpy(bytes + 2 * half, from + 2 * (transposed ? i : j), 2);
    }
    memcpy(to + m, bytes, 4);
  }
  __syncwarp();
}

// sum += a b, where a register of a and b holds `width` numbers, which number(bits, i) unpacks.
template <int width, class Number>
inline void saddle_multiply(float (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2], Number number) {
  SaddleFragment* const warp = saddle_warp();
  const int lane = SADDLE_LANE;
  memcpy(warp[lane].a, a, sizeof a);
  memcpy(warp[lane].b, b, sizeof b);
  __syncwarp();
  for (int i = 0; i < 4; i++) {
    const int row = i / 2, column = lane % 4 * 2 + i % 2;
    for (int k = 0; k < 2; k++) {
      for (int place = 0; place < 4; place++) {
        for (int half = 0; half < width; half++) {
          const unsigned left = warp[lane / 4 * 4 + place].a[2 * k + row];
          const unsigned right = warp[column * 4 + place].b[k];
          sum[i] = fmaf(number(left, half), number(right, half), sum[i]);
        }
      }
    }
  }
  __syncwarp();
}
