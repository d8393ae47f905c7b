// One step of projected gradient ascent in the Linf ball, for attack_step.cu and conv2d_step.cu.
#pragma once
#include "lib/vec.cuh"

// clip01(clip(from + alpha sign(gradient), x - eps, x + eps)). sign(0) = 0; NaN stays NaN.
INLINE Vec linf_step(Vec from, Vec gradient, Vec x, float alpha, float eps) {
  const Vec radius = vec_splat(eps), moved = from + vec_scaled_sign(alpha, gradient);
  return vec_clip01(vec_at_most(vec_at_least(moved, x - radius), x + radius));
}
