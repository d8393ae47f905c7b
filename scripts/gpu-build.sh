#!/usr/bin/env bash
# Builds the executables for a check on a GPU machine that has no Rust: the command line, the tests and the
# benchmarks, in one archive, gpu-bin.tar.xz (or the file given as $1). They run on any x86-64-v3 machine;
# kernels for the GPU are compiled there by NVRTC. The archive stays below 16 MiB: the executables are almost
# the same, and xz with a large window stores the common part once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

archive=${1:-gpu-bin.tar.xz}
export RUSTFLAGS="-C target-cpu=x86-64-v3"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target/gpu}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cargo build --release
# Integration tests run this path: the file `program` tells gpu-check.sh where they look for it.
program=$(realpath "$CARGO_TARGET_DIR/release/saddle")
cp "$program" "$folder/saddle"
# One executable per suite, named without the hash: `unit`, and the names of the files in tests/.
cargo test --release --no-run --tests --message-format=json | python3 -c '
import json, shutil, sys
for line in sys.stdin:
    message = json.loads(line) if line.startswith("{") else {}
    path, target = message.get("executable"), message.get("target", {})
    if not path or not message.get("profile", {}).get("test") or target["kind"] == ["bin"]:
        continue
    name = "unit" if target["kind"][0] in ("lib", "rlib") else target["name"]
    shutil.copy(path, f"{sys.argv[1]}/{name}")
' "$folder"
strip "$folder"/*
# The second line is the folder where integration tests look for their files.
printf '%s\n%s\n' "$program" "$PWD" >"$folder/program"
tar -C "$folder" -c . | xz -T0 --lzma2=preset=3,dict=256MiB >"$archive.tmp"
mv "$archive.tmp" "$archive"
size=$(stat -c %s "$archive")
echo "$archive: $((size / 1024)) KiB, $(find "$folder" -type f | wc -l) files"
((size < 16 << 20)) || { echo "error: $archive has more than 16 MiB" >&2; exit 1; }
