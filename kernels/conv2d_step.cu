// The end of a step of projected gradient ascent in the Linf ball: the gradient of the first convolution in
// an image, and the image's move along its sign. The gradient itself goes nowhere.
//
// Mathematics: g = f dx, dx the input gradient of the convolution (conv2d.cu) and f a factor per channel, of
//   the normalisation before it; moved = clip01(clip(adv + alpha sign(g), x - eps, x + eps)). sign(0) = 0,
//   NaN stays NaN (attack_step.cu). dy [N,OH,OW,Cout]; adv, x and moved [N,H,W,Cin].
// Threads: a block takes NARROW_PIXELS pixels. NARROW_LANES neighbouring threads sum up the gradient of a
//   pixel; it goes through shared memory, from which threads take runs of VEC numbers.
// Preconditions (src/ops/conv2d_step.rs): at most NARROW_CHANNELS input channels; `factor` repeats for
//   channels + VEC entries (normalize.cu); moved is not adv.
// Outputs: moved `=`.
// Accumulation: that of conv2d_input_grad_narrow, so that the bits are those of separate kernels.
//   Deterministic. No spills.
#include "lib/linf_step.cuh"
#include "lib/narrow_conv.cuh"

constexpr int NUMBERS = NARROW_PIXELS * NARROW_CHANNELS;

// moved = clip01(clip(adv + alpha sign(factor dx), x - eps, x + eps)), dx the input gradient of conv
extern "C" __global__ __launch_bounds__(NARROW_THREADS, 2) void conv2d_step_linf(
    const T* grad_out, const float* panels, NULLABLE const float* factor, const float* adv, const float* x,
    float* moved, float alpha, float eps, int images, int height, int width, int channels, int out_height,
    int out_width, int out_channels, int kernel_h, int kernel_w, int stride, int pad) {
  SHARED(float, gradient, NUMBERS);
  const Geometry g = {images,    images,       height,   width,    channels, out_height,
                      out_width, out_channels, kernel_h, kernel_w, stride,   pad};
  const int lane = threadIdx.x % NARROW_LANES;
  const int first = blockIdx.x * NARROW_PIXELS, end = images * height * width;
  static_assert(NARROW_PIXELS % (NARROW_THREADS / NARROW_LANES) == 0, "threads share the pixels evenly");
  for (int share = 0; share < NARROW_PIXELS; share += NARROW_THREADS / NARROW_LANES) {
    const int i = share + threadIdx.x / NARROW_LANES;
    // Threads past the last pixel compute it once more: all lanes of a warp must take part in its sums.
    const int pixel = min(first + i, end - 1);
    narrow_pixel(channels, g, grad_out, panels, pixel, lane, [&](int channel, float value) {
      if (lane == 0) gradient[i * channels + channel] = value;
    });
  }
  __syncthreads();
  const int start = first * channels, count = min(NARROW_PIXELS, end - first) * channels;
  for (int i = threadIdx.x * VEC; i < count; i += NARROW_THREADS * VEC) {
    const int at = start + i, run = run_length(i, count);
    Vec direction = vec_load(gradient + i, run);
    if (factor) direction = direction * periodic_load(factor, at % channels);
    const Vec from = vec_load(adv + at, run), centre = vec_load(x + at, run);
    vec_store(moved + at, linf_step(from, direction, centre, alpha, eps), run);
  }
}
