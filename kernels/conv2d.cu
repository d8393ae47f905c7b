// Two-dimensional convolution in float32 and its input gradient, as implicit GEMMs. T is the type of y
// and its gradient where x is an image, and float elsewhere; lib/implicit_gemm.cuh draws and explains the
// algorithm, conv2d_weight.cu has the weight gradient.
//
// Mathematics: y[n,oy,ox,co] = sum_{ky,kx,ci} x[n, oy*s-p+ky, ox*s-p+kx, ci] w[co,ky,kx,ci], zeros outside x;
//   the input gradient is the adjoint:
//   dx[n,iy,ix,ci] = sum_{ky,kx,co} dy[n, (iy+p-ky)/s, (ix+p-kx)/s, co] w[co,ky,kx,ci] where the division is
//   exact. x [N,H,W,Cin], y [N,OH,OW,Cout], w [Cout,kh,kw,Cin]. Both read w through a copy in panels that
//   conv2d_prepare makes (lib/gemm_tile.cuh).
// Threads: a block owns BLOCK_ROWS output pixels x one panel of channels. The small-channel kernel:
//   NARROW_LANES neighbouring threads per pixel.
// Preconditions (src/ops/conv2d.rs): every tensor below 2^31 elements; masks only for channel counts that are
//   multiples of 16. With `num_valid` only the first *num_valid images are valid: the others' sums are 0.
// Outputs: `=`, except input gradients with accumulate = 1: `+=`.
// Accumulation: float32, in the order (ky, kx, channel), one chain per number. Deterministic. No spills.
#include "lib/implicit_gemm.cuh"
#include "lib/narrow_conv.cuh"

PER_DEVICE(PREPARE_THREADS, 256, 1);
PER_DEVICE(PREPARE_SHARERS, 16, 1);  // neighbouring threads that share a panel row
PER_DEVICE(PREPARE_ROWS, 16, 64);    // panel rows of a block of conv2d_prepare

// y = conv(x, w) + shift + residual, then ReLU if relu = 1, with its bit mask if relu_mask is given.
extern "C" __global__ __launch_bounds__(THREADS, 3) void conv2d_forward(
    const float* x, const float* panels, NULLABLE const float* shift, NULLABLE const T* residual, T* y,
    NULLABLE uint8_t* relu_mask, NULLABLE const int* num_valid, bool relu, int images, int height, int width,
    int channels, int out_height, int out_width, int out_channels, int kernel_h, int kernel_w, int stride,
    int pad) {
  const int valid = valid_images(num_valid, images);
  const Geometry g = {valid,     images,       height,   width,    channels, out_height,
                      out_width, out_channels, kernel_h, kernel_w, stride,   pad};
  const bool aligned = rows_aligned(out_channels), row_aligned = rows_aligned<T>(out_channels);
  implicit_gemm<false>(g, x, panels, [=](Vec sum, int index, int column) {
    const int count = run_length(column, out_channels);
    if (shift) sum = sum + vec_load(shift + column, count, aligned);
    if (residual) sum = sum + vec_load(residual + index, count, row_aligned);
    if (relu) {
      if (relu_mask) mask_store(relu_mask, index, vec_positive(sum));
      sum = vec_relu(sum);
    }
    vec_store(y + index, sum, count, row_aligned);
  });
}

// dx (+)= the input gradient of conv; then zero where the bit of input_mask is 0 (the ReLU that made x).
extern "C" __global__ __launch_bounds__(THREADS, 3) void conv2d_input_grad(
    const float* grad_out, const float* panels, NULLABLE const uint8_t* input_mask, float* grad_in,
    NULLABLE const int* num_valid, bool accumulate, int images, int height, int width, int channels,
    int out_height, int out_width, int out_channels, int kernel_h, int kernel_w, int stride, int pad) {
  const int valid = valid_images(num_valid, images);
  const Geometry g = {valid, images,   out_height, out_width, out_channels, height,
                      width, channels, kernel_h,   kernel_w,  stride,       pad};
  const bool aligned = rows_aligned(channels);
  implicit_gemm<true>(g, grad_out, panels, [=](Vec sum, int index, int column) {
    const int count = run_length(column, channels);
    if (accumulate) sum = sum + vec_load(grad_in + index, count, aligned);
    if (input_mask) sum = vec_keep(sum, mask_load(input_mask, index));
    vec_store(grad_in + index, sum, count, aligned);
  });
}

// dx (+)= the input gradient of conv for at most NARROW_CHANNELS input channels; reads the panels of the
// forward pass.
extern "C" __global__ __launch_bounds__(NARROW_THREADS) void conv2d_input_grad_narrow(
    const T* grad_out, const float* panels, float* grad_in, NULLABLE const int* num_valid, bool accumulate,
    int images, int height, int width, int channels, int out_height, int out_width, int out_channels,
    int kernel_h, int kernel_w, int stride, int pad) {
  const int valid = valid_images(num_valid, images);
  const int lane = threadIdx.x % NARROW_LANES;
  const int first = blockIdx.x * NARROW_PIXELS;
  const Geometry g = {valid,     images,       height,   width,    channels, out_height,
                      out_width, out_channels, kernel_h, kernel_w, stride,   pad};
  const int last = valid * height * width - 1, end = images * height * width;
  static_assert(NARROW_PIXELS % (NARROW_THREADS / NARROW_LANES) == 0, "threads share the pixels evenly");
  for (int share = 0; share < NARROW_PIXELS; share += NARROW_THREADS / NARROW_LANES) {
    const int i = share + threadIdx.x / NARROW_LANES;
    const auto store = [&](int channel, float value) {
      const int at = first + i;
      if (lane == 0 && at < end)
        put(grad_in + at * channels + channel, at <= last ? value : 0.0f, accumulate);
    };
    if (first > last) {
      for (int channel = 0; channel < channels; channel++) store(channel, 0.0f);
      continue;
    }
    // Threads past the last pixel compute it once more: all lanes of a warp must take part in its sums.
    const int pixel = min(first + i, last);
    narrow_pixel(channels, g, grad_out, panels, pixel, lane, store);
  }
}

// w [Cout,taps,Cin], times scale[Cout], as panels: of output channels with rows (tap, input channel);
// transposed = 1: of input channels with rows (tap, output channel). Rounded to tf32 or bf16 if asked.
extern "C" __global__ __launch_bounds__(PREPARE_THREADS) void conv2d_prepare(
    const float* w, NULLABLE const float* scale, float* panels, int out_channels, int taps, int in_channels,
    bool transposed, bool to_tf32, bool to_bf16) {
  const int columns = transposed ? in_channels : out_channels;
  const int depth = transposed ? out_channels : in_channels;
  const int width = panel_width(columns);
  const int rows = round_up(taps * depth, STEP_ROWS);
  const int first = blockIdx.x * PREPARE_ROWS;
  float* const panel = panels + static_cast<size_t>(blockIdx.y) * rows * width;
  static_assert(PREPARE_ROWS % (PREPARE_THREADS / PREPARE_SHARERS) == 0, "threads share the rows evenly");
  for (int share = 0; share < PREPARE_ROWS; share += PREPARE_THREADS / PREPARE_SHARERS) {
    const int r = first + share + threadIdx.x / PREPARE_SHARERS;
    if (r >= rows) break;
    const int tap = r / depth, channel = r - tap * depth;
    const int step = transposed ? 1 : taps * in_channels;  // in w, from one column to the next
    const float* const from =
        w + (transposed ? (channel * taps + tap) * in_channels : tap * in_channels + channel);
    for (int c = threadIdx.x % PREPARE_SHARERS; c < width; c += PREPARE_SHARERS) {
      const int column = blockIdx.y * width + c;
      const bool exists = column < columns && tap < taps;
      float value = exists ? from[column * step] : 0.0f;
      if (exists && scale) value *= scale[transposed ? channel : column];
      if (to_tf32) {
        value = round_tf32(value);
      } else if (to_bf16) {
        value = round_bf16(value);
      }
      panel[r * width + panel_slot(c, width)] = value;
    }
  }
}
