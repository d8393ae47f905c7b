// The Jensen-Shannon divergence of two distributions that are given by the logarithms of their entries, Pack
// by Pack.
#pragma once
#include "lib/rows.cuh"

// sum_i (p_i (log p_i - log m_i) + q_i (log q_i - log m_i)) / 2 with m = max((p + q) / 2, floor), in every
// lane.
template <class P, class Q>
INLINE float js_divergence(const P& log_p, const Q& log_q, float floor, int lane, int k) {
  const float twice = row_sum(lane, k, [&](int i) {
    const Pack p = vec_exp(log_p(i));
    const Pack q = vec_exp(log_q(i));
    const Pack log_m = vec_log(vec_max(pack_splat(floor), 0.5f * (p + q)));
    return expect(p, log_p(i) - log_m) + expect(q, log_q(i) - log_m);
  });
  return 0.5f * twice;
}

// Puts (accumulate: adds) factor times the derivative of the divergence for the logits of the softmax s,
// where the side `own` is s itself or contains s as a summand; a factor before that summand is the caller's.
template <class S, class P, class Q>
INLINE void js_gradient(
    const S& log_s, const P& log_own, const Q& log_other, float floor, float factor, float* to, int lane,
    int k, int accumulate) {
  // Twice the derivative of the divergence for own_i, up to a constant that softmax's derivative removes.
  const auto slope = [&](int i) {
    const Pack m = 0.5f * (vec_exp(log_own(i)) + vec_exp(log_other(i)));
    return log_own(i) - vec_log(vec_max(pack_splat(floor), m)) +
           (m < floor ? pack_splat(1.0f) : pack_splat(0.0f));
  };
  const float mean = row_sum(lane, k, [&](int i) { return expect(vec_exp(log_s(i)), slope(i)); });
  each_pack(lane, k, [&](int i) {
    const Pack d = expect(vec_exp(log_s(i)), slope(i) - mean);
    pack_put(to + i, 0.5f * factor * d, k - i, accumulate);
  });
}
