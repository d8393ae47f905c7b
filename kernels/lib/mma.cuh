// Tensor cores (sm_80 and newer): asynchronous copies into shared memory, matrices from there into the
// registers of a warp, and their product.
//
// Tiles in shared memory have rows of 128 bytes: 64 numbers of bf16, 32 of float. A row is eight chunks of
// 16 bytes, and chunk c of row r lies at place c ^ r % 8 of its row. Eight threads that read the same chunk
// of eight rows, as ldmatrix does, so find it in all 32 banks, and eight threads that write a row do, too.
//
// The numbers are T: bf16, or float, of which the tensor cores read the upper 19 bits (tf32). An mma takes
// 32 bytes of each row, 16 numbers of bf16 or 8 of tf32; the fragments of the two are the same registers,
// because ldmatrix moves pairs of 16-bit halves.
//
// Kernels that need this header stand under `#if TENSOR_CORES`; src/ops/conv2d_mma.rs launches them only
// where it is 1. The host has them with CUDA's launch configurations (host/mma.h).
#pragma once
#include "lib/vec.cuh"

#if ONE_THREAD_BLOCKS || (!defined(SADDLE_HOST) && __CUDA_ARCH__ < 800)
#define TENSOR_CORES 0
#else
#define TENSOR_CORES 1
#endif

// What the tensor cores should find in memory for a number.
INLINE void store_operand(float* to, float value) { *to = round_tf32(value); }
INLINE void store_operand(bf16* to, float value) { store_rounded(to, value); }

#if TENSOR_CORES
#ifdef SADDLE_HOST
#include "../host/mma.h"
typedef unsigned char* SharedAddress;
INLINE SharedAddress shared_address(void* at) { return static_cast<SharedAddress>(at); }
#else
typedef uint32_t SharedAddress;
INLINE SharedAddress shared_address(void* at) {
  return static_cast<SharedAddress>(__cvta_generic_to_shared(at));
}
#endif

constexpr int ROW_BYTES = 128;
constexpr int CHUNK_BYTES = 16;
constexpr int ROW_CHUNKS = ROW_BYTES / CHUNK_BYTES;
constexpr int MMA_BYTES = 32;  // of a row, multiplied by one mma

// Where a chunk of a row lies in a tile.
INLINE int swizzled(int row, int chunk) { return row * ROW_BYTES + (chunk ^ row % ROW_CHUNKS) * CHUNK_BYTES; }

// Copies 16 bytes, or writes zeros if not valid (then nothing is read). Copies belong to the group that the
// next copies_commit closes.
INLINE void chunk_copy_async(SharedAddress to, const void* from, bool valid) {
#ifdef SADDLE_HOST
  // Faults on addresses that are not multiples of 16 bytes, as the hardware does.
  *reinterpret_cast<float4*>(to) = valid ? *static_cast<const float4*>(from) : make_float4(0, 0, 0, 0);
#else
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0)
               : "memory");
#endif
}
INLINE void copies_commit() {
#ifndef SADDLE_HOST
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Waits until at most `pending` of this thread's groups are under way.
template <int pending>
INLINE void copies_wait_for() {
#ifndef SADDLE_HOST
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#endif
}

// Four 8x8 matrices of 16-bit numbers; lane 8 m + i gives the address of row i of matrix m, and gets row
// lane / 4, columns 2 (lane % 4) and 2 (lane % 4) + 1 of each matrix, or of each transposed matrix.
INLINE void matrices_load(uint32_t (&to)[4], SharedAddress row) {
#ifdef SADDLE_HOST
  saddle_load_matrices(to, row, false);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(row)
               : "memory");
#endif
}
INLINE void matrices_load_transposed(uint32_t (&to)[4], SharedAddress row) {
#ifdef SADDLE_HOST
  saddle_load_matrices(to, row, true);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(row)
               : "memory");
#endif
}

// Four bytes of shared memory.
INLINE uint32_t word_load(SharedAddress from) {
#ifdef SADDLE_HOST
  return *reinterpret_cast<const uint32_t*>(from);
#else
  uint32_t word;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(word) : "r"(from) : "memory");
  return word;
#endif
}

// A register of an operand as the tensor cores should read it.
template <class T>
INLINE uint32_t operand(uint32_t bits) {
  return sizeof(T) == 4 ? float_to_bits(round_tf32(bits_to_float(bits))) : bits;
}

// sum += a b for the warp: a is 16 rows x 32 bytes, b 32 bytes x 8 columns. A lane holds, with g = lane / 4
// and t = lane % 4, the sums of row g, columns 2 t and 2 t + 1, then those of row g + 8.
template <class T>
INLINE void multiply_add(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef SADDLE_HOST
  if (sizeof(T) == 4) {
    saddle_multiply<1>(sum, a, b, [](unsigned bits, int) { return bits_to_float(bits & 0xffffe000); });
  } else {
    saddle_multiply<2>(sum, a, b, [](unsigned bits, int half) {
      return bits_to_float(half ? bits & 0xffff0000 : bits << 16);
    });
  }
#else
  if (sizeof(T) == 4) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#endif
}
#endif

// What a kernel for tensor cores does where there are none.
INLINE void no_tensor_cores() {
#ifdef SADDLE_HOST
  __builtin_trap();
#else
  __trap();
#endif
}
