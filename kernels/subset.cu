// The set S of the images that carry one or two flags, and rows of S mixed from two tensors.
// Mathematics: S = {i < B : first[i + o1] != 0 and second[i + o2] != 0}, ascending; count = |S|; index[j] =
//   S_j for j < count, else -1;
//   position[S_j] = j, else -1. out_j = r a[S_j + o1] + (1 - r) b[S_j + o2] for j < count, else 0, rows of
//   `size` elements.
// Threads: the set is made by one block, a run of neighbouring images per thread; mixing takes runs of VEC
//   neighbouring elements (each_vec).
// Preconditions: offsets and B within the flags and the rows; src/ops/subset.rs checks.
// Outputs: `=`.
// Accumulation: integers. Deterministic. No spills.
#include "lib/sample.cuh"

PER_DEVICE(THREADS, 256, 1);

// the images whose flags are set: how many, which, and the place of each
extern "C" __global__ __launch_bounds__(THREADS) void subset_members(
    const uint8_t* first, int first_offset, NULLABLE const uint8_t* second, int second_offset, int* count,
    int* index, int* position, int images) {
  SHARED(int, sums, THREADS);
  const int share = ceil_div(images, THREADS);
  const int begin = min(images, static_cast<int>(threadIdx.x) * share);
  const int end = min(images, begin + share);
  const auto member = [&](int i) {
    return first[first_offset + i] != 0 && (second == nullptr || second[second_offset + i] != 0);
  };
  int own = 0;
  for (int i = begin; i < end; i++) own += member(i);
  // sums[t] becomes the number of members of the threads up to t.
  sums[threadIdx.x] = own;
  __syncthreads();
  for (int step = 1; step < THREADS; step *= 2) {
    const int before = static_cast<int>(threadIdx.x) >= step ? sums[threadIdx.x - step] : 0;
    __syncthreads();
    sums[threadIdx.x] += before;
    __syncthreads();
  }
  int place = sums[threadIdx.x] - own;
  const int total = sums[THREADS - 1];
  for (int i = begin; i < end; i++) {
    const bool is_member = member(i);
    position[i] = is_member ? place : -1;
    if (is_member) index[place++] = i;
  }
  for (int j = total + threadIdx.x; j < images; j += THREADS) index[j] = -1;
  if (threadIdx.x == 0) *count = total;
}

// out[j] = r * a[S_j] + (1 - r) * b[S_j] for the members of S, zeros after them
extern "C" __global__ __launch_bounds__(ELEMENTWISE_THREADS) void subset_mix(
    const float* a, int a_offset, const float* b, int b_offset, const int* count, const int* index,
    float* out, const float* mix, int n, int size) {
  const float r = *mix;
  const int end = *count * size;
  const bool aligned = rows_aligned(size);
  each_vec(n, [&](int i, int length) {
    const int row = i / size, column = i - row * size;
    if (i >= end) return vec_store(out + i, vec_splat(0.0f), length);
    if (column + length <= size) {
      const float *const from_a = a + (index[row] + a_offset) * size + column, *const from_b =
                                                                                   b +
                                                                                   (index[row] + b_offset) *
                                                                                       size +
                                                                                   column;
      const Vec rest = (1.0f - r) * vec_load(from_b, length, aligned);
      return vec_store(out + i, vec_fma(r, vec_load(from_a, length, aligned), rest), length);
    }
    for (int j = i; j < i + length; j++) {
      const int member = j < end ? index[j / size] : 0, at = j % size;
      out[j] =
          j < end
              ? fmaf(r, a[(member + a_offset) * size + at], (1.0f - r) * b[(member + b_offset) * size + at])
              : 0.0f;
    }
  });
}
