// Launches on any number of tensors: a block finds its row in a table (src/device/table.rs), whose first
// entry is the number of blocks before the row's own; sizes and addresses follow.
#pragma once
#include "lib/vec.cuh"

// The buffer at an entry, null for 0.
template <class E>
INLINE E* pointer(uint64_t entry) {
  return reinterpret_cast<E*>(entry);
}

// The row of this block: the last that begins at it or before.
INLINE const uint64_t* row_of_block(const uint64_t* table, int rows, int width) {
  int low = 0, high = rows;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (table[middle * width] <= blockIdx.x) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return table + low * width;
}

// The number of this block among those of its row.
INLINE int block_of_row(const uint64_t* row) { return blockIdx.x - static_cast<int>(row[0]); }

// Calls f(i, count) for this thread's runs of a row with elements, whose number is the second entry.
template <class F>
INLINE void each_of_row(const uint64_t* row, F f) {
  each_of_chunk<ELEMENTWISE_CHUNK, ELEMENTWISE_THREADS, VEC>(block_of_row(row), static_cast<int>(row[1]), f);
}
