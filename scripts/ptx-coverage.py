#!/usr/bin/env python3
"""Checks that the cases of the operations run the instructions of every kernel.

    SOFTGPU_REPORT=FILE scripts/software-gpu.sh cargo test --release --lib every_operation
    scripts/ptx-coverage.py FILE [--least PERCENT]

Reads the report of the software driver and prints, for each kernel, its PTX instructions, how many at least
one warp ran, and the source lines of the others. Fails when a kernel of kernels/*.cu ran less than 95 %
(its bf16 form 90 %) of its reachable instructions, or never. scripts/ptx-unreachable.txt lists what no launch can reach; an entry
that does not match, or whose line is run in full, fails too.
"""
import argparse
import collections
import json
import pathlib
import re
import sys

from ptx_report import KERNELS, ROOT, files, source_line

UNREACHABLE = ROOT / "scripts" / "ptx-unreachable.txt"


def entries():
    """Kernel, source file and text of a line, in the order of the list."""
    for number, line in enumerate(UNREACHABLE.read_text().splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            parts = [part.strip() for part in line.split("|", 3)]
            if len(parts) != 4:
                sys.exit(f"{UNREACHABLE.name}:{number}: write KERNEL | FILE | SOURCE LINE | REASON")
            yield tuple(parts[:3])


def names():
    """The kernels of the product; one with parameters of type T* exists for bf16, too."""
    sources = "".join(path.read_text() for path in sorted(KERNELS.glob("*.cu")))
    for name, parameters in re.findall(r"__global__[^;{]*?\bvoid (\w+)\(([^)]*)\)", sources):
        yield name
        if re.search(r"\bT\*", parameters):
            yield f"{name}_bf16"


def ranges(lines):
    """`[3, 4, 5, 9]` as `3-5 9`."""
    parts = []
    for line in sorted(lines):
        if parts and line == parts[-1][1] + 1:
            parts[-1][1] = line
        else:
            parts.append([line, line])
    return " ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("report", type=pathlib.Path)
    arguments.add_argument("--least", type=float, default=95.0)
    arguments = arguments.parse_args()
    report = json.loads(arguments.report.read_text())["kernels"]
    listed, used, wrong = list(entries()), set(), []
    total = reached = 0
    print(f"{'kernel':30} {'instructions':>12} {'run':>6} {'%':>6}  lines never run (without those listed)")
    for name in names():
        if name not in report:
            wrong.append(f"{name} was never launched")
            continue
        sources = files(report[name])
        never, exempt, count = collections.defaultdict(set), 0, 0
        instructions = report[name]["counts"]["instructions"]
        for instruction in instructions:
            # A branch that no lane takes has been run, too.
            if instruction["lanes"] > 0 or instruction["warps"] > 0 and instruction["opcode"].startswith("bra"):
                count += 1
                continue
            file, line = sources[instruction["source"]["file"]], instruction["source"]["line"]
            entry = (name, file, source_line(file, line))
            if entry in listed:
                used.add(entry)
                exempt += 1
            else:
                never[file].add(line)
        total, reached = total + len(instructions) - exempt, reached + count
        share = 100 * count / (len(instructions) - exempt)
        lines = "; ".join(f"{file} {ranges(lines)}" for file, lines in never.items())
        print(f"{name:30} {len(instructions):12} {count:6} {share:6.1f}  {lines}")
        # The text of a bf16 kernel is that of the float32 one, which is held to the full share.
        least = arguments.least - 5 if name.endswith("_bf16") else arguments.least
        if share < least:
            wrong.append(f"{name} runs {share:.1f} % of its instructions, below {least:g} %: "
                         "add a case to its operation")
    wrong += [f"{UNREACHABLE.name}: {' | '.join(entry)}: run in full, or no such line: remove the entry"
              for entry in listed if entry not in used]
    print(f"{'all':30} {total:12} {reached:6} {100 * reached / max(total, 1):6.1f}")
    for line in wrong:
        print(f"error: {line}", file=sys.stderr)
    sys.exit(1 if wrong else 0)


main()
