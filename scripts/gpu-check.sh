#!/usr/bin/env bash
# Runs the executables of scripts/gpu-build.sh on a machine with an NVIDIA GPU: the test suites, the benchmarks and
# the default job.
# Usage: scripts/gpu-check.sh RESULTS [BINARIES]
# RESULTS receives a log per step and `steps.txt` with one line per step; BINARIES defaults to gpu-bin/. Every step
# runs, even after a failure; the exit code says whether all passed.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
results=$(mkdir -p "${1:?usage: scripts/gpu-check.sh RESULTS [BINARIES]}" && cd "$1" && pwd)
binaries=$(cd "${2:-$root/gpu-bin}" && pwd)
cd "$root" || exit 1

# The folders of the two libraries that are loaded at run time, wherever the toolkit, a Python package or the driver
# put them.
folder_of() {
  local found
  found=$(ldconfig -p 2>/dev/null | awk -v name="$1" '$1 ~ "^" name {print $NF; exit}')
  if [ -z "$found" ]; then
    found=$(find "${LIBRARY_ROOTS[@]}" -name "$1*" -not -path '*/stubs/*' -print -quit 2>/dev/null)
  fi
  [ -n "$found" ] && dirname "$found"
}
LIBRARY_ROOTS=(/usr/local/cuda* /usr/local/nvidia /usr/lib /usr/lib64 /usr/local/lib /opt "$HOME/.local/lib")
for library in libnvrtc.so libcuda.so.1; do
  if folder=$(folder_of "$library"); then
    export LD_LIBRARY_PATH="$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    echo "$library: $folder"
  else
    echo "$library: not found"
  fi
done | tee "$results/libraries.txt"
# Because of the pipe, the loop above ran in a subshell; this one exports the folders here.
while IFS=' ' read -r _ folder; do
  [ -d "$folder" ] && export LD_LIBRARY_PATH="$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
done < <(grep -v 'not found' "$results/libraries.txt")

# Integration tests look for the golden files and the command line where they were built; lead them here.
{ read -r built && read -r program; } <"$binaries/built-in"
if [ ! -e "$built" ]; then mkdir -p "$(dirname "$built")" && ln -s "$root" "$built"; fi
mkdir -p "$built/$(dirname "$program")" && cp "$binaries/saddle" "$built/$program"

export SADDLE_REQUIRE_CUDA=1 SADDLE_REQUIRE_NVRTC=1
: >"$results/steps.txt"
failed=0
# step NAME COMMAND...: output to NAME.log, one line to steps.txt.
step() {
  local name=$1 began=$SECONDS code
  shift
  "$@" >"$results/$name.log" 2>&1
  code=$?
  if ((code)); then failed=1; fi
  printf '%-14s exit %3d %5d s  %s\n' "$name" "$code" "$((SECONDS - began))" "$*" | tee -a "$results/steps.txt"
}

step devices "$binaries/saddle" devices
step unit "$binaries/unit" --test-threads 4
for suite in "$binaries"/*; do
  name=$(basename "$suite")
  case $name in saddle | unit | bench_*) continue ;; esac
  if [ -f "$suite" ] && [ -x "$suite" ]; then step "$name" "$suite"; fi
done
step bench_kernels "$binaries/saddle" bench kernels --device cuda --json
step bench_step "$binaries/saddle" bench step --device cuda --json
step bench_parts "$binaries/saddle" bench parts --device cuda --json
run=$(mktemp -d)
step train "$binaries/saddle" train --seed 0 --device cuda --out "$run/run" --json
cp "$run/run/summary.json" "$run/run/run.json" "$results/" 2>/dev/null
rm -rf "$run"
cat "$results/summary.json" 2>/dev/null
exit "$failed"
