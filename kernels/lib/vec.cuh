// Vec: VEC floats that are loaded, computed and stored together. On CUDA two float4; on the host a
// GCC vector, which is one AVX-512 register, two AVX registers, or four SSE or NEON registers. Kernels state
// their vectors; they do not rely on the compiler to find them.
//
// The last run of an array or a row may hold fewer than VEC elements: vec_load, vec_store and vec_put take
// their number, `count` (0 to VEC), and touch no memory past them. On CUDA a whole vector must start at a
// multiple of 16 bytes. Arrays do; rows do if their length is a multiple of that (rows_aligned); other rows
// are read and written float by float. The host loads from any address.
//
// The same functions take pointers to bf16: a Vec is VEC floats, whatever it was loaded from.
//
// lib/pack.cuh has the vector of the row kernels, lib/gemm_tile.cuh the register of the matrix kernels.
#pragma once
#include "lib/common.cuh"

#if ONE_THREAD_BLOCKS
typedef float Vec __attribute__((vector_size(64), aligned(4), may_alias));
typedef int VecInts __attribute__((vector_size(64), aligned(4), may_alias));
typedef unsigned VecUints __attribute__((vector_size(64), aligned(4), may_alias));
// A bit per lane.
typedef uint16_t VecBits;

INLINE VecInts vec_lanes() { return VecInts{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; }
INLINE Vec vec_splat(float value) { return value - Vec{}; }
INLINE Vec vec_load(const float* from) { return *reinterpret_cast<const Vec*>(from); }
INLINE void vec_store(float* to, Vec v) { *reinterpret_cast<Vec*>(to) = v; }
typedef uint16_t VecHalves __attribute__((vector_size(32), aligned(2), may_alias));
INLINE Vec vec_of_halves(VecHalves halves) {
  return reinterpret_cast<Vec>(__builtin_convertvector(halves, VecUints) << 16);
}
INLINE VecHalves vec_to_halves(Vec v) {
  const VecUints bits = reinterpret_cast<VecUints>(v), rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  const VecUints nan = VecUints{} + 0x7fff;
  return __builtin_convertvector(v == v ? rounded : nan, VecHalves);
}
INLINE Vec vec_load(const bf16* from) { return vec_of_halves(*reinterpret_cast<const VecHalves*>(from)); }
INLINE void vec_store(bf16* to, Vec v) { *reinterpret_cast<VecHalves*>(to) = vec_to_halves(v); }
INLINE Vec vec_fma(Vec a, Vec b, Vec c) { return a * b + c; }
INLINE Vec vec_max(Vec a, Vec b) { return a > b ? a : b; }
INLINE Vec vec_min(Vec a, Vec b) { return a < b ? a : b; }
// Bit i is set where lane i is positive.
INLINE VecBits vec_positive(Vec v) {
#ifdef __AVX512F__
  return _mm512_cmp_ps_mask(reinterpret_cast<__m512>(v), _mm512_setzero_ps(), _CMP_GT_OQ);
#else
  VecBits bits = 0;
  for (int i = 0; i < VEC; i++) bits |= static_cast<VecBits>(v[i] > 0.0f) << i;
  return bits;
#endif
}
// v where the bit is set, 0 elsewhere.
INLINE Vec vec_keep(Vec v, VecBits bits) {
#ifdef __AVX512F__
  return reinterpret_cast<Vec>(_mm512_maskz_mov_ps(bits, reinterpret_cast<__m512>(v)));
#else
  Vec kept;
  for (int i = 0; i < VEC; i++) kept[i] = (bits >> i) & 1 ? v[i] : 0.0f;
  return kept;
#endif
}
// max(v, 0); NaN stays NaN.
INLINE Vec vec_relu(Vec v) { return v < 0.0f ? Vec{} : v; }
// scale * sign(v): scale where v > 0, -scale where v < 0, and v itself where it is 0 or NaN.
INLINE Vec vec_scaled_sign(float scale, Vec v) {
  const Vec up = vec_splat(scale), down = vec_splat(-scale);
  return v > 0.0f ? up : (v < 0.0f ? down : v);
}
#else
struct __align__(16) Vec {
  float lane[VEC];
  INLINE float& operator[](int i) { return lane[i]; }
  INLINE float operator[](int i) const { return lane[i]; }
};
typedef uint8_t VecBits;

template <class F>
INLINE Vec vec_map(F f) {
  Vec v;
  UNROLL
  for (int i = 0; i < VEC; i++) v.lane[i] = f(i);
  return v;
}
INLINE Vec vec_splat(float value) {
  return vec_map([&](int) { return value; });
}
INLINE Vec vec_load(const float* from) { return *reinterpret_cast<const Vec*>(from); }
INLINE void vec_store(float* to, Vec v) { *reinterpret_cast<Vec*>(to) = v; }
struct __align__(16) VecHalves {
  bf16 half[VEC];
};
INLINE Vec vec_load(const bf16* from) {
  const VecHalves halves = *reinterpret_cast<const VecHalves*>(from);
  return vec_map([&](int i) { return to_float(halves.half[i]); });
}
INLINE void vec_store(bf16* to, Vec v) {
  VecHalves halves;
  UNROLL
  for (int i = 0; i < VEC; i++) store_rounded(halves.half + i, v[i]);
  *reinterpret_cast<VecHalves*>(to) = halves;
}
INLINE Vec vec_fma(Vec a, Vec b, Vec c) {
  return vec_map([&](int i) { return fmaf(a[i], b[i], c[i]); });
}
INLINE Vec vec_max(Vec a, Vec b) {
  return vec_map([&](int i) { return a[i] > b[i] ? a[i] : b[i]; });
}
INLINE Vec vec_min(Vec a, Vec b) {
  return vec_map([&](int i) { return a[i] < b[i] ? a[i] : b[i]; });
}
INLINE Vec operator+(Vec a, Vec b) {
  return vec_map([&](int i) { return a[i] + b[i]; });
}
INLINE Vec operator-(Vec a, Vec b) {
  return vec_map([&](int i) { return a[i] - b[i]; });
}
INLINE Vec operator*(Vec a, Vec b) {
  return vec_map([&](int i) { return a[i] * b[i]; });
}
INLINE Vec operator*(float a, Vec b) { return vec_splat(a) * b; }
INLINE Vec operator*(Vec a, float b) { return a * vec_splat(b); }
INLINE VecBits vec_positive(Vec v) {
  unsigned bits = 0;
  UNROLL
  for (int i = 0; i < VEC; i++) bits |= static_cast<unsigned>(v[i] > 0.0f) << i;
  return static_cast<VecBits>(bits);
}
INLINE Vec vec_keep(Vec v, VecBits bits) {
  return vec_map([&](int i) { return (bits >> i) & 1 ? v[i] : 0.0f; });
}
INLINE Vec vec_relu(Vec v) {
  return vec_map([&](int i) { return v[i] < 0.0f ? 0.0f : v[i]; });
}
INLINE Vec vec_scaled_sign(float scale, Vec v) {
  return vec_map([&](int i) { return v[i] > 0.0f ? scale : v[i] < 0.0f ? -scale : v[i]; });
}
#endif

// Each lane rounded to tf32.
INLINE Vec vec_tf32(Vec v) {
  UNROLL
  for (int i = 0; i < VEC; i++) v[i] = round_tf32(v[i]);
  return v;
}
// Each lane as vec_store writes it to memory of T.
template <class T>
INLINE Vec vec_stored(Vec v) {
  UNROLL
  for (int i = 0; i < VEC; i++) {
    T stored;
    store_rounded(&stored, v[i]);
    v[i] = to_float(stored);
  }
  return v;
}
INLINE Vec vec_fma(float a, Vec b, Vec c) { return vec_fma(vec_splat(a), b, c); }
INLINE Vec vec_abs(Vec v) { return vec_max(v, vec_splat(0.0f) - v); }
// v, which may be a product: keeps g++ from fusing it with a later addition into an fma.
INLINE Vec vec_rounded(Vec v) {
#if ONE_THREAD_BLOCKS && defined(__AVX512F__)
  asm("" : "+v"(v));
#elif ONE_THREAD_BLOCKS && defined(__AVX__)
  __m256 halves[2];
  memcpy(halves, &v, sizeof(v));
  asm("" : "+x"(halves[0]), "+x"(halves[1]));
  memcpy(&v, halves, sizeof(v));
#endif
  return v;
}
// max(v, low) and min(v, high); NaN in v stays NaN.
INLINE Vec vec_at_least(Vec v, Vec low) { return vec_max(low, v); }
INLINE Vec vec_at_most(Vec v, Vec high) { return vec_min(high, v); }
INLINE Vec vec_clip01(Vec v) { return vec_at_most(vec_at_least(v, vec_splat(0.0f)), vec_splat(1.0f)); }

// The sum and the maximum of the lanes, by halves: lane i takes lane i + VEC / 2, then i + VEC / 4, and so
// on.
INLINE float lane_sum(Vec v) {
#if ONE_THREAD_BLOCKS
  typedef float Quarter __attribute__((vector_size(16)));
  Quarter q[4];
  memcpy(q, &v, sizeof(v));
  const Quarter sum = (q[0] + q[2]) + (q[1] + q[3]);
  return (sum[0] + sum[2]) + (sum[1] + sum[3]);
#else
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
#endif
}
INLINE float lane_max(Vec v) {
  UNROLL
  for (int step = VEC / 2; step > 0; step /= 2) {
    UNROLL
    for (int i = 0; i < step; i++) v[i] = fmaxf(v[i], v[i + step]);
  }
  return v[0];
}

// Fewer than VEC floats. AVX has loads and stores under a mask; elsewhere the loops have a fixed length, so
// that the vector stays in registers.
#if ONE_THREAD_BLOCKS && defined(__AVX512F__)
INLINE __mmask16 vec_tail_mask(int count) {
  return count > 0 ? static_cast<__mmask16>(0xffff >> (VEC - count)) : 0;
}
INLINE Vec vec_load_tail(const float* from, int count) {
  return reinterpret_cast<Vec>(_mm512_maskz_loadu_ps(vec_tail_mask(count), from));
}
INLINE void vec_store_tail(float* to, Vec v, int count) {
  _mm512_mask_storeu_ps(to, vec_tail_mask(count), reinterpret_cast<__m512>(v));
}
#elif ONE_THREAD_BLOCKS && defined(__AVX__)
INLINE Vec vec_load_tail(const float* from, int count) {
  const VecInts wanted = vec_lanes() < count;
  __m256i mask[2];
  memcpy(mask, &wanted, sizeof(mask));
  const __m256 halves[2] = {_mm256_maskload_ps(from, mask[0]), _mm256_maskload_ps(from + 8, mask[1])};
  Vec v;
  memcpy(&v, halves, sizeof(v));
  return v;
}
INLINE void vec_store_tail(float* to, Vec v, int count) {
  const VecInts wanted = vec_lanes() < count;
  __m256i mask[2];
  memcpy(mask, &wanted, sizeof(mask));
  __m256 halves[2];
  memcpy(halves, &v, sizeof(v));
  _mm256_maskstore_ps(to, mask[0], halves[0]);
  _mm256_maskstore_ps(to + 8, mask[1], halves[1]);
}
#else
INLINE Vec vec_load_tail(const float* from, int count) {
  Vec v = vec_splat(0.0f);
  UNROLL
  for (int i = 0; i < VEC; i++) {
    if (i < count) v[i] = from[i];
  }
  return v;
}
INLINE void vec_store_tail(float* to, Vec v, int count) {
  UNROLL
  for (int i = 0; i < VEC; i++) {
    if (i < count) to[i] = v[i];
  }
}
#endif

// bf16 has no loads and stores under a mask, nor needs them: few arrays of it have tails.
INLINE Vec vec_load_tail(const bf16* from, int count) {
  Vec v = vec_splat(0.0f);
  UNROLL
  for (int i = 0; i < VEC; i++) {
    if (i < count) v[i] = to_float(from[i]);
  }
  return v;
}
INLINE void vec_store_tail(bf16* to, Vec v, int count) {
  UNROLL
  for (int i = 0; i < VEC; i++) {
    if (i < count) store_rounded(to + i, v[i]);
  }
}

// Whether every row of this length starts at an address that vec_load accepts.
template <class T = float>
INLINE bool rows_aligned(int length) {
  return ONE_THREAD_BLOCKS || length % static_cast<int>(16 / sizeof(T)) == 0;
}
// The number of elements of the run at `first` in a row of `length`: 0 to VEC.
INLINE int run_length(int first, int length) { return min(VEC, max(0, length - first)); }

// The first `count` numbers at `from`, zeros after them.
template <class T>
INLINE Vec vec_load(const T* from, int count, bool aligned = true) {
  return aligned && count == VEC ? vec_load(from) : vec_load_tail(from, count);
}
// Stores the first `count` lanes.
template <class T>
INLINE void vec_store(T* to, Vec v, int count, bool aligned = true) {
  if (aligned && count == VEC) return vec_store(to, v);
  vec_store_tail(to, v, count);
}
// `=` or, with accumulate, `+=`, which adds what `=` would store (of float32).
template <class T>
INLINE void vec_put(T* to, Vec v, int count, int accumulate, bool aligned = true) {
  vec_store(to, accumulate ? vec_load(to, count, aligned) + vec_rounded(v) : v, count, aligned);
}

// VEC entries of a periodic array, from any phase.
INLINE Vec periodic_load(const float* from, int phase) {
#if ONE_THREAD_BLOCKS
  return vec_load(from + phase);
#else
  return vec_map([&](int i) { return __ldg(from + phase + i); });
#endif
}

// Bit masks (ReLU): bit j of byte i belongs to element 8 i + j; a mask of n elements has mask_bytes(n) bytes,
// so that whole VecBits words can be stored. `first` is a multiple of VEC.
INLINE void mask_store(uint8_t* mask, int first, VecBits bits) {
  reinterpret_cast<VecBits*>(mask)[first / VEC] = bits;
}
INLINE VecBits mask_load(const uint8_t* mask, int first) {
  return reinterpret_cast<const VecBits*>(mask)[first / VEC];
}
