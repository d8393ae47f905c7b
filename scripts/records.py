#!/usr/bin/env python3
"""Measures what README.md quotes, and writes the README's tables from the records.

    scripts/records.py measure [--device host|cuda] [--seconds 3]   benches/records/DATE-DEVICE.json, with every raw number
    scripts/records.py readme [--check]                             rewrites the text between the markers in README.md

Needs target/release/saddle (cargo build --release). Nothing else should run while it measures.
"""
import argparse
import datetime
import json
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
RECORDS = ROOT / "benches" / "records"
SADDLE = ROOT / "target" / "release" / "saddle"
BEGIN, END = "<!-- records: begin (written by scripts/records.py) -->", "<!-- records: end -->"


def output(*command):
    return subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout


def processor():
    try:
        info = dict(line.split(":", 1) for line in open("/proc/cpuinfo") if ":" in line)
        return {key.strip(): value.strip() for key, value in info.items()}.get("model name", platform.processor())
    except OSError:
        return platform.processor()


def measure(device, seconds):
    record = {
        "date": datetime.date.today().isoformat(),
        "commit": output("git", "-C", ROOT, "rev-parse", "--short=12", "HEAD").strip(),
        "processor": processor(),
        "command": f"scripts/records.py measure --device {device} --seconds {seconds}",
        "devices": json.loads(output(SADDLE, "devices", "--json")),
    }
    bench = json.loads(output(SADDLE, "bench", "--device", device, "--seconds", seconds, "--json"))
    record["device"], record["rows"] = bench["device"], bench["rows"]
    record["jobs"] = []
    with tempfile.TemporaryDirectory() as folder:
        for method in ["pgd-at", "standard"]:
            for seed in range(3):
                out = pathlib.Path(folder) / f"{method}-{seed}"
                began = time.time()
                output(SADDLE, "train", "--method", method, "--seed", seed, "--device", device, "--quiet", "--out", out)
                job = json.loads((out / "summary.json").read_text())
                record["jobs"].append({"command": f"saddle train --method {method} --seed {seed}", "wall": time.time() - began, **job})
    RECORDS.mkdir(parents=True, exist_ok=True)
    path = RECORDS / f"{record['date']}-{device}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(path)


def spread(values):
    return f"{sum(values) / len(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def tables(record):
    lines = [f"### {record['device']}: {record['processor']}", "", f"Measured on {record['date']} at commit {record['commit']} with `{record['command']}`.", ""]
    lines += ["| job on the digits, seeds 0 to 2 | clean % | PGD-20 % | seconds |", "|---|---|---|---|"]
    for method in ["pgd-at", "standard"]:
        jobs = [job for job in record["jobs"] if job["method"] == method]
        lines.append(f"| `saddle train --method {method}` | {spread([j['clean_acc'] for j in jobs])} | {spread([j['pgd20_acc'] for j in jobs])} | {spread([j['wall'] for j in jobs])} |")
    lines += ["", "| `saddle bench` | | figure | |", "|---|---|---|---|"]
    for row in record["rows"]:
        if not row["name"].startswith("conv2d") or "geometric" in row["name"]:
            lines.append(f"| {row['name']} | {row['detail']} | {row['value']:.4g} {row['unit']} | {row['note']} |")
    passes = ["conv2d forward", "conv2d input gradient", "conv2d weight gradient"]
    details = list(dict.fromkeys(row["detail"] for row in record["rows"] if row["name"] in passes))
    lines += ["", "| convolution, batch 32, GFLOP/s | forward | input gradient | weight gradient |", "|---|---|---|---|"]
    for detail in details:
        cells = [f"{row['value']:.0f}" for name in passes for row in record["rows"] if row["name"] == name and row["detail"] == detail]
        lines.append(f"| {detail} | {' | '.join(cells)} |")
    return lines


def readme(check):
    lines = []
    for path in sorted(RECORDS.glob("*.json")):
        record = json.loads(path.read_text())
        if "rows" in record:
            lines += tables(record) + ["", f"Raw numbers: `{path.relative_to(ROOT)}`.", ""]
    path = ROOT / "README.md"
    before, rest = path.read_text().split(BEGIN)
    _, after = rest.split(END)
    text = before + BEGIN + "\n" + "\n".join(lines) + END + after
    if check:
        sys.exit(0 if text == path.read_text() else "README.md differs from the records: run scripts/records.py readme")
    path.write_text(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["measure", "readme"])
    parser.add_argument("--device", default="host")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    measure(options.device, options.seconds) if options.what == "measure" else readme(options.check)


if __name__ == "__main__":
    main()
