// What one thread takes of a row: its loads and stores, and the functions that losses need of it.
#pragma once
#include "lib/common.cuh"

// A Pack is what one thread takes of a matrix whose rows are not aligned: one float on CUDA, where neighbouring threads make the access
// wide, and a Vec on the host. `count` says how many floats are left; a count of zero or less reads zeros and stores nothing.
CONFIG(PACK, 1, 16)
#if HOST_SHAPES
typedef Vec Pack;
INLINE Pack pack_splat(float value) { return vec_splat(value); }
// A number for each lane.
typedef int PackInts __attribute__((vector_size(64), aligned(4), may_alias));
typedef unsigned PackBits __attribute__((vector_size(64), aligned(4), may_alias));
INLINE PackInts pack_lanes() { return PackInts{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; }
// The ends of rows: lanes from `count` on are masked, and touch no memory.
#if defined(__AVX512F__)
INLINE __mmask16 pack_mask(int count) { return count > 0 ? static_cast<__mmask16>(0xffff >> (PACK - count)) : 0; }
INLINE Pack pack_load_end(const float* from, int count) {
  return reinterpret_cast<Pack>(_mm512_maskz_loadu_ps(pack_mask(count), from));
}
INLINE void pack_store_end(float* to, Pack v, int count) { _mm512_mask_storeu_ps(to, pack_mask(count), reinterpret_cast<__m512>(v)); }
#elif defined(__AVX__)
struct PackHalves {
  __m256i low, high;
};
INLINE PackHalves pack_mask(int count) {
  const PackInts wanted = pack_lanes() < count;
  PackHalves mask;
  memcpy(&mask, &wanted, sizeof(mask));
  return mask;
}
INLINE Pack pack_load_end(const float* from, int count) {
  const PackHalves mask = pack_mask(count);
  const __m256 halves[2] = {_mm256_maskload_ps(from, mask.low), _mm256_maskload_ps(from + 8, mask.high)};
  Pack v;
  memcpy(&v, halves, sizeof(v));
  return v;
}
INLINE void pack_store_end(float* to, Pack v, int count) {
  const PackHalves mask = pack_mask(count);
  __m256 halves[2];
  memcpy(halves, &v, sizeof(v));
  _mm256_maskstore_ps(to, mask.low, halves[0]);
  _mm256_maskstore_ps(to + 8, mask.high, halves[1]);
}
#else
INLINE Pack pack_load_end(const float* from, int count) { return vec_load(from, count); }
INLINE void pack_store_end(float* to, Pack v, int count) { vec_store(to, v, count); }
#endif
INLINE Pack pack_load(const float* from, int count) { return count >= PACK ? vec_load(from) : pack_load_end(from, count); }
INLINE void pack_put(float* to, Pack v, int count, int accumulate) {
  if (accumulate) v = pack_load(to, count) + v;
  if (count >= PACK) return vec_store(to, v);
  pack_store_end(to, v, count);
}
INLINE Pack pack_fma(Pack a, Pack b, Pack c) { return vec_fma(a, b, c); }
// The sum of the lanes, by halves.
INLINE float pack_total(Pack v) {
  typedef float Quarter __attribute__((vector_size(16)));
  Quarter q[4];
  memcpy(q, &v, sizeof(v));
  const Quarter sum = (q[0] + q[2]) + (q[1] + q[3]);
  return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}
INLINE float vec_total(Vec v) { return pack_total(v); }

// The first `count` lanes of v, `other` behind them.
INLINE Pack pack_first(Pack v, int count, float other) { return pack_lanes() < count ? v : pack_splat(other); }
// `there` in the lane of `column`, `elsewhere` in the others; the first lane is column i.
INLINE Pack pack_pick(int i, int column, Pack there, Pack elsewhere) { return pack_lanes() == column - i ? there : elsewhere; }
INLINE Pack pack_max(Pack a, Pack b) { return vec_max(a, b); }
// The largest lane; if one is NaN, either NaN or the largest of some others.
INLINE float pack_largest(Pack v) {
  float largest = v[0];
  UNROLL for (int i = 1; i < PACK; i++) largest = fmaxf(largest, v[i]);
  return largest;
}

// 2 to the power of n - 127, for n from 1 to 254.
INLINE Pack pack_power(PackBits n) { return reinterpret_cast<Pack>(n << 23); }
// exp(x) to 1 ulp, subnormal results and infinities included; NaN stays NaN. With n = round(x / log 2) and r = x - n log 2 it is
// 2^n (1 + r + r^2 P(r)), where P is fitted to (exp(r) - 1 - r) / r^2 on |r| <= log(2) / 2.
INLINE Pack pack_exp(Pack x) {
  x = x > 89.0f ? pack_splat(89.0f) : x;
  x = x < -104.0f ? pack_splat(-104.0f) : x;
  // Beside 3 * 2^22 a float has no room for a fraction, and its lowest bits are the integer.
  const Pack big = pack_splat(12582912.0f), shifted = pack_fma(x, pack_splat(1.442695041f), big), n = shifted - big;
  // log 2 in two parts; the product of n and the first one is exact.
  const Pack r = pack_fma(n, pack_splat(2.12194440e-4f), pack_fma(n, pack_splat(-0.693359375f), x));
  Pack p = pack_splat(1.39262135e-3f);
  p = pack_fma(p, r, pack_splat(8.36320297e-3f));
  p = pack_fma(p, r, pack_splat(4.16665544e-2f));
  p = pack_fma(p, r, pack_splat(0.166665768f));
  p = pack_fma(p, r, pack_splat(0.5f));
  p = pack_fma(r * r, p, r) + 1.0f;
  // 2^n in two factors, because n is from -150 to 128.
  const PackBits biased = reinterpret_cast<PackBits>(shifted) - reinterpret_cast<PackBits>(big) + 2 * 127, half = biased >> 1;
  return p * pack_power(half) * pack_power(biased - half);
}
// log(x) to 1 ulp; log 0 = -infinity, NaN for x < 0 and NaN. With x = 2^e (1 + f) and 1 + f from sqrt(1/2) to sqrt(2) it is
// e log 2 + f - f^2/2 + f^3 Q(f), where Q is fitted to (log(1 + f) - f + f^2/2) / f^3.
INLINE Pack pack_log(Pack x) {
  const Pack normal = x < 1.17549435e-38f ? x * 8388608.0f : x;
  const PackBits above_root = reinterpret_cast<PackBits>(normal) - 0x3f3504f3u;
  const Pack shift = x < 1.17549435e-38f ? pack_splat(-23.0f) : pack_splat(0.0f);
  const Pack e = __builtin_convertvector(reinterpret_cast<PackInts>(above_root) >> 23, Pack) + shift;
  const Pack f = reinterpret_cast<Pack>((above_root & 0x7fffffu) + 0x3f3504f3u) - 1.0f, square = f * f;
  Pack q = pack_splat(6.97161147e-2f);
  q = pack_fma(q, f, pack_splat(-0.114797338f));
  q = pack_fma(q, f, pack_splat(0.116854199f));
  q = pack_fma(q, f, pack_splat(-0.124256873f));
  q = pack_fma(q, f, pack_splat(0.142490576f));
  q = pack_fma(q, f, pack_splat(-0.166678023f));
  q = pack_fma(q, f, pack_splat(0.200007157f));
  q = pack_fma(q, f, pack_splat(-0.249999970f));
  q = pack_fma(q, f, pack_splat(0.333333312f));
  const Pack small = pack_fma(e, pack_splat(-2.12194440e-4f), pack_fma(square, pack_splat(-0.5f), square * f * q));
  const Pack log = pack_fma(e, pack_splat(0.693359375f), f + small);
  const Pack finite = x <= 3.40282347e38f ? log : x;
  return x > 0.0f ? finite : x == 0.0f ? pack_splat(-INFINITY) : pack_splat(NAN);
}
#else
typedef float Pack;
INLINE Pack pack_splat(float value) { return value; }
INLINE Pack pack_load(const float* from, int count) { return count > 0 ? *from : 0.0f; }
INLINE void pack_put(float* to, Pack v, int count, int accumulate) {
  if (count > 0) put(to, v, accumulate);
}
INLINE Pack pack_fma(Pack a, Pack b, Pack c) { return fmaf(a, b, c); }
INLINE float pack_total(Pack v) { return v; }
INLINE Pack pack_first(Pack v, int count, float other) { return count > 0 ? v : other; }
INLINE Pack pack_pick(int i, int column, Pack there, Pack elsewhere) { return i == column ? there : elsewhere; }
INLINE Pack pack_max(Pack a, Pack b) { return fmaxf(a, b); }
INLINE float pack_largest(Pack v) { return v; }
INLINE Pack pack_exp(Pack x) { return expf(x); }
INLINE Pack pack_log(Pack x) { return logf(x); }
INLINE float vec_total(Vec v) { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }
#endif
