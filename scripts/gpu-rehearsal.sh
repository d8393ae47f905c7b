#!/usr/bin/env bash
# Rehearses scripts/gpu-check.sh on the software GPU, as it goes on a lent machine: in a root of its own with
# neither Rust nor a network, with what travels and nothing else, in parts, with short jobs.
# Usage: scripts/gpu-rehearsal.sh RESULTS [ARCHIVE]      ARCHIVE of scripts/gpu-build.sh, built if not given
# What it holds to: 64 MiB travel, of which the archive has at most 16; no command takes ten minutes; at most
# 8 files of at most 16 MiB come back. It needs Linux with user namespaces, Python, and NVRTC
# (scripts/software-gpu.sh says where from). compute-sanitizer is replaced by a program that only runs its
# command, and PyTorch is not there.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
results=$(mkdir -p "${1:?usage: scripts/gpu-rehearsal.sh RESULTS [ARCHIVE]}" && cd "$1" && pwd)
fail() {
  echo "error: $*" >&2
  exit 1
}
[ -z "$(ls -A "$results")" ] || fail "$results is not empty; name an empty folder for the results"

archive=${2:-$root/gpu-bin.tar.xz}
[ -n "${2:-}" ] || "$root/scripts/gpu-build.sh" "$archive"
[ -f "$archive" ] || fail "$archive: no such file; scripts/gpu-build.sh writes it"
(($(stat -c %s "$archive") <= 16 << 20)) || fail "$archive has more than 16 MiB"
libraries=$("$root/scripts/software-gpu.sh" printenv LD_LIBRARY_PATH)

lent=$(mktemp -d)
trap 'rm -rf "$lent"' EXIT
mkdir -p "$lent"/{proc,dev,tmp,etc,results,saddle,opt/software-gpu,opt/nvrtc,opt/bin,root}
(cd "$root" && git ls-files -z --cached --others --exclude-standard | tar -c --null -T -) |
  tar -x -C "$lent/saddle"
cp "$archive" "$lent/saddle/gpu-bin.tar.xz"
kilobytes=$(du -sk "$lent/saddle" | cut -f 1)
((kilobytes <= 64 << 10)) || fail "$((kilobytes >> 10)) MiB travel; 64 may"
# The driver and NVRTC, which a machine with a GPU has.
for folder in ${libraries//:/ }; do
  cp -L "$folder"/libnvcuda.so "$lent/opt/software-gpu/" 2>/dev/null || true
  cp -L "$folder"/libnvrtc*.so* "$lent/opt/nvrtc/" 2>/dev/null || true
done
[ -f "$lent/opt/software-gpu/libnvcuda.so" ] || fail "no libnvcuda.so in $libraries"
cat >"$lent/opt/bin/compute-sanitizer" <<'END'
#!/bin/sh
while [ "${1#-}" != "$1" ]; do
  case $1 in --tool | --error-exitcode) shift ;; esac
  shift
done
exec "$@"
END
chmod +x "$lent/opt/bin/compute-sanitizer"

# One command on the lent machine; its exit code.
on_lent_machine() {
  unshare --map-root-user --mount --net bash -euc '
    lent=$1 && shift
    for folder in usr bin lib lib64 sbin; do
      [ -e "/$folder" ] || continue
      if [ -L "/$folder" ]; then
        [ -e "$lent/$folder" ] || cp -P "/$folder" "$lent/$folder"
      else
        mkdir -p "$lent/$folder" && mount --rbind "/$folder" "$lent/$folder"
      fi
    done
    mount -t tmpfs none "$lent/usr/local"
    mount --rbind /proc "$lent/proc" && mount --rbind /dev "$lent/dev"
    exec chroot "$lent" /usr/bin/env -i HOME=/root PATH=/opt/bin:/usr/bin:/bin \
      LD_LIBRARY_PATH=/opt/software-gpu:/opt/nvrtc SOFTGPU_CHECKS=off GPU_CHECK_SIZE=small \
      GPU_CHECK_SECONDS=240 bash -c "$*"
  ' bash "$lent" "$@"
}
on_lent_machine '! command -v cargo rustc' || fail "the root has Rust"
on_lent_machine '! python3 -c "import socket; socket.create_connection((\"1.1.1.1\", 53), 2)" 2>/dev/null' ||
  fail "the root has a network"

code=75
for ((part = 1; code == 75; part++)); do
  began=$SECONDS code=0
  on_lent_machine 'cd /saddle && scripts/gpu-check.sh /results' || code=$?
  echo "part $part: exit $code, $((SECONDS - began)) s"
  ((SECONDS - began < 600)) || fail "part $part took more than ten minutes"
done
cp "$lent"/results/* "$results"
files=("$results"/*)
((${#files[@]} <= 8)) || fail "${#files[@]} files come back; 8 may"
for file in "${files[@]}"; do
  (($(stat -c %s "$file") <= 16 << 20)) || fail "$file has more than 16 MiB"
done
exit "$code"
