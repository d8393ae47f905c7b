// The weight gradient of the two-dimensional convolution in float32.
//
// Mathematics: dw[co,ky,kx,ci] = sum_{n,oy,ox} dy[n,oy,ox,co] x[n, oy*s-p+ky, ox*s-p+kx, ci], zeros outside
//   x:
//   a product of two matrices whose inner index is the pixel (n,oy,ox).
//   x [N,H,W,Cin], dy [N,OH,OW,Cout], dw [Cout,kh,kw,Cin].
//
//                      x gathered [pixels, taps Cin]
//                     +--------+=======+--------+
//                     |        | panel |        |
//     dy [pixels,     +--------+=======+--------+
//         Cout]        dw [Cout, taps Cin]
//    +---+====+---+   +--------+-------+--------+
//    |   |TILE|   |   |        | block |        |   a block: TILE output channels x one panel of (tap, ci),
//    +---+====+---+   +--------+-------+--------+   summed over the images of one split
//
// Threads: a block owns one tile of dw, for one split of the images. If Cin is a multiple of 16 a panel lies
//   in one tap, and a block visits only the pixels that this tap finds inside x; other channel counts take
//   the flattened path: columns are the flattened index (tap, ci), gathered with zeros. A block lists its
//   pixels in shared memory, LIST at a time. CUDA copies WEIGHT_STAGE of them to shared memory while it
//   multiplies the ones before; on the host the one thread multiplies in place, piece by piece of the tile.
// Preconditions (src/ops/conv2d.rs): every tensor below 2^31 elements; as many splits as the workspace holds.
// Outputs: `=`, or `+=` with accumulate = 1.
// Accumulation: float32, in the order of pixels within a split, then over the splits in order. Deterministic.
//   No spills.
#include "lib/gemm_tile.cuh"

PER_DEVICE(WEIGHT_THREADS, 64, 1);
PER_DEVICE(TILE, 64, 64);            // output channels of a block
PER_DEVICE(LIST, 256, 512);          // pixels listed at a time
PER_DEVICE(FLAT_LIST, 256, 128);     // the same on the flattened path, where the host gathers them all
PER_DEVICE(WANTED_BLOCKS, 792, 32);  // the images are split into about as many blocks (H200: 6 an SM)
PER_DEVICE(SOURCE_ROWS, 32, 128);    // rows of shared memory: two stages of x, or FLAT_LIST gathered pixels
PER_DEVICE(GRAD_ROWS, 32, 1);        // two stages of dy; the host reads it in place
PER_DEVICE(SUM_ROWS, 1, 72);         // partial sums: TILE rounded up to whole pieces (CUDA: in registers)

// Columns of a panel, and whether panels lie in one tap.
INLINE int weight_panel(int channels, int taps) {
  if (channels % 16 == 0) return channels % 64 == 0 ? 64 : channels % 32 == 0 ? 32 : 16;
  return panel_width(channels * taps);
}

// The output positions that a tap finds inside the source along one axis: the first one, and one past the
// last.
INLINE int tap_begin(int tap, int stride, int pad) { return tap >= pad ? 0 : ceil_div(pad - tap, stride); }
INLINE int tap_end(int tap, int stride, int pad, int size, int out_size) {
  const int last = size - 1 + pad - tap;
  return last < 0 ? 0 : min(out_size, last / stride + 1);
}

struct WeightGeometry {
  int height, width, channels, out_height, out_width, out_channels, kernel_h, kernel_w, stride, pad;
};

// The work of a block: output channels from `co`, columns from `column`, and `pixels` pixels, which start at
// image `image` and are `rows` x `row_pixels` in each image, the first at (y0, x0).
struct Work {
  WeightGeometry g;
  bool flattened;
  int co, column, columns, tap, image, y0, x0, rows, row_pixels, pixels;  // columns: of dw in all

  INLINE Work(const WeightGeometry& g, int width, int first_image, int last_image)
      : g(g),
        flattened(g.channels % 16 != 0),
        image(first_image) {
    const int tiles = ceil_div(g.out_channels, TILE);
    co = blockIdx.x % tiles * TILE;
    column = blockIdx.x / tiles * width;
    columns = g.kernel_h * g.kernel_w * g.channels;
    tap = column / g.channels;
    const int ky = tap / g.kernel_w, kx = tap - ky * g.kernel_w;
    y0 = flattened ? 0 : tap_begin(ky, g.stride, g.pad);
    x0 = flattened ? 0 : tap_begin(kx, g.stride, g.pad);
    rows = max(0, (flattened ? g.out_height : tap_end(ky, g.stride, g.pad, g.height, g.out_height)) - y0);
    row_pixels = max(0, (flattened ? g.out_width : tap_end(kx, g.stride, g.pad, g.width, g.out_width)) - x0);
    pixels = (last_image - first_image) * rows * row_pixels;
  }
  // Source offset of a column's tap and channel relative to the pixel of tap (pad, pad), channel 0.
  INLINE void locate(int at, int& ky, int& kx, int& channel) const {
    const int its_tap = at / g.channels;
    channel = at - its_tap * g.channels;
    ky = its_tap / g.kernel_w - g.pad;
    kx = its_tap % g.kernel_w - g.pad;
  }
};

// The listed pixels, in shared memory: their indices in dy and in x, and on the flattened path their position
// in x without the tap.
struct PixelList {
  int *grad, *source, *y, *x;
};

INLINE void list_pixels(const Work& work, const PixelList& list, int first, int count) {
  const WeightGeometry& g = work.g;
  int ky, kx, channel;
  work.locate(work.flattened ? 0 : work.column, ky, kx, channel);
  if (work.flattened) ky = kx = 0;
  const FastDivmod by_image(max(1, work.rows * work.row_pixels)), by_row(max(1, work.row_pixels));
  for (int i = threadIdx.x; i < count; i += WEIGHT_THREADS) {
    const int image = by_image.div(first + i), rest = first + i - image * by_image.divisor;
    const int row = by_row.div(rest), y = row + work.y0, x = rest - row * by_row.divisor + work.x0;
    const int sy = y * g.stride + ky, sx = x * g.stride + kx;
    list.grad[i] = (((work.image + image) * g.out_height + y) * g.out_width + x) * g.out_channels + work.co;
    list.source[i] = (((work.image + image) * g.height + sy) * g.width + sx) * g.channels + channel;
    list.y[i] = sy;
    list.x[i] = sx;
  }
}

// Gathers the columns of the flattened path for the pixels [first, first + count) of the list: zeros where
// the tap leaves x, past the last column, and past `listed`.
template <int width>
INLINE void gather_columns(
    const Work& work, const PixelList& list, const float* x, float* to, int first, int count, int listed) {
  constexpr int SHARERS = WEIGHT_THREADS == 1 ? 1 : width;
  for (int c = threadIdx.x % SHARERS; c < width; c += SHARERS) {
    int ky, kx, channel;
    work.locate(work.column + c, ky, kx, channel);
    const bool exists = work.column + c < work.columns;
    const int delta = (ky * work.g.width + kx) * work.g.channels + channel;
    for (int row = 0; row < count; row += WEIGHT_THREADS / SHARERS) {
      const int i = row + threadIdx.x / SHARERS;
      const bool valid =
          exists && first + i < listed &&
          static_cast<unsigned>(list.y[first + i] + ky) < static_cast<unsigned>(work.g.height) &&
          static_cast<unsigned>(list.x[first + i] + kx) < static_cast<unsigned>(work.g.width);
      to[i * width + panel_slot(c, width)] = valid ? x[list.source[first + i] + delta] : 0.0f;
    }
  }
}

// The block's shared memory: stages of x (on the host: gathered columns of the flattened path) and of dy,
// partial sums of the host, listed pixels.
struct SharedMemory {
  float *sources, *grads, *sums;
  int* pixels;

  INLINE PixelList list() const { return {pixels, pixels + LIST, pixels + 2 * LIST, pixels + 3 * LIST}; }
};

// out (+)= the sums of a tile, or of the piece of it that starts at (row, column).
template <class T>
INLINE void store_tile(const Work& work, const T& tile, float* out, int row, int column, int accumulate) {
  const bool aligned = rows_aligned(work.columns);
  tile.each([&](Vec sum, int r, int v) {
    const int co = work.co + row + r, at = work.column + column + T::column_of(v);
    if (co >= work.g.out_channels || row + r >= TILE || at >= work.columns) return;
    vec_put(
        out + static_cast<size_t>(co) * work.columns + at, sum, run_length(at, work.columns), accumulate,
        aligned);
  });
}

#if ONE_THREAD_BLOCKS

// tile += the listed pixels' products, for the piece of the block's tile that starts at (row, column). row_at
// keeps reads within the last rows.
template <int width, class T, class RowAt>
INLINE void multiply_listed(
    T& tile, const Work& work, const PixelList& list, const float* x, const float* grad_out,
    const float* gathered, int row, int column, int listed, RowAt row_at) {
  for (int i = 0; i < listed; i++) {
    const float* const a = grad_out + list.grad[i] + row;
    const float* const b = (work.flattened ? gathered + i * width : x + list.source[i]) + column;
    tile.add([&](int r) { return a[row_at(r)]; }, b);
  }
}

// One thread computes the block's tile piece by piece, a list of pixels at a time; between lists the partial
// sums of all pieces wait in memory.
template <int width>
INLINE void weight_tile(
    const Work& work, const SharedMemory& memory, const float* x, const float* grad_out, float* out,
    int accumulate) {
  typedef Tile<width, WEIGHT_THREADS, TILE> T;
  const PixelList list = memory.list();
  const int list_size = work.flattened ? FLAT_LIST : LIST, rows = min(TILE, work.g.out_channels - work.co);
  for (int base = 0; base == 0 || base < work.pixels; base += list_size) {
    const int listed = min(list_size, work.pixels - base);
    const bool last = base + list_size >= work.pixels;
    list_pixels(work, list, base, listed);
    if (work.flattened) gather_columns<width>(work, list, x, memory.sources, 0, listed, listed);
    for (int row = 0; row < rows; row += T::BLOCK_ROWS) {
      for (int column = 0; column < width; column += T::COLUMNS) {
        T tile;
        const auto sum_at = [=](int r, int v) {
          return memory.sums + (row + r) * width + column + T::column_of(v);
        };
        if (base == 0) {
          tile.clear();
        } else {
          tile.load(sum_at);
        }
        const int rows_left = rows - row;
        if (rows_left >= T::ROWS) {
          multiply_listed<width>(
              tile, work, list, x, grad_out, memory.sources, row, column, listed, [](int r) { return r; });
        } else {
          multiply_listed<width>(
              tile, work, list, x, grad_out, memory.sources, row, column, listed,
              [=](int r) { return r < rows_left ? r : 0; });
        }
        if (last) {
          store_tile(work, tile, out, row, column, accumulate);
        } else {
          tile.each([&](Vec sum, int r, int v) { vec_store(sum_at(r, v), sum); });
        }
      }
    }
  }
}

#else

constexpr int WEIGHT_STAGE = 16;  // pixels staged at a time

// Copies WEIGHT_STAGE pixels of the list from `first` on to shared memory: TILE channels of dy and `width`
// columns of x.
template <int width>
INLINE void stage_pixels(
    const Work& work, const PixelList& list, const float* x, const float* grad_out, float* grads,
    float* sources, int first, int listed) {
  static_assert(WEIGHT_STAGE * TILE % (WEIGHT_THREADS * COPY) == 0, "threads share dy evenly");
  static_assert(WEIGHT_STAGE % (WEIGHT_THREADS * COPY / width) == 0, "threads share the pixels evenly");
  const bool whole = work.g.out_channels % COPY == 0;
  for (int at = 0; at < WEIGHT_STAGE * TILE; at += WEIGHT_THREADS * COPY) {
    const int i = at + threadIdx.x * COPY;
    const int pixel = first + i / TILE, left = work.g.out_channels - work.co - i % TILE;
    const float* const from = grad_out + (pixel < listed ? list.grad[pixel] + i % TILE : 0);
    if (whole) {
      copy_async(grads + i, left > 0 ? from : grad_out, pixel < listed && left > 0);
    } else {
      UNROLL
      for (int j = 0; j < COPY; j++) grads[i + j] = pixel < listed && j < left ? from[j] : 0.0f;
    }
  }
  if (work.flattened) return gather_columns<width>(work, list, x, sources, first, WEIGHT_STAGE, listed);
  const int column = threadIdx.x * COPY % width;
  float* const to = sources + panel_slot(column, width);
  for (int row = 0; row < WEIGHT_STAGE; row += WEIGHT_THREADS * COPY / width) {
    const int i = row + threadIdx.x * COPY / width, pixel = first + i;
    copy_async(to + i * width, x + (pixel < listed ? list.source[pixel] + column : 0), pixel < listed);
  }
}

// tile += a stage's products; a points at this thread's first row.
template <int width, class T>
INLINE void multiply_staged(T& tile, const float* a, const float* b) {
  struct __align__(T::ROWS >= 4 ? 16 : 4 * T::ROWS) Factors {
    float row[T::ROWS];
  };
  UNROLL
  for (int i = 0; i < WEIGHT_STAGE; i++) {
    const Factors factors = *reinterpret_cast<const Factors*>(a + i * TILE);
    tile.add([&](int r) { return factors.row[r]; }, b + i * width);
  }
}

// The threads of a block hold its tile in registers and multiply stage by stage, with two buffers.
template <int width>
INLINE void weight_tile(
    const Work& work, const SharedMemory& memory, const float* x, const float* grad_out, float* out,
    int accumulate) {
  typedef Tile<width, WEIGHT_THREADS, TILE> T;
  constexpr int GRADS_SIZE = WEIGHT_STAGE * TILE, SOURCES_SIZE = WEIGHT_STAGE * width;
  const PixelList list = memory.list();
  const int list_size = work.flattened ? FLAT_LIST : LIST;
  const int thread_row = threadIdx.x / T::COLUMN_THREADS * T::ROWS;
  const auto stage = [&](int number, int listed) {
    stage_pixels<width>(
        work, list, x, grad_out, memory.grads + number % 2 * GRADS_SIZE,
        memory.sources + number % 2 * SOURCES_SIZE, number * WEIGHT_STAGE, listed);
  };
  T tile;
  tile.clear();
  for (int base = 0; base == 0 || base < work.pixels; base += list_size) {
    const int listed = min(list_size, work.pixels - base), stages = max(1, ceil_div(listed, WEIGHT_STAGE));
    // All threads have read the list before the barrier of the last stage.
    list_pixels(work, list, base, listed);
    __syncthreads();
    stage(0, listed);
    for (int number = 0; number < stages; number++) {
      copies_wait();
      __syncthreads();
      if (number + 1 < stages) stage(number + 1, listed);
      multiply_staged<width>(
          tile, memory.grads + number % 2 * GRADS_SIZE + thread_row,
          memory.sources + number % 2 * SOURCES_SIZE);
    }
  }
  store_tile(work, tile, out, thread_row, 0, accumulate);
}

#endif

// One split of the weight gradient (blockIdx.y: images [s N / splits, (s + 1) N / splits)): out
// [splits,Cout,kh,kw,Cin]. With `num_valid`, N is *num_valid.
extern "C" __global__ __launch_bounds__(WEIGHT_THREADS, 6) void conv2d_weight_grad(
    const float* x, const float* grad_out, float* out, NULLABLE const int* num_valid, bool accumulate,
    int images, int height, int width, int channels, int out_height, int out_width, int out_channels,
    int kernel_h, int kernel_w, int stride, int pad) {
  images = valid_images(num_valid, images);
  const WeightGeometry g = {height,       width,    channels, out_height, out_width,
                            out_channels, kernel_h, kernel_w, stride,     pad};
  const int split = blockIdx.y, splits = gridDim.y, panel = weight_panel(channels, kernel_h * kernel_w);
  const Work work(g, panel, split * images / splits, (split + 1) * images / splits);
  out += static_cast<size_t>(split) * out_channels * work.columns;
  SHARED(float, sources, SOURCE_ROWS * 64);
  SHARED(float, grads, TILE* GRAD_ROWS);
  SHARED(float, sums, SUM_ROWS * 64);
  SHARED(int, pixels, 4 * LIST);
  const SharedMemory memory = {sources, grads, sums, pixels};
  switch (panel) {
    case 64: return weight_tile<64>(work, memory, x, grad_out, out, accumulate);
    case 32: return weight_tile<32>(work, memory, x, grad_out, out, accumulate);
    default: return weight_tile<16>(work, memory, x, grad_out, out, accumulate);
  }
}

// out[i] (+)= sum over s of parts[s, i], i < n.
extern "C" __global__ __launch_bounds__(ELEMENTWISE_THREADS) void conv2d_weight_reduce(
    const float* parts, float* out, int splits, int n, bool accumulate) {
  each_vec(n, [=](int i, int count) {
    Vec sum = vec_splat(0.0f);
    for (int s = 0; s < splits; s++)
      sum = sum + vec_load(parts + static_cast<size_t>(s) * n + i, count, rows_aligned(n));
    vec_put(out + i, sum, count, accumulate);
  });
}
