#!/usr/bin/env bash
# Checks and times saddle on a machine with an NVIDIA GPU, from the archive of scripts/gpu-build.sh.
# Usage: scripts/gpu-check.sh RESULTS [ARCHIVE [SECTION...]]
# ARCHIVE defaults to gpu-bin.tar.xz. SECTIONs, all by default, in this order:
#   tests      the kernels and the device, each operation in a process of its own, then every suite on CUDA
#   repeat     two training runs byte for byte, and AutoAttack of the same weights on the GPU and on the host
#   bench      kernels, parts and whole steps, beside PyTorch where it is installed
#   sanitize   compute-sanitizer's four tools over every operation, with the memory pool off
#   train      the default job
# RESULTS receives steps.txt (a line a step), the records of the benchmarks, and results.tgz with every log. A
# failing step prints the lines that say why. Every step runs, even after a failure; the exit code says
# whether all passed.
#
# Where a machine is lent for minutes at a time: GPU_CHECK_SECONDS=N starts no step after N seconds and ends
# with code 75. The same command goes on with the steps that are not done, also after it was killed; until all
# are, they are kept in /tmp/saddle-gpu-check. GPU_CHECK_SIZE=small runs short jobs (gpu-rehearsal.sh).
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
results=$(mkdir -p "${1:?usage: scripts/gpu-check.sh RESULTS [ARCHIVE [SECTION...]]}" && cd "$1" && pwd)
archive=$(realpath "${2:-$root/gpu-bin.tar.xz}")
sections=("${@:3}")
((${#sections[@]})) || sections=(tests repeat bench sanitize train)
cd "$root" || exit 1

model=resnet18 batches=(128 512) seconds=1 images=0 job=() repeat=(--epochs 3) suites=()
case ${GPU_CHECK_SIZE:-full} in
  full) ;;
  small)
    model=resnet-mini batches=(2) seconds=0.01 images=8
    job=(--epochs 1 --attack-steps 1 --select-steps 1)
    repeat=("${job[@]}")
    suites=(counted goldens_nets goldens_ops steps) ;;
  *) echo "error: GPU_CHECK_SIZE is $GPU_CHECK_SIZE; it can be full or small" >&2 && exit 1 ;;
esac

scratch=${TMPDIR:-/tmp}/saddle-gpu-check
bin=$scratch/bin logs=$scratch/logs done=$scratch/steps.txt
sum=$(sha256sum "$archive") || exit 1
command="$sum ${GPU_CHECK_SIZE:-full} ${sections[*]}"
if [ "$(cat "$scratch/command" 2>/dev/null)" != "$command" ]; then
  rm -rf "$scratch"
  mkdir -p "$bin" "$logs"
  # Python reads .xz where the program xz is missing.
  unpack='import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2])'
  python3 -c "$unpack" "$archive" "$bin" || exit 1
  : >"$done"
  echo "$command" >"$scratch/command"
fi

# A library that the loader finds stays as it is; the others come from the toolkit, a Python package or the
# driver. The driver of the machine goes before a toolkit's copies: stubs do nothing, and `compat` is for
# other drivers.
folder_of() {
  python3 -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "$1" 2>/dev/null && return
  find /usr/local/nvidia /usr/lib /usr/lib64 /usr/local/lib /usr/local/cuda* /opt "$HOME/.local/lib" \
    -name "$1*" -not -path '*/stubs/*' -not -path '*/compat/*' -printf '%h\n' -quit 2>/dev/null
}
for library in libcuda.so.1 libnvrtc.so; do
  folder=$(folder_of "$library")
  [ -n "$folder" ] && export LD_LIBRARY_PATH="$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
done

# Integration tests look for the command line and for golden files where they were built; lead them here.
{ read -r program && read -r built; } <"$bin/program"
[ -e "$built" ] || { mkdir -p "$(dirname "$built")" && ln -s "$root" "$built"; }
mkdir -p "$(dirname "$program")" && cp "$bin/saddle" "$program"

export SADDLE_REQUIRE_CUDA=1 SADDLE_REQUIRE_NVRTC=1 SADDLE_TEST_DEVICES=cuda
export SADDLE_CACHE=$scratch/cache

# After every step: a time limit may end this script at any moment.
keep() {
  cp "$done" "$results/steps.txt"
  tar -C "$scratch" -czf "$results/.tmp" logs && mv "$results/.tmp" "$results/results.tgz"
}
say() {
  grep -qxF -- "$*" "$done" || echo "$*" | tee -a "$done"
  keep
}
# step NAME COMMAND...: output to NAME.log, a line to steps.txt; on failure the reason to the terminal. Files
# of a step go to $scratch/NAME: what a killed one left there is removed.
step() {
  local name=$1 began=$SECONDS exit
  shift
  exit=$(sed -nE "s/^$name +exit +([0-9]+) .*/\1/p" "$done")
  [ -z "$exit" ] || return "$exit"
  if ((SECONDS > ${GPU_CHECK_SECONDS:-1000000})); then
    echo "$name and what follows is not done; the same command goes on"
    exit 75
  fi
  rm -rf "${scratch:?}/$name"
  "$@" >"$logs/$name.log" 2>&1
  exit=$?
  printf '%-28s exit %3d %5d s  %s\n' "$name" "$exit" "$((SECONDS - began))" "${*//$scratch\//}" |
    tee -a "$done"
  if ((exit)); then
    grep -nE 'panicked|failures:|FAILED|differ|error|ERROR' -A 3 "$logs/$name.log" | head -40
    echo "--- the end of $name.log"
    tail -n 30 "$logs/$name.log"
  fi
  keep
  return "$exit"
}
saddle() { "$bin/saddle" "$@"; }
# A file with a record per device: what a benchmark prints as JSON goes there.
record() {
  local name=$1
  shift
  step "$name" "$@" && cp "$logs/$name.log" "$results/$name.json"
}

step devices saddle devices --json
if ! python3 -c 'import json, sys; sys.exit(not json.load(open(sys.argv[1]))["cuda"]["gpus"])' \
  "$logs/devices.log"; then
  echo "error: no GPU can be used; nothing else was run"
  rm -rf "$scratch"
  exit 1
fi
nvidia-smi >"$logs/nvidia-smi.log" 2>&1

operations=$(basename -s .rs "$root"/src/ops/*.rs | grep -vxE 'mod|prelude|testing')
every_operation=(--exact ops::testing::every_operation_on_every_device --nocapture)

run_tests() {
  # Once, in parallel: the first kernel of every process would wait for NVRTC otherwise.
  step compile saddle bench step --device cuda --model resnet-mini --seconds 0.1
  step device "$bin/unit" device:: --test-threads 1
  # A kernel that goes astray makes every later call of its process fail: one process an operation.
  local operation
  for operation in $operations; do
    SADDLE_TEST_OP=$operation step "op-$operation" "$bin/unit" "${every_operation[@]}" && continue
    SADDLE_TEST_OP=$operation CUDA_LAUNCH_BLOCKING=1 step "op-$operation-blocking" \
      "$bin/unit" "${every_operation[@]}"
    SADDLE_TEST_OP=$operation SADDLE_POOL=off step "op-$operation-memcheck" \
      compute-sanitizer --tool memcheck "$bin/unit" "${every_operation[@]}"
  done
  step unit "$bin/unit" --test-threads 4 --skip every_operation --skip device::
  local suite name
  for suite in "$bin"/*; do
    name=$(basename "$suite")
    case $name in saddle | unit | program | architecture | inspect | nvrtc | software_gpu) continue ;; esac
    [[ ${#suites[@]} == 0 || " ${suites[*]} " == *" $name "* ]] || continue
    step "suite-$name" "$suite" --test-threads 4
  done
}

same_accuracies() {
  python3 -c '
import json, sys
results = [json.load(open(path)) for path in sys.argv[1:]]
print(json.dumps(results, indent=1))
rows = [{row["attack"]: row["accuracy"] for row in result["results"]} for result in results]
apart = {name: (rows[0][name], rows[1][name]) for name in rows[0] if abs(rows[0][name] - rows[1][name]) > 0.6}
sys.exit(f"GPU and host differ by more than two images: {apart}" if apart else 0)
' "$@"
}

run_repeat() {
  local run=$scratch/repeat-train number checkpoint
  for number in 1 2; do
    step "repeat-train-$number" saddle train raat-digits --device cuda --seed 0 --quiet \
      "${repeat[@]}" --out "$run-$number"
  done
  for checkpoint in best last; do
    step "repeat-$checkpoint" cmp "$run-1/checkpoints/$checkpoint.safetensors" \
      "$run-2/checkpoints/$checkpoint.safetensors"
  done
  local all=(--attack autoattack)
  ((images)) && all=(--attack autoattack:pgd5,square --steps 20 --n "$images")
  for device in cuda host; do
    step "autoattack-$device" saddle eval --weights "$run-1" --checkpoint last "${all[@]}" \
      --device "$device" --out "$scratch/autoattack-$device.json"
  done
  step autoattack-compare same_accuracies "$scratch/autoattack-cuda.json" "$scratch/autoattack-host.json"
}

run_bench() {
  local small=(--seconds "$seconds")
  ((images)) && small+=(--batch 1)
  local kernels=(saddle bench kernels --device cuda --json --model "$model" "${small[@]}")
  record bench-kernels "${kernels[@]}"
  record bench-kernels-bf16 "${kernels[@]}" --precision bf16
  record bench-tune "${kernels[@]}" --precision bf16 --tune
  record bench-kernels-tuned "${kernels[@]}" --precision bf16
  record bench-parts saddle bench parts --device cuda --json --model "$model" "${small[@]}"
  local batch
  for batch in "${batches[@]}"; do
    record "bench-step-$batch" saddle bench step --device cuda --model "$model" --batch "$batch" \
      --seconds "$seconds" --json
  done
  if python3 -c 'import torch' 2>/dev/null; then
    # The record is there and complete after every case, so that a limit costs no more than what is missing.
    step bench-peers python3 benches/peers/run.py verify steps --device cuda --saddle "$bin/saddle" --resume \
      --models "$model" --batches "${batches[@]}" --precisions bf16 tf32 --seconds "$seconds" --limit 240 \
      --out "$results/bench-peers.json"
  else
    say "bench-peers: NOT RUN, PyTorch is not installed"
  fi
}

run_sanitize() {
  if ! command -v compute-sanitizer >/dev/null; then
    say "sanitize: NOT RUN, compute-sanitizer is not installed"
    return
  fi
  local tool
  for tool in memcheck racecheck synccheck initcheck; do
    SADDLE_POOL=off step "sanitize-$tool" compute-sanitizer --tool "$tool" --error-exitcode 9 \
      "$bin/unit" "${every_operation[@]}"
  done
}

run_train() {
  step train saddle train --seed 0 --device cuda "${job[@]}" --out "$scratch/train" --json
  cp "$scratch/train/summary.json" "$results/summary.json" 2>/dev/null
}

for section in "${sections[@]}"; do "run_$section"; done
cat "$done"
rm -rf "$scratch"
! grep -qE '^[^ ]+ +exit +[1-9]' "$results/steps.txt"
