// Two-dimensional convolution in float32 and its input gradient, as one gather-GEMM (implicit GEMM); conv2d_weight.cu has the weight gradient.
//
// Mathematics: y[n,oy,ox,co] = sum_{ky,kx,ci} x[n, oy*s-p+ky, ox*s-p+kx, ci] w[co,ky,kx,ci], zeros outside x; the input gradient is the
//   adjoint: dx[n,iy,ix,ci] = sum_{ky,kx,co} dy[n, (iy+p-ky)/s, (ix+p-kx)/s, co] w[co,ky,kx,ci] where the division is exact.
//   x [N,H,W,Cin], y [N,OH,OW,Cout], w [Cout,kh,kw,Cin]. Both read w through a copy made by conv2d_prepare, in panels (lib/gemm_tile.cuh).
// Threads: a block owns BLOCK_ROWS output pixels x one panel of channels. A place is a (phase, chunk): a phase is a residue of the pixel
//   modulo the stride of the input gradient, a chunk is `chunk` neighbouring pixels. The pixels of a place are ordered (image, pixel of the
//   chunk): with a small chunk a block holds many images at the same place, so that filter taps in the padding or between the strides are
//   skipped for all of them. Blocks are ordered (images, place): neighbours read overlapping pixels of the same images.
//   With `existing` only the first *existing images are there: the blocks share what those need, and behind them all sums are 0.
//   Stages of STAGE channels of one tap are copied to shared memory while the previous stage is multiplied.
// Preconditions (src/ops/conv2d.rs): every tensor below 2^31 elements; masks only for channel counts that are multiples of 16.
// Outputs: `=`, except input gradients with accumulate = 1: `+=`.
// Accumulation: float32, in the order (ky, kx, channel), one chain per number. Deterministic. No spills.
#include "lib/gemm_tile.cuh"

CONFIG(THREADS, 128, 1)
CONFIG(BLOCK_ROWS, 128, 64)        // output pixels of a block
CONFIG(MIN_CHUNK_ROWS, 128, 16)    // the chunk is chosen so that chunk * images is at least this
CONFIG(STAGE, 16, 32)              // channels of a stage
CONFIG(STAGE_STRIDE, 20, 32)       // floats between rows of a stage: 20 keeps CUDA's shared memory free of bank conflicts
CONFIG(PANEL_STAGES, 2, 0)         // the host reads panels where they are
CONFIG(STEP, 4, 2)                 // channels multiplied per turn of the inner loop
CONFIG(PREPARE_THREADS, 256, 1)
CONFIG(PREPARE_SHARERS, 16, 1)     // neighbouring threads that share a panel row
CONFIG(PREPARE_ROWS, 16, 64)       // panel rows of a block of conv2d_prepare
CONFIG(NARROW_THREADS, 256, 1)
CONFIG(NARROW_LANES, 8, 1)         // threads that share a pixel in the narrow input gradient
CONFIG(NARROW_PIXELS, 32, 128)     // pixels of a block of it
CONFIG(NARROW_CHANNELS, 4, 4)      // up to so many input channels

// A source of `depth` channels, from which a map of `columns` channels is computed, for `images` of `all_images`.
struct Geometry {
  int images, all_images, src_h, src_w, depth, out_h, out_w, columns, kernel_h, kernel_w, stride, pad;
};

// The stages of a block: taps that touch at least one of its pixels, and channels in pieces of STAGE. `transposed`: input gradient.
// Channel counts that are no multiple of 16 take the flat way: all taps, (tap, channel) as one index.
template <bool transposed>
struct Stages {
  const Geometry g;
  const bool flat;
  const int out_step, src_step, phase_y, phase_x, grid_h, grid_w, first, pixels;  // first, pixels: of the chunk, in the phase's grid
  int low_y = 0, high_y = 0, low_x = 0, high_x = 0;                              // its bounding box, in source pixels
  int ky = 0, kx = 0, channel = 0, dy = 0, dx = 0;                               // the current tap and its source offset
  bool inside = false;                                                           // stays_inside for this tap
  int count = 0;                                                                 // channels of this stage

  INLINE Stages(const Geometry& g, int phase, int first, int chunk)
      : g(g), flat(g.depth % 16 != 0), out_step(transposed ? g.stride : 1), src_step(transposed ? 1 : g.stride), phase_y(phase / out_step),
        phase_x(phase % out_step), grid_h((g.out_h - phase_y + out_step - 1) / out_step), grid_w((g.out_w - phase_x + out_step - 1) / out_step),
        first(first), pixels(min(chunk, grid_h * grid_w - first)) {
    if (pixels <= 0) return;
    const int last = first + pixels - 1, y0 = first / grid_w, y1 = last / grid_w;
    low_y = y0 * src_step, high_y = y1 * src_step;
    low_x = (y0 == y1 ? first % grid_w : 0) * src_step, high_x = (y0 == y1 ? last % grid_w : grid_w - 1) * src_step;
  }
  // Source offset of a tap along one axis; false when no source pixel belongs to it in this phase.
  INLINE bool offset(int tap, int phase, int& delta) const {
    const int at = phase + g.pad - tap;
    delta = transposed ? at / out_step : tap - g.pad;
    return !transposed || at - delta * out_step == 0;
  }
  // Whether no pixel of the box leaves the source.
  INLINE bool stays_inside(int dy, int dx) const {
    return low_y + dy >= 0 && high_y + dy < g.src_h && low_x + dx >= 0 && high_x + dx < g.src_w;
  }
  INLINE void restart() { ky = 0, kx = -1, count = 0, channel = flat ? 0 : g.depth; }
  // Goes to the next stage; false behind the last one.
  INLINE bool next() {
    if (flat) {
      channel += count;
      const int depth = g.kernel_h * g.kernel_w * g.depth;
      count = min(STAGE, depth - channel);
      return channel < depth;
    }
    channel += count;
    if (channel >= g.depth) {
      channel = 0;
      if (!next_tap()) return false;
    }
    count = min(STAGE, g.depth - channel);
    return true;
  }
  INLINE bool next_tap() {
    for (;;) {
      if (++kx == g.kernel_w) kx = 0, ky++;
      if (ky >= g.kernel_h) return false;
      if (!offset(ky, phase_y, dy) || high_y + dy < 0 || low_y + dy >= g.src_h) {
        kx = g.kernel_w - 1;
        continue;
      }
      if (!offset(kx, phase_x, dx) || high_x + dx < 0 || low_x + dx >= g.src_w) continue;
      inside = stays_inside(dy, dx);
      return true;
    }
  }
  // The row of the panel where this stage starts.
  INLINE int panel_row() const { return flat ? channel : (ky * g.kernel_w + kx) * g.depth + channel; }
};

// What a tile needs to know of its rows, in shared memory.
struct Rows {
  int *source, *y, *x, *out;  // source: first channel of the pixel for offset 0; out: of the output, or -1
};

// The block's shared memory: two stages of the source, two of the panel, and the rows.
struct Memory {
  float *source, *panel;
  int* rows;
};

// Finds the rows [first, first + count) of the chunk. Rows from `end` on repeat the last one and are never stored.
template <bool transposed>
INLINE void find_rows(const Stages<transposed>& at, const Rows& rows, int first, int count, int end) {
  const Geometry& g = at.g;
  const Divider by_chunk(at.pixels), by_width(at.grid_w);
  for (int r = threadIdx.x; r < count; r += THREADS) {
    const int row = min(first + r, end - 1), image = by_chunk.quotient(row);
    const int pixel = at.first + row - image * at.pixels, y = by_width.quotient(pixel), x = pixel - y * at.grid_w;
    const int sy = y * at.src_step, sx = x * at.src_step;
    rows.y[r] = sy, rows.x[r] = sx;
    rows.source[r] = ((image * g.src_h + sy) * g.src_w + sx) * g.depth;
    const int oy = y * at.out_step + at.phase_y, ox = x * at.out_step + at.phase_x;
    rows.out[r] = first + r == row ? ((image * g.out_h + oy) * g.out_w + ox) * g.columns : -1;
  }
}

// Copies a stage of the source to shared memory.
template <int row_count, bool transposed>
INLINE void fetch(const Stages<transposed>& at, const Rows& rows, const float* source, float* stage) {
  const Geometry& g = at.g;
  constexpr int SHARERS = THREADS == 1 ? 1 : STAGE / COPY;  // neighbouring threads that share a row
  const auto in_source = [&](int r, int dy, int dx) {
    return static_cast<unsigned>(rows.y[r] + dy) < static_cast<unsigned>(g.src_h) && static_cast<unsigned>(rows.x[r] + dx) < static_cast<unsigned>(g.src_w);
  };
  if (!at.flat) {
    const int delta = (at.dy * g.src_w + at.dx) * g.depth + at.channel, dy = at.dy, dx = at.dx, channels = at.count;
    const bool inside = at.inside;
    UNROLL for (int r = threadIdx.x / SHARERS; r < row_count; r += THREADS / SHARERS) {
      const bool valid = inside || in_source(r, dy, dx);
      const float* from = source + (valid ? rows.source[r] + delta : 0);
      for (int c = threadIdx.x % SHARERS * COPY; c < channels; c += SHARERS * COPY) copy_async(stage + r * STAGE_STRIDE + c, from + c, valid);
    }
    return;
  }
  int tap = at.channel / g.depth, channel = at.channel - tap * g.depth, ky = tap / g.kernel_w, kx = tap - ky * g.kernel_w;
  for (int k = 0; k < round_up(at.count, STEP); k++) {
    int dy, dx;
    const bool exact = at.offset(ky, at.phase_y, dy) & at.offset(kx, at.phase_x, dx) && k < at.count, inside = at.stays_inside(dy, dx);
    const int delta = (dy * g.src_w + dx) * g.depth + channel;
    for (int r = threadIdx.x; r < row_count; r += THREADS) {
      const bool valid = exact && (inside || in_source(r, dy, dx));
      stage[r * STAGE_STRIDE + k] = valid ? source[rows.source[r] + delta] : 0.0f;
    }
    if (++channel == g.depth) {
      channel = 0;
      if (++kx == g.kernel_w) kx = 0, ky++;
    }
  }
}

// Stages of a panel. The host reads it in place, CUDA copies it to shared memory.
template <int width>
INLINE const float* fetch_panel(const float* panel, float* stage, int rows) {
#if HOST_SHAPES
  return panel;
#else
  for (int i = threadIdx.x * COPY; i < round_up(rows, STEP) * width; i += THREADS * COPY) copy_async(stage + i, panel + i, true);
  return stage;
#endif
}

// sum += rows of the stage x panel rows.
template <int width, class T>
INLINE void multiply(T& tile, const float* stage, const float* panel, int count) {
  for (int k = 0; k < count; k += STEP) {
#if HOST_SHAPES
    const auto row = [&](int r, int step) { return stage[T::row_of(r) * STAGE_STRIDE + k + step]; };
#else
    float a[T::ROWS][STEP];
    UNROLL for (int r = 0; r < T::ROWS; r++) {
      *reinterpret_cast<float4*>(a[r]) = *reinterpret_cast<const float4*>(stage + T::row_of(r) * STAGE_STRIDE + k);
    }
    const auto row = [&](int r, int step) { return a[r][step]; };
#endif
    UNROLL for (int step = 0; step < STEP; step++) {
      tile.add([&](int r) { return row(r, step); }, panel + (k + step) * width + T::column_of(0));
    }
  }
}

// The block's share of the gather-GEMM; store(sum, index of the output, column) gets every Vec of the result. Images that exist are put
// together in chunks as if there were no others; a launch has enough blocks for each number of them.
template <int width, bool transposed, class Store>
INLINE void gather_gemm(const Geometry& g, const Memory& memory, const float* source, const float* panels, Store store) {
  typedef Tile<width, THREADS, BLOCK_ROWS> T;
  const Rows rows = {memory.rows, memory.rows + T::BLOCK_ROWS, memory.rows + 2 * T::BLOCK_ROWS, memory.rows + 3 * T::BLOCK_ROWS};
  float *const stages = memory.source, *const panel_stages = memory.panel;
  const int out_step = transposed ? g.stride : 1, grid = ceil_div(g.out_h, out_step) * ceil_div(g.out_w, out_step);
  const int chunk = min(ceil_div(MIN_CHUNK_ROWS, max(g.images, 1)), grid), chunks = ceil_div(grid, chunk);
  const int blocks = max(1, ceil_div(g.images * chunk, BLOCK_ROWS)), panel_rows = round_up(g.kernel_h * g.kernel_w * g.depth, STEP_ROWS);
  const int places = chunks * out_step * out_step, block = blockIdx.x / places, place = blockIdx.x % places;
  if (block >= blocks) return;
  Stages<transposed> at(g, place / chunks, place % chunks * chunk, chunk);
  const int end = min((block + 1) * BLOCK_ROWS, g.images * at.pixels);
  for (int column = 0; column < width; column += T::COLUMNS) {
    const float* const panel = panels + static_cast<size_t>(blockIdx.y) * panel_rows * width + column;
    for (int first = block * BLOCK_ROWS; first < end; first += T::BLOCK_ROWS) {
      T tile;
      tile.clear();
      __syncthreads();
      find_rows(at, rows, first, T::BLOCK_ROWS, end);
      __syncthreads();
      at.restart();
      bool more = at.next();
      int turn = 0;
      const float* b = panel;
      if (more) {
        fetch<T::BLOCK_ROWS>(at, rows, source, stages);
        b = fetch_panel<width>(panel + at.panel_row() * width, panel_stages, at.count);
      }
      while (more) {
        const float *const a = stages + turn * T::BLOCK_ROWS * STAGE_STRIDE, *const now = b;
        const int count = at.count;
        copies_wait();
        __syncthreads();
        more = at.next();
        turn ^= 1;
        if (more) {
          fetch<T::BLOCK_ROWS>(at, rows, source, stages + turn * T::BLOCK_ROWS * STAGE_STRIDE);
          b = fetch_panel<width>(panel + at.panel_row() * width, panel_stages + turn * STAGE * width, at.count);
        }
        multiply<width>(tile, a, now, count);
      }
      tile.each([&](Vec sum, int r, int v) {
        const int out = rows.out[T::row_of(r)], at_column = blockIdx.y * width + column + T::column_of(v);
        if (out >= 0 && at_column < g.columns) store(sum, out + at_column, at_column);
      });
    }
  }
}

// The images behind the existing ones: their sums are 0.
template <class Store>
INLINE void store_behind(const Geometry& g, Store store) {
  const int pixels = g.out_h * g.out_w, all = g.all_images * pixels, width = panel_width(g.columns), vecs = width / VEC;
  const int share = ceil_div(all - g.images * pixels, gridDim.x), first = g.images * pixels + blockIdx.x * share;
  for (int i = threadIdx.x; i < (min(first + share, all) - first) * vecs; i += THREADS) {
    const int column = blockIdx.y * width + i % vecs * VEC;
    if (column < g.columns) store(vec_splat(0.0f), (first + i / vecs) * g.columns + column, column);
  }
}

template <bool transposed, class Store>
INLINE void gather_gemm(const Geometry& g, const float* source, const float* panels, Store store) {
  if (g.images < g.all_images) store_behind(g, store);
  SHARED(float, source_stages, 2 * BLOCK_ROWS * STAGE_STRIDE);
  SHARED(float, panel_stages, PANEL_STAGES * STAGE * 64);
  SHARED(int, row_data, 4 * BLOCK_ROWS);
  const Memory memory = {source_stages, panel_stages, row_data};
  switch (panel_width(g.columns)) {
    case 64: return gather_gemm<64, transposed>(g, memory, source, panels, store);
    case 32: return gather_gemm<32, transposed>(g, memory, source, panels, store);
    default: return gather_gemm<16, transposed>(g, memory, source, panels, store);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
// y = conv(x, w) + shift + residual, then ReLU if relu = 1, with its bit mask if relu_mask is given.
conv2d_forward(const float* x, const float* panels, NULLABLE const float* shift, NULLABLE const float* residual, float* y,
               NULLABLE uint8_t* relu_mask, NULLABLE const int* existing, bool relu, int images, int height, int width, int channels,
               int out_height, int out_width, int out_channels, int kernel_h, int kernel_w, int stride, int pad) {
  const int present = existing_images(existing, images);
  const Geometry g = {present, images, height, width, channels, out_height, out_width, out_channels, kernel_h, kernel_w, stride, pad};
  const bool whole = out_channels % VEC == 0;
  gather_gemm<false>(g, x, panels, [=](Vec sum, int index, int column) {
    const int count = out_channels - column;
    if (shift) sum = sum + load_columns(shift + column, count, whole);
    if (residual) sum = sum + load_columns(residual + index, count, whole);
    if (relu) {
      if (relu_mask) mask_store(relu_mask, index, vec_positive(sum));
      sum = vec_relu(sum);
    }
    store_columns(y + index, sum, count, whole);
  });
}

extern "C" __global__ void __launch_bounds__(THREADS)
// dx (+)= the input gradient of conv; then zero where the bit of input_mask is 0 (the ReLU that made x).
conv2d_input_grad(const float* grad_out, const float* panels, NULLABLE const uint8_t* input_mask, float* grad_in,
                  NULLABLE const int* existing, bool accumulate, int images, int height, int width, int channels, int out_height,
                  int out_width, int out_channels, int kernel_h, int kernel_w, int stride, int pad) {
  const int present = existing_images(existing, images);
  const Geometry g = {present, images, out_height, out_width, out_channels, height, width, channels, kernel_h, kernel_w, stride, pad};
  const bool whole = channels % VEC == 0;
  gather_gemm<true>(g, grad_out, panels, [=](Vec sum, int index, int column) {
    const int count = channels - column;
    if (accumulate) sum = sum + load_columns(grad_in + index, count, whole);
    if (input_mask) sum = vec_keep(sum, mask_load(input_mask, index));
    store_columns(grad_in + index, sum, count, whole);
  });
}

// The input gradient of one pixel with few channels: dot products along the output channels, of which each of NARROW_LANES threads takes
// every NARROW_LANES-th Vec.
template <int channels, class Store>
INLINE void narrow_pixel(const Geometry& g, const float* grad_out, const float* panels, int pixel, int lane, Store store) {
  const int width = panel_width(g.columns);
  const bool whole = g.columns % VEC == 0;
  const int row = pixel / g.src_w, x = pixel - row * g.src_w, image = row / g.src_h, y = row - image * g.src_h;
  // Taps from the first one that an output pixel belongs to; the output goes back by one per tap.
  const int last_y = min(g.out_h - 1, (y + g.pad) / g.stride), last_x = min(g.out_w - 1, (x + g.pad) / g.stride);
  const int first_ky = y + g.pad - last_y * g.stride, first_kx = x + g.pad - last_x * g.stride;
  constexpr int PARTS = VEC / REG;
  Reg sum[channels][PARTS];
  UNROLL for (int i = 0; i < channels * PARTS; i++) sum[i / PARTS][i % PARTS] = reg_zero();
  for (int column = 0; column < g.columns; column += width) {
    const int last = min(width, g.columns - column);
    for (int oy = last_y, ky = first_ky; oy >= 0 && ky < g.kernel_h; oy--, ky += g.stride) {
      const float* grad = grad_out + ((image * g.out_h + oy) * g.out_w + last_x) * g.columns + column;
      const float* tap = panels + (ky * g.kernel_w + first_kx) * channels * width;
      for (int ox = last_x, kx = first_kx; ox >= 0 && kx < g.kernel_w; ox--, kx += g.stride) {
        for (int i = lane * VEC; i < last; i += NARROW_LANES * VEC) {
          UNROLL for (int part = 0; part < PARTS; part++) {
            const int at = i + part * REG;
            const Reg dy = load_register(grad + at, last - at, whole);
            UNROLL for (int c = 0; c < channels; c++) reg_add_product(sum[c][part], dy, reg_load(tap + c * width + at));
          }
        }
        grad -= g.columns;
        tap += g.stride * channels * width;
      }
    }
    panels += round_up(g.kernel_h * g.kernel_w * channels, STEP_ROWS) * width;
  }
  UNROLL for (int c = 0; c < channels; c++) store(c, group_sum<NARROW_LANES>(lane_sum(sum[c])));
}

extern "C" __global__ void __launch_bounds__(NARROW_THREADS)
// dx (+)= the input gradient of conv for at most NARROW_CHANNELS input channels; reads the panels of the forward pass.
conv2d_input_grad_narrow(const float* grad_out, const float* panels, float* grad_in, NULLABLE const int* existing, bool accumulate, int images,
                         int height, int width, int channels, int out_height, int out_width, int out_channels, int kernel_h, int kernel_w,
                         int stride, int pad) {
  const int present = existing_images(existing, images), lane = threadIdx.x % NARROW_LANES, first = blockIdx.x * NARROW_PIXELS;
  const Geometry g = {present, images, height, width, channels, out_height, out_width, out_channels, kernel_h, kernel_w, stride, pad};
  const int last = present * height * width - 1, end = images * height * width;
  for (int i = threadIdx.x / NARROW_LANES; i < NARROW_PIXELS; i += NARROW_THREADS / NARROW_LANES) {
    const auto store = [&](int channel, float value) {
      const int at = first + i;
      if (lane == 0 && at < end) put(grad_in + at * channels + channel, at <= last ? value : 0.0f, accumulate);
    };
    if (first > last) {
      for (int channel = 0; channel < channels; channel++) store(channel, 0.0f);
      continue;
    }
    // Behind the last pixel it is computed once more, because all lanes of a warp must take part in its sums.
    const int pixel = min(first + i, last);
    switch (channels) {
      case 1: narrow_pixel<1>(g, grad_out, panels, pixel, lane, store); break;
      case 2: narrow_pixel<2>(g, grad_out, panels, pixel, lane, store); break;
      case 3: narrow_pixel<3>(g, grad_out, panels, pixel, lane, store); break;
      default: narrow_pixel<4>(g, grad_out, panels, pixel, lane, store); break;
    }
  }
}

extern "C" __global__ void __launch_bounds__(PREPARE_THREADS)
// w [Cout,taps,Cin], times scale[Cout], as panels: of output channels with rows (tap, input channel); transposed = 1: of input channels with
// rows (tap, output channel).
conv2d_prepare(const float* w, NULLABLE const float* scale, float* panels, int out_channels, int taps, int in_channels, bool transposed) {
  const int columns = transposed ? in_channels : out_channels, depth = transposed ? out_channels : in_channels;
  const int width = panel_width(columns), rows = round_up(taps * depth, STEP_ROWS), first = blockIdx.x * PREPARE_ROWS;
  float* const panel = panels + static_cast<size_t>(blockIdx.y) * rows * width;
  for (int r = first + threadIdx.x / PREPARE_SHARERS; r < min(first + PREPARE_ROWS, rows); r += PREPARE_THREADS / PREPARE_SHARERS) {
    const int tap = r / depth, channel = r - tap * depth;
    const int step = transposed ? 1 : taps * in_channels;  // in w, from one column to the next
    const float* const from = w + (transposed ? (channel * taps + tap) * in_channels : tap * in_channels + channel);
    for (int c = threadIdx.x % PREPARE_SHARERS; c < width; c += PREPARE_SHARERS) {
      const int column = blockIdx.y * width + c;
      const bool exists = column < columns && tap < taps;
      const float value = exists ? from[column * step] : 0.0f;
      panel[r * width + c] = exists && scale ? value * scale[transposed ? channel : column] : value;
    }
  }
}
