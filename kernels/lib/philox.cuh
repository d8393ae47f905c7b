// Philox4x32-10: four random words from a counter and a key, the same on both devices and in src/rng.rs.
//
// From the definition in Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011): ten rounds
// of two 32-bit multiplications whose halves are crossed and mixed with the key; the key moves by two
// constants (golden ratio, sqrt(3) - 1) between rounds.
//
// Random numbers of kernels are counted by (place in the image / 4, image in the data set, view, use): a
// number depends neither on the place of an image in a batch nor on how a device shares the work. Uses are
// RANDOM_NOISE and RANDOM_RADIUS; src/rng.rs has one more, for streams.
#pragma once
#include "lib/common.cuh"

constexpr uint32_t RANDOM_NOISE = 0, RANDOM_RADIUS = 1;

// The words of `run` counters: the host's compiler makes vector instructions of the loops over them.
template <int run>
struct Philox {
  uint32_t word[4][run];
};

// Four words for each of the counters (c0, c1, c2, c3), (c0 + 1, c1, c2, c3), ...
template <int run>
INLINE Philox<run> philox(uint64_t key, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
  Philox<run> p;
  for (int i = 0; i < run; i++) {
    p.word[0][i] = c0 + i;
    p.word[1][i] = c1;
    p.word[2][i] = c2;
    p.word[3][i] = c3;
  }
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; round++) {
    for (int i = 0; i < run; i++) {
      const uint64_t a = static_cast<uint64_t>(0xd2511f53u) * p.word[0][i];
      const uint64_t b = static_cast<uint64_t>(0xcd9e8d57u) * p.word[2][i];
      p.word[0][i] = static_cast<uint32_t>(b >> 32) ^ p.word[1][i] ^ k0;
      p.word[2][i] = static_cast<uint32_t>(a >> 32) ^ p.word[3][i] ^ k1;
      p.word[1][i] = static_cast<uint32_t>(b);
      p.word[3][i] = static_cast<uint32_t>(a);
    }
    k0 += 0x9e3779b9u;
    k1 += 0xbb67ae85u;
  }
  return p;
}

// Uniform in (0, 1) and in (-1, 1), of 23 bits: exact in float32, symmetric, never an end point.
INLINE float random_unit(uint32_t bits) {
  return (static_cast<float>(bits >> 9) + 0.5f) * (1.0f / 8388608.0f);
}
INLINE float random_signed(uint32_t bits) {
  return (static_cast<float>(bits >> 9) + 0.5f) * (1.0f / 4194304.0f) - 1.0f;
}

// Two independent standard normal numbers (Box and Muller); at most 6.8.
INLINE float2 random_normal(uint32_t a, uint32_t b) {
  const float radius =
      sqrtf(-2.0f * logf(fmaf(static_cast<float>(a), 1.0f / 4294967296.0f, 1.0f / 8589934592.0f)));
#ifdef SADDLE_HOST
  const float angle = 3.14159265f * random_signed(b);
  return make_float2(radius * cosf(angle), radius * sinf(angle));
#else
  // Without the reduction of large angles that sinf has.
  float sine, cosine;
  sincospif(random_signed(b), &sine, &cosine);
  return make_float2(radius * cosine, radius * sine);
#endif
}
