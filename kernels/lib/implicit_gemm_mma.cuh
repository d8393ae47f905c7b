// The implicit GEMM of lib/implicit_gemm.cuh on tensor cores: C [pixels, columns] = A [pixels, K] B, where a
// row of A holds the source channels of every filter tap of an output pixel, and K = (tap, channel).
//
// A block owns Tile::ROWS output pixels x Tile::COLUMNS columns (lib/mma_tile.cuh). C passes through shared
// memory on its way out, so that each thread finishes whole vectors of neighbouring channels.
//
// Rows of a block: pixels of one phase (lib/implicit_gemm.cuh), in the order (group of ROWS images, pixel,
// image of the group). With 128 images a block of 128 rows is one pixel of all images, and the block of the
// corner (0, 0) multiplies four taps of nine: those that lie in the padding for all of its rows are left out.
// In a 4x4 map that saves 31 % of the products. Rows of images past the valid ones come last, and have no
// taps.
//
// K is one run over the channels of the block's taps, cut into k-tiles: channel counts that are no multiple
// of a k-tile waste nothing but the end of the last one, which is filled with zeros. Each thread copies one
// chunk of 16 bytes of some rows, and knows tap and channel of its chunk.
#pragma once
#include "lib/mma_tile.cuh"

// From a source of `depth` channels to a map of `columns` channels.
struct Geometry {
  int images, all_images, src_h, src_w, depth, out_h, out_w, columns, kernel_h, kernel_w, stride, pad;
};

constexpr int MAX_TAPS = 32;  // a bit each

#if TENSOR_CORES

// The tap (ky, kx) of a list, in the order of the filter.
struct Tap {
  int delta;   // of the source pixel, in elements
  int number;  // ky kernel_w + kx
};

// What the threads of a block tell each other before the first k-tile.
struct BlockTables {
  int* source;     // index of the first channel of a row's source pixel at offset (0, 0)
  int* out;        // index of the first channel of its output pixel, or -1 for a row past the last one
  uint32_t* taps;  // the taps that lie inside the source for it
  Tap* list;       // the taps that lie inside for any row
};

// The pixels of a phase, and its taps. `transposed`: input gradient.
template <bool transposed>
struct Phase {
  const Geometry g;
  const int out_step, src_step, y, x, height, width;

  INLINE Phase(const Geometry& g, int phase)
      : g(g),
        out_step(transposed ? g.stride : 1),
        src_step(transposed ? 1 : g.stride),
        y(phase / out_step),
        x(phase % out_step),
        height((g.out_h - y + out_step - 1) / out_step),
        width((g.out_w - x + out_step - 1) / out_step) {}

  // The source offset of a tap along one axis; false if the division of the input gradient is not exact.
  INLINE bool offset(int tap, int phase, int& delta) const {
    const int at = phase + g.pad - tap;
    delta = transposed ? at / out_step : tap - g.pad;
    return !transposed || at - delta * out_step == 0;
  }
  // The taps along one axis that lead from source position `at` to one in [0, size).
  INLINE uint32_t taps_inside(int at, int size, int taps, int phase) const {
    uint32_t inside = 0;
    for (int tap = 0; tap < taps; tap++) {
      int delta;
      if (offset(tap, phase, delta) && static_cast<unsigned>(at + delta) < static_cast<unsigned>(size))
        inside |= 1u << tap;
    }
    return inside;
  }
  INLINE Tap tap(int number) const {
    const int ky = number / g.kernel_w;
    int dy, dx;
    offset(ky, y, dy);
    offset(number - ky * g.kernel_w, x, dx);
    return {(dy * g.src_w + dx) * g.depth, number};
  }
  // Writes a row of the tables and returns its taps.
  template <int group>
  INLINE uint32_t locate(int row, const BlockTables& tables, int at) const {
    const int pixels = height * width, valid = g.images * pixels;
    int image, pixel;
    if (row < valid) {
      const int first = row / (group * pixels) * group, rest = row - first * pixels;
      const int count = min(group, g.images - first);
      pixel = rest / count;
      image = first + rest - pixel * count;
    } else {
      image = row / pixels;
      pixel = row - image * pixels;
    }
    const int py = pixel / width, px = pixel - py * width, sy = py * src_step, sx = px * src_step;
    const int oy = py * out_step + y, ox = px * out_step + x;
    const bool exists = row < g.all_images * pixels;
    tables.source[at] = ((image * g.src_h + sy) * g.src_w + sx) * g.depth;
    tables.out[at] = exists ? ((image * g.out_h + oy) * g.out_w + ox) * g.columns : -1;
    uint32_t taps = 0;
    if (row < valid) {
      const uint32_t columns = taps_inside(sx, g.src_w, g.kernel_w, x);
      const uint32_t rows = taps_inside(sy, g.src_h, g.kernel_h, y);
      for (int ky = 0; ky < g.kernel_h; ky++)
        if (rows >> ky & 1) taps |= columns << (ky * g.kernel_w);
    }
    tables.taps[at] = taps;
    return taps;
  }
};

// Fills the tables for the rows from `first` on; the number of taps in the list. After the next barrier the
// list is complete, and `of_warps`, any shared memory, may be overwritten.
template <class Tile, bool transposed>
INLINE int make_tables(
    const Phase<transposed>& phase, int first, const BlockTables& tables, uint32_t* of_warps) {
  const int lane = threadIdx.x % 32;
  uint32_t taps = 0;
  if (threadIdx.x < Tile::ROWS)
    taps = phase.template locate<Tile::ROWS>(first + threadIdx.x, tables, threadIdx.x);
  UNROLL
  for (int step = 16; step > 0; step /= 2) taps |= __shfl_xor_sync(0xffffffff, taps, step);
  if (lane == 0) of_warps[threadIdx.x / 32] = taps;
  __syncthreads();
  taps = 0;
  UNROLL
  for (int warp = 0; warp < Tile::THREADS / 32; warp++) taps |= of_warps[warp];
  if (threadIdx.x < MAX_TAPS && taps >> threadIdx.x & 1)
    tables.list[__popc(taps & ((1u << threadIdx.x) - 1))] = phase.tap(threadIdx.x);
  return __popc(taps);
}

// What a thread copies of each k-tile: its chunk of every STEP-th row of A and of B.
template <class T, class Tile>
struct Copier {
  static constexpr int STEP = Tile::THREADS / ROW_CHUNKS;
  static constexpr int A_COPIES = Tile::ROWS / STEP, B_COPIES = Tile::COLUMNS / STEP;
  static constexpr int CHUNK = CHUNK_BYTES / sizeof(T), K_TILE = ROW_BYTES / sizeof(T);
  const T *source, *weights;
  const Tap* list;
  const int depth, listed, tap_size, b_step;
  int b_index, place;  // of its first column of B in a tap's weights; of its first chunk in a stage
  uint32_t b_valid = 0;
  int a_index[A_COPIES];
  uint32_t a_taps[A_COPIES];
  int tap = 0, channel;  // of the next k-tile

  INLINE Copier(
      const Geometry& g, const T* source, const T* weights, const BlockTables& tables, int listed,
      int first_column)
      : source(source),
        weights(weights),
        list(tables.list),
        depth(g.depth),
        listed(listed),
        tap_size(g.columns * g.depth),
        b_step(STEP * g.depth) {
    const int row = threadIdx.x / ROW_CHUNKS, chunk = threadIdx.x % ROW_CHUNKS;
    static_assert(STEP % ROW_CHUNKS == 0, "a thread's chunks lie at one place of their rows");
    place = swizzled(row, chunk);
    channel = chunk * CHUNK;
    b_index = (first_column + row) * depth;
    UNROLL
    for (int i = 0; i < B_COPIES; i++)
      b_valid |= static_cast<uint32_t>(first_column + row + i * STEP < g.columns) << i;
    UNROLL
    for (int i = 0; i < A_COPIES; i++) {
      a_index[i] = tables.source[row + i * STEP];
      a_taps[i] = tables.taps[row + i * STEP];
    }
  }
  // Copies the next k-tile to the stage at `to`.
  INLINE void copy(SharedAddress to) {
    while (channel >= depth && tap < listed) {
      channel -= depth;
      tap++;
    }
    const bool inside = tap < listed;
    const Tap at = list[inside ? tap : 0];
    const T* const a = source + (at.delta + channel);
    const T* const b = weights + (static_cast<size_t>(at.number) * tap_size + b_index + channel);
    to += place;
    UNROLL
    for (int i = 0; i < A_COPIES; i++) {
      const bool valid = inside && a_taps[i] >> at.number & 1;
      chunk_copy_async(to + i * STEP * ROW_BYTES, valid ? a + a_index[i] : source, valid);
    }
    UNROLL
    for (int i = 0; i < B_COPIES; i++) {
      const bool valid = inside && b_valid >> i & 1;
      chunk_copy_async(to + (Tile::A_BYTES + i * STEP * ROW_BYTES), valid ? b + i * b_step : weights, valid);
    }
    channel += K_TILE;
  }
};

// Adds the products of the k-tile at `stage`.
template <class T, class Tile>
INLINE void multiply(WarpTile<Tile>& warp, SharedAddress stage) {
  const int lane = threadIdx.x % 32;
  // Matrices 0 to 3 are of A: rows 0-7 and 8-15, then the same of the next chunk; of B: two chunks of
  // columns 0-7, then of columns 8-15.
  const int a_row = warp.first_row() + lane % 16, a_chunk = lane / 16;
  const int b_row = warp.first_column() + lane % 8 + lane / 16 * 8, b_chunk = lane / 8 % 2;
  UNROLL
  for (int k = 0; k < ROW_BYTES / MMA_BYTES; k++) {
    uint32_t a[Tile::ROW_MMAS][4], b[Tile::COLUMN_MMAS][2];
    UNROLL
    for (int i = 0; i < Tile::ROW_MMAS; i++) {
      matrices_load(a[i], stage + swizzled(a_row, 2 * k + a_chunk) + i * 16 * ROW_BYTES);
      UNROLL
      for (int r = 0; r < 4; r++) a[i][r] = operand<T>(a[i][r]);
    }
    UNROLL
    for (int j = 0; j < Tile::COLUMN_MMAS; j += 2) {
      uint32_t both[4];
      matrices_load(both, stage + Tile::A_BYTES + swizzled(b_row, 2 * k + b_chunk) + j * 8 * ROW_BYTES);
      UNROLL
      for (int r = 0; r < 4; r++) b[j + r / 2][r % 2] = both[r];
    }
    warp.template add<T>(a, b);
  }
}

// The Vec at `from` in shared memory. Of eight neighbouring lanes four begin with the second half, so that
// the eight together read all banks.
INLINE Vec staggered_load(const float* from) {
  const bool swap = threadIdx.x / 4 % 2;
  const float4 first = *reinterpret_cast<const float4*>(from + (swap ? 4 : 0));
  const float4 second = *reinterpret_cast<const float4*>(from + (swap ? 0 : 4));
  const float4 low = swap ? second : first, high = swap ? first : second;
  return {{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}};
}

// The rows of a block of C that a thread finishes: one Vec each of the first, and of every STEP-th after it.
template <class Tile>
struct Finish {
  static constexpr int ROW_VECS = Tile::COLUMNS / VEC, STEP = Tile::THREADS / ROW_VECS;
  static constexpr int VECS = Tile::ROWS / STEP;
  static_assert(VECS * STEP == Tile::ROWS && STEP * ROW_VECS == Tile::THREADS, "threads share C evenly");
  static INLINE int row(int i) { return threadIdx.x / ROW_VECS + i * STEP; }
  static INLINE int column() { return threadIdx.x % ROW_VECS * VEC; }
};

// The sum over the block's threads of column threadIdx.x, if there is one, of their Vecs. scratch has a Vec
// for each thread.
template <class Tile>
INLINE float column_total(Vec mine, float* scratch) {
  __syncthreads();
  vec_store(scratch + threadIdx.x * VEC, mine);
  __syncthreads();
  float total = 0.0f;
  if (threadIdx.x >= Tile::COLUMNS) return total;
  UNROLL
  for (int i = 0; i < Finish<Tile>::STEP; i++) total += scratch[i * Tile::COLUMNS + threadIdx.x];
  return total;
}

// Mean and M2 = sum (v - mean)^2 per column of the first `rows` rows of a block, of which this thread has v:
// the statistics of a chunk, as batch_norm.cu merges them. In two passes over registers, float32, in a fixed
// order. The first `columns` columns are written to `to`, M2 `stride` floats past the mean.
template <class Tile>
INLINE void write_statistics(
    const Vec (&v)[Finish<Tile>::VECS], int rows, int columns, float* scratch, float* to, int stride) {
  typedef Finish<Tile> Mine;
  const bool mine = static_cast<int>(threadIdx.x) < columns;
  Vec sum = vec_splat(0.0f), M2 = vec_splat(0.0f);
  UNROLL
  for (int i = 0; i < Mine::VECS; i++)
    if (Mine::row(i) < rows) sum = sum + v[i];
  const float mean = column_total<Tile>(sum, scratch) / static_cast<float>(rows);
  float* const means = scratch + Tile::THREADS * VEC;
  if (threadIdx.x < Tile::COLUMNS) means[threadIdx.x] = mean;
  if (mine) to[threadIdx.x] = mean;
  __syncthreads();
  const Vec center = vec_load(means + Mine::column());
  UNROLL
  for (int i = 0; i < Mine::VECS; i++)
    if (Mine::row(i) < rows) M2 = vec_fma(v[i] - center, v[i] - center, M2);
  const float total = column_total<Tile>(M2, scratch);
  if (mine) to[stride + threadIdx.x] = total;
}

// One block of C; store(sum, index in the output, column) gets every Vec of it, and returns what it
// stores, not yet rounded.
// If given, `statistics` [row tiles, 2, columns] gets the statistics of what is stored for valid images.
template <class T, class Tile, bool transposed, class Store>
INLINE void implicit_gemm(
    const Geometry& g, unsigned char* ring, const T* source, const T* weights, float* statistics,
    Store store) {
  SHARED(int, row_source, Tile::ROWS);
  SHARED(int, row_out, Tile::ROWS);
  SHARED(uint32_t, row_taps, Tile::ROWS);
  SHARED(Tap, list, MAX_TAPS);
  const BlockTables tables = {row_source, row_out, row_taps, list};
  // Neighbouring blocks share rows: they read the same source at the same time. Phases with most taps, the
  // last ones, come first.
  const int column_tiles = ceil_div(g.columns, Tile::COLUMNS), phases = transposed ? g.stride * g.stride : 1;
  const int tile = blockIdx.x / column_tiles, first_column = blockIdx.x % column_tiles * Tile::COLUMNS;
  const int row_tiles = gridDim.x / column_tiles / phases;
  const Phase<transposed> phase(g, phases - 1 - tile / row_tiles);
  const int first_row = tile % row_tiles * Tile::ROWS;
  if (first_row >= g.all_images * phase.height * phase.width) return;

  const int listed = make_tables<Tile>(phase, first_row, tables, reinterpret_cast<uint32_t*>(ring));
  Copier<T, Tile> copier(g, source, weights, tables, listed, first_column);
  // The copier has read the rows' sources; it reads the list from now on.
  __syncthreads();
  // The statistics' place and valid rows, which come first, wait where a table was: registers are full, and
  // so is the shared memory of two blocks of 64x64 on an sm_86.
  int* const chunk = tables.source;
  if (threadIdx.x == 0) {
    chunk[0] = tile;
    chunk[1] = min(Tile::ROWS, g.images * phase.height * phase.width - first_row);
  }
  const int k_tiles = ceil_div(listed * g.depth, Copier<T, Tile>::K_TILE);
  WarpTile<Tile> warp;
  run_ring<Tile>(
      k_tiles, shared_address(ring), [&](SharedAddress stage) { copier.copy(stage); },
      [&](SharedAddress stage) { multiply<T>(warp, stage); });
  float* const c = reinterpret_cast<float*>(ring);
  warp.each_pair([=](float x, float y, int row, int column) {
    *reinterpret_cast<float2*>(c + row * Tile::C_STRIDE + column) = make_float2(x, y);
  });
  __syncthreads();
  const int column = Finish<Tile>::column();
  Vec v[Finish<Tile>::VECS];
  UNROLL
  for (int i = 0; i < Finish<Tile>::VECS; i++) {
    const int row = Finish<Tile>::row(i), at = tables.out[row];
    v[i] = staggered_load(c + row * Tile::C_STRIDE + column);
    if (at >= 0 && first_column + column < g.columns)
      v[i] = store(v[i], at + first_column + column, first_column + column);
  }
  if (!statistics) return;
  const int rows = chunk[1];
  if (rows > 0) {
    UNROLL
    for (int i = 0; i < Finish<Tile>::VECS; i++) v[i] = vec_stored<T>(v[i]);
    float* const to = statistics + chunk[0] * 2 * g.columns + first_column;
    write_statistics<Tile>(v, rows, min(Tile::COLUMNS, g.columns - first_column), c, to, g.columns);
  }
}

#endif
