#!/usr/bin/env python3
"""Measures what README.md quotes, and writes the README's tables from the records.

    scripts/records.py measure [--device host|cuda] [--seconds 3] [--processes 3]
                                                                   benches/records/DATE-DEVICE.json: kernels and training steps
    scripts/records.py compare [--device host|cuda]                 DATE-DEVICE-compare.json: every method on the digits, three seeds
    scripts/records.py judge [--device host|cuda]                   DATE-DEVICE-autoattack.json: AutoAttack of a digits network
    scripts/records.py readme [--check]                             rewrites the text between the markers in README.md

Needs target/release/saddle (cargo build --release). Nothing else should run while it measures.
"""
import argparse
import datetime
import functools
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


def best(rows, other):
    """The better one of each pair of figures: of several processes the least disturbed one counts."""
    shorter = lambda row: row["unit"] in ("ms", "us")
    return [min(pair, key=lambda row: row["value"] if shorter(row) else -row["value"]) for pair in zip(rows, other)]


def measure(device, seconds, processes):
    record = {
        "date": datetime.date.today().isoformat(),
        "commit": output("git", "-C", ROOT, "rev-parse", "--short=12", "HEAD").strip(),
        "processor": processor(),
        "command": f"scripts/records.py measure --device {device} --seconds {seconds} --processes {processes}",
        "devices": json.loads(output(SADDLE, "devices", "--json")),
    }
    runs = [json.loads(output(SADDLE, "bench", "--device", device, "--seconds", seconds, "--json")) for _ in range(processes)]
    record["device"], record["rows"] = runs[0]["device"], functools.reduce(best, (run["rows"] for run in runs))
    record["processes"] = [run["rows"] for run in runs]
    keep(record, device)


def keep(record, name):
    RECORDS.mkdir(parents=True, exist_ok=True)
    path = RECORDS / f"{record['date']}-{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(path)


def about(command):
    commit = output("git", "-C", ROOT, "rev-parse", "--short=12", "HEAD").strip()
    return {"date": datetime.date.today().isoformat(), "commit": commit, "processor": processor(), "command": command}


def compare(device):
    with tempfile.TemporaryDirectory() as folder:
        began = time.time()
        output(SADDLE, "compare", "--dataset", "digits", "--device", device, "--quiet", "--out", folder)
        comparison = json.loads((pathlib.Path(folder) / "compare.json").read_text())
        wall = time.time() - began
    keep({**comparison, **about("saddle compare --dataset digits"), "wall": wall}, f"{device}-compare")


def judge(device):
    with tempfile.TemporaryDirectory() as folder:
        run, out = pathlib.Path(folder) / "run", pathlib.Path(folder) / "aa.json"
        output(SADDLE, "train", "--device", device, "--quiet", "--out", run)
        began = time.time()
        output(SADDLE, "eval", "--weights", run, "--checkpoint", "best", "--attack", "autoattack", "--device", device, "--quiet", "--out", out)
        result = json.loads(out.read_text())
        wall = time.time() - began
    result.pop("outcomes", None)
    result.pop("evaluation", None)
    record = {**result, **about("saddle train; saddle eval --weights RUN --checkpoint best --attack autoattack"), "wall": wall}
    record["weights"] = "the best checkpoint of the default job, seed 0"
    keep(record, f"{device}-autoattack")


def heading(what, record):
    return [f"### {what} on {record['device']}, {record['processor']}", "", f"Measured on {record['date']} at commit {record['commit']} with `{record['command']}`.", ""]


def comparison(record):
    """Mean and standard deviation over seeds, and the seconds of one run."""
    lines = heading("Every method on the digits", record)
    names = list(record["rows"][0]["figures"])
    seeds = len(record["seeds"])
    lines[-1:] = [f"resnet-mini, Linf eps 0.1, best checkpoint on held-out images, test accuracy in percent, mean and standard deviation of seeds {', '.join(map(str, record['seeds']))}; {record['wall']:.0f} s in all.", ""]
    lines += [f"| method | {' | '.join(names)} | s a run |", "|---|" + "---:|" * (len(names) + 1)]
    for row in record["rows"]:
        cells = [f"{row['figures'][n]['mean']:.2f} ± {row['figures'][n]['sd']:.2f}" for n in names]
        lines.append(f"| {row['method']} | {' | '.join(cells)} | {row['seconds'] / seeds:.1f} |")
    return lines


def judged(record):
    """Accuracy left after each attack, and its time."""
    lines = heading("AutoAttack on 360 digits", record)
    lines[-1:] = [f"Linf eps {record['eps']}, {record['weights']}; {record['wall']:.1f} s in all. Network passes over one robust image: f forward, b backward.", ""]
    cost = {"apgd-ce": "101 f+b", "apgd-t": "909 f+b", "fab-t": "900 f+b, 900 f", "square": "up to 5001 f"}
    lines += ["| attack | robust % | points | s | passes |", "|---|---:|---:|---:|---|"]
    for row in record["results"]:
        lines.append(f"| {row['attack']} | {row['accuracy']:.2f} | {row['attacked']} | {row['seconds']:.1f} | {cost.get(row['attack'], '1 f')} |")
    return lines


def tables(record):
    lines = heading("Kernels and steps", record)
    lines += ["| `saddle bench` | | figure | |", "|---|---|---|---|"]
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
        kind = comparison if "seeds" in record else judged if "results" in record else tables if "rows" in record else None
        if kind:
            lines += kind(record) + ["", f"Raw numbers: `{path.relative_to(ROOT)}`.", ""]
    path = ROOT / "README.md"
    before, rest = path.read_text().split(BEGIN)
    _, after = rest.split(END)
    text = before + BEGIN + "\n" + "\n".join(lines) + END + after
    if check:
        sys.exit(0 if text == path.read_text() else "README.md differs from the records: run scripts/records.py readme")
    path.write_text(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["measure", "compare", "judge", "readme"])
    parser.add_argument("--device", default="host")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--processes", type=int, default=3, help="measure: how many processes; the best figure of all counts")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    work = {
        "measure": lambda: measure(options.device, options.seconds, options.processes),
        "compare": lambda: compare(options.device),
        "judge": lambda: judge(options.device),
        "readme": lambda: readme(options.check),
    }
    work[options.what]()


if __name__ == "__main__":
    main()
