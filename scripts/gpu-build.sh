#!/usr/bin/env bash
# Builds the executables for a check on a GPU machine, so that nothing has to be compiled there: the command line,
# the tests and the benchmarks, in gpu-bin/ (or the folder given as $1). They run on any x86-64-v3 machine; kernels
# for the GPU are compiled there by NVRTC.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target=${1:-gpu-bin}
export RUSTFLAGS="-C target-cpu=x86-64-v3"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target/gpu}
rm -rf "$target"
mkdir -p "$target"

cargo build --release
cp "$CARGO_TARGET_DIR/release/saddle" "$target/saddle"
# One executable per suite, named without the hash: unit, bench_kernels, and the names of the files in tests/.
cargo test --release --no-run --benches --tests --message-format=json | python3 -c '
import json, shutil, sys
for line in sys.stdin:
    message = json.loads(line) if line.startswith("{") else {}
    path, target = message.get("executable"), message.get("target", {})
    if not path or not message.get("profile", {}).get("test") and target["kind"] != ["bench"]:
        continue
    kind = target["kind"][0]
    if kind == "bin":
        continue
    name = {"lib": "unit", "rlib": "unit", "bench": "bench_" + target["name"]}.get(kind, target["name"])
    shutil.copy(path, f"{sys.argv[1]}/{name}")
' "$target"
strip "$target"/*
# Integration tests look for files where they were built.
pwd >"$target/built-in"
printf '%s\n' "$CARGO_TARGET_DIR/release/saddle" >>"$target/built-in"
ls -l "$target"
