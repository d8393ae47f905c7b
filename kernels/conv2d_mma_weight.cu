// The weight gradient of the two-dimensional convolution on tensor cores (sm_80 and newer).
//
// Mathematics: as in conv2d_weight.cu, a product of two matrices whose inner index K is the pixel (n,oy,ox):
//   dw [Cout, taps Cin] = dy [pixels,Cout]^T x gathered [pixels, taps Cin]. T is bf16, or float, whose
//   numbers are rounded to tf32 before they are multiplied; dw is float32.
// Threads: a block owns a tile of dw (lib/mma_tile.cuh) for one split of the pixels. Both k-tiles lie in
//   shared memory as they lie in memory, a row per pixel, in panels of 128 bytes of channels: ldmatrix
//   transposes bf16 on its way to the registers; numbers of tf32 are loaded one by one. A thread copies one
//   chunk of channels of some pixels, always of the same tap, and moves its pixels on from k-tile to k-tile.
// Preconditions (src/ops/conv2d_mma.rs): channel counts that are multiples of 16, every tensor below 2^31
//   elements; as many splits as the workspace holds. Only the first *num_valid images count, if it is given.
// Outputs: `=`, or `+=` with accumulate = 1.
// Accumulation: float32, in the tensor cores' order within 32 bytes of K, then in the order of pixels within
//   a split; conv2d_weight_reduce adds the splits in order. Deterministic. No spills.
#include "lib/mma_tile.cuh"

#if TENSOR_CORES

struct WeightGeometry {
  int images, height, width, channels, out_height, out_width, out_channels, kernel_h, kernel_w, stride, pad;
};

// Panels of a k-tile: rows of 128 bytes, one per pixel.
template <class T>
struct Panels {
  static constexpr int CHUNK = CHUNK_BYTES / sizeof(T), WIDTH = ROW_BYTES / sizeof(T), PIXELS = WIDTH;
  static constexpr int BYTES = PIXELS * ROW_BYTES;

  // Where a chunk of a pixel lies: as in lib/mma.cuh for ldmatrix. Single numbers are read from four pixels
  // and eight channels, two chunks, at a time.
  static INLINE int place(int pixel, int chunk) {
    const int of_row = chunk % ROW_CHUNKS ^ (sizeof(T) == 2 ? pixel % 8 : pixel % 4 * 2);
    return chunk / ROW_CHUNKS * BYTES + pixel * ROW_BYTES + of_row * CHUNK_BYTES;
  }
  // A number, rounded to what the tensor cores read.
  static INLINE uint32_t number(SharedAddress panels, int pixel, int channel) {
    return operand<T>(word_load(panels + place(pixel, channel / CHUNK) + channel % CHUNK * sizeof(T)));
  }
};

// The operands of a 16 x 32 bytes product, from panels of A at channel `first` and pixel `pixel`.
template <class T>
INLINE void load_rows(uint32_t (&a)[4], SharedAddress panels, int first, int pixel) {
  typedef Panels<T> P;
  const int lane = threadIdx.x % 32;
  if (sizeof(T) == 2) {
    const int row = pixel + lane / 16 * 8 + lane % 8;
    matrices_load_transposed(a, panels + P::place(row, first / P::CHUNK + lane / 8 % 2));
  } else {
    UNROLL
    for (int i = 0; i < 4; i++)
      a[i] = P::number(panels, pixel + i / 2 * 4 + lane % 4, first + i % 2 * 8 + lane / 4);
  }
}

// The same for 16 columns of B.
template <class T>
INLINE void load_columns(uint32_t (&b)[4], SharedAddress panels, int first, int pixel) {
  typedef Panels<T> P;
  const int lane = threadIdx.x % 32;
  if (sizeof(T) == 2) {
    const int row = pixel + lane % 16;
    matrices_load_transposed(b, panels + P::place(row, first / P::CHUNK + lane / 16));
  } else {
    UNROLL
    for (int i = 0; i < 4; i++)
      b[i] = P::number(panels, pixel + i % 2 * 4 + lane % 4, first + i / 2 * 8 + lane / 4);
  }
}

// Adds the products of the k-tile at `stage`.
template <class T, class Tile>
INLINE void multiply(WarpTile<Tile>& warp, SharedAddress stage) {
  UNROLL
  for (int k = 0; k < ROW_BYTES / MMA_BYTES; k++) {
    constexpr int STEP = MMA_BYTES / sizeof(T);
    uint32_t a[Tile::ROW_MMAS][4], b[Tile::COLUMN_MMAS][2];
    UNROLL
    for (int i = 0; i < Tile::ROW_MMAS; i++) load_rows<T>(a[i], stage, warp.first_row() + i * 16, k * STEP);
    UNROLL
    for (int j = 0; j < Tile::COLUMN_MMAS; j += 2) {
      uint32_t both[4];
      load_columns<T>(both, stage + Tile::A_BYTES, warp.first_column() + j * 8, k * STEP);
      UNROLL
      for (int r = 0; r < 4; r++) b[j + r / 2][r % 2] = both[r];
    }
    warp.template add<T>(a, b);
  }
}

// What a thread copies of each k-tile: one chunk of channels of every STEP-th pixel.
template <class T, int threads, int channels>
struct Share {
  static constexpr int CHUNKS = channels / Panels<T>::CHUNK, STEP = threads / CHUNKS;
  static constexpr int COPIES = Panels<T>::PIXELS / STEP;
  static_assert(STEP % (sizeof(T) == 2 ? 8 : 4) == 0, "a thread's chunks lie at one place of their rows");
  static INLINE int chunk() { return threadIdx.x % CHUNKS; }
  static INLINE int pixel() { return threadIdx.x / CHUNKS; }
  static INLINE int channel() { return chunk() * Panels<T>::CHUNK; }
  static INLINE int place() { return Panels<T>::place(pixel(), chunk()); }
};

// A position that moves through the source by a fixed number of output pixels: `index` of its pixel's first
// channel, and its row and column there, for one tap.
struct Position {
  int index, y, x;
};

template <class T, class Tile>
struct Copier {
  typedef Share<T, Tile::THREADS, Tile::ROWS> Rows;
  typedef Share<T, Tile::THREADS, Tile::COLUMNS> Columns;
  const T *grad, *source;
  int left, out_channels, height, width;  // left: pixels from this k-tile on
  bool row_exists, column_exists;
  int grad_index;
  // Moving on by a k-tile, and what a step over the end of a row and of an image changes.
  Position step, next_row, next_image;
  int end_y, end_x;
  Position at[Columns::COPIES];

  INLINE Copier(
      const WeightGeometry& g, const T* x, const T* grad_out, int first_row, int first_column,
      int first_pixel, int pixels)
      : grad(grad_out),
        source(x),
        left(pixels),
        out_channels(g.out_channels),
        height(g.height),
        width(g.width) {
    const int co = first_row + Rows::channel();
    row_exists = co < g.out_channels;
    grad_index = (first_pixel + Rows::pixel()) * g.out_channels + co;
    const int column = first_column + Columns::channel(), tap = column / g.channels;
    column_exists = tap < g.kernel_h * g.kernel_w;
    const int ky = tap / g.kernel_w - g.pad, kx = tap % g.kernel_w - g.pad;
    const int channel = column - tap * g.channels;
    const auto locate = [&](int pixel) {
      const int row = pixel / g.out_width, image = row / g.out_height;
      const int y = (row - image * g.out_height) * g.stride, x = (pixel - row * g.out_width) * g.stride;
      return Position{((image * g.height + y) * g.width + x) * g.channels, y, x};
    };
    step = locate(Panels<T>::PIXELS);
    next_row = {(g.width - g.out_width) * g.stride * g.channels, g.stride, -g.out_width * g.stride};
    next_image = {(g.height - g.out_height * g.stride) * g.width * g.channels, -g.out_height * g.stride, 0};
    end_y = g.out_height * g.stride + ky;
    end_x = g.out_width * g.stride + kx;
    UNROLL
    for (int i = 0; i < Columns::COPIES; i++) {
      at[i] = locate(first_pixel + Columns::pixel() + i * Columns::STEP);
      at[i].index += (ky * g.width + kx) * g.channels + channel;
      at[i].y += ky;
      at[i].x += kx;
    }
  }
  // Copies the next k-tile to the stage at `to`.
  INLINE void copy(SharedAddress to) {
    UNROLL
    for (int i = 0; i < Rows::COPIES; i++) {
      const bool valid = row_exists && Rows::pixel() + i * Rows::STEP < left;
      const T* const from = grad + (grad_index + i * Rows::STEP * out_channels);
      chunk_copy_async(to + (Rows::place() + i * Rows::STEP * ROW_BYTES), valid ? from : grad, valid);
    }
    UNROLL
    for (int i = 0; i < Columns::COPIES; i++) {
      Position& p = at[i];
      const bool valid = column_exists && Columns::pixel() + i * Columns::STEP < left &&
                         static_cast<unsigned>(p.y) < static_cast<unsigned>(height) &&
                         static_cast<unsigned>(p.x) < static_cast<unsigned>(width);
      chunk_copy_async(
          to + (Tile::A_BYTES + Columns::place() + i * Columns::STEP * ROW_BYTES),
          valid ? source + p.index : source, valid);
      move(p, step);
      if (p.x >= end_x) move(p, next_row);
      if (p.y >= end_y) move(p, next_image);
    }
    grad_index += Panels<T>::PIXELS * out_channels;
    left -= Panels<T>::PIXELS;
  }
  static INLINE void move(Position& p, const Position& by) {
    p.index += by.index;
    p.y += by.y;
    p.x += by.x;
  }
};

// One block's tile of one split: out (+)= its sums.
template <class T, class Tile>
INLINE void weight_tile(
    const WeightGeometry& g, unsigned char* ring, const T* x, const T* grad_out, float* out,
    bool accumulate) {
  const int columns = g.kernel_h * g.kernel_w * g.channels, row_tiles = ceil_div(g.out_channels, Tile::ROWS);
  const int first_row = blockIdx.x % row_tiles * Tile::ROWS;
  const int first_column = blockIdx.x / row_tiles * Tile::COLUMNS;
  // The split's k-tiles.
  constexpr int K_TILE = Panels<T>::PIXELS;
  const int split = blockIdx.y, splits = gridDim.y, pixels = g.images * g.out_height * g.out_width;
  const int all = ceil_div(pixels, K_TILE), share = ceil_div(all, splits);
  const int first = min(split * share, all), k_tiles = min(share, all - first);
  Copier<T, Tile> copier(g, x, grad_out, first_row, first_column, first * K_TILE, pixels - first * K_TILE);
  WarpTile<Tile> warp;
  run_ring<Tile>(
      k_tiles, shared_address(ring), [&](SharedAddress stage) { copier.copy(stage); },
      [&](SharedAddress stage) { multiply<T>(warp, stage); });
  out += static_cast<size_t>(split) * g.out_channels * columns;
  warp.each_pair([=](float a, float b, int row, int column) {
    const int co = first_row + row, at = first_column + column;
    if (co >= g.out_channels || at >= columns) return;
    float2* const to = reinterpret_cast<float2*>(out + (co * columns + at));
    const float2 before = accumulate ? *to : make_float2(0.0f, 0.0f);
    *to = make_float2(before.x + a, before.y + b);
  });
}

#endif

// One split of the weight gradient (blockIdx.y): out [splits,Cout,kh,kw,Cin]; tiles of 128x64.
extern "C" __global__ __launch_bounds__(128, 3) DYN_BYTES(73728) void conv2d_mma_weight_grad_128x64(
    const T* x, const T* grad_out, float* out, NULLABLE const int* num_valid, bool accumulate, int images,
    int height, int width, int channels, int out_height, int out_width, int out_channels, int kernel_h,
    int kernel_w, int stride, int pad) {
#if TENSOR_CORES
  DYN_SMEM(unsigned char, ring);
  const int valid = valid_images(num_valid, images);
  const WeightGeometry g = {valid,        height,   width,    channels, out_height, out_width,
                            out_channels, kernel_h, kernel_w, stride,   pad};
  weight_tile<T, Tile128x64>(g, ring, x, grad_out, out, accumulate);
#else
  no_tensor_cores();
#endif
}

// One split of the weight gradient (blockIdx.y): out [splits,Cout,kh,kw,Cin]; tiles of 64x64.
extern "C" __global__ __launch_bounds__(128, 4) DYN_BYTES(49152) void conv2d_mma_weight_grad_64x64(
    const T* x, const T* grad_out, float* out, NULLABLE const int* num_valid, bool accumulate, int images,
    int height, int width, int channels, int out_height, int out_width, int out_channels, int kernel_h,
    int kernel_w, int stride, int pad) {
#if TENSOR_CORES
  DYN_SMEM(unsigned char, ring);
  const int valid = valid_images(num_valid, images);
  const WeightGeometry g = {valid,        height,   width,    channels, out_height, out_width,
                            out_channels, kernel_h, kernel_w, stride,   pad};
  weight_tile<T, Tile64x64>(g, ring, x, grad_out, out, accumulate);
#else
  no_tensor_cores();
#endif
}
