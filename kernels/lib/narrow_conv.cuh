// The input gradient of a convolution with few input channels, pixel by pixel: for conv2d.cu, which writes
// it, and conv2d_step.cu, which moves an image along its sign. NARROW_LANES neighbouring threads share a
// pixel.
#pragma once
#include "lib/implicit_gemm.cuh"
#include "lib/reductions.cuh"

PER_DEVICE(NARROW_THREADS, 256, 1);
PER_DEVICE(NARROW_LANES, 8, 1);      // threads that share a pixel
PER_DEVICE(NARROW_PIXELS, 32, 128);  // pixels of a block
PER_DEVICE(NARROW_CHANNELS, 4, 4);   // most input channels

// The input gradient of one pixel with few channels: dot products over the output channels, of which each of
// NARROW_LANES threads takes every NARROW_LANES-th Vec. A tile of so few columns would waste most of a GEMM.
template <int channels, class T, class Store>
INLINE void narrow_pixel_of(
    const Geometry& g, const T* grad_out, const float* panels, int pixel, int lane, Store store) {
  const int width = panel_width(g.columns);
  const bool aligned = rows_aligned<T>(g.columns);
  const int row = pixel / g.src_w;
  const int x = pixel - row * g.src_w;
  const int image = row / g.src_h;
  const int y = row - image * g.src_h;
  // From the first tap that meets an output pixel on; per tap the output pixel moves back by one.
  const int last_y = min(g.out_h - 1, (y + g.pad) / g.stride);
  const int last_x = min(g.out_w - 1, (x + g.pad) / g.stride);
  const int first_ky = y + g.pad - last_y * g.stride, first_kx = x + g.pad - last_x * g.stride;
  constexpr int PARTS = VEC / REG;
  Reg sum[channels][PARTS];
  UNROLL
  for (int i = 0; i < channels * PARTS; i++) sum[i / PARTS][i % PARTS] = reg_zero();
  for (int column = 0; column < g.columns; column += width) {
    const int last = min(width, g.columns - column);
    for (int oy = last_y, ky = first_ky; oy >= 0 && ky < g.kernel_h; oy--, ky += g.stride) {
      const T* grad = grad_out + ((image * g.out_h + oy) * g.out_w + last_x) * g.columns + column;
      const float* tap = panels + (ky * g.kernel_w + first_kx) * channels * width;
      for (int ox = last_x, kx = first_kx; ox >= 0 && kx < g.kernel_w; ox--, kx += g.stride) {
        for (int i = lane * VEC; i < last; i += NARROW_LANES * VEC) {
          UNROLL
          for (int part = 0; part < PARTS; part++) {
            const int at = i + part * REG;
            const Reg dy = reg_load(grad + at, last - at, aligned);
            UNROLL
            for (int c = 0; c < channels; c++)
              reg_add_product(sum[c][part], dy, panel_load(tap + c * width, at, width));
          }
          if (NARROW_LANES * VEC >= 64) break;  // no panel is wider
        }
        grad -= g.columns;
        tap += g.stride * channels * width;
      }
    }
    panels += round_up(g.kernel_h * g.kernel_w * channels, STEP_ROWS) * width;
  }
  UNROLL
  for (int c = 0; c < channels; c++) store(c, warp_sum<NARROW_LANES>(lane_sum(sum[c])));
}
// The same for any such number of channels. All lanes of a warp call it together.
template <class T, class Store>
INLINE void narrow_pixel(
    int channels, const Geometry& g, const T* grad_out, const float* panels, int pixel, int lane,
    Store store) {
  switch (channels) {
    case 1: narrow_pixel_of<1>(g, grad_out, panels, pixel, lane, store); break;
    case 2: narrow_pixel_of<2>(g, grad_out, panels, pixel, lane, store); break;
    case 3: narrow_pixel_of<3>(g, grad_out, panels, pixel, lane, store); break;
    default: narrow_pixel_of<4>(g, grad_out, panels, pixel, lane, store); break;
  }
}
