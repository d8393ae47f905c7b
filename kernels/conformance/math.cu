// The elementary functions of lib/pack.cuh, for the test of their accuracy.
// Mathematics: exps = exp(x), logs = log(x), n elements.
// Threads: one; it walks over Packs.
// Preconditions: equal lengths; met by src/device/conformance.rs.
// Outputs: `=`.
// Accumulation: none. Deterministic. No spills.
#include "lib/pack.cuh"

// exps = exp(x), logs = log(x)
extern "C" __global__ __launch_bounds__(1) void conf_exp_log(
    const float* x, float* exps, float* logs, int n) {
  for (int i = 0; i < n; i += PACK) {
    const Pack v = pack_load(x + i, n - i);
    pack_put(exps + i, vec_exp(v), n - i, 0);
    pack_put(logs + i, vec_log(v), n - i, 0);
  }
}
