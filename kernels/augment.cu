// Batches from a data set of bytes or floats: gather by index, random crop, horizontal flip, conversion to
// float; and labels by index.
// Mathematics: out[v B + i, y, x, c] = scale[c] value + shift[c], the value from image images[i] at (y + dy,
//   x' + dx, c), with x' = width - 1 - x if flipped, else x; dx and dy uniform in -pad..pad, flip with
//   probability 1/2, drawn per (image, view). Outside of the image the value is 0, or that of the reflected
//   place (edge not repeated).
// Threads: a block per output image; threads take pixels.
// Preconditions: pad < height, width for reflection; sizes below 2^31; checked by src/ops/augment.rs. An
//   index outside of the data set gives NaN pixels and the label -1.
// Outputs: `=`.
// Accumulation: none. Deterministic; independent of the place of an image in the batch. No spills.
#include "lib/philox.cuh"

PER_DEVICE(IMAGE_THREADS, 256, 1);

// Where the padded row or column `at` comes from; -1 outside of the image with zero padding.
INLINE int source(int at, int size, int reflect) {
  if (at >= 0 && at < size) return at;
  if (!reflect) return -1;
  return at < 0 ? -at : 2 * size - 2 - at;
}

// One pixel.
template <class T>
INLINE void convert(
    const T* from, bool inside, const float* scale, const float* shift, float* out, int channels) {
  for (int c = 0; c < channels; c++)
    out[c] = fmaf(inside ? static_cast<float>(from[c]) : 0.0f, scale[c], shift[c]);
}

// One output image.
template <class T>
INLINE void gather_image(
    const T* data, const int* images, const float* scale, const float* shift, float* out, uint64_t key,
    int known, int per_view, int height, int width, int channels, int pad, bool reflect, bool flip) {
  const int sample = blockIdx.x, image = images[sample % per_view], pixels = height * width;
  out += sample * pixels * channels;
  const bool exists = image >= 0 && image < known;
  int dx = 0, dy = 0;
  bool mirrored = false;
  if (pad > 0 || flip) {
    const Philox<1> bits = philox<1>(key, 0, image, sample / per_view, RANDOM_NOISE);
    dy = static_cast<int>(__umulhi(bits.word[0][0], 2 * pad + 1)) - pad;
    dx = static_cast<int>(__umulhi(bits.word[1][0], 2 * pad + 1)) - pad;
    mirrored = flip && (bits.word[2][0] >> 31);
  }
  int y = 0, x = 0;
  for (int at = threadIdx.x; at < pixels; at += IMAGE_THREADS) {
    if (IMAGE_THREADS > 1) {
      y = at / width;
      x = at % width;
    }
    const int row = source(y + dy, height, reflect);
    const int column = source((mirrored ? width - 1 - x : x) + dx, width, reflect);
    const bool inside = exists && row >= 0 && column >= 0;
    // 64 bits: a data set may have more than 2^31 values.
    const T* from =
        inside ? data + (static_cast<uint64_t>(image) * pixels + row * width + column) * channels : data;
    float* to = out + at * channels;
    if (!exists) {
      for (int c = 0; c < channels; c++) to[c] = NAN;
    } else if (channels == 1) {
      convert(from, inside, scale, shift, to, 1);
    } else if (channels == 3) {
      convert(from, inside, scale, shift, to, 3);
    } else {
      convert(from, inside, scale, shift, to, channels);
    }
    // One thread steps on without a division.
    if (IMAGE_THREADS == 1 && ++x == width) {
      x = 0;
      y++;
    }
  }
}

// a batch of `views` views of images of bytes, as floats: gathered, cropped, flipped
extern "C" __global__ __launch_bounds__(IMAGE_THREADS) void augment_images(
    const uint8_t* data, const int* images, const float* scale, const float* shift, float* out, uint64_t key,
    int known, int per_view, int height, int width, int channels, int pad, bool reflect, bool flip) {
  gather_image(
      data, images, scale, shift, out, key, known, per_view, height, width, channels, pad, reflect, flip);
}

// the same for images of floats
extern "C" __global__ __launch_bounds__(IMAGE_THREADS) void augment_float_images(
    const float* data, const int* images, const float* scale, const float* shift, float* out, uint64_t key,
    int known, int per_view, int height, int width, int channels, int pad, bool reflect, bool flip) {
  gather_image(
      data, images, scale, shift, out, key, known, per_view, height, width, channels, pad, reflect, flip);
}

// labels[indices[i]], -1 where there is none
extern "C" __global__ __launch_bounds__(256) void augment_gather_i32(
    const int* labels, const int* indices, int* out, int known, int n) {
  const int i = blockIdx.x * 256 + threadIdx.x;
  if (i < n) out[i] = indices[i] >= 0 && indices[i] < known ? labels[indices[i]] : -1;
}
