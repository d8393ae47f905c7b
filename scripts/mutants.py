#!/usr/bin/env python3
"""Takes the waits out of the kernels, one at a time, and sees whether the cases of their operations notice.

    SOFTGPU_REPORT=FILE scripts/software-gpu.sh cargo test --release --lib every_operation
    scripts/mutants.py FILE [--each source|line|instruction] [--kernels GLOB] [--jobs N] [--limit SECONDS]

A wait is a `bar.sync`, a `bar.warp.sync`, or a wait for asynchronous copies; FILE is the software driver's
report, which lists them. `instruction` takes each of them, `line` the first that the compiler made of a line
of a kernel, `source` the first of a line in any kernel. A mutant is found when a check of the software driver
stops it, when a value is wrong, or when it does not end. Fails when one survives, unless a comment on its
line says `Redundant on CUDA:` and why it stays, and when one with such a comment is found.
"""
import argparse
import collections
import concurrent.futures
import fnmatch
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import time

from ptx_report import ROOT, files, source_line

KEPT = "// Redundant on CUDA: "
# Those of `Module::without_wait`.
WAIT = re.compile(r"bar(rier)?(\.cta)?\.sync|bar\.warp\.sync|cp\.async\.wait_(group|all)")


def mutants(report, each, pattern):
    """Of every wait: its kernel, number, and place in the source."""
    places = set()
    for kernel, entry in report["kernels"].items():
        if not fnmatch.fnmatch(kernel, pattern) or kernel.startswith("conf_"):
            continue
        names = files(entry)
        waits = [i for i in entry["counts"]["instructions"] if WAIT.match(i["opcode"])]
        for number, instruction in enumerate(waits, 1):
            source = instruction["source"]
            file, line = names[source["file"]], source["line"]
            place = (file, line) if each == "source" else (file, line, kernel, *source["inlined_at"])
            if each == "instruction" or place not in places:
                yield kernel, number, instruction["opcode"], file, line
            places.add(place)


def operation(kernel):
    """The operation that a kernel belongs to: the file that its name begins with."""
    files = [path.stem for path in (ROOT / "src" / "ops").glob("*.rs")]
    return max((file for file in files if kernel.startswith(file + "_")), key=len)


def environment():
    """That of scripts/software-gpu.sh, with the test's."""
    command = [ROOT / "scripts" / "software-gpu.sh"]
    _, assignment = shlex.split(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    name, value = assignment.split("=", 1)
    one = {name: value, "SADDLE_TEST_DEVICES": "cuda", "SADDLE_REQUIRE_CUDA": "1", "SOFTGPU_THREADS": "1"}
    dropped = {"SOFTGPU_REPORT", "SOFTGPU_CHECKS"}
    return {key: value for key, value in os.environ.items() if key not in dropped} | one


def test_program():
    command = ["cargo", "test", "--release", "--lib", "--no-run", "--message-format=json"]
    text = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [m["executable"] for m in map(json.loads, text.splitlines()) if m.get("executable")][-1]


def verdict(program, variables, mutant, limit):
    """How a mutant was found, or None."""
    kernel, number, *_ = mutant
    variables = variables | {"SOFTGPU_MUTANT": f"{kernel}:{number}", "SADDLE_TEST_OP": operation(kernel)}
    command = [program, "every_operation"]
    try:
        ended = subprocess.run(
            command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return f"no end after {limit} s"
    said = ended.stdout + ended.stderr
    if ended.returncode == 0 and "1 passed" in said:
        return None
    fault = re.search(r"softgpu: fault: \w+: (.*)", said)
    wrong = re.search(r"^cuda: (\w+: .*)", said, re.MULTILINE)
    if "SOFTGPU_MUTANT" in said or not fault and not wrong:
        raise SystemExit(f"error: {kernel}:{number}: the test failed for another reason:\n{said}")
    return f"check: {fault[1]}" if fault else f"value: {wrong[1]}"


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("report", type=pathlib.Path)
    arguments.add_argument("--each", choices=["source", "line", "instruction"], default="instruction")
    arguments.add_argument("--kernels", default="*")
    arguments.add_argument("--jobs", type=int, default=2)
    arguments.add_argument("--limit", type=int, default=600)
    arguments = arguments.parse_args()
    began = time.monotonic()
    todo = list(mutants(json.loads(arguments.report.read_text()), arguments.each, arguments.kernels))
    program, variables = test_program(), environment()
    counts, wrong = collections.Counter(), []
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        verdicts = pool.map(lambda mutant: verdict(program, variables, mutant, arguments.limit), todo)
        for (kernel, number, opcode, file, line), found in zip(todo, verdicts):
            kept = KEPT in source_line(file, line)
            name = f"{kernel}:{number} {opcode} {file}:{line}"
            print(f"{name}: {found or 'survived'}", flush=True)
            counts[found.split(":")[0] if found else "kept" if kept else "survived"] += 1
            if found and kept:
                wrong.append(f"{name} is found, but said to be redundant")
            if not found and not kept:
                wrong.append(f"{name} survived: add a case, strengthen a check, or remove the wait")
    seconds = time.monotonic() - began
    outcome = ", ".join(f"{n} {what}" for what, n in sorted(counts.items()))
    print(f"{len(todo)} mutants in {seconds:.0f} s: {outcome}")
    for line in wrong:
        print(f"error: {line}", file=sys.stderr)
    sys.exit(1 if wrong else 0)


main()
