// Auto-PGD (Croce and Hein, arXiv 2003.01690): the step with momentum, and the state of each image
// between steps.
// Mathematics: x [N,size] clean images, adv = x_k, prev = x_{k-1}, g the gradient at x_k, m = x_k - x_{k-1},
//   eta the image's step.
//   Linf: P clips to [x - eps, x + eps], then to [0, 1]; w = P(x_k + eta sign(g));
//     x_{k+1} = P(x_k + a (w - x_k) + (1 - a) m).
//   L2: P(v) = clip01(x + u / (|u| + 1e-12) min(eps, |u|)) with u = v - x;
//     w = P(x_k + eta g / (|g| + 1e-12)); x_{k+1} as for Linf.
//   judge: per image, from the loss f and whether x_{k+1} is classified correctly; a memory of MEMORY floats
//     per image:
//     better: f > f_best, which then becomes f. `increases` counts f > the loss before, since the last
//       checkpoint; at the first step the loss before is 0, as in the authors' code.
//     checkpoint, window w: restart if increases <= 0.75 w, or if f_best has not changed since the last
//       checkpoint and eta was not halved there; eta is halved then.
//     The first call, for x_0, only sets the memory.
//   keep: copies x_{k+1} to `found` (misclassified), x_{k+1} and its gradient to the best (better), the best
//     to both (restart).
// Threads: step and keep: a block per sample, one thread on the host. judge: one thread per image, IMAGES per
//   block.
// Preconditions: equal shapes, one entry of every vector per image; checked by src/ops/apgd.rs.
// Outputs: step overwrites prev with x_{k+1}; judge and keep are in place; a NaN loss is never better, a NaN
//   gradient becomes NaN in x_{k+1}.
// Accumulation: norms in float32, VEC sums per thread, then a fixed tree: independent of the other images.
//   Deterministic. No spills.
#include "lib/sample.cuh"

PER_DEVICE(MEMORY, 6, 6);  // floats of an image's memory
PER_DEVICE(JUDGE_THREADS, 256, 1);
PER_DEVICE(IMAGES, 256, 512);

struct Memory {
  float eta, best, checked, last, increases, halved;
};
constexpr int BROKEN = 1, BETTER = 2, RESTART = 4;

// prev = x_{k+1} of the Linf attack
extern "C" __global__ __launch_bounds__(SAMPLE_THREADS) void apgd_step_linf(
    const float* adv, float* prev, const float* x, const float* grad, const float* memory, float eps, float a,
    int size) {
  const bool aligned = rows_aligned(size);
  const float eta = memory[blockIdx.x * MEMORY];
  const int start = blockIdx.x * size;
  adv += start;
  prev += start;
  x += start;
  grad += start;
  each_of_sample(size, [&](int i, int count) {
    const Vec centre = vec_load(x + i, count, aligned);
    const Vec here = vec_load(adv + i, count, aligned);
    const Vec radius = vec_splat(eps);
    const auto project = [&](Vec v) {
      return vec_clip01(vec_at_most(vec_at_least(v, centre - radius), centre + radius));
    };
    const Vec w = project(here + vec_scaled_sign(eta, vec_load(grad + i, count, aligned)));
    const Vec momentum = (1.0f - a) * (here - vec_load(prev + i, count, aligned));
    vec_store(prev + i, project(vec_fma(a, w - here, here) + momentum), count, aligned);
  });
}

// prev = x_{k+1} of the L2 attack
extern "C" __global__ __launch_bounds__(SAMPLE_THREADS) void apgd_step_l2(
    const float* adv, float* prev, const float* x, const float* grad, const float* memory, float eps, float a,
    int size) {
  SHARED(float, halves, SCRATCH);
  Scratch scratch(halves);
  const bool aligned = rows_aligned(size);
  const float eta = memory[blockIdx.x * MEMORY];
  const int start = blockIdx.x * size;
  adv += start;
  prev += start;
  x += start;
  grad += start;
  // The length of the vector with these parts; and what the projection multiplies a vector of that length by.
  const auto length = [&](auto part) {
    Vec squares = vec_splat(0.0f);
    each_of_sample(size, [&](int i, int count) {
      const Vec v = part(i, count);
      squares = vec_fma(v, v, squares);
    });
    return sqrtf(block_sum<SAMPLE_THREADS>(lane_sum(squares), scratch));
  };
  const auto shrink = [&](float norm) { return vec_splat(fminf(eps, norm) / (norm + 1e-12f)); };
  const auto centre = [&](int i, int count) { return vec_load(x + i, count, aligned); };
  const Vec step = vec_splat(
      eta / (length([&](int i, int count) { return vec_load(grad + i, count, aligned); }) + 1e-12f));
  const auto moved = [&](int i, int count) {
    return vec_fma(step, vec_load(grad + i, count, aligned), vec_load(adv + i, count, aligned)) -
           centre(i, count);
  };
  const Vec first = shrink(length(moved));
  // x_{k+1} - x before its projection waits in prev; a thread reads back only what it wrote.
  const float norm = length([&](int i, int count) {
    const Vec here = vec_load(adv + i, count, aligned), c = centre(i, count);
    const Vec w = vec_clip01(vec_fma(first, moved(i, count), c));
    const Vec momentum = (1.0f - a) * (here - vec_load(prev + i, count, aligned));
    const Vec u = vec_fma(a, w - here, here) + momentum - c;
    vec_store(prev + i, u, count, aligned);
    return u;
  });
  const Vec second = shrink(norm);
  each_of_sample(size, [&](int i, int count) {
    const Vec u = vec_load(prev + i, count, aligned);
    vec_store(prev + i, vec_clip01(vec_fma(second, u, centre(i, count))), count, aligned);
  });
}

// the memory after a pass, and in `verdict` what is to be copied; window = 0: no checkpoint; first: the pass
// at x_0
extern "C" __global__ __launch_bounds__(JUDGE_THREADS) void apgd_judge(
    const float* loss, const int* held, const int* right, float* memory, int* success, int* verdict,
    float eps, bool first, int window, int n) {
  each_of_chunk<IMAGES, JUDGE_THREADS, 1>(blockIdx.x, n, [&](int i, int) {
    Memory* image = reinterpret_cast<Memory*>(memory + i * MEMORY);
    const float f = loss[i];
    Memory now = *image;
    if (first) {
      // `halved` is set: an unchanged best loss does not halve the step at the first checkpoint.
      now = {2.0f * eps, f, f, 0.0f, 0.0f, 1.0f};
    } else {
      now.increases += f > now.last ? 1.0f : 0.0f;
      now.last = f;
    }
    const bool better = first || f > now.best, broken = right[i] && !held[i];
    if (better) now.best = f;
    bool restart = false;
    if (window > 0) {
      restart = now.increases <= 0.75f * window || (now.halved == 0.0f && now.checked >= now.best);
      if (restart) now.eta *= 0.5f;
      now.halved = restart ? 1.0f : 0.0f;
      now.checked = now.best;
      now.increases = 0.0f;
    }
    *image = now;
    success[i] = broken || !right[i] || (!first && success[i]);
    verdict[i] = (broken ? BROKEN : 0) | (better ? BETTER : 0) | (restart ? RESTART : 0);
  });
}

// found = adv, best = adv with its gradient, adv = best with its gradient: each where the verdict says so
extern "C" __global__ __launch_bounds__(SAMPLE_THREADS) void apgd_keep(
    const int* verdict, float* adv, float* grad, float* best, float* best_grad, float* found, int size) {
  const int what = verdict[blockIdx.x], start = blockIdx.x * size;
  const bool aligned = rows_aligned(size);
  const auto copy = [&](const float* from, float* to) {
    each_of_sample(size, [&](int i, int count) {
      vec_store(to + start + i, vec_load(from + start + i, count, aligned), count, aligned);
    });
  };
  if (what & BROKEN) copy(adv, found);
  if (what & BETTER) {
    copy(adv, best);
    copy(grad, best_grad);
  } else if (what & RESTART) {
    copy(best, adv);
    copy(best_grad, grad);
  }
}
