#!/usr/bin/env bash
# Runs a command on the software GPU, or prints the environment for it.
# Usage: scripts/software-gpu.sh COMMAND...       builds the driver, sets the environment, runs the command
#        eval "$(scripts/software-gpu.sh)"         the same environment for this shell
# The driver is crate softgpu, built in release mode into CARGO_TARGET_DIR (target by default). NVRTC is found
# through LD_LIBRARY_PATH, in .venv, in the Python packages of python3, or in NVRTC_DIR; get it with
#   python3 -m venv .venv && .venv/bin/pip install nvidia-cuda-nvrtc
# SOFTGPU_* variables choose the device and what is checked: docs/software-gpu.md lists them.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=$(realpath -m "${CARGO_TARGET_DIR:-$root/target}")

fail() {
  echo "error: $*" >&2
  exit 1
}

# A real driver goes before this one: cudarc opens libcuda.so first, and only then libnvcuda.so.
loads() { python3 -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "$1" 2>/dev/null; }
for real in libcuda.so libcuda.so.1; do
  loads "$real" && fail "$real is installed: programs would take it; use a machine without a driver"
done

# The folder that holds libnvrtc.so.N; empty where the loader finds it by itself.
nvrtc() {
  local folder
  for name in libnvrtc.so libnvrtc.so.13 libnvrtc.so.12; do loads "$name" && return; done
  local places=("${NVRTC_DIR:-}" "$root/.venv" "${VIRTUAL_ENV:-}")
  places+=("$(python3 -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')")
  for folder in "${places[@]}"; do
    [ -d "$folder" ] || continue
    folder=$(find -L "$folder" -name 'libnvrtc.so*' -printf '%h\n' -quit)
    [ -z "$folder" ] || { echo "$folder" && return; }
  done
  fail "no NVRTC: python3 -m venv .venv && .venv/bin/pip install nvidia-cuda-nvrtc, or set NVRTC_DIR"
}
compiler=$(nvrtc)

build() { cd "$root" && CARGO_TARGET_DIR=$target cargo build --release --quiet -p softgpu; }
(build) || fail "the driver does not build"
# In a folder of its own, where nothing finds it by chance.
mkdir -p "$target/software-gpu"
ln -sfn ../release/libsoftgpu.so "$target/software-gpu/libnvcuda.so"
path=$target/software-gpu${compiler:+:$compiler}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

if (($#)); then
  export LD_LIBRARY_PATH=$path
  exec "$@"
fi
printf 'export LD_LIBRARY_PATH=%q\n' "$path"
