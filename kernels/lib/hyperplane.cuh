// The shortest step within the box [0, 1]^size from a point v onto a hyperplane, for a block that owns a row.
//
// The step goes from v, where <w, v> - b = c, to a point v + d of the box with <w, v + d> = b: d_i = -sign(c w_i) t_i with
//   t_i = min(l u_i, p_i),   sum |w_i| t_i = |c|,   p_i = v_i or 1 - v_i, the room that v_i has in its direction,
// where u_i = 1 makes d shortest in Linf and u_i = |w_i| in L2. If even t = p does not reach the hyperplane, d goes to that corner.
// The sum is concave and piecewise linear in l, so Newton's method from l = 0 never overshoots: each iteration solves the linear
// piece where it stands, and the exact root is found when no further coordinate has met its wall. That happens after as many
// iterations as there are walls at most, and after two to four in practice.
#pragma once
#include "lib/lanes.cuh"

// The sums of `n` values over the block, in every thread, as fixed trees. scratch has n * SAMPLE_THREADS / 32 floats. All threads call it.
template <int n>
INLINE void block_sums(float (&values)[n], float* scratch) {
  if (SAMPLE_THREADS == 1) return;
  UNROLL for (int j = 0; j < n; j++) {
    values[j] = group_sum<32>(values[j]);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32 * n + j] = values[j];
  }
  __syncthreads();
  UNROLL for (int j = 0; j < n; j++) {
    values[j] = 0.0f;
    for (int warp = 0; warp < SAMPLE_THREADS / 32; warp++) values[j] += scratch[warp * n + j];
  }
  __syncthreads();
}
INLINE float vec_largest(Vec v) {
  UNROLL for (int step = VEC / 2; step > 0; step /= 2) {
    UNROLL for (int i = 0; i < step; i++) v[i] = fmaxf(v[i], v[i + step]);
  }
  return v[0];
}
INLINE Vec vec_abs(Vec v) { return vec_max(v, vec_splat(0.0f) - v); }

// The length of a row whose runs are f(i, count), in Linf or L2; NaN if one of them is not finite.
template <bool euclidean, class F>
INLINE float row_norm(int size, float* scratch, F f) {
  Vec total = vec_splat(0.0f), spoilt = vec_splat(0.0f);
  each_of_sample(size, [&](int i, int count) {
    const Vec v = f(i, count);
    total = euclidean ? vec_fma(v, v, total) : vec_max(vec_abs(v), total);
    spoilt = spoilt + (v - v);
  });
  float sums[2] = {euclidean ? vec_sum(total) : 0.0f, vec_sum(spoilt)};
  block_sums<2>(sums, scratch);
  return (euclidean ? sqrtf(sums[0]) : block_max<SAMPLE_THREADS>(vec_largest(total), scratch)) + sums[1];
}

constexpr float FARTHEST = 3e38f;  // an l that takes every coordinate to its wall

// 1 / max |w|: weights are used in units of the largest, so that squares neither overflow nor vanish. 0 without a largest.
INLINE float unit_of(float largest) { return largest > 1.2e-38f ? 1.0f / largest : 0.0f; }

// The step from v onto the hyperplane, as a function of the coordinate. All threads of the block construct it together.
template <bool euclidean>
struct Step {
  const float *v, *w;
  int size;
  bool aligned;
  float scale;   // unit_of, with the sign of c
  float length;  // l, in units of the scaled weights

  // c = <w, v> - b. scratch has 3 * SAMPLE_THREADS / 32 floats.
  INLINE Step(const float* point, const float* normal, int n, float c, float unit, float* scratch)
      : v(point), w(normal), size(n), aligned(rows_aligned(n)), scale(c < 0.0f ? -unit : unit), length(0.0f) {
    const float distance = fabsf(c) * unit;
    float open = INFINITY;
    while (true) {
      Vec rise = vec_splat(0.0f), reached = vec_splat(0.0f);
      int count_open = 0;
      each_of_sample(size, [&](int i, int count) {
        const Side s(*this, i, count);
        const VecBits moving = vec_positive(s.room - length * s.rate);
        const Vec full = s.weight * s.room;
        rise = rise + vec_keep(s.weight * s.rate, moving);
        reached = reached + (full - vec_keep(full, moving));
        count_open += __popc(moving);
      });
      float sums[3] = {vec_sum(rise), vec_sum(reached), static_cast<float>(count_open)};
      block_sums<3>(sums, scratch);
      // No further coordinate has met its wall: l was solved on the right piece.
      if (!(sums[2] < open)) return;
      open = sums[2];
      length = sums[0] > 0.0f ? fminf(fmaxf((distance - sums[1]) / sums[0], 0.0f), FARTHEST) : FARTHEST;
    }
  }

  // What a run of coordinates looks like from v.
  struct Side {
    Vec weight, rate, room;
    VecBits down, up;

    INLINE Side(const Step& step, int i, int count) {
      const Vec slope = step.scale * row_load(step.w + i, count, step.aligned), point = row_load(step.v + i, count, step.aligned);
      weight = vec_abs(slope);
      rate = euclidean ? weight : vec_splat(1.0f);
      down = vec_positive(slope);
      up = vec_positive(vec_splat(0.0f) - slope);
      room = vec_at_least(vec_keep(point, down) + vec_keep(vec_splat(1.0f) - point, up), vec_splat(0.0f));
    }
  };

  INLINE Vec operator()(int i, int count) const {
    const Side s(*this, i, count);
    const Vec moved = vec_at_most(length * s.rate, s.room);
    return vec_keep(moved, s.up) - vec_keep(moved, s.down);
  }
};
