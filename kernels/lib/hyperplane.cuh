// The projection of FAB (Croce and Hein, arXiv 1907.02044): the shortest step d from a point v of the box
// [0, 1]^size onto a hyperplane within the box, for a block that owns a row.
//
// With <w, v> - b = c, the step d to the point with <w, v + d> = b is d_i = -sign(c w_i) t_i, where
//   t_i = min(lambda u_i, p_i),   S(lambda) = sum |w_i| t_i = |c|,
// p_i is v_i or 1 - v_i, the distance to the bound of the box in the direction of d_i, and u_i = 1 makes d
// shortest in Linf, u_i = |w_i| in L2. If even t = p does not reach the hyperplane, d goes to that corner.
//
// S is concave and piecewise linear in lambda, so Newton's method from lambda = 0 never overshoots: each
// iteration solves the linear piece where it stands, and the exact root is found when no further coordinate
// has met its bound. (The paper sorts the coordinates.) That takes at most as many iterations as there are
// coordinates, and two to four in practice. In one iteration, over the active coordinates (those that have
// not met their bound) and the others,
//   lambda = (|c| - sum_others |w_i| p_i) / sum_active |w_i| u_i.
// Example, L2: w = (3, 4), c = 10, p = (0.2, 2), hence S = 3 min(3 lambda, 0.2) + 4 min(4 lambda, 2).
//   Both active: lambda = 10 / (9 + 16) = 0.4: coordinate 1 meets its bound (3 x 0.4 > 0.2).
//   2 active: lambda = (10 - 3 x 0.2) / 16 = 0.5875: coordinate 2 meets its bound too (4 x 0.5875 > 2).
//   None active: t = p, the corner; the hyperplane is out of reach (3 x 0.2 + 4 x 2 = 8.6 < 10).
#pragma once
#include "lib/sample.cuh"

// The norm of a row whose runs are f(i, count), Linf or L2; NaN if an element is not finite.
template <bool euclidean, class F>
INLINE float row_norm(int size, Scratch& scratch, F f) {
  Vec total = vec_splat(0.0f), not_finite = vec_splat(0.0f);
  each_of_sample(size, [&](int i, int count) {
    const Vec v = f(i, count);
    total = euclidean ? vec_fma(v, v, total) : vec_max(vec_abs(v), total);
    not_finite = not_finite + (v - v);
  });
  float sums[2] = {euclidean ? lane_sum(total) : 0.0f, lane_sum(not_finite)};
  block_sums<SAMPLE_THREADS>(sums, scratch);
  return (euclidean ? sqrtf(sums[0]) : block_max<SAMPLE_THREADS>(lane_max(total), scratch)) + sums[1];
}

constexpr float MAX_LAMBDA = 3e38f;  // takes every coordinate to its bound

// 1 / max |w|: w is scaled by it, so that squares neither overflow nor underflow. 0 if w is 0.
INLINE float unit_of(float largest) { return largest > 1.2e-38f ? 1.0f / largest : 0.0f; }

// The step from v onto the hyperplane, as a function of the coordinate. All threads of the block construct it
// together.
template <bool euclidean>
struct Step {
  const float *v, *w;
  int size;
  bool aligned;
  float scale;   // unit_of, with the sign of c
  float lambda;  // for the scaled w

  // c = <w, v> - b.
  INLINE Step(const float* point, const float* normal, int n, float c, float unit, Scratch& scratch)
      : v(point),
        w(normal),
        size(n),
        aligned(rows_aligned(n)),
        scale(c < 0.0f ? -unit : unit),
        lambda(0.0f) {
    const float distance = fabsf(c) * unit;
    float active = INFINITY;
    while (true) {
      // S over the active coordinates is lambda * slope, over the others `constant`.
      Vec slope = vec_splat(0.0f), constant = vec_splat(0.0f);
      int count_active = 0;
      each_of_sample(size, [&](int i, int count) {
        const Terms terms(*this, i, count);
        const VecBits moving = vec_positive(terms.p - lambda * terms.u);
        const Vec full = terms.weight * terms.p;
        slope = slope + vec_keep(terms.weight * terms.u, moving);
        constant = constant + (full - vec_keep(full, moving));
        count_active += __popc(moving);
      });
      float sums[3] = {lane_sum(slope), lane_sum(constant), static_cast<float>(count_active)};
      block_sums<SAMPLE_THREADS>(sums, scratch);
      // No further coordinate has met its bound: lambda was solved on the right piece.
      if (!(sums[2] < active)) return;
      active = sums[2];
      lambda = sums[0] > 0.0f ? fminf(fmaxf((distance - sums[1]) / sums[0], 0.0f), MAX_LAMBDA) : MAX_LAMBDA;
    }
  }

  // |w_i|, u_i, p_i and the signs of d_i for a run of coordinates.
  struct Terms {
    Vec weight, u, p;
    VecBits down, up;

    INLINE Terms(const Step& step, int i, int count) {
      const Vec w = step.scale * vec_load(step.w + i, count, step.aligned);
      const Vec point = vec_load(step.v + i, count, step.aligned);
      weight = vec_abs(w);
      u = euclidean ? weight : vec_splat(1.0f);
      down = vec_positive(w);
      up = vec_positive(vec_splat(0.0f) - w);
      p = vec_at_least(vec_keep(point, down) + vec_keep(vec_splat(1.0f) - point, up), vec_splat(0.0f));
    }
  };

  INLINE Vec operator()(int i, int count) const {
    const Terms terms(*this, i, count);
    const Vec t = vec_at_most(lambda * terms.u, terms.p);
    return vec_keep(t, terms.up) - vec_keep(t, terms.down);
  }
};
