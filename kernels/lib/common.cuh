// What every kernel may use on both devices: CUDA (compiled by NVRTC) and the host (compiled by g++ through host/shim.h).
//
// CONFIG(NAME, cuda, host)  an integer constant with one value a device. build.rs reads these lines too, so that Rust
//                           sees the same numbers (launch shapes are computed from them). Integer literals only.
// SHARED(type, name, n)     an array in the block's shared memory.
// DYN_BYTES(n)              behind the launch bounds: the block has n bytes of dynamic shared memory (a CONFIG or a literal).
//                           Static arrays are limited to 48 KiB on CUDA, dynamic memory to 163 (sm_80) or 227 KiB.
// DYN_SMEM(type, name)      that memory; one declaration a kernel.
// NULLABLE                  marks a pointer parameter that may be null: its Rust launcher takes an Option.
// UNROLL                    unrolls the loop that follows.
// HOST_SHAPES               1 where kernels have the host's launch shapes: one thread a block that walks over vectors. 0 on CUDA, and
//                           on the host when it runs CUDA's shapes to check them (SADDLE_CUDA_SHAPES): code under it is the only
//                           kernel code that CUDA does not share with the host. SADDLE_HOST itself is for what a CPU cannot compile.
// Vec                       VEC floats that are loaded, computed and stored together: two float4 on CUDA, one vector register
//                           (or two, or four) on the host. Vectors are declared, never hoped for.
#pragma once

#ifdef SADDLE_HOST
#include "../host/shim.h"
#else
#define SHARED(TYPE, NAME, COUNT) __shared__ __align__(16) TYPE NAME[COUNT]
#define DYN_SMEM(TYPE, NAME)                                     \
  extern __shared__ __align__(16) unsigned char saddle_dynamic[]; \
  TYPE* NAME = reinterpret_cast<TYPE*>(saddle_dynamic)
#define UNROLL _Pragma("unroll")
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
#define INFINITY __int_as_float(0x7f800000)
#define NAN __int_as_float(0x7fffffff)
#endif

#if defined(SADDLE_HOST) && !defined(SADDLE_CUDA_SHAPES)
#define HOST_SHAPES 1
#define CONFIG(NAME, CUDA, HOST) constexpr int NAME = HOST;
#else
#define HOST_SHAPES 0
#define CONFIG(NAME, CUDA, HOST) constexpr int NAME = CUDA;
#endif

#define NULLABLE
#define DYN_BYTES(N)
#define INLINE __device__ __forceinline__

CONFIG(VEC, 8, 16)
// Element-wise kernels: threads of a block, and elements that one block walks over (a multiple of THREADS * VEC).
CONFIG(ELEMENTWISE_THREADS, 256, 1)
CONFIG(ELEMENTWISE_CHUNK, 2048, 4096)
// Kernels that give a sample to a block: threads of a block.
CONFIG(SAMPLE_THREADS, 256, 1)

INLINE int ceil_div(int a, int b) { return (a + b - 1) / b; }

// Images of a batch that exist: the first *existing of `images`, or all of them where there is no such pointer.
INLINE int existing_images(const int* existing, int images) { return existing ? min(max(*existing, 0), images) : images; }

#if HOST_SHAPES
// One full vector register with AVX-512, two with AVX, four with SSE or NEON: the compiler splits it.
typedef float Vec __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint16_t VecBits;

INLINE Vec vec_splat(float value) { return value - Vec{}; }
INLINE Vec vec_load(const float* from) { return *reinterpret_cast<const Vec*>(from); }
INLINE void vec_store(float* to, Vec v) { *reinterpret_cast<Vec*>(to) = v; }
INLINE Vec vec_fma(Vec a, Vec b, Vec c) { return a * b + c; }
INLINE Vec vec_max(Vec a, Vec b) { return a > b ? a : b; }
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
  UNROLL for (int i = 0; i < VEC; i++) v.lane[i] = f(i);
  return v;
}
INLINE Vec vec_splat(float value) { return vec_map([&](int) { return value; }); }
// from and to must be 16-byte aligned.
INLINE Vec vec_load(const float* from) { return *reinterpret_cast<const Vec*>(from); }
INLINE void vec_store(float* to, Vec v) { *reinterpret_cast<Vec*>(to) = v; }
INLINE Vec vec_fma(Vec a, Vec b, Vec c) { return vec_map([&](int i) { return fmaf(a[i], b[i], c[i]); }); }
INLINE Vec vec_max(Vec a, Vec b) { return vec_map([&](int i) { return a[i] > b[i] ? a[i] : b[i]; }); }
INLINE Vec operator+(Vec a, Vec b) { return vec_map([&](int i) { return a[i] + b[i]; }); }
INLINE Vec operator-(Vec a, Vec b) { return vec_map([&](int i) { return a[i] - b[i]; }); }
INLINE Vec operator*(Vec a, Vec b) { return vec_map([&](int i) { return a[i] * b[i]; }); }
INLINE Vec operator*(float a, Vec b) { return vec_splat(a) * b; }
INLINE Vec operator*(Vec a, float b) { return a * vec_splat(b); }
INLINE VecBits vec_positive(Vec v) {
  unsigned bits = 0;
  UNROLL for (int i = 0; i < VEC; i++) bits |= static_cast<unsigned>(v[i] > 0.0f) << i;
  return static_cast<VecBits>(bits);
}
INLINE Vec vec_keep(Vec v, VecBits bits) { return vec_map([&](int i) { return (bits >> i) & 1 ? v[i] : 0.0f; }); }
#endif

// max(v, 0), with NaN kept.
INLINE Vec vec_relu(Vec v) {
#if HOST_SHAPES
  return v < 0.0f ? Vec{} : v;
#else
  return vec_map([&](int i) { return v[i] < 0.0f ? 0.0f : v[i]; });
#endif
}
// The first `count` floats at `from`, zeros behind them. A full vector takes the fast path.
INLINE Vec vec_load(const float* from, int count) {
  if (count >= VEC) return vec_load(from);
  Vec v = vec_splat(0.0f);
  for (int i = 0; i < count; i++) v[i] = from[i];
  return v;
}
// Stores the first `count` lanes.
INLINE void vec_store(float* to, Vec v, int count) {
  if (count >= VEC) return vec_store(to, v);
  for (int i = 0; i < count; i++) to[i] = v[i];
}
// `=` or, with accumulate, `+=`.
INLINE void vec_put(float* to, Vec v, int count, int accumulate) {
  vec_store(to, accumulate ? vec_load(to, count) + v : v, count);
}
INLINE void put(float* to, float value, int accumulate) { *to = accumulate ? *to + value : value; }

// Calls f(first, count) for every run of up to VEC elements of n that this block owns: the whole of an element-wise kernel.
// Launch with grid = ceil(n / ELEMENTWISE_CHUNK), block = ELEMENTWISE_THREADS.
template <class F>
INLINE void each_vec(int n, F f) {
  const int first = blockIdx.x * ELEMENTWISE_CHUNK;
  const int end = n - first < ELEMENTWISE_CHUNK ? n : first + ELEMENTWISE_CHUNK;
  for (int i = first + threadIdx.x * VEC; i < end; i += ELEMENTWISE_THREADS * VEC) f(i, end - i < VEC ? end - i : VEC);
}

// Bit masks (ReLU): bit j of byte i belongs to element 8 i + j; a mask of n elements has mask_bytes(n) bytes, so that
// whole VecBits words can be stored. `first` is a multiple of VEC.
INLINE void mask_store(uint8_t* mask, int first, VecBits bits) { reinterpret_cast<VecBits*>(mask)[first / VEC] = bits; }
INLINE VecBits mask_load(const uint8_t* mask, int first) { return reinterpret_cast<const VecBits*>(mask)[first / VEC]; }

// The sum of one value a thread over a group of `lanes` neighbouring threads (a power of two, at most 32, starting at a
// multiple of lanes), in every thread of the group; a fixed tree, so the result is repeatable. All threads of the warp call it.
template <int lanes>
INLINE float group_sum(float value) {
  UNROLL for (int step = lanes / 2; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}
template <int lanes>
INLINE float group_max(float value) {
  UNROLL for (int step = lanes / 2; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, step));
  return value;
}
