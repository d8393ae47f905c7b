// The ledger of training steps: a row of numbers for each step, until the program reads them.
// Mathematics: row r = step mod rows, of the step under way; floats: out[r, place + i] = values[i]; counts:
//   out[r, place] = sum values, or the number of values that are not 0.
// Threads: floats one a thread; a sum takes one block, a run of neighbouring values per thread.
// Preconditions: place + n <= width; sums below 2^31; at holds the next step and the one under way;
//   src/ops/ledger.rs checks.
// Outputs: `=`.
// Accumulation: integers. Deterministic. No spills.
#include "lib/common.cuh"

PER_DEVICE(THREADS, 256, 1);

// out[row, place + i] = values[i]
extern "C" __global__ __launch_bounds__(256) void ledger_floats(
    const float* values, const int* at, float* out, int rows, int width, int place, int n) {
  const int i = blockIdx.x * 256 + threadIdx.x;
  if (i < n) out[at[1] % rows * width + place + i] = values[i];
}

// Writes the sum of term(i) over i < n.
template <class F>
INLINE void put_sum(const int* at, int* out, int rows, int width, int place, int n, F term) {
  SHARED(int, sums, THREADS);
  int sum = 0;
  for (int i = threadIdx.x; i < n; i += THREADS) sum += term(i);
  sums[threadIdx.x] = sum;
  for (int step = THREADS / 2; step > 0; step /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < step) sums[threadIdx.x] += sums[threadIdx.x + step];
  }
  if (threadIdx.x == 0) out[at[1] % rows * width + place] = sums[0];
}

// out[row, place] = the sum of the values
extern "C" __global__ __launch_bounds__(THREADS) void ledger_sum(
    const int* values, const int* at, int* out, int rows, int width, int place, int n) {
  put_sum(at, out, rows, width, place, n, [&](int i) { return values[i]; });
}

// out[row, place] = the number of flags that are set
extern "C" __global__ __launch_bounds__(THREADS) void ledger_flags(
    const uint8_t* flags, const int* at, int* out, int rows, int width, int place, int n) {
  put_sum(at, out, rows, width, place, n, [&](int i) { return flags[i] != 0 ? 1 : 0; });
}
