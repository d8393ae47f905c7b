// The head of a network and a loss of its logits, for passes that want the gradient of the last feature maps
// and nothing else: those of an attack. What separate kernels do in six launches and more.
//
// Mathematics: maps x [N,H,W,C], P = H W; features f[n,c] = 1/P sum_p x[n,p,c]; logits z = f transposed(w) +
//   b, w [K,C]; the gradient of a loss in z, of the cross entropy of class y: dz = softmax(z) - onehot(y), of
//   the divergence from softmax(u): dz = softmax(z) - softmax(u); dx[n,p,c] = 1/P sum_k dz[n,k] w[k,c], and 0
//   where the bit of relu_mask is 0 (the ReLU that made x).
// Threads: a block per image. Features and gradient: a thread takes every THREADS-th Pack of channels.
//   Logits: a group of LANES threads takes every GROUPS-th class. Softmax: the first group.
// Preconditions (src/ops/head.rs): P >= 1, C <= MOST_CHANNELS, K <= MOST_CLASSES; a mask only where C is a
//   multiple of 16. A label outside 0..K gives NaN and reads nothing.
// Outputs: dx `=`.
// Accumulation: float32, in the order of global_avg_pool.cu, linear.cu, cross_entropy.cu and kl.cu, so that
//   the bits are those of separate kernels. Deterministic. No spills.
#include "lib/pool.cuh"
#include "lib/rows.cuh"

PER_DEVICE(THREADS, 512, 1);
PER_DEVICE(GROUPS, 16, 1);
PER_DEVICE(SLICES, 8, 1);  // partial sums over the classes, as in linear.cu
PER_DEVICE(MOST_CHANNELS, 4096, 4096);
PER_DEVICE(MOST_CLASSES, 1024, 1024);

// Calls f(channel, count) for the Packs of channels that belong to this thread.
template <class F>
INLINE void each_channel_pack(int channels, F f) {
  NO_UNROLL
  for (int c = threadIdx.x * PACK; c < channels; c += THREADS * PACK) f(c, channels - c);
}

// The gradient of the maps; loss(z, dz, lane) computes that of the logits, for one group.
template <class T, class Loss>
INLINE void head(
    const T* maps, const float* weight, const float* bias, const uint8_t* relu_mask, T* grad_maps, int pixels,
    int channels, int classes, Loss loss) {
  SHARED(float, features, MOST_CHANNELS);
  SHARED(float, logits, MOST_CLASSES);
  SHARED(float, gradient, MOST_CLASSES);
  const int group = threadIdx.x / LANES, lane = threadIdx.x % LANES;
  const int image = blockIdx.x * pixels * channels;
  each_channel_pack(channels, [&](int c, int count) {
    pack_put(features + c, pixel_mean(maps + image + c, pixels, channels, count), count, 0);
  });
  __syncthreads();
  for (int k = group; k < classes; k += GROUPS) {
    const float* const row = weight + k * channels;
    Pack sum = pack_splat(0.0f);
    each_pack(lane, channels, [&](int c) {
      sum = vec_fma(pack_load(features + c, channels - c), pack_load(row + c, channels - c), sum);
    });
    const float total = warp_sum<LANES>(lane_sum(sum));
    if (lane == 0) logits[k] = bias ? total + bias[k] : total;
  }
  __syncthreads();
  if (group == 0) loss(logits, gradient, lane);
  __syncthreads();
  each_channel_pack(channels, [&](int c, int count) {
    Pack part[SLICES];
    UNROLL
    for (int s = 0; s < SLICES; s++) part[s] = pack_splat(0.0f);
    for (int k = 0; k < classes; k += SLICES) {
      UNROLL
      for (int s = 0; s < SLICES; s++) {
        if (k + s < classes)
          part[s] = vec_fma(gradient[k + s], pack_load(weight + (k + s) * channels + c, count), part[s]);
      }
    }
    UNROLL
    for (int s = 1; s < SLICES; s++) part[0] = part[0] + part[s];
    const Pack of_pixel = part[0] * (1.0f / pixels);
    NO_UNROLL
    for (int p = 0; p < pixels; p++) {
      const int at = image + p * channels + c;
      pack_put(grad_maps + at, relu_mask ? pack_keep(of_pixel, relu_mask, at) : of_pixel, count, 0);
    }
  });
}

// the gradient of the cross entropy of each image's logits in the maps
extern "C" __global__ __launch_bounds__(THREADS) void head_cross_entropy(
    const T* maps, const float* weight, NULLABLE const float* bias, const int* labels,
    NULLABLE const uint8_t* relu_mask, T* grad_maps, int pixels, int channels, int classes) {
  const int label = labels[blockIdx.x];
  const float factor = label >= 0 && label < classes ? 1.0f : NAN;
  const auto loss = [&](const float* z, float* dz, int lane) {
    const LogSoftmax log_p(z, 1.0f, lane, classes);
    each_pack(lane, classes, [&](int i) {
      const Pack p = vec_exp(log_p(i));
      pack_put(dz + i, factor * pack_pick(i, label, p - 1.0f, p), classes - i, 0);
    });
  };
  head(maps, weight, bias, relu_mask, grad_maps, pixels, channels, classes, loss);
}

// the gradient of KL(softmax(target) || softmax(z)) of each image's logits z in the maps
extern "C" __global__ __launch_bounds__(THREADS) void head_kl(
    const T* maps, const float* weight, NULLABLE const float* bias, const float* target,
    NULLABLE const uint8_t* relu_mask, T* grad_maps, int pixels, int channels, int classes) {
  const auto loss = [&](const float* z, float* dz, int lane) {
    const LogSoftmax log_p(target + blockIdx.x * classes, 1.0f, lane, classes);
    const LogSoftmax log_q(z, 1.0f, lane, classes);
    each_pack(lane, classes, [&](int i) {
      pack_put(dz + i, vec_exp(log_q(i)) - vec_exp(log_p(i)), classes - i, 0);
    });
  };
  head(maps, weight, bias, relu_mask, grad_maps, pixels, channels, classes, loss);
}
