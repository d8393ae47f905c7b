// Mean over the pixels of each channel.
// Mathematics: x [N,H,W,C], P = H W; out[n,c] = 1/P sum_p x[n,p,c]; dx[n,p,c] = dout[n,c] / P.
// Threads: one block an image and CHANNELS channels; a thread takes a Pack of neighbouring channels and walks
//   over the pixels.
// Preconditions: P >= 1; src/ops/global_avg_pool.rs checks.
// Outputs: out `=`; dx `=` or `+=` (accumulate).
// Accumulation: float32, four partial sums (pixel p goes to sum p mod 4). Deterministic. No spills.
#include "lib/pool.cuh"

PER_DEVICE(THREADS, 128, 1);
PER_DEVICE(CHANNELS, 128, 4096);

// Calls f(channel, count) for the Packs of this block that belong to this thread.
template <class F>
INLINE void each_channel_pack(int channels, F f) {
  each_of_chunk<CHANNELS, THREADS, PACK>(blockIdx.y, channels, f);
}

// out[n, c] = the mean of x[n, :, c]
extern "C" __global__ __launch_bounds__(THREADS) void global_avg_pool_forward(
    const T* x, float* out, int pixels, int channels) {
  const T* image = x + blockIdx.x * pixels * channels;
  each_channel_pack(channels, [&](int c, int count) {
    const Pack mean = pixel_mean(image + c, pixels, channels, count);
    pack_put(out + blockIdx.x * channels + c, mean, count, 0);
  });
}

// dx[n, :, c] (+)= dout[n, c] / pixels
extern "C" __global__ __launch_bounds__(THREADS) void global_avg_pool_backward(
    const float* grad_out, T* grad_in, int pixels, int channels, bool accumulate) {
  T* image = grad_in + blockIdx.x * pixels * channels;
  each_channel_pack(channels, [&](int c, int count) {
    const Pack gradient = pack_load(grad_out + blockIdx.x * channels + c, count) * (1.0f / pixels);
    for (int p = 0; p < pixels; p++) pack_put(image + p * channels + c, gradient, count, accumulate);
  });
}
