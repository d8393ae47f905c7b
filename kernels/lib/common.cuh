// The vocabulary of every kernel, on CUDA (compiled by NVRTC) and on the host (compiled by g++ through
// host/shim.h). kernels/README.md shows what it expands to.
//
// ONE_THREAD_BLOCKS              1 in the host's own build, where a block is one thread that walks over
//                                vectors. 0 on CUDA, and in the host's build with CUDA's launch
//                                configurations, which checks CUDA's code on a CPU. Code under it is the
//                                only kernel code that CUDA and the host do not share. (SADDLE_HOST is for
//                                what a CPU cannot compile.)
// PER_DEVICE(NAME, cuda, host);  an integer constant, the second value where ONE_THREAD_BLOCKS. Integer
//                                literals only: build.rs reads these lines too, so that Rust computes grids
//                                from the same numbers.
// SHARED(type, name, n);         an array in the block's shared memory; at most 48 KiB in all on CUDA.
// DYN_BYTES(n)                   after the launch bounds: the block has n bytes (a literal or a PER_DEVICE
//                                constant) of dynamic shared memory, up to 163 KiB (sm_80) or 227 KiB.
// DYN_SMEM(type, name);          that memory; one declaration per kernel.
// NULLABLE                       marks a pointer parameter that may be null: its launcher takes an Option.
// UNROLL                         unrolls the loop that follows; NO_UNROLL keeps it.
#pragma once

#ifndef ONE_THREAD_BLOCKS
#define ONE_THREAD_BLOCKS 0
#endif

#ifdef SADDLE_HOST
#include "../host/shim.h"
#else
#define SHARED(TYPE, NAME, COUNT) __shared__ __align__(16) TYPE NAME[COUNT]
#define DYN_SMEM(TYPE, NAME)                                      \
  extern __shared__ __align__(16) unsigned char saddle_dynamic[]; \
  TYPE* NAME = reinterpret_cast<TYPE*>(saddle_dynamic)
#define UNROLL _Pragma("unroll")
#define NO_UNROLL _Pragma("unroll 1")
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
#define INFINITY __int_as_float(0x7f800000)
#define NAN __int_as_float(0x7fffffff)
#endif

#if ONE_THREAD_BLOCKS
#define PER_DEVICE(NAME, CUDA, HOST) constexpr int NAME = HOST
#else
#define PER_DEVICE(NAME, CUDA, HOST) constexpr int NAME = CUDA
#endif

#define NULLABLE
#define DYN_BYTES(N)
#define INLINE __device__ __forceinline__

// Floats of a Vec (lib/vec.cuh).
PER_DEVICE(VEC, 8, 16);
// Element-wise kernels: threads of a block, and elements of a block (a multiple of ELEMENTWISE_THREADS *
// VEC).
PER_DEVICE(ELEMENTWISE_THREADS, 256, 1);
PER_DEVICE(ELEMENTWISE_CHUNK, 2048, 4096);
// Kernels with one block per sample: threads of a block.
PER_DEVICE(SAMPLE_THREADS, 256, 1);

// The upper half of a float: its sign and exponent, and 7 bits after the point. A type of memory alone:
// kernels compute in float32. A parameter of type T* is one of float32 or, in the kernel with _bf16 after its
// name, of bf16 (build.rs writes both).
struct bf16 {
  uint16_t bits;
};
INLINE float bits_to_float(uint32_t bits) {
#ifdef SADDLE_HOST
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
#else
  return __uint_as_float(bits);
#endif
}
INLINE uint32_t float_to_bits(float value) {
#ifdef SADDLE_HOST
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
#else
  return __float_as_uint(value);
#endif
}
INLINE float to_float(float value) { return value; }
INLINE float to_float(bf16 value) { return bits_to_float(static_cast<uint32_t>(value.bits) << 16); }
// The nearest, of two the even one; NaN becomes 0x7fff, as PTX's cvt.rn.bf16 makes it.
INLINE void store_rounded(float* to, float value) { *to = value; }
INLINE void store_rounded(bf16* to, float value) {
#if !defined(SADDLE_HOST) && __CUDA_ARCH__ >= 800
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to->bits) : "f"(value));
#else
  const uint32_t bits = float_to_bits(value);
  to->bits = value != value ? 0x7fff : static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
#endif
}

INLINE float round_bf16(float value) {
  bf16 rounded;
  store_rounded(&rounded, value);
  return to_float(rounded);
}
// The nearest tf32: 10 bits after the point, of two the one away from zero. The tensor cores alone would cut
// the lower bits off.
INLINE float round_tf32(float value) {
#if !defined(SADDLE_HOST) && __CUDA_ARCH__ >= 800
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits_to_float(bits);
#else
  return fabsf(value) < INFINITY ? bits_to_float((float_to_bits(value) + 0x1000) & 0xffffe000u) : value;
#endif
}

INLINE int ceil_div(int a, int b) { return (a + b - 1) / b; }

// The number of valid images of a padded batch: *num_valid, or all `images` where the pointer is null.
INLINE int valid_images(const int* num_valid, int images) {
  return num_valid ? min(max(*num_valid, 0), images) : images;
}

// *to = value or, with accumulate, *to += value.
template <class T>
INLINE void put(T* to, float value, int accumulate) {
  store_rounded(to, accumulate ? to_float(*to) + value : value);
}

// Calls f(i, count) for every run of up to `run` elements of n that this thread owns: a block takes `chunk`
// elements, and its threads neighbouring runs of them.
template <int chunk, int threads, int run, class F>
INLINE void each_of_chunk(int block, int n, F f) {
  const int first = block * chunk;
  const int end = n - first < chunk ? n : first + chunk;
  for (int i = first + threadIdx.x * run; i < end; i += threads * run) {
    f(i, end - i < run ? end - i : run);
    if (chunk == threads * run) break;  // one run a thread: tells CUDA's compiler that there is no loop
  }
}

// The same for an element-wise kernel. Launch with ceil(n / ELEMENTWISE_CHUNK) blocks of ELEMENTWISE_THREADS.
template <class F>
INLINE void each_vec(int n, F f) {
  each_of_chunk<ELEMENTWISE_CHUNK, ELEMENTWISE_THREADS, VEC>(blockIdx.x, n, f);
}
