// CUDA's language on a CPU: what a .cu file needs to compile with g++ and to run one thread at a time.
//
// A block is described by a SaddleBlock. The host device (src/device/host) points `saddle_block` at it and
// calls the kernel's trampoline, which runs the block's threads as plain calls, one after the other. A thread
// that must wait (a barrier, a warp operation) calls into saddle_wait, which parks its fiber; another fiber
// then goes on with the threads not yet started.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#ifdef __x86_64__
#include <immintrin.h>
#endif

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define UNROLL _Pragma("GCC unroll 64")
#define NO_UNROLL _Pragma("GCC unroll 1")

struct SaddleDim3 {
  unsigned x, y, z;
};

// One block that runs on this OS thread; the same struct as `Block` in src/device/host/block.rs.
struct SaddleBlock {
  SaddleDim3 block_idx, grid_dim;
  unsigned threads;       // threads of the block
  unsigned thread;        // the one that runs now
  unsigned started;       // how many have been started
  unsigned shared_size;   // bytes of the shared arena
  unsigned shared_used;   // bytes handed out, red zones included
  unsigned dynamic_size;  // bytes of dynamic shared memory asked for at launch
  const unsigned* order;  // the order in which threads start, or null for 0, 1, 2, ...
  unsigned char* shared;  // the shared arena
  unsigned slots[32];  // 1 + offset of each shared array in the arena, by its number in the translation unit
  unsigned slot_ends[32];
  const char* kernel;
  uint64_t result;  // what the operation that the thread waited for gives it
};

enum SaddleWait { SADDLE_BLOCK, SADDLE_SYNC, SADDLE_SHUFFLED, SADDLE_BALLOT, SADDLE_ALL, SADDLE_ANY };

extern "C" {
extern __thread SaddleBlock* saddle_block;
// Parks the running thread until all others that it names have arrived too. `place` is the SaddleWait plus 8
// times the line.
void saddle_wait(
    SaddleBlock* block, int place, unsigned mask, uint64_t value, unsigned lane, const char* file);
// The arena is too small: does not return.
void saddle_shared_overflow(SaddleBlock* block, unsigned asked);
}

#define threadIdx (SaddleDim3{saddle_block->thread, 0, 0})
#define blockIdx (saddle_block->block_idx)
#define blockDim (SaddleDim3{saddle_block->threads, 1, 1})
#define gridDim (saddle_block->grid_dim)
#define warpSize 32

// Shared arrays: the first thread that reaches the declaration reserves a place in the arena, the others get
// the same one. 64 bytes of red zone after each are checked at the end of the block in checked mode.
template <class T, unsigned slot>
__forceinline__ T* saddle_shared(size_t count) {
  static_assert(slot < 32, "a source file may declare 32 shared arrays");
  SaddleBlock* b = saddle_block;
  if (__builtin_expect(b->slots[slot] == 0, 0)) {
    const unsigned bytes = static_cast<unsigned>(count * sizeof(T));
    if (bytes > b->shared_size || b->shared_used + bytes + 128 > b->shared_size)
      saddle_shared_overflow(b, bytes);
    b->slots[slot] = b->shared_used + 1;
    b->slot_ends[slot] = b->shared_used + bytes;
    b->shared_used = (b->shared_used + bytes + 64 + 63) / 64 * 64;
  }
  return reinterpret_cast<T*>(b->shared + b->slots[slot] - 1);
}
// __COUNTER__ numbers the declarations of a translation unit.
#define SHARED(TYPE, NAME, COUNT) TYPE* const NAME = saddle_shared<TYPE, __COUNTER__>(COUNT)
#define DYN_SMEM(TYPE, NAME) \
  TYPE* const NAME =         \
      saddle_shared<TYPE, __COUNTER__>((saddle_block->dynamic_size + sizeof(TYPE) - 1) / sizeof(TYPE))

template <class T>
__forceinline__ uint64_t saddle_bits(T value) {
  static_assert(sizeof(T) <= 8, "warp operations move at most 8 bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  return bits;
}
template <class T>
__forceinline__ T saddle_value(uint64_t bits) {
  T value;
  memcpy(&value, &bits, sizeof(T));
  return value;
}

// A block of one thread does not wait.
#define __syncthreads()                                                                                 \
  (saddle_block->threads > 1 ? saddle_wait(saddle_block, SADDLE_PLACE(SADDLE_BLOCK), 0, 0, 0, __FILE__) \
                             : (void)0)
#define __syncwarp(...) \
  saddle_wait(saddle_block, SADDLE_PLACE(SADDLE_SYNC), saddle_mask(__VA_ARGS__), 0, 0, __FILE__)
#define SADDLE_PLACE(KIND) (KIND + 8 * __LINE__)
__forceinline__ unsigned saddle_mask(unsigned mask = 0xffffffffu) { return mask; }

__forceinline__ uint64_t
saddle_meet(int place, unsigned mask, uint64_t value, unsigned lane, const char* file) {
  saddle_wait(saddle_block, place, mask, value, lane, file);
  return saddle_block->result;
}
template <class T>
__forceinline__ T saddle_shuffle(unsigned mask, T value, int lane, int place, const char* file) {
  return saddle_value<T>(saddle_meet(place, mask, saddle_bits(value), static_cast<unsigned>(lane), file));
}
#define SADDLE_LANE (static_cast<int>(saddle_block->thread & 31))
// Lanes outside 0..31 keep their own value, as on CUDA.
__forceinline__ int saddle_lane(int lane) { return lane < 0 || lane > 31 ? SADDLE_LANE : lane; }
#define SADDLE_SHUFFLE(MASK, VALUE, LANE) \
  saddle_shuffle(MASK, VALUE, LANE, SADDLE_PLACE(SADDLE_SHUFFLED), __FILE__)
#define __shfl_sync(MASK, VALUE, LANE) SADDLE_SHUFFLE(MASK, VALUE, (LANE) & 31)
#define __shfl_xor_sync(MASK, VALUE, BITS) SADDLE_SHUFFLE(MASK, VALUE, saddle_lane(SADDLE_LANE ^ (int)(BITS)))
#define __shfl_down_sync(MASK, VALUE, BY) SADDLE_SHUFFLE(MASK, VALUE, saddle_lane(SADDLE_LANE + (int)(BY)))
#define __shfl_up_sync(MASK, VALUE, BY) SADDLE_SHUFFLE(MASK, VALUE, saddle_lane(SADDLE_LANE - (int)(BY)))
#define SADDLE_VOTE(KIND, MASK, PREDICATE) \
  saddle_meet(SADDLE_PLACE(KIND), MASK, (PREDICATE) ? 1 : 0, 0, __FILE__)
#define __ballot_sync(MASK, PREDICATE) ((unsigned)SADDLE_VOTE(SADDLE_BALLOT, MASK, PREDICATE))
#define __all_sync(MASK, PREDICATE) ((int)SADDLE_VOTE(SADDLE_ALL, MASK, PREDICATE))
#define __any_sync(MASK, PREDICATE) ((int)SADDLE_VOTE(SADDLE_ANY, MASK, PREDICATE))

struct float2 {
  float x, y;
};
struct __align__(16) float4 {
  float x, y, z, w;
};
struct uint2 {
  unsigned x, y;
};
struct __align__(16) uint4 {
  unsigned x, y, z, w;
};
__forceinline__ float2 make_float2(float x, float y) { return {x, y}; }
__forceinline__ float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
__forceinline__ uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
__forceinline__ uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

__forceinline__ float rsqrtf(float v) { return 1.0f / sqrtf(v); }
__forceinline__ int min(int a, int b) { return a < b ? a : b; }
__forceinline__ int max(int a, int b) { return a > b ? a : b; }
__forceinline__ unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((static_cast<uint64_t>(a) * b) >> 32);
}
__forceinline__ int __float_as_int(float v) { return saddle_value<int>(saddle_bits(v)); }
__forceinline__ float __int_as_float(int v) { return saddle_value<float>(saddle_bits(v)); }
__forceinline__ int __popc(unsigned v) { return __builtin_popcount(v); }
__forceinline__ int __ffs(int v) { return __builtin_ffs(v); }
__forceinline__ int __clz(int v) { return v ? __builtin_clz(static_cast<unsigned>(v)) : 32; }
template <class T>
__forceinline__ T __ldg(const T* from) {
  return *from;
}
// Integer atomics only: floating-point atomics would make a run depend on the order of blocks.
__forceinline__ int atomicAdd(int* at, int value) { return __atomic_fetch_add(at, value, __ATOMIC_RELAXED); }
__forceinline__ int atomicMax(int* at, int value) {
  int seen = __atomic_load_n(at, __ATOMIC_RELAXED);
  while (seen < value &&
         !__atomic_compare_exchange_n(at, &seen, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
  return seen;
}
