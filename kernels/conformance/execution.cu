// The required behaviour of a device, as kernels with known results; and wrong kernels, which the host device
// must refuse.
// Mathematics: stated at each kernel. T is the number of threads of a block, L = T / 32 its warps.
// Threads: stated by the launch bounds; one element a thread unless said otherwise.
// Preconditions: buffers of one element a thread (or as said); met by src/device/conformance.rs.
// Outputs: `=`, but for conf_atomics, whose buffers start at zero.
// Accumulation: integers, so every order gives the same. Deterministic, except for which thread draws which
//   ticket.
#include "lib/reductions.cuh"

// Dynamic shared memory beyond what a static array may have on CUDA: with 256 bytes of a static one the
// 64 KiB of an sm_75 block, the smallest of the supported GPUs.
PER_DEVICE(CONF_DYNAMIC, 65280, 65280);
// Too large for the 227 KiB of a block on the host. CUDA would refuse to assemble it, and never launches it.
PER_DEVICE(CONF_TOO_LARGE, 16, 65536);

// out[block] = sum of the block's T inputs: a tree over shared memory with a barrier at every level, for any
// T.
template <int T>
INLINE void conf_sum(const int* x, int* out) {
  SHARED(int, sums, T);
  const int t = threadIdx.x;
  sums[t] = x[blockIdx.x * T + t];
  __syncthreads();
  for (int n = T; n > 1; n = (n + 1) / 2) {
    const int half = (n + 1) / 2;
    if (t + half < n) sums[t] += sums[t + half];
    __syncthreads();
  }
  if (t == 0) out[blockIdx.x] = sums[0];
}

// out[block] = sum of the block's inputs; 1 thread
extern "C" __global__ __launch_bounds__(1) void conf_sum_1(const int* x, int* out) { conf_sum<1>(x, out); }

// out[block] = sum of the block's inputs; 2 threads
extern "C" __global__ __launch_bounds__(2) void conf_sum_2(const int* x, int* out) { conf_sum<2>(x, out); }

// out[block] = sum of the block's inputs; 33 threads
extern "C" __global__ __launch_bounds__(33) void conf_sum_33(const int* x, int* out) { conf_sum<33>(x, out); }

// out[block] = sum of the block's inputs; 256 threads
extern "C" __global__ __launch_bounds__(256) void conf_sum_256(const int* x, int* out) {
  conf_sum<256>(x, out);
}

// out[block] = sum of the block's inputs; 1000 threads
extern "C" __global__ __launch_bounds__(1000) void conf_sum_1000(const int* x, int* out) {
  conf_sum<1000>(x, out);
}

// out[block] = sum of the block's inputs; 1024 threads
extern "C" __global__ __launch_bounds__(1024) void conf_sum_1024(const int* x, int* out) {
  conf_sum<1024>(x, out);
}

// out[t] = x[(t + rounds) mod T]: a ring is turned one place a round, with two barriers a round.
template <int T>
INLINE void conf_ring(const int* x, int* out, int rounds) {
  SHARED(int, ring, T);
  const int t = threadIdx.x;
  ring[t] = x[blockIdx.x * T + t];
  __syncthreads();
  for (int round = 0; round < rounds; round++) {
    const int next = ring[(t + 1) % T];
    __syncthreads();
    ring[t] = next;
    __syncthreads();
  }
  out[blockIdx.x * T + t] = ring[t];
}

// out[t] = x[(t + rounds) mod 8]
extern "C" __global__ __launch_bounds__(8) void conf_ring_8(const int* x, int* out, int rounds) {
  conf_ring<8>(x, out, rounds);
}

// out[t] = x[(t + rounds) mod 32]
extern "C" __global__ __launch_bounds__(32) void conf_ring_32(const int* x, int* out, int rounds) {
  conf_ring<32>(x, out, rounds);
}

// out[t] = x[(t + rounds) mod 256]
extern "C" __global__ __launch_bounds__(256) void conf_ring_256(const int* x, int* out, int rounds) {
  conf_ring<256>(x, out, rounds);
}

// eight shuffles: out[8 t + k]; lanes whose source is outside the warp keep their own value
extern "C" __global__ __launch_bounds__(64) void conf_shuffles(const int* x, int* out) {
  const int t = threadIdx.x;
  const int v = x[t];
  int* to = out + 8 * t;
  to[0] = __shfl_sync(0xffffffffu, v, 5);
  to[1] = __shfl_sync(0xffffffffu, v, (t * 7 + 3) & 31);
  to[2] = __shfl_xor_sync(0xffffffffu, v, 1);
  to[3] = __shfl_xor_sync(0xffffffffu, v, 21);
  to[4] = __shfl_up_sync(0xffffffffu, v, 3);
  to[5] = __shfl_down_sync(0xffffffffu, v, 7);
  to[6] = static_cast<int>(2.0f * __shfl_xor_sync(0xffffffffu, 0.5f * v, 16));
  to[7] = static_cast<int>(__shfl_down_sync(0xffffffffu, static_cast<unsigned long long>(v) << 32, 1) >> 32);
}

// ballot, any, all of x > 0; any and all of x > -100: out[5 t + k]
extern "C" __global__ __launch_bounds__(64) void conf_votes(const int* x, int* out) {
  const int t = threadIdx.x;
  const int v = x[t];
  out[5 * t] = static_cast<int>(__ballot_sync(0xffffffffu, v > 0));
  out[5 * t + 1] = __any_sync(0xffffffffu, v > 0) != 0;
  out[5 * t + 2] = __all_sync(0xffffffffu, v > 0) != 0;
  out[5 * t + 3] = __any_sync(0xffffffffu, v > 100) != 0;
  out[5 * t + 4] = __all_sync(0xffffffffu, v > -100) != 0;
}

// halves of a warp, then even and odd lanes, take different branches with masks of their own: out[2 t + k]
extern "C" __global__ __launch_bounds__(64) void conf_partial_masks(const int* x, int* out) {
  const int t = threadIdx.x;
  const int v = x[t];
  int a, b;
  if ((t & 31) < 16) {
    a = __shfl_xor_sync(0x0000ffffu, v, 3);
  } else {
    a = static_cast<int>(__ballot_sync(0xffff0000u, v > 0));
  }
  if (t & 1) {
    b = __shfl_sync(0xaaaaaaaau, v, 31);
  } else {
    b = __all_sync(0x55555555u, v > 0) != 0;
  }
  out[2 * t] = a;
  out[2 * t + 1] = b;
}

// a second warp of 8 lanes sums with a mask of 8 lanes; lanes above 4 of the first warp leave before its mask
// of 5: out[t]
extern "C" __global__ __launch_bounds__(40) void conf_tail_warp(const int* x, int* out) {
  const int t = threadIdx.x;
  int v = x[t];
  if (t >= 32) {
    for (int step = 4; step > 0; step /= 2) v += __shfl_xor_sync(0xffu, v, step);
    out[t] = v;
    return;
  }
  out[t] = -1;
  if (t > 4) return;
  out[t] = __shfl_sync(0x1fu, v, 4 - t);
}

// sums and maxima over groups of 1, 2, 4, 8, 16 and 32 lanes: out[7 t + k]
extern "C" __global__ __launch_bounds__(96) void conf_groups(const float* x, float* out) {
  const int t = threadIdx.x;
  const float v = x[t];
  float* to = out + 7 * t;
  to[0] = warp_sum<1>(v);
  to[1] = warp_sum<2>(v);
  to[2] = warp_sum<4>(v);
  to[3] = warp_sum<8>(v);
  to[4] = warp_sum<16>(v);
  to[5] = warp_sum<32>(v);
  to[6] = warp_max<16>(v);
}

// out[block] = sum of 128 inputs: warp shuffles, one barrier, then the first warp alone
extern "C" __global__ __launch_bounds__(128) void conf_two_stages(const float* x, float* out) {
  SHARED(float, parts, 4);
  const int t = threadIdx.x;
  const float warp = warp_sum<32>(x[blockIdx.x * 128 + t]);
  if (t % 32 == 0) parts[t / 32] = warp;
  __syncthreads();
  if (t < 32) {
    const float sum = warp_sum<4>(t < 4 ? parts[t] : 0.0f);
    if (t == 0) out[blockIdx.x] = sum;
  }
}

// neighbours of a warp exchange through shared memory under __syncwarp; only a block barrier joins the warps
extern "C" __global__ __launch_bounds__(64) void conf_warp_sync(const int* x, int* out) {
  SHARED(int, place, 64);
  const int t = threadIdx.x;
  place[t] = x[t];
  __syncwarp();
  const int neighbour = place[t ^ 1];
  __syncwarp(0xffffffffu);
  place[t] = neighbour + 1;
  __syncthreads();
  out[t] = place[63 - t];
}

// a transposed 16 x 8 tile through shared arrays of three types: out = 3 in^T
extern "C" __global__ __launch_bounds__(128) void conf_shared_arrays(const int* x, int* out) {
  SHARED(float, floats, 128);
  SHARED(uint8_t, bytes, 128);
  SHARED(int, ints, 128);
  const int t = threadIdx.x;
  floats[t] = static_cast<float>(x[t]);
  bytes[t] = static_cast<uint8_t>(x[t]);
  ints[t] = x[t];
  __syncthreads();
  const int from = (t % 16) * 8 + t / 16;
  out[blockIdx.x * 128 + t] = static_cast<int>(floats[from]) + bytes[from] + ints[from];
}

// out[block, t] = x[block, 63 - t], by way of a place in dynamic shared memory that depends on the block
extern "C" __global__ __launch_bounds__(64)
    DYN_BYTES(CONF_DYNAMIC) void conf_dynamic_shared(const int* x, int* out) {
  DYN_SMEM(int, all);
  SHARED(int, beside, 64);
  const int t = threadIdx.x;
  int* const place = all + (CONF_DYNAMIC / 4 / 64 - 1 - blockIdx.x % 255) * 64;
  place[t] = x[blockIdx.x * 64 + t];
  beside[t] = -1;
  __syncthreads();
  out[blockIdx.x * 64 + t] = place[63 - t] + beside[t] + 1;
}

// a histogram of n values in 0..16, their maximum, and a ticket of its own for every value
extern "C" __global__ __launch_bounds__(64) void conf_atomics(
    const int* x, int* histogram, int* maximum, int* counter, int* taken, int n) {
  const int i = blockIdx.x * 64 + threadIdx.x;
  if (i >= n) return;
  atomicAdd(&histogram[x[i] & 15], 1);
  atomicMax(maximum, x[i]);
  const int ticket = atomicAdd(counter, 1);
  taken[ticket] = 1;
}

// out[linear block, t] = x + 100 y + 10000 z + 1000000 t, and the shape of the grid in shape[0..3]
extern "C" __global__ __launch_bounds__(3) void conf_grid(int* out, int* shape) {
  const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  out[block * blockDim.x + threadIdx.x] =
      blockIdx.x + 100 * blockIdx.y + 10000 * blockIdx.z + 1000000 * threadIdx.x;
  if (block == 0 && threadIdx.x == 0) {
    shape[0] = gridDim.x;
    shape[1] = gridDim.y;
    shape[2] = gridDim.z;
  }
}

// integer and bit functions: out[6 t + k]
extern "C" __global__ __launch_bounds__(32) void conf_bits(const int* x, int* out) {
  const int t = threadIdx.x;
  const int v = x[t];
  int* to = out + 6 * t;
  to[0] = __popc(v);
  to[1] = __ffs(v);
  to[2] = __clz(v);
  to[3] = static_cast<int>(__umulhi(static_cast<unsigned>(v), 0x9e3779b9u));
  to[4] = __float_as_int(__int_as_float(v & 0x3fffffff) * 1.0f);
  to[5] = min(v, 7) + max(v, -7);
}

// every type of argument: out[i] = the argument, or 1 for a pointer that is there
extern "C" __global__ __launch_bounds__(1) void conf_arguments(
    uint32_t* out, const float* there, NULLABLE const float* absent, NULLABLE int* also_there, signed int i,
    uint32_t u, uint64_t l, float f) {
  out[0] = there != nullptr;
  out[1] = absent != nullptr;
  out[2] = also_there != nullptr;
  out[3] = static_cast<uint32_t>(-i);
  out[4] = u;
  out[5] = static_cast<uint32_t>(l);
  out[6] = static_cast<uint32_t>(l >> 32);
  out[7] = static_cast<uint32_t>(f * 4.0f);
}

// out[t] = x[t] + 1 for n elements
extern "C" __global__ __launch_bounds__(64) void conf_increment(const int* x, int* out, int n) {
  const int i = blockIdx.x * 64 + threadIdx.x;
  if (i < n) out[i] = x[i] + 1;
}

// From here on: kernels that are wrong. A comment in capitals marks the line that the host device must name.

// WRONG: some threads leave above a barrier
extern "C" __global__ __launch_bounds__(64) void conf_bad_early_exit(const int* x, int* out, int n) {
  const int t = threadIdx.x;
  if (t >= n) return;
  out[t] = x[t];
  __syncthreads();  // EARLY EXIT
  out[t] += 1;
}

// WRONG: the two sides of a branch wait at barriers of their own
extern "C" __global__ __launch_bounds__(32) void conf_bad_branch(int* out) {
  const int t = threadIdx.x;
  out[t] = t;
  if (t < 16) {
    __syncthreads();  // BRANCH ONE
    out[t] += 1;
  } else {
    __syncthreads();  // BRANCH TWO
    out[t] += 2;
  }
}

// WRONG: thread 3 passes the barrier of a loop once less than the others
extern "C" __global__ __launch_bounds__(16) void conf_bad_rounds(int* out) {
  const int t = threadIdx.x;
  for (int round = 0; round < (t == 3 ? 2 : 3); round++) {
    out[t] = round;
    __syncthreads();  // ROUNDS
  }
}

// WRONG: lanes 16 to 31 call with the mask of the others
extern "C" __global__ __launch_bounds__(32) void conf_bad_own_mask(const int* x, int* out) {
  const int t = threadIdx.x;
  out[t] = __shfl_xor_sync(0x0000ffffu, x[t], 1);  // OWN MASK
}

// WRONG: the mask names lane 31 of the second warp, which has left
extern "C" __global__ __launch_bounds__(64) void conf_bad_absent_lane(const int* x, int* out) {
  const int t = threadIdx.x;
  if (t == 63) return;
  out[t] = static_cast<int>(__ballot_sync(0xffffffffu, x[t] > 0));  // ABSENT LANE
}

// WRONG: a full mask in a warp of 8 threads
extern "C" __global__ __launch_bounds__(8) void conf_bad_short_warp(const int* x, int* out) {
  const int t = threadIdx.x;
  out[t] = __any_sync(0xffffffffu, x[t] > 0);  // SHORT WARP
}

// WRONG: lane 2 reads from lane 9, which the mask does not name
extern "C" __global__ __launch_bounds__(32) void conf_bad_source(const int* x, int* out) {
  const int t = threadIdx.x;
  if (t < 8) out[t] = __shfl_sync(0xffu, x[t], t == 2 ? 9 : 0);  // SOURCE
}

// WRONG: lane 0 waits at a barrier, the others for lane 0
extern "C" __global__ __launch_bounds__(32) void conf_bad_mixed(const int* x, int* out) {
  const int t = threadIdx.x;
  if (t == 0) __syncthreads();
  out[t] = __shfl_sync(0xffffffffu, x[t], 0);  // MIXED
}

// WRONG: reads what another thread wrote to shared memory with no barrier between
extern "C" __global__ __launch_bounds__(64) void conf_bad_missing_barrier(const float* x, float* out) {
  SHARED(float, place, 64);
  const int t = threadIdx.x;
  place[t] = x[t];
  out[t] = place[63 - t];
}

// WRONG when `at` is outside the buffer: out[at + t] = t
extern "C" __global__ __launch_bounds__(32) void conf_bad_write(int* out, signed int at) {
  out[at + static_cast<int>(threadIdx.x)] = threadIdx.x;
}

// WRONG when `at` is outside the buffer: out[t] = x[at + t]
extern "C" __global__ __launch_bounds__(32) void conf_bad_read(const int* x, int* out, signed int at) {
  out[threadIdx.x] = x[at + static_cast<int>(threadIdx.x)];
}

// WRONG when count > 32: writes `count` elements of a shared array of 32
extern "C" __global__ __launch_bounds__(32) void conf_bad_shared_write(int* out, int count) {
  SHARED(int, place, 32);
  const int t = threadIdx.x;
  place[t] = t;
  __syncthreads();
  for (int i = t; i < count; i += 32) place[i] = 2 * i;
  __syncthreads();
  out[t] = place[31 - t];
}

// WRONG when count > 32: writes `count` integers of dynamic shared memory for 32
extern "C" __global__ __launch_bounds__(32) DYN_BYTES(128) void conf_bad_dynamic_write(int* out, int count) {
  DYN_SMEM(int, place);
  const int t = threadIdx.x;
  for (int i = t; i < count; i += 32) place[i] = 2 * i;
  __syncthreads();
  out[t] = place[31 - t];
}

// WRONG on the host: more shared memory than a block has
extern "C" __global__ __launch_bounds__(4) void conf_bad_shared_size(float* out) {
  SHARED(float, small, 16);
  SHARED(float, large, CONF_TOO_LARGE);
  const int t = threadIdx.x;
  small[t] = 1.0f;
  large[t] = 2.0f;
  __syncthreads();
  out[t] = small[3 - t] + large[3 - t];
}
