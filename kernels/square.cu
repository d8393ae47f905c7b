// The random search of the Square attack on the rows of a batch of images [N,H,W,C].
// Mathematics: `least` is the smallest margin so far and `best` the image that has it; `trial` is the image
//   whose margin is `margin`.
//   turn, for rows with least > 0: if margin < least or margin <= 0: least <- margin, best <- trial. Then the
//   next trial:
//     Linf: best + 2 eps s_c in the window (s_c a sign per channel, one for the whole batch), clipped to x +-
//       eps and to [0, 1];
//     L2:   with d = best - x, windows 1 and 2, the pyramid q on window 1, and a drawn sign s_c per image and
//       channel c:
//             u_c = s_c q + d_c[1] / (1e-12 + |d_c[1]|),   m^2 = max(eps^2 - |d|^2, 0) / C + |d[1 or 2]|^2,
//             d[2] <- 0, then d_c[1] <- m u_c / (1e-12 + |u_c|), trial = clip01(x + eps d / (1e-12 + |d|)).
//   start: Linf: clip01(x + eps s), s a sign per image, column and channel; L2: the same normalisation of a
//     grid of pyramids, each with a sign and a direction per image and channel.
//   begin: least <- infinity where an image is classified correctly, else 0.
// Threads: a block per image, one thread on the host.
// Preconditions: windows lie inside the image, C <= 32 in Linf; src/ops/square.rs checks. Rows with least <=
//   0 are not changed in `best`.
// Outputs: `trial` `=`; in Linf only inside the old and the new window. `best` and `least` as said.
// Accumulation: float32, one sum per thread, then a fixed tree. Deterministic: the numbers drawn depend on
//   key and image alone. No spills.
#include "lib/hyperplane.cuh"
#include "lib/philox.cuh"

constexpr float TINY = 1e-12f;

// A part of an image.
struct Window {
  int top, left, height, width;

  INLINE bool holds(int row, int column) const {
    return row >= top && row < top + height && column >= left && column < left + width;
  }
  // Calls f(row, column) for the pixels of this thread, in the image's coordinates.
  template <class F>
  INLINE void each(F f) const {
    if (height == 0 || width == 0) return;
    int row = threadIdx.x / width, column = threadIdx.x % width;
    while (row < height) {
      f(top + row, left + column);
      column += SAMPLE_THREADS;
      while (column >= width) {
        column -= width;
        row++;
      }
    }
  }
};

// Whether the last trial of this image is its best so far, and its margin if so. All threads of the block
// call it.
INLINE bool accepted(float* least, const float* margin) {
  const float before = least[blockIdx.x], now = margin[blockIdx.x];
  const bool better = before > 0.0f && (now < before || now <= 0.0f);
  __syncthreads();
  if (better && threadIdx.x == 0) least[blockIdx.x] = now;
  return better;
}

INLINE float clip(float v, float low, float high) { return v < low ? low : v > high ? high : v; }

INLINE bool random_bit(uint64_t key, int at, int image) {
  return philox<1>(key, at, image, 0, RANDOM_NOISE).word[0][0] & 1;
}

// Linf: judges the trial, which differs from best in the old window, and makes the next one in the new window
//   (height 0: none)
extern "C" __global__ __launch_bounds__(SAMPLE_THREADS) void square_turn_linf(
    const float* x, float* best, float* trial, float* least, const float* margin, float eps, uint32_t signs,
    int old_top, int old_left, int old_height, int old_width, int top, int left, int height, int width,
    int image_width, int channels, int size) {
  const bool better = accepted(least, margin);
  x += blockIdx.x * size;
  best += blockIdx.x * size;
  trial += blockIdx.x * size;
  // Calls f(element, channel) for the elements of a window.
  const auto each_element = [&](const Window& window, auto f) {
    window.each([&](int row, int column) {
      for (int c = 0; c < channels; c++) f((row * image_width + column) * channels + c, c);
    });
  };
  each_element({old_top, old_left, old_height, old_width}, [&](int i, int) {
    (better ? best[i] : trial[i]) = better ? trial[i] : best[i];
  });
  // The windows may overlap.
  __syncthreads();
  each_element({top, left, height, width}, [&](int i, int c) {
    const float moved = best[i] + ((signs >> c) & 1 ? 2.0f * eps : -2.0f * eps);
    trial[i] = clip(clip(moved, x[i] - eps, x[i] + eps), 0.0f, 1.0f);
  });
}

// d, the perturbation in trial, becomes the image clip01(x + eps d / |d|).
INLINE void normalise(const float* x, float* trial, float eps, int size, Scratch& scratch) {
  const bool aligned = rows_aligned(size);
  // The elements of d were written by other threads.
  __syncthreads();
  Vec squares = vec_splat(0.0f);
  each_of_sample(size, [&](int i, int count) {
    const Vec d = vec_load(trial + i, count, aligned);
    squares = vec_fma(d, d, squares);
  });
  const float scale = eps / (TINY + sqrtf(block_sum<SAMPLE_THREADS>(lane_sum(squares), scratch)));
  each_of_sample(size, [&](int i, int count) {
    const Vec d = vec_load(trial + i, count, aligned);
    vec_store(trial + i, vec_clip01(vec_fma(scale, d, vec_load(x + i, count, aligned))), count, aligned);
  });
}

// L2: judges the trial and makes the next one from a pyramid on window 1 and the mass of window 2 (side 0:
// none)
extern "C" __global__ __launch_bounds__(SAMPLE_THREADS) void square_turn_l2(
    const float* x, float* best, float* trial, float* least, const float* margin, const int* images,
    const float* pyramid, uint64_t key, float eps, bool transposed, int side, int top, int left,
    int other_top, int other_left, int image_width, int channels, int size) {
  SHARED(float, halves, SCRATCH);
  Scratch scratch(halves);
  const bool better = accepted(least, margin), aligned = rows_aligned(size);
  const int image = images[blockIdx.x];
  x += blockIdx.x * size;
  best += blockIdx.x * size;
  trial += blockIdx.x * size;
  Vec squares = vec_splat(0.0f);
  each_of_sample(size, [&](int i, int count) {
    const Vec point = vec_load((better ? trial : best) + i, count, aligned);
    if (better) vec_store(best + i, point, count, aligned);
    const Vec d = point - vec_load(x + i, count, aligned);
    squares = vec_fma(d, d, squares);
    if (side > 0 || better) vec_store(trial + i, side > 0 ? d : point, count, aligned);
  });
  if (side == 0) return;
  __syncthreads();
  const Window one = {top, left, side, side}, two = {other_top, other_left, side, side};
  const auto at = [&](int row, int column) { return (row * image_width + column) * channels; };
  float inside = 0.0f;
  const auto add = [&](int row, int column) {
    for (int i = at(row, column), c = 0; c < channels; c++) inside = fmaf(trial[i + c], trial[i + c], inside);
  };
  one.each(add);
  two.each([&](int row, int column) {
    if (!one.holds(row, column)) add(row, column);
  });
  float sums[2] = {lane_sum(squares), inside};
  block_sums<SAMPLE_THREADS>(sums, scratch);
  const float mass = sqrtf(fmaxf(eps * eps - sums[0], 0.0f) / static_cast<float>(channels) + sums[1]);
  two.each([&](int row, int column) {
    if (one.holds(row, column)) return;
    for (int i = at(row, column), c = 0; c < channels; c++) trial[i + c] = 0.0f;
  });
  // Window 1, channel by channel; a thread reads and writes its own pixels only.
  for (int c = 0; c < channels; c++) {
    float own = 0.0f;
    one.each([&](int row, int column) {
      const float d = trial[at(row, column) + c];
      own = fmaf(d, d, own);
    });
    const float old = 1.0f / (TINY + sqrtf(block_sum<SAMPLE_THREADS>(own, scratch)));
    const float sign = random_bit(key, c, image) ? 1.0f : -1.0f;
    float length = 0.0f;
    one.each([&](int row, int column) {
      const int r = row - top, q = column - left;
      float& d = trial[at(row, column) + c];
      d = fmaf(sign, pyramid[transposed ? q * side + r : r * side + q], d * old);
      length = fmaf(d, d, length);
    });
    const float scale = mass / (TINY + sqrtf(block_sum<SAMPLE_THREADS>(length, scratch)));
    one.each([&](int row, int column) { trial[at(row, column) + c] *= scale; });
  }
  normalise(x, trial, eps, size, scratch);
}

// Linf: trial = clip01(x +- eps), a sign per image, column and channel
extern "C" __global__ __launch_bounds__(SAMPLE_THREADS) void square_start_linf(
    const float* x, const int* images, float* trial, uint64_t key, float eps, int line, int size) {
  const int image = images[blockIdx.x];
  x += blockIdx.x * size;
  trial += blockIdx.x * size;
  for (int place = threadIdx.x; place < line; place += SAMPLE_THREADS) {
    const float move = random_bit(key, place, image) ? eps : -eps;
    for (int i = place; i < size; i += line) trial[i] = clip(x[i] + move, 0.0f, 1.0f);
  }
}

// L2: a grid of pyramids of this side that begins at (origin, origin), normalised
extern "C" __global__ __launch_bounds__(SAMPLE_THREADS) void square_start_l2(
    const float* x, const int* images, float* trial, const float* pyramid, uint64_t key, float eps, int side,
    int origin, int image_height, int image_width, int channels) {
  SHARED(float, halves, SCRATCH);
  Scratch scratch(halves);
  const int image = images[blockIdx.x], size = image_height * image_width * channels;
  x += blockIdx.x * size;
  trial += blockIdx.x * size;
  const int rows = image_height / side, columns = image_width / side;
  const Window whole = {0, 0, image_height, image_width};
  whole.each([&](int row, int column) {
    const int down = row - origin, right = column - origin;
    const bool inside = down >= 0 && right >= 0 && down / side < rows && right / side < columns;
    for (int c = 0; c < channels; c++) {
      float d = 0.0f;
      if (inside) {
        const int tile = down / side * columns + right / side, r = down % side, q = right % side;
        const uint32_t bits = philox<1>(key, tile * channels + c, image, 0, RANDOM_NOISE).word[0][0];
        d = pyramid[bits & 2 ? q * side + r : r * side + q] * (bits & 1 ? 1.0f : -1.0f);
      }
      trial[(row * image_width + column) * channels + c] = d;
    }
  });
  normalise(x, trial, eps, size, scratch);
}

// least[n] = infinity where correct[n], else 0
extern "C" __global__ __launch_bounds__(ELEMENTWISE_THREADS) void square_begin(
    const int* correct, float* least, int n) {
  each_vec(n, [&](int i, int count) {
    for (int j = i; j < i + count; j++) least[j] = correct[j] ? INFINITY : 0.0f;
  });
}
