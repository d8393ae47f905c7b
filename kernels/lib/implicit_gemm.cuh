// Implicit GEMM: a convolution as a product of matrices C = A B whose factor A is never stored.
//
//                             B [K, columns]: the weights, in panels of 64, 32 or 16 columns
//                            +-------+=======+-------+
//                            |       | panel |       |    K = (filter tap, source channel)
//                            +-------+=======+-------+
//     A [pixels, K]           C [pixels, columns]: the output
//    +----+----+----+----+   +-------+-------+-------+
//    |    |    |    |    |   |       |       |       |
//    +====+====+====+====+   +-------+=======+-------+
//    |    | k- |    |    |   |       | block |       |    a block: BLOCK_ROWS output pixels x one panel
//    |    |tile|    |    |   |       |       |       |
//    +====+====+====+====+   +-------+=======+-------+
//
// The row of A for output pixel (n, oy, ox) holds, for every tap (ky, kx), the channels of source pixel
// (n, oy s - p + ky, ox s - p + kx), or zeros where that lies in the padding. A block gathers its rows one
// k-tile at a time (K_TILE channels of one tap) into shared memory, while it multiplies the k-tile before
// (double buffering; asynchronous copies on CUDA), and accumulates C in registers (Tile).
//
// Forward the source is x and the columns are output channels. The input gradient is the adjoint map: the
// source is dy, the columns are input channels, and tap (ky, kx) takes dx pixel (iy, ix) to dy pixel
// ((iy + p - ky) / s, (ix + p - kx) / s) where both divisions are exact.
//
// Which pixels share a block decides which taps it can skip. A block takes its pixels from
// * one phase: the residues of (iy, ix) modulo the stride in the input gradient (forward there is one phase).
//   All pixels of a phase have the same taps with exact divisions. Example: 3x3, stride 2, pad 1. Even iy
//   need iy + 1 - ky even, so ky = 1; odd iy need ky = 0 or 2. The four phases use 1, 2, 2 and 4 of the nine
//   taps; without phases every block would multiply nine taps, of which three quarters are zeros.
// * one chunk: `chunk` neighbouring pixels of the phase, in as many images as fill the block. Its rows are
//   ordered (image, pixel of the chunk). Example: 128 images, BLOCK_ROWS = 128: chunk = 1, a block is one
//   pixel of all images, and the block of the corner (0, 0) skips the five taps of nine that lie in the
//   padding. A single image of 8x8 pixels has chunk = 64 and skips only taps that miss all of its pixels.
// Blocks are ordered (images, phase, chunk), so that neighbouring blocks read overlapping source pixels.
//
// Only the first `images` images of all_images are valid: the blocks divide those among themselves, and C is
// 0 for the others.
//
// Source depths that are not multiples of 16 take the flattened path: k-tiles of the flattened index
// (tap, channel), of all taps, gathered float by float.
#pragma once
#include "lib/gemm_tile.cuh"

PER_DEVICE(THREADS, 128, 1);
PER_DEVICE(BLOCK_ROWS, 128, 64);      // output pixels of a block
PER_DEVICE(MIN_CHUNK_ROWS, 128, 16);  // chunk * images is at least this, if the map has as many pixels
PER_DEVICE(CHUNK_CHOICES, 16, 1);     // sizes of chunks that are compared
PER_DEVICE(K_TILE, 16, 32);           // channels of a k-tile
PER_DEVICE(K_TILE_STRIDE, 20, 32);    // floats between its rows: 20 avoids bank conflicts in shared memory
PER_DEVICE(PANEL_BUFFERS, 2, 0);      // the host reads panels in place
PER_DEVICE(STEP, 4, 2);               // channels multiplied per iteration of the inner loop

// The channels of a k-tile that are multiplied. CUDA always multiplies all of them, zeros after the last one:
// a constant, so that the loops over a k-tile unroll.
INLINE int multiplied(int count) { return ONE_THREAD_BLOCKS ? round_up(count, STEP) : K_TILE; }

// From a source of `depth` channels to a map of `columns` channels.
struct Geometry {
  int images, all_images, src_h, src_w, depth, out_h, out_w, columns, kernel_h, kernel_w, stride, pad;
};

// The shared memory of a block: two k-tiles of A, two of B, and the row table.
struct SharedMemory {
  float *a, *b;
  int* rows;
};

// The table of a block's rows, in shared memory.
struct RowTable {
  int* source;  // index of the first channel of the source pixel at offset (0, 0)
  int *y, *x;   // that pixel
  int* out;     // index of the first channel of the output pixel, or -1 for a row past the last one
};

// Iterates over the k-tiles of a chunk: the taps that touch at least one of its pixels, and their channels.
// `transposed`: input gradient.
template <bool transposed>
struct KTiles {
  const Geometry g;
  const bool flattened;
  const int out_step, src_step;                      // pixels of the output and of the source per phase pixel
  const int phase_y, phase_x, phase_h, phase_w;      // the phase and the size of its map
  const int first, pixels;                           // the chunk, in pixels of the phase
  int low_y = 0, high_y = 0, low_x = 0, high_x = 0;  // its bounding box in the source, at offset (0, 0)
  // The current k-tile: `count` channels from `channel` of tap (ky, kx), whose source offset is (dy, dx).
  int ky = 0, kx = 0, channel = 0, dy = 0, dx = 0, count = 0;
  bool inside = false;  // box_inside for this tap

  INLINE KTiles(const Geometry& g, int phase, int first, int chunk)
      : g(g),
        flattened(g.depth % 16 != 0),
        out_step(transposed ? g.stride : 1),
        src_step(transposed ? 1 : g.stride),
        phase_y(phase / out_step),
        phase_x(phase % out_step),
        phase_h((g.out_h - phase_y + out_step - 1) / out_step),
        phase_w((g.out_w - phase_x + out_step - 1) / out_step),
        first(first),
        pixels(min(chunk, phase_h * phase_w - first)) {
    if (pixels <= 0) return;
    const int last = first + pixels - 1, y0 = first / phase_w, y1 = last / phase_w;
    low_y = y0 * src_step;
    high_y = y1 * src_step;
    low_x = (y0 == y1 ? first % phase_w : 0) * src_step;
    high_x = (y0 == y1 ? last % phase_w : phase_w - 1) * src_step;
  }
  // The source offset of a tap along one axis; false if the division of the input gradient is not exact.
  INLINE bool offset(int tap, int phase, int& delta) const {
    const int at = phase + g.pad - tap;
    delta = transposed ? at / out_step : tap - g.pad;
    return !transposed || at - delta * out_step == 0;
  }
  // Whether the whole box stays inside the source at this offset: then no pixel needs a check.
  INLINE bool box_inside(int dy, int dx) const {
    return low_y + dy >= 0 && high_y + dy < g.src_h && low_x + dx >= 0 && high_x + dx < g.src_w;
  }
  // Before the first k-tile.
  INLINE void restart() {
    ky = 0;
    kx = -1;
    count = 0;
    channel = flattened ? 0 : g.depth;
  }
  // Advances to the next k-tile; false after the last one.
  INLINE bool next() {
    channel += count;
    if (flattened) {
      const int depth = g.kernel_h * g.kernel_w * g.depth;
      count = min(K_TILE, depth - channel);
      return channel < depth;
    }
    if (channel >= g.depth) {
      channel = 0;
      if (!next_tap()) return false;
    }
    count = min(K_TILE, g.depth - channel);
    return true;
  }
  // Advances to the next tap that touches the box; false after the last one.
  INLINE bool next_tap() {
    for (;;) {
      if (++kx == g.kernel_w) {
        kx = 0;
        ky++;
      }
      if (ky >= g.kernel_h) return false;
      if (!offset(ky, phase_y, dy) || high_y + dy < 0 || low_y + dy >= g.src_h) {
        kx = g.kernel_w - 1;
        continue;
      }
      if (!offset(kx, phase_x, dx) || high_x + dx < 0 || low_x + dx >= g.src_w) continue;
      inside = box_inside(dy, dx);
      return true;
    }
  }
  // The row of B where this k-tile starts.
  INLINE int panel_row() const { return flattened ? channel : (ky * g.kernel_w + kx) * g.depth + channel; }
};

// Fills the table for the rows [first, first + row_count). Rows from `end` on repeat the last one and are
// never stored. Here and below a loop over a constant number of rows counts for all threads at once, so that
// its length is a constant too.
template <int row_count, bool transposed>
INLINE void locate_rows(const KTiles<transposed>& at, const RowTable& rows, int first, int end) {
  const Geometry& g = at.g;
  const FastDivmod by_chunk(at.pixels), by_width(at.phase_w);
  static_assert(row_count % THREADS == 0, "threads share the rows evenly");
  for (int i = 0; i < row_count; i += THREADS) {
    const int r = i + threadIdx.x;
    const int row = min(first + r, end - 1), image = by_chunk.div(row);
    const int pixel = at.first + row - image * at.pixels, y = by_width.div(pixel);
    const int x = pixel - y * at.phase_w;
    const int sy = y * at.src_step, sx = x * at.src_step;
    rows.y[r] = sy;
    rows.x[r] = sx;
    rows.source[r] = ((image * g.src_h + sy) * g.src_w + sx) * g.depth;
    const int oy = y * at.out_step + at.phase_y, ox = x * at.out_step + at.phase_x;
    rows.out[r] = first + r == row ? ((image * g.out_h + oy) * g.out_w + ox) * g.columns : -1;
  }
}

// Gathers the current k-tile of A into shared memory.
template <int row_count, bool transposed>
INLINE void load_a(const KTiles<transposed>& at, const RowTable& rows, const float* source, float* to) {
  const Geometry& g = at.g;
  constexpr int SHARERS = THREADS == 1 ? 1 : K_TILE / COPY;  // neighbouring threads that share a row
  const auto in_source = [&](int r, int dy, int dx) {
    return static_cast<unsigned>(rows.y[r] + dy) < static_cast<unsigned>(g.src_h) &&
           static_cast<unsigned>(rows.x[r] + dx) < static_cast<unsigned>(g.src_w);
  };
  if (!at.flattened) {
    const int dy = at.dy, dx = at.dx, channels = ONE_THREAD_BLOCKS ? at.count : K_TILE;
    const int delta = (dy * g.src_w + dx) * g.depth + at.channel;
    const bool inside = at.inside;
    UNROLL
    for (int r = threadIdx.x / SHARERS; r < row_count; r += THREADS / SHARERS) {
      const bool valid = inside || in_source(r, dy, dx);
      const float* from = source + (valid ? rows.source[r] + delta : 0);
      for (int c = threadIdx.x % SHARERS * COPY; c < channels; c += SHARERS * COPY) {
        copy_async(to + r * K_TILE_STRIDE + c, from + c, valid);
      }
    }
    return;
  }
  int tap = at.channel / g.depth, channel = at.channel - tap * g.depth;
  int ky = tap / g.kernel_w, kx = tap - ky * g.kernel_w;
  for (int k = 0; k < multiplied(at.count); k++) {
    int dy, dx;
    const bool exact = at.offset(ky, at.phase_y, dy) & at.offset(kx, at.phase_x, dx) && k < at.count;
    const bool inside = at.box_inside(dy, dx);
    const int delta = (dy * g.src_w + dx) * g.depth + channel;
    for (int i = 0; i < row_count; i += THREADS) {
      const int r = i + threadIdx.x;
      const bool valid = exact && (inside || in_source(r, dy, dx));
      to[r * K_TILE_STRIDE + k] = valid ? source[rows.source[r] + delta] : 0.0f;
    }
    if (++channel == g.depth) {
      channel = 0;
      if (++kx == g.kernel_w) {
        kx = 0;
        ky++;
      }
    }
  }
}

// The rows of B that belong to a k-tile: the host reads them in place, CUDA copies them to shared memory.
template <int width>
INLINE const float* load_b(const float* panel, float* to, int rows) {
#if ONE_THREAD_BLOCKS
  return panel;
#else
  UNROLL
  for (int first = 0; first < K_TILE * width; first += THREADS * COPY) {
    const int i = first + threadIdx.x * COPY;
    if (i < K_TILE * width) copy_async(to + i, panel + i, i < rows * width);
  }
  return to;
#endif
}

// tile += a b for one k-tile.
template <int width, class T>
INLINE void multiply(T& tile, const float* a, const float* b, int count) {
  for (int k = 0; k < multiplied(count); k += STEP) {
#if ONE_THREAD_BLOCKS
    const auto factor = [&](int r, int step) { return a[T::row_of(r) * K_TILE_STRIDE + k + step]; };
#else
    float factors[T::ROWS][STEP];
    UNROLL
    for (int r = 0; r < T::ROWS; r++) {
      *reinterpret_cast<float4*>(factors[r]) =
          *reinterpret_cast<const float4*>(a + T::row_of(r) * K_TILE_STRIDE + k);
    }
    const auto factor = [&](int r, int step) { return factors[r][step]; };
#endif
    UNROLL
    for (int step = 0; step < STEP; step++) {
      tile.add([&](int r) { return factor(r, step); }, b + (k + step) * width);
    }
  }
}

// The pixels of a chunk, of a map with `pixels` pixels: enough for the images to fill a block, and of the
// first CHUNK_CHOICES such sizes the one that needs the fewest blocks; the first that wastes at most an
// eighth will do. Example: 129 images. A chunk of one pixel takes two blocks, of which the second has a
// single row; a chunk of eight takes nine blocks for 1032 rows. chunk_size in src/ops/conv2d.rs does the
// same.
INLINE int chunk_size(int images, int pixels) {
  const int least = min(ceil_div(MIN_CHUNK_ROWS, max(images, 1)), pixels);
  const int enough = ceil_div(images * pixels, BLOCK_ROWS) * 9 / 8;
  int best = least, fewest = 0;
  for (int chunk = least; chunk <= min(least + CHUNK_CHOICES - 1, pixels); chunk++) {
    const int blocks = pixels / chunk * ceil_div(images * chunk, BLOCK_ROWS) +
                       ceil_div(images * (pixels % chunk), BLOCK_ROWS);
    if (chunk == least || blocks < fewest) {
      best = chunk;
      fewest = blocks;
    }
    if (fewest <= enough) break;
  }
  return best;
}

// One block of C; store(sum, index in the output, column) gets every Vec of it. The grid has enough blocks
// for any number of valid images; blocks that are not needed return.
template <int width, bool transposed, class Store>
INLINE void implicit_gemm_block(
    const Geometry& g, const SharedMemory& memory, const float* source, const float* panels, Store store) {
  typedef Tile<width, THREADS, BLOCK_ROWS> T;
  constexpr int A_SIZE = T::BLOCK_ROWS * K_TILE_STRIDE, B_SIZE = K_TILE * width;
  const RowTable rows = {
      memory.rows, memory.rows + T::BLOCK_ROWS, memory.rows + 2 * T::BLOCK_ROWS,
      memory.rows + 3 * T::BLOCK_ROWS};
  const int out_step = transposed ? g.stride : 1, phases = out_step * out_step;
  const int phase_pixels = ceil_div(g.out_h, out_step) * ceil_div(g.out_w, out_step);
  const int chunk = chunk_size(g.images, phase_pixels);
  const int chunks = ceil_div(phase_pixels, chunk);
  const int row_blocks = max(1, ceil_div(g.images * chunk, BLOCK_ROWS));
  const int row_block = blockIdx.x / (chunks * phases), place = blockIdx.x % (chunks * phases);
  if (row_block >= row_blocks) return;
  KTiles<transposed> at(g, place / chunks, place % chunks * chunk, chunk);
  const int end = min((row_block + 1) * BLOCK_ROWS, g.images * at.pixels);
  const int panel_rows = round_up(g.kernel_h * g.kernel_w * g.depth, STEP_ROWS);
  for (int column = 0; column < width; column += T::COLUMNS) {
    const float* const panel = panels + static_cast<size_t>(blockIdx.y) * panel_rows * width + column;
    for (int first = row_block * BLOCK_ROWS; first < end; first += T::BLOCK_ROWS) {
      T tile;
      tile.clear();
      // No barrier before it: nothing has read the table.
      static_assert(
          ONE_THREAD_BLOCKS || (T::COLUMNS == width && T::BLOCK_ROWS == BLOCK_ROWS),
          "a block makes one tile");
      locate_rows<T::BLOCK_ROWS>(at, rows, first, end);
      __syncthreads();
      at.restart();
      bool more = at.next();
      int buffer = 0;
      const float* next_b = memory.b;  // on CUDA always shared memory, or its loads would be generic
      if (more) {
        load_a<T::BLOCK_ROWS>(at, rows, source, memory.a);
        next_b = load_b<width>(panel + at.panel_row() * width, memory.b, at.count);
      }
      while (more) {
        const float *const a = memory.a + buffer * A_SIZE, *const b = next_b;
        const int count = at.count;
        copies_wait();
        __syncthreads();
        more = at.next();
        buffer ^= 1;
        if (more) {
          load_a<T::BLOCK_ROWS>(at, rows, source, memory.a + buffer * A_SIZE);
          next_b = load_b<width>(panel + at.panel_row() * width, memory.b + buffer * B_SIZE, at.count);
        }
        multiply<width>(tile, a, b, count);
      }
      tile.each([&](Vec sum, int r, int v) {
        const int out = rows.out[T::row_of(r)], at_column = blockIdx.y * width + column + T::column_of(v);
        if (out >= 0 && at_column < g.columns) store(sum, out + at_column, at_column);
      });
    }
  }
}

// C = 0 for the images after the valid ones.
template <class Store>
INLINE void zero_invalid_images(const Geometry& g, Store store) {
  const int pixels = g.out_h * g.out_w, all = g.all_images * pixels;
  const int width = panel_width(g.columns), vecs = width / VEC;
  const int share = ceil_div(all - g.images * pixels, gridDim.x);
  const int first = g.images * pixels + blockIdx.x * share;
  for (int i = threadIdx.x; i < (min(first + share, all) - first) * vecs; i += THREADS) {
    const int column = blockIdx.y * width + i % vecs * VEC;
    if (column < g.columns) store(vec_splat(0.0f), (first + i / vecs) * g.columns + column, column);
  }
}

template <bool transposed, class Store>
INLINE void implicit_gemm(const Geometry& g, const float* source, const float* panels, Store store) {
  if (g.images < g.all_images) zero_invalid_images(g, store);
  SHARED(float, a, 2 * BLOCK_ROWS * K_TILE_STRIDE);
  SHARED(float, b, 64 * PANEL_BUFFERS * K_TILE);
  SHARED(int, rows, 4 * BLOCK_ROWS);
  const SharedMemory memory = {a, b, rows};
  switch (panel_width(g.columns)) {
    case 64: return implicit_gemm_block<64, transposed>(g, memory, source, panels, store);
    case 32: return implicit_gemm_block<32, transposed>(g, memory, source, panels, store);
    default: return implicit_gemm_block<16, transposed>(g, memory, source, panels, store);
  }
}
