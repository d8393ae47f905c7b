// The Jensen-Shannon divergence of two distributions that are given by the logarithms of their entries.
#pragma once
#include "lib/rows.cuh"

// sum_i (p_i (log p_i - log m_i) + q_i (log q_i - log m_i)) / 2 with m = max((p + q) / 2, floor), in every lane.
template <int lanes, class P, class Q>
INLINE float js_divergence(const P& log_p, const Q& log_q, float floor, int lane, int k) {
  const float twice = row_sum<lanes>(lane, k, [&](int i) {
    const float p = expf(log_p(i)), q = expf(log_q(i)), log_m = logf(fmaxf(0.5f * (p + q), floor));
    return expect(p, log_p(i) - log_m) + expect(q, log_q(i) - log_m);
  });
  return 0.5f * twice;
}

// Calls put(i, d) with the derivative d of the divergence for the i-th logit of the softmax s, where the side `own` is s itself or contains s
// as a summand; a factor before that summand is the caller's.
template <int lanes, class S, class P, class Q, class F>
INLINE void js_gradient(const S& log_s, const P& log_own, const Q& log_other, float floor, int lane, int k, F put) {
  // Twice the derivative of the divergence for own_i, up to a constant that softmax's derivative removes.
  const auto slope = [&](int i) {
    const float m = 0.5f * (expf(log_own(i)) + expf(log_other(i)));
    return log_own(i) - logf(fmaxf(m, floor)) + (m < floor ? 1.0f : 0.0f);
  };
  const float mean = row_sum<lanes>(lane, k, [&](int i) { return expect(expf(log_s(i)), slope(i)); });
  for (int i = lane; i < k; i += lanes) put(i, 0.5f * expect(expf(log_s(i)), slope(i) - mean));
}
