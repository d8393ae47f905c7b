// Pack: the vector of kernels that read the rows of a matrix, and the elementary functions of both vectors.
//
// Rows of K logits rarely start at a multiple of 16 bytes, so on CUDA a thread takes one float at a time and
// neighbouring threads make the access wide: a Pack is a float there. On the host, where a row belongs to one
// thread, a Pack is a Vec. Functions of a Pack have the names of those of a Vec: on CUDA they are overloads
// for float.
#pragma once
#include "lib/vec.cuh"

// Floats of a Pack.
PER_DEVICE(PACK, 1, 16);

#if ONE_THREAD_BLOCKS
typedef Vec Pack;
INLINE Pack pack_splat(float value) { return vec_splat(value); }
// `count` floats are left from here to the end of the row: more than a Pack, or fewer, or none.
template <class T>
INLINE Pack pack_load(const T* from, int count) {
  return count >= PACK ? vec_load(from) : vec_load_tail(from, count);
}
template <class T>
INLINE void pack_put(T* to, Pack v, int count, int accumulate) {
  if (accumulate) v = pack_load(to, count) + v;
  if (count >= PACK) return vec_store(to, v);
  vec_store_tail(to, v, count);
}
// The first `count` lanes of v, `other` in the rest.
INLINE Pack pack_first(Pack v, int count, float other) { return vec_lanes() < count ? v : vec_splat(other); }
// `there` in the lane of `column`, `elsewhere` in the others; the first lane is column i.
INLINE Pack pack_pick(int i, int column, Pack there, Pack elsewhere) {
  return vec_lanes() == column - i ? there : elsewhere;
}
// v where the mask's bit is set, 0 elsewhere; the first lane is element `first`, a multiple of PACK.
INLINE Pack pack_keep(Pack v, const uint8_t* mask, int first) { return vec_keep(v, mask_load(mask, first)); }

// 2 to the power of n - 127, for n from 1 to 254.
INLINE Vec vec_power(VecUints n) { return reinterpret_cast<Vec>(n << 23); }
// exp(x) to 1 ulp, subnormal results and infinities included; NaN stays NaN. With n = round(x / log 2) and r
// = x - n log 2 it is 2^n (1 + r + r^2 P(r)), where P is fitted to (exp(r) - 1 - r) / r^2 on |r| <= log(2) /
// 2.
INLINE Vec vec_exp(Vec x) {
  x = x > 89.0f ? vec_splat(89.0f) : x;
  x = x < -104.0f ? vec_splat(-104.0f) : x;
  // Adding 3 * 2^22 leaves a float no bits for a fraction: the lowest bits of the sum are the integer.
  const Vec big = vec_splat(12582912.0f);
  const Vec shifted = vec_fma(x, vec_splat(1.442695041f), big);
  const Vec n = shifted - big;
  // log 2 in two parts; the product of n and the first one is exact.
  const Vec r = vec_fma(n, vec_splat(2.12194440e-4f), vec_fma(n, vec_splat(-0.693359375f), x));
  Vec p = vec_splat(1.39262135e-3f);
  p = vec_fma(p, r, vec_splat(8.36320297e-3f));
  p = vec_fma(p, r, vec_splat(4.16665544e-2f));
  p = vec_fma(p, r, vec_splat(0.166665768f));
  p = vec_fma(p, r, vec_splat(0.5f));
  p = vec_fma(r * r, p, r) + 1.0f;
  // 2^n in two factors, because n is from -150 to 128.
  const VecUints biased = reinterpret_cast<VecUints>(shifted) - reinterpret_cast<VecUints>(big) + 2 * 127,
                 half = biased >> 1;
  return p * vec_power(half) * vec_power(biased - half);
}
// log(x) to 1 ulp; log 0 = -infinity, NaN for x < 0 and NaN. With x = 2^e (1 + f) and 1 + f from sqrt(1/2) to
// sqrt(2) it is e log 2 + f - f^2/2 + f^3 Q(f), where Q is fitted to (log(1 + f) - f + f^2/2) / f^3.
INLINE Vec vec_log(Vec x) {
  const Vec normal = x < 1.17549435e-38f ? x * 8388608.0f : x;
  const VecUints above_root = reinterpret_cast<VecUints>(normal) - 0x3f3504f3u;
  const Vec shift = x < 1.17549435e-38f ? vec_splat(-23.0f) : vec_splat(0.0f);
  const Vec e = __builtin_convertvector(reinterpret_cast<VecInts>(above_root) >> 23, Vec) + shift;
  const Vec f = reinterpret_cast<Vec>((above_root & 0x7fffffu) + 0x3f3504f3u) - 1.0f, square = f * f;
  Vec q = vec_splat(6.97161147e-2f);
  q = vec_fma(q, f, vec_splat(-0.114797338f));
  q = vec_fma(q, f, vec_splat(0.116854199f));
  q = vec_fma(q, f, vec_splat(-0.124256873f));
  q = vec_fma(q, f, vec_splat(0.142490576f));
  q = vec_fma(q, f, vec_splat(-0.166678023f));
  q = vec_fma(q, f, vec_splat(0.200007157f));
  q = vec_fma(q, f, vec_splat(-0.249999970f));
  q = vec_fma(q, f, vec_splat(0.333333312f));
  const Vec small = vec_fma(e, vec_splat(-2.12194440e-4f), vec_fma(square, vec_splat(-0.5f), square * f * q));
  const Vec log = vec_fma(e, vec_splat(0.693359375f), f + small);
  const Vec finite = x <= 3.40282347e38f ? log : x;
  return x > 0.0f ? finite : x == 0.0f ? vec_splat(-INFINITY) : vec_splat(NAN);
}
#else
typedef float Pack;
INLINE Pack pack_splat(float value) { return value; }
template <class T>
INLINE Pack pack_load(const T* from, int count) {
  return count > 0 ? to_float(*from) : 0.0f;
}
template <class T>
INLINE void pack_put(T* to, Pack v, int count, int accumulate) {
  if (count > 0) put(to, v, accumulate);
}
INLINE Pack pack_first(Pack v, int count, float other) { return count > 0 ? v : other; }
INLINE Pack pack_pick(int i, int column, Pack there, Pack elsewhere) {
  return i == column ? there : elsewhere;
}
INLINE Pack pack_keep(Pack v, const uint8_t* mask, int first) {
  return mask[first / 8] >> first % 8 & 1 ? v : 0.0f;
}
INLINE Pack vec_fma(Pack a, Pack b, Pack c) { return fmaf(a, b, c); }
INLINE Pack vec_max(Pack a, Pack b) { return fmaxf(a, b); }
INLINE Pack vec_exp(Pack x) { return expf(x); }
INLINE Pack vec_log(Pack x) { return logf(x); }
INLINE float lane_sum(Pack v) { return v; }
INLINE float lane_max(Pack v) { return v; }
#endif
