#!/usr/bin/env python3
"""Measures what the documents quote, and writes their tables from the records.

    scripts/records.py measure [--device D] [--seconds S] [--processes N]   kernels and training steps
    scripts/records.py compare [--device D] [--precision P]
                                                     every method on the digits, three seeds
    scripts/records.py precision [--device D]        gradients of a digits run in every precision
    scripts/records.py autoattack [--device D]       AutoAttack on a network trained on the digits
    scripts/records.py results [--check]             rewrites the text between the markers in README.md,
                                                     docs/results.md and docs/precision.md, or checks that
                                                     it is up to date

All but the last write benches/records/DATE-DEVICE[-WHAT].json. They need target/release/saddle (cargo build
--release) and, for times, a machine that is otherwise idle. Records beside PyTorch, DATE-DEVICE-peers.json,
come from benches/peers/run.py.
"""
import argparse
import datetime
import functools
import json
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
RECORDS = ROOT / "benches" / "records"
SADDLE = ROOT / "target" / "release" / "saddle"
# The methods in the README's table.
HEADLINE = ["standard", "pgd-at", "trades", "mart", "rebat++", "raat#"]


def output(*command):
    return subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout


def processor():
    try:
        info = dict(line.split(":", 1) for line in open("/proc/cpuinfo") if ":" in line)
        names = {key.strip(): value.strip() for key, value in info.items()}
        return names.get("model name", platform.processor())
    except OSError:
        return platform.processor()


def best(rows, other):
    """The better of each pair of figures: of several processes, the least disturbed one counts."""
    cost = lambda row: row["value"] if row["unit"] in ("ms", "us") else -row["value"]
    return [min(pair, key=cost) for pair in zip(rows, other)]


def about(command):
    return {
        "date": datetime.date.today().isoformat(),
        "commit": output("git", "-C", ROOT, "rev-parse", "--short=12", "HEAD").strip(),
        "processor": processor(),
        "command": command,
    }


def measure(device, seconds, processes):
    options = f"--device {device} --seconds {seconds} --processes {processes}"
    record = about(f"scripts/records.py measure {options}")
    record["devices"] = json.loads(output(SADDLE, "devices", "--json"))
    bench = [SADDLE, "bench", "--device", device, "--seconds", seconds, "--json"]
    runs = [json.loads(output(*bench)) for _ in range(processes)]
    record["device"] = runs[0]["device"]
    record["rows"] = functools.reduce(best, (run["rows"] for run in runs))
    record["processes"] = [run["rows"] for run in runs]
    keep(record, device)


def keep(record, name):
    RECORDS.mkdir(parents=True, exist_ok=True)
    path = RECORDS / f"{record['date']}-{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(path)


def compare(device, precision):
    options = ["compare", "--dataset", "digits", "--device", device, "--set", f"precision={precision}"]
    with tempfile.TemporaryDirectory() as folder:
        began = time.time()
        output(SADDLE, *options, "--quiet", "--out", folder)
        comparison = json.loads((pathlib.Path(folder) / "compare.json").read_text())
        wall = time.time() - began
    record = {**comparison, **about(" ".join(["saddle", *options])), "wall": wall, "precision": precision}
    keep(record, f"{device}-compare" + ("" if precision == "f32" else f"-{precision}"))


def precision(device):
    with tempfile.TemporaryDirectory() as folder:
        run = pathlib.Path(folder) / "run"
        output(SADDLE, "train", "--device", device, "--seed", 0, "--quiet", "--out", run)
        study = json.loads(output(SADDLE, "precision", run, "--device", device, "--json"))
    command = f"saddle train --device {device} --seed 0; saddle precision RUN --device {device}"
    record = {"device": study.pop("provenance")["device"], **about(command), "study": study}
    keep(record, f"{device}-precision")


def autoattack(device):
    with tempfile.TemporaryDirectory() as folder:
        run, out = pathlib.Path(folder) / "run", pathlib.Path(folder) / "aa.json"
        output(SADDLE, "train", "--device", device, "--quiet", "--out", run)
        began = time.time()
        options = ["--weights", run, "--checkpoint", "best", "--device", device, "--quiet", "--out", out]
        output(SADDLE, "eval", "--attack", "autoattack", *options)
        result = json.loads(out.read_text())
        wall = time.time() - began
    result.pop("outcomes", None)
    result.pop("evaluation", None)
    command = "saddle train; saddle eval --weights RUN --checkpoint best --attack autoattack"
    record = {**result, **about(command), "wall": wall}
    record["weights"] = "the best checkpoint of the default job, seed 0"
    keep(record, f"{device}-autoattack")


def heading(title, record):
    return [
        f"### {title} on {record['device']}, {record['processor']}",
        "",
        f"Measured on {record['date']} at commit {record['commit']} with",
        *textwrap.wrap(f"`{record['command']}`.", 110, break_on_hyphens=False),
    ]


def comparison(record):
    """Mean and standard deviation over seeds, and the seconds of one run."""
    names, seeds = list(record["rows"][0]["figures"]), record["seeds"]
    timed = "loaded" not in record
    took = f"{record['wall']:.0f} s in all" if timed else f"times do not count: {record['loaded']}"
    lines = heading(f"Every method on the digits in {precision_of(record)}", record) + [
        "resnet-mini, Linf eps 0.1, best checkpoint on held-out images; test accuracy in percent, mean and",
        f"standard deviation over seeds {', '.join(map(str, seeds))}; {took}.",
        "",
        f"| method | {' | '.join(names)} |" + (" s per run |" if timed else ""),
        "|---|" + "---:|" * (len(names) + timed),
    ]
    for row in record["rows"]:
        cells = [f"{row['figures'][name]['mean']:.2f} ± {row['figures'][name]['sd']:.2f}" for name in names]
        cells += [f"{row['seconds'] / len(seeds):.1f}"] if timed else []
        lines.append(f"| {row['method']} | {' | '.join(cells)} |")
    return lines


def precision_of(record):
    return record.get("precision", "f32")


def attacks(record):
    """The accuracy left after each attack, and its time."""
    cost = {"apgd-ce": "101 f+b", "apgd-t": "909 f+b", "fab-t": "900 f+b, 900 f", "square": "up to 5001 f"}
    lines = heading("AutoAttack on 360 digits", record) + [
        f"Linf eps {record['eps']}, {record['weights']}; {record['wall']:.1f} s in all.",
        "Network passes per robust image: f forward, b backward.",
        "",
        "| attack | robust % | points | s | passes |",
        "|---|---:|---:|---:|---|",
    ]
    for row in record["results"]:
        cells = f"{row['accuracy']:.2f} | {row['attacked']} | {row['seconds']:.1f}"
        lines.append(f"| {row['attack']} | {cells} | {cost.get(row['attack'], '1 f')} |")
    return lines


def bench(record):
    """The rows of `saddle bench`, convolutions in a table of their own."""
    rows = record["rows"]
    lines = heading("Kernels and steps", record)
    lines += ["", "| `saddle bench` | | figure | |", "|---|---|---|---|"]
    for row in rows:
        if not row["name"].startswith("conv2d") or "geometric" in row["name"]:
            figure = f"{row['value']:.4g} {row['unit']}"
            lines.append(f"| {row['name']} | {row['detail']} | {figure} | {row['note']} |")
    passes = ["conv2d forward", "conv2d input gradient", "conv2d weight gradient"]
    batch = next(row["note"] for row in rows if row["name"] in passes).rpartition(" ")[2]
    lines += ["", f"| convolution, batch {batch}, GFLOP/s | forward | input gradient | weight gradient |"]
    lines.append("|---|---|---|---|")
    for detail in dict.fromkeys(row["detail"] for row in rows if row["name"] in passes):
        found = {row["name"]: row["value"] for row in rows if row["detail"] == detail}
        cells = [f"{found[name]:.0f}" for name in passes]
        lines.append(f"| {detail} | {' | '.join(cells)} |")
    return lines


def peers(record):
    """Steps of saddle and of PyTorch, measured in turn, and AutoAttack of both."""
    versions, threads = record["peers"]["versions"], record["peers"]["threads_used"]
    lines = heading("saddle beside PyTorch", record)
    driver = record["peers"]["driver"]
    cuda = f", CUDA {versions['cuda']}, cuDNN {versions['cudnn']}, driver {driver}" if driver else ""
    lines.append(f"PyTorch {versions['torch']}{cuda}; {record['peers']['saddle']}; threads: {threads}.")
    if "verify" in record:
        done = [row for row in record["verify"] if "skipped" not in row]
        wrong = sum(bool(row["wrong"]) for row in done)
        lines.append(f"Steps compared tensor by tensor: {len(done)}; off by more than rounding: {wrong}.")
    lines += textwrap.wrap(record.get("note", ""), 110, break_on_hyphens=False)
    if record["loaded"]:
        return lines + [f"The machine was busy ({record['loaded']}): the record's times are no results."]
    if record["rows"]:
        lines += ["", *peer_steps(record["rows"])]
    if "autoattack" in record:
        lines += ["", *peer_attacks(record["autoattack"])]
    return lines


def peer_steps(rows):
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    case = lambda row: tuple(row[key] for key in ("model", "method", "batch", "precision"))
    times = lambda row, who: [part["median"] for part in row.get(who, [])]
    lines = [
        "Milliseconds of a training step; ratio: PyTorch's best mode to saddle, median and range of pairs.",
        "",
        f"| net | method | batch | precision | saddle | {' | '.join(modes)} | ratio |",
        "|---|---|---:|---|" + "---:|" * (len(modes) + 2),
    ]
    for key in dict.fromkeys(map(case, rows)):
        found = {row["mode"]: row for row in rows if case(row) == key}
        medians = {mode: statistics.median(times(row, "pytorch"))
                   for mode, row in found.items() if "skipped" not in row}
        own = [time for row in found.values() for time in times(row, "saddle")]
        cells = [f"{1e3 * statistics.median(own):.4g}" if own else "–"]
        cells += [f"{1e3 * medians[mode]:.4g}" if mode in medians else "–" for mode in modes]
        best = found[min(medians, key=medians.get)] if medians else {}
        ratios = [peer / own for own, peer in zip(times(best, "saddle"), times(best, "pytorch"))]
        middle = statistics.median(ratios) if ratios else None
        spread = f"{middle:.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else "–"
        lines.append(f"| {' | '.join(map(str, key))} | {' | '.join(cells)} | {spread} |")
    reasons = {f"{row['mode']}: {row['skipped']}" for row in rows if "skipped" in row}
    reasons |= {f"saddle: {row['saddle_skipped']}" for row in rows if "saddle_skipped" in row}
    return lines + (["", f"Not measured: {'; '.join(sorted(reasons))}."] if reasons else [])


def gradients(record):
    """What precisions do to an attack on one run."""
    study = record["study"]
    stages = [part["place"] for part in study["rows"][0]["gradients"][1:]]
    lines = heading("Gradients and attacks in every precision", record) + [
        f"{study['images']} test images, {study['attack']}.",
        "",
        f"| checkpoint | epoch | precision | sign | cosine | {' | '.join(stages)} | loss | robust % |",
        "|---|---:|---|" + "---:|" * (len(stages) + 4),
    ]
    for row in study["rows"]:
        cosines = " | ".join(f"{part['cosine']:.6f}" for part in row["gradients"])
        cells = [row[key] for key in ("checkpoint", "epoch", "precision")]
        cells += [f"{row['gradients'][0]['sign']:.4f}", cosines, f"{row['pgd_loss']:.5f}"]
        lines.append(f"| {' | '.join(map(str, cells))} | {row['robust_acc']:.2f} |")
    return lines


def by_precision(records):
    """Comparisons of the methods in float32 and in other precisions, mean and deviation side by side."""
    of = {precision_of(record): record for _, record in records if kind(record) == comparison}
    lines = []
    for name, other in of.items():
        if name == "f32" or other["seeds"] != of["f32"]["seeds"]:
            continue
        figures = ["clean", "PGD-20"]
        base = {row["recipe"]: row["figures"] for row in of["f32"]["rows"]}
        lines += [
            f"Training in float32 and in {name}: test accuracy in percent, mean and standard deviation over",
            f"seeds {', '.join(map(str, other['seeds']))} on {other['device']}; commands and all figures:",
            "[results.md](results.md).",
            "",
            f"| method | {' | '.join(f'{figure}, f32 | {name}' for figure in figures)} |",
            "|---|" + "---:|" * 2 * len(figures),
        ]
        apart = []
        for row in other["rows"]:
            pairs = [(base[row["recipe"]][figure], row["figures"][figure]) for figure in figures]
            cells = [f"{part['mean']:.1f} ± {part['sd']:.1f}" for pair in pairs for part in pair]
            lines.append(f"| {row['method']} | {' | '.join(cells)} |")
            for figure, (one, two) in zip(figures, pairs):
                lost = one["mean"] - two["mean"]
                if lost > one["sd"] + two["sd"]:
                    apart.append(f"{row['method']}, {figure}: {lost:.1f} lower")
        names = ": " + "; ".join(apart) if apart else ""
        lines += [
            "",
            f"Of {len(figures) * len(other['rows'])} means in {name}, {len(apart)} are lower than in float32 by",
            f"more than the two deviations together{names}.",
            "",
        ]
    return lines


def precision_tables(records):
    studied = [(path, record) for path, record in records if kind(record) == gradients]
    return tables(studied) + by_precision(records)


def peer_attacks(record):
    lines = [
        f"AutoAttack of {record['images']} images, {record['norm']} eps {record['eps']:.4g}; weights:",
        f"{record['weights']}.",
        "",
        "| | s | robust % |",
        "|---|---:|---:|",
    ]
    own = [row["saddle"] for row in record["rows"]]
    reference = [row["reference"] for row in record["rows"] if "reference" in row]
    seconds = lambda parts: statistics.median(part["seconds"] for part in parts)
    lines.append(f"| saddle | {seconds(own):.1f} | {own[0]['results'][-1]['accuracy']:.2f} |")
    if reference:
        return lines + [f"| autoattack, PyTorch | {seconds(reference):.1f} | {reference[0]['robust']:.2f} |"]
    return lines + ["", f"The reference was not run: {record['rows'][0]['skipped']}."]


def kind(record):
    """The function that makes a record's table."""
    if "peers" in record:
        return peers
    if "study" in record:
        return gradients
    return comparison if "seeds" in record else attacks if "results" in record else bench


def tables(records):
    lines = []
    for path, record in records:
        lines += kind(record)(record) + ["", f"Raw numbers: `{path.relative_to(ROOT)}`.", ""]
    return lines


def headline(records):
    """The newest comparison, AutoAttack run and training speed in ten lines."""
    newest = {kind(record): record for _, record in records if precision_of(record) == "f32"}
    compared, attacked = newest[comparison], newest[attacks]
    rows = {row["method"]: row for row in compared["rows"]}
    seeds = len(compared["seeds"])
    lines = [
        f"Digits, resnet-mini, Linf eps 0.1, means of {seeds} seeds; "
        f"{compared['device']}, {compared['processor']}:",
        "",
        f"| | {' | '.join(HEADLINE)} |",
        "|---|" + "---:|" * len(HEADLINE),
    ]
    for name in ["clean", "PGD-20"]:
        cells = [f"{rows[method]['figures'][name]['mean']:.1f}" for method in HEADLINE]
        lines.append(f"| {name}, % | {' | '.join(cells)} |")
    cells = [f"{rows[method]['seconds'] / seeds:.0f}" for method in HEADLINE]
    lines += [f"| s per run | {' | '.join(cells)} |", ""]
    lines.append(
        f"AutoAttack leaves the default job's network at {attacked['results'][-1]['accuracy']:.1f} % "
        f"({attacked['wall']:.0f} s for 360 images)."
    )
    study = newest[gradients]["study"]
    last = [row for row in study["rows"] if row["checkpoint"] == "last"]
    lines += [
        "",
        f"Against float32, on the digits (PGD-AT, epoch {last[0]['epoch']}; [more](docs/precision.md)):",
        "",
        f"| | {' | '.join(row['precision'] for row in last)} |",
        "|---|" + "---:|" * len(last),
    ]
    for name, figure in [
        ("signs of the input gradient that agree, %", lambda row: f"{100 * row['gradients'][0]['sign']:.2f}"),
        ("cosine of the input gradients", lambda row: f"{row['gradients'][0]['cosine']:.5f}"),
        ("loss that PGD reaches", lambda row: f"{row['pgd_loss']:.4f}"),
        ("robust accuracy, %", lambda row: f"{row['robust_acc']:.2f}"),
    ]:
        lines.append(f"| {name} | {' | '.join(map(figure, last))} |")
    return lines


def results(check):
    paths = sorted(RECORDS.glob("*.json"))
    records = [(path, json.loads(path.read_text())) for path in paths]
    for name, marker, lines in [
        ("README.md", "headline", headline(records)),
        ("docs/results.md", "records", tables([pair for pair in records if kind(pair[1]) != gradients])),
        ("docs/precision.md", "precision", precision_tables(records)),
    ]:
        path = ROOT / name
        begin, end = f"<!-- {marker}: begin (written by scripts/records.py) -->", f"<!-- {marker}: end -->"
        before, rest = path.read_text().split(begin)
        _, after = rest.split(end)
        text = before + begin + "\n" + "\n".join(lines).rstrip() + "\n" + end + after
        if check and text != path.read_text():
            sys.exit(f"{name} differs from the records: run scripts/records.py results")
        path.write_text(text)


def main():
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("what", choices=["measure", "compare", "precision", "autoattack", "results"])
    parser.add_argument("--device", default="host")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--processes", type=int, default=3, help="measure: the best of all counts")
    parser.add_argument("--precision", choices=["f32", "tf32", "bf16"], default="f32", help="compare")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    work = {
        "measure": lambda: measure(options.device, options.seconds, options.processes),
        "compare": lambda: compare(options.device, options.precision),
        "precision": lambda: precision(options.device),
        "autoattack": lambda: autoattack(options.device),
        "results": lambda: results(options.check),
    }
    work[options.what]()


if __name__ == "__main__":
    main()
