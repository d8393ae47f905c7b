// Two-dimensional convolution and its input gradient on tensor cores (sm_80 and newer), as implicit GEMMs;
// lib/implicit_gemm_mma.cuh explains the algorithm, conv2d_mma_weight.cu has the weight gradient.
//
// Mathematics: as in conv2d.cu. T is bf16, or float, whose numbers are rounded to tf32 before they are
//   multiplied. The kernels read copies of w that conv2d_mma_pack makes: [taps,Cout,Cin] forward,
//   [taps,Cin,Cout] for the input gradient.
// Threads: a block owns 128 or 64 output pixels x 128 or 64 channels, as its kernel's name says.
// Preconditions (src/ops/conv2d_mma.rs): channel counts that are multiples of 16, at most 32 taps, every
//   tensor below 2^31 elements. With `num_valid` only the first *num_valid images are valid: the others'
//   sums are 0.
// Outputs: `=`, except input gradients with accumulate = 1: `+=`.
// Accumulation: float32, in the tensor cores' order within 32 bytes of K, then in the order (tap, channel).
//   Everything after it is float32, and rounded once. Deterministic. No spills.
// Statistics: of each column over the valid rows of a block, as they are stored: mean and M2 in float32, in
//   two passes over registers. They differ from tile to tile by their rounding; y does not.
#include "lib/implicit_gemm_mma.cuh"
#include "lib/table.cuh"

PER_DEVICE(PACK_THREADS, 256, 1);
PER_DEVICE(PACK_TILE, 32, 32);  // channels of w along both axes that a block packs

#if TENSOR_CORES

// What conv2d_mma_forward does with each Vec of its sums.
template <class T, class Tile>
INLINE void forward(
    const Geometry& g, unsigned char* ring, const T* x, const T* weights, const float* shift,
    const T* residual, T* y, uint8_t* relu_mask, float* statistics, bool relu) {
  implicit_gemm<T, Tile, false>(g, ring, x, weights, statistics, [=](Vec sum, int index, int column) {
    if (shift) sum = sum + vec_load(shift + column);
    if (residual) sum = sum + vec_load(residual + index);
    if (relu) {
      if (relu_mask) mask_store(relu_mask, index, vec_positive(sum));
      sum = vec_relu(sum);
    }
    vec_store(y + index, sum);
    return sum;
  });
}

// The same for conv2d_mma_input_grad.
template <class T, class Tile>
INLINE void input_grad(
    const Geometry& g, unsigned char* ring, const T* grad_out, const T* weights, const uint8_t* input_mask,
    T* grad_in, bool accumulate) {
  implicit_gemm<T, Tile, true>(g, ring, grad_out, weights, nullptr, [=](Vec sum, int index, int column) {
    if (accumulate) sum = sum + vec_load(grad_in + index);
    if (input_mask) sum = vec_keep(sum, mask_load(input_mask, index));
    vec_store(grad_in + index, sum);
    return sum;
  });
}

#endif

// y = conv(x, w) + shift + residual, then ReLU if relu = 1, with its bit mask if relu_mask is given, and the
// statistics of y in chunks of a block's rows; blocks of 128x128.
extern "C" __global__ __launch_bounds__(256, 2) DYN_BYTES(98304) void conv2d_mma_forward_128x128(
    const T* x, const T* weights, NULLABLE const float* shift, NULLABLE const T* residual, T* y,
    NULLABLE uint8_t* relu_mask, NULLABLE float* statistics, NULLABLE const int* num_valid, bool relu,
    int images, int height, int width, int channels, int out_height, int out_width, int out_channels,
    int kernel_h, int kernel_w, int stride, int pad) {
#if TENSOR_CORES
  DYN_SMEM(unsigned char, ring);
  const int valid = valid_images(num_valid, images);
  const Geometry g = {valid,     images,       height,   width,    channels, out_height,
                      out_width, out_channels, kernel_h, kernel_w, stride,   pad};
  forward<T, Tile128x128>(g, ring, x, weights, shift, residual, y, relu_mask, statistics, relu);
#else
  no_tensor_cores();
#endif
}

// y = conv(x, w) + shift + residual, then ReLU if relu = 1, with its bit mask if relu_mask is given, and the
// statistics of y in chunks of a block's rows; blocks of 128x64.
extern "C" __global__ __launch_bounds__(128, 3) DYN_BYTES(73728) void conv2d_mma_forward_128x64(
    const T* x, const T* weights, NULLABLE const float* shift, NULLABLE const T* residual, T* y,
    NULLABLE uint8_t* relu_mask, NULLABLE float* statistics, NULLABLE const int* num_valid, bool relu,
    int images, int height, int width, int channels, int out_height, int out_width, int out_channels,
    int kernel_h, int kernel_w, int stride, int pad) {
#if TENSOR_CORES
  DYN_SMEM(unsigned char, ring);
  const int valid = valid_images(num_valid, images);
  const Geometry g = {valid,     images,       height,   width,    channels, out_height,
                      out_width, out_channels, kernel_h, kernel_w, stride,   pad};
  forward<T, Tile128x64>(g, ring, x, weights, shift, residual, y, relu_mask, statistics, relu);
#else
  no_tensor_cores();
#endif
}

// y = conv(x, w) + shift + residual, then ReLU if relu = 1, with its bit mask if relu_mask is given, and the
// statistics of y in chunks of a block's rows; blocks of 64x64.
extern "C" __global__ __launch_bounds__(128, 4) DYN_BYTES(49152) void conv2d_mma_forward_64x64(
    const T* x, const T* weights, NULLABLE const float* shift, NULLABLE const T* residual, T* y,
    NULLABLE uint8_t* relu_mask, NULLABLE float* statistics, NULLABLE const int* num_valid, bool relu,
    int images, int height, int width, int channels, int out_height, int out_width, int out_channels,
    int kernel_h, int kernel_w, int stride, int pad) {
#if TENSOR_CORES
  DYN_SMEM(unsigned char, ring);
  const int valid = valid_images(num_valid, images);
  const Geometry g = {valid,     images,       height,   width,    channels, out_height,
                      out_width, out_channels, kernel_h, kernel_w, stride,   pad};
  forward<T, Tile64x64>(g, ring, x, weights, shift, residual, y, relu_mask, statistics, relu);
#else
  no_tensor_cores();
#endif
}

// dx (+)= the input gradient of conv; then zero where the bit of input_mask is 0 (the ReLU that made x);
// blocks of 128x128.
extern "C" __global__ __launch_bounds__(256, 2) DYN_BYTES(98304) void conv2d_mma_input_grad_128x128(
    const T* grad_out, const T* weights, NULLABLE const uint8_t* input_mask, T* grad_in,
    NULLABLE const int* num_valid, bool accumulate, int images, int height, int width, int channels,
    int out_height, int out_width, int out_channels, int kernel_h, int kernel_w, int stride, int pad) {
#if TENSOR_CORES
  DYN_SMEM(unsigned char, ring);
  const int valid = valid_images(num_valid, images);
  const Geometry g = {valid, images,   out_height, out_width, out_channels, height,
                      width, channels, kernel_h,   kernel_w,  stride,       pad};
  input_grad<T, Tile128x128>(g, ring, grad_out, weights, input_mask, grad_in, accumulate);
#else
  no_tensor_cores();
#endif
}

// dx (+)= the input gradient of conv; then zero where the bit of input_mask is 0 (the ReLU that made x);
// blocks of 128x64.
extern "C" __global__ __launch_bounds__(128, 3) DYN_BYTES(73728) void conv2d_mma_input_grad_128x64(
    const T* grad_out, const T* weights, NULLABLE const uint8_t* input_mask, T* grad_in,
    NULLABLE const int* num_valid, bool accumulate, int images, int height, int width, int channels,
    int out_height, int out_width, int out_channels, int kernel_h, int kernel_w, int stride, int pad) {
#if TENSOR_CORES
  DYN_SMEM(unsigned char, ring);
  const int valid = valid_images(num_valid, images);
  const Geometry g = {valid, images,   out_height, out_width, out_channels, height,
                      width, channels, kernel_h,   kernel_w,  stride,       pad};
  input_grad<T, Tile128x64>(g, ring, grad_out, weights, input_mask, grad_in, accumulate);
#else
  no_tensor_cores();
#endif
}

// dx (+)= the input gradient of conv; then zero where the bit of input_mask is 0 (the ReLU that made x);
// blocks of 64x64.
extern "C" __global__ __launch_bounds__(128, 4) DYN_BYTES(49152) void conv2d_mma_input_grad_64x64(
    const T* grad_out, const T* weights, NULLABLE const uint8_t* input_mask, T* grad_in,
    NULLABLE const int* num_valid, bool accumulate, int images, int height, int width, int channels,
    int out_height, int out_width, int out_channels, int kernel_h, int kernel_w, int stride, int pad) {
#if TENSOR_CORES
  DYN_SMEM(unsigned char, ring);
  const int valid = valid_images(num_valid, images);
  const Geometry g = {valid, images,   out_height, out_width, out_channels, height,
                      width, channels, kernel_h,   kernel_w,  stride,       pad};
  input_grad<T, Tile64x64>(g, ring, grad_out, weights, input_mask, grad_in, accumulate);
#else
  no_tensor_cores();
#endif
}

// w [Cout,taps,Cin], times scale[Cout], as T: forward [taps,Cout,Cin] and transposed [taps,Cin,Cout], each if
// given, of all filters of a network; a row is (first block, w, scale or 0, forward or 0, transposed or 0,
// Cout, taps, Cin)
extern "C" __global__ __launch_bounds__(PACK_THREADS) void conv2d_mma_pack(
    const uint64_t* table, int filters) {
  // Rows are output channels, columns input channels, of one tap; one column more than a tile keeps the
  // threads of a column in different banks.
  constexpr int STRIDE = PACK_TILE + 1;
  SHARED(float, tile, PACK_TILE* STRIDE);
  const uint64_t* const filter = row_of_block(table, filters, 8);
  const float *const w = pointer<const float>(filter[1]), *const scale = pointer<const float>(filter[2]);
  T *const forward = pointer<T>(filter[3]), *const transposed = pointer<T>(filter[4]);
  const int out_channels = static_cast<int>(filter[5]), taps = static_cast<int>(filter[6]);
  const int in_channels = static_cast<int>(filter[7]);
  const int across = ceil_div(in_channels, PACK_TILE), tiles = across * ceil_div(out_channels, PACK_TILE);
  const int block = block_of_row(filter), tap = block / tiles, place = block - tap * tiles;
  const int first_row = place / across * PACK_TILE, first_column = place % across * PACK_TILE;
  for (int share = 0; share < PACK_TILE * PACK_TILE; share += PACK_THREADS) {
    const int i = share + threadIdx.x;
    const int row = i / PACK_TILE, column = i % PACK_TILE, co = first_row + row, ci = first_column + column;
    if (co >= out_channels || ci >= in_channels) continue;
    const float value = w[(co * taps + tap) * in_channels + ci];
    tile[row * STRIDE + column] = scale ? value * scale[co] : value;
    if (forward)
      store_operand(forward + (tap * out_channels + co) * in_channels + ci, tile[row * STRIDE + column]);
  }
  __syncthreads();
  if (!transposed) return;
  for (int share = 0; share < PACK_TILE * PACK_TILE; share += PACK_THREADS) {
    const int i = share + threadIdx.x;
    const int column = i / PACK_TILE, row = i % PACK_TILE, co = first_row + row, ci = first_column + column;
    if (co >= out_channels || ci >= in_channels) continue;
    store_operand(transposed + (tap * in_channels + ci) * out_channels + co, tile[row * STRIDE + column]);
  }
}
