// The elementary functions of lib/pack.cuh, for the test of their accuracy.
// Mathematics: exps = exp(x), logs = log(x), n elements.
// Threads: one; it walks over Packs.
// Preconditions: equal lengths; met by src/device/conformance.rs.
// Outputs: `=`.
// Accumulation: none. Deterministic. No spills.
#include "lib/pack.cuh"

extern "C" __global__ void __launch_bounds__(1)
// exps = exp(x), logs = log(x)
conf_exp_log(const float* x, float* exps, float* logs, int n) {
  for (int i = 0; i < n; i += PACK) {
    const Pack v = pack_load(x + i, n - i);
    pack_put(exps + i, pack_exp(v), n - i, 0);
    pack_put(logs + i, pack_log(v), n - i, 0);
  }
}
