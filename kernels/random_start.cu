// Where attacks start: random points around the images x [samples, size].
// Mathematics: uniform: x + eps U(-1, 1); gaussian: x + sigma N(0, 1); ball: x + eps U(0, 1)^(1 / size) n /
//   |n| with n normal, uniform in the L2 ball. Clipped to [0, 1] if asked. Surface: clip01(x + eps t / (|t| +
//   1e-12)) with t = U(-1, 1) and its largest entry for Linf, t = N(0, 1) and its length for L2.
// Threads: uniform, gaussian: each takes runs of neighbouring elements of a sample, as many as QUADS counters
//   serve. Ball, surface: a block per sample, one thread on the host.
// Preconditions: samples = views * per_view, images has per_view entries, samples * size < 2^31; surface:
//   images and views have samples entries; checked by src/ops/random_start.rs.
// Outputs: `=`.
// Accumulation: squares in float32, one sum per thread, then a fixed tree. Deterministic; the numbers depend
//   on key, image and view alone.
// No spills.
#include "lib/sample.cuh"
#include "lib/philox.cuh"

PER_DEVICE(QUADS, 1, 16);  // counters, of four elements each, that a thread works on at once
PER_DEVICE(RUN_THREADS, 256, 1);
PER_DEVICE(RUNS, 256, 64);
constexpr int RUN = 4 * QUADS;  // elements of a run

INLINE float clipped(float v, int clip) { return !clip ? v : v < 0.0f ? 0.0f : v > 1.0f ? 1.0f : v; }

// Calls f(i) for the first `count` of the elements of a run; a whole run takes a loop of fixed length.
template <class F>
INLINE void each_of_run(int count, F f) {
  if (count >= RUN) {
    for (int i = 0; i < RUN; i++) f(i);
  } else {
    for (int i = 0; i < RUN - 1; i++) {
      if (i < count) f(i);
    }
  }
}

// out = x + scale noise for one run.
INLINE void store_run(const float* x, float* out, const float* noise, float scale, int count, int clip) {
  each_of_run(count, [&](int i) { out[i] = clipped(fmaf(scale, noise[i], x[i]), clip); });
}

// The noise of a run in the order of its elements: element i takes word i % 4 of counter i / 4.
INLINE void signed_run(const Philox<QUADS>& p, float* noise) {
  for (int i = 0; i < QUADS; i++) {
    UNROLL
    for (int j = 0; j < 4; j++) noise[4 * i + j] = random_signed(p.word[j][i]);
  }
}
INLINE void normal_run(const Philox<QUADS>& p, float* noise) {
  for (int i = 0; i < QUADS; i++) {
    const float2 a = random_normal(p.word[0][i], p.word[1][i]), b = random_normal(p.word[2][i], p.word[3][i]);
    noise[4 * i] = a.x;
    noise[4 * i + 1] = a.y;
    noise[4 * i + 2] = b.x;
    noise[4 * i + 3] = b.y;
  }
}

// Calls f(offset, count, random words) for every run of this block.
template <class F>
INLINE void each_run(const int* images, uint64_t key, int samples, int per_view, int size, F f) {
  const int runs = ceil_div(size, RUN), all = samples * runs;
  each_of_chunk<RUNS, RUN_THREADS, 1>(blockIdx.x, all, [&](int at, int) {
    const int sample = at / runs, place = at % runs * RUN;
    f(sample * size + place, size - place,
      philox<QUADS>(key, place / 4, images[sample % per_view], sample / per_view, RANDOM_NOISE));
  });
}

// out = x + eps U(-1, 1)
extern "C" __global__ __launch_bounds__(RUN_THREADS) void random_start_uniform(
    const float* x, const int* images, float* out, uint64_t key, float eps, bool clip, int samples,
    int per_view, int size) {
  each_run(images, key, samples, per_view, size, [&](int at, int count, const Philox<QUADS>& words) {
    float noise[RUN];
    signed_run(words, noise);
    store_run(x + at, out + at, noise, eps, count, clip);
  });
}

// out = x + sigma N(0, 1)
extern "C" __global__ __launch_bounds__(RUN_THREADS) void random_start_gaussian(
    const float* x, const int* images, float* out, uint64_t key, float sigma, bool clip, int samples,
    int per_view, int size) {
  each_run(images, key, samples, per_view, size, [&](int at, int count, const Philox<QUADS>& words) {
    float noise[RUN];
    normal_run(words, noise);
    store_run(x + at, out + at, noise, sigma, count, clip);
  });
}

// Leaves the noise of a sample in `out`, where a thread reads back only what it wrote, and shows each of its
// numbers to `see`.
template <class Draw, class See>
INLINE void draw_sample(float* out, uint64_t key, int image, int view, int size, Draw draw, See see) {
  for (int place = threadIdx.x * RUN; place < size; place += SAMPLE_THREADS * RUN) {
    float noise[RUN];
    draw(philox<QUADS>(key, place / 4, image, view, RANDOM_NOISE), noise);
    each_of_run(size - place, [&](int i) {
      out[place + i] = noise[i];
      see(noise[i]);
    });
  }
}
// Leaves normal noise in `out` and returns its length.
INLINE float normal_sample(float* out, uint64_t key, int image, int view, int size, Scratch& scratch) {
  float squares = 0.0f;
  draw_sample(out, key, image, view, size, normal_run, [&](float n) { squares = fmaf(n, n, squares); });
  return sqrtf(block_sum<SAMPLE_THREADS>(squares, scratch));
}

// out = x + a point of the L2 ball
extern "C" __global__ __launch_bounds__(SAMPLE_THREADS) void random_start_ball(
    const float* x, const int* images, float* out, uint64_t key, float eps, bool clip, int per_view,
    int size) {
  SHARED(float, halves, SCRATCH);
  Scratch scratch(halves);
  const int sample = blockIdx.x, image = images[sample % per_view], view = sample / per_view;
  x += sample * size;
  out += sample * size;
  const float norm = normal_sample(out, key, image, view, size, scratch);
  const float unit = random_unit(philox<1>(key, 0, image, view, RANDOM_RADIUS).word[0][0]);
  const float length = norm > 0.0f ? eps * powf(unit, 1.0f / size) / norm : 0.0f;
  for (int place = threadIdx.x * RUN; place < size; place += SAMPLE_THREADS * RUN) {
    store_run(x + place, out + place, out + place, length, size - place, clip);
  }
}

// out = clip01(x + eps noise / |noise|), a point of the surface of the Linf or (l2) the L2 ball; `views`
// tells apart draws for one image
extern "C" __global__ __launch_bounds__(SAMPLE_THREADS) void random_start_surface(
    const float* x, const int* images, const int* views, float* out, uint64_t key, float eps, bool l2,
    int size) {
  SHARED(float, halves, SCRATCH);
  Scratch scratch(halves);
  const int sample = blockIdx.x, image = images[sample], view = views[sample];
  x += sample * size;
  out += sample * size;
  float norm;
  if (l2) {
    norm = normal_sample(out, key, image, view, size, scratch);
  } else {
    float largest = 0.0f;
    draw_sample(
        out, key, image, view, size, signed_run, [&](float t) { largest = fmaxf(largest, fabsf(t)); });
    norm = block_max<SAMPLE_THREADS>(largest, scratch);
  }
  for (int place = threadIdx.x * RUN; place < size; place += SAMPLE_THREADS * RUN) {
    // The quotient first: the largest entry moves by eps exactly.
    each_of_run(size - place, [&](int i) {
      out[place + i] = clipped(x[place + i] + eps * (out[place + i] / (norm + 1e-12f)), 1);
    });
  }
}
