#!/usr/bin/env python3
"""Runs saddle and PyTorch in turn on the same machine and work, and records both: README.md beside this file.

    python3 benches/peers/run.py                       verify, steps and autoattack: all that can be done here
    python3 benches/peers/run.py verify                do both compute the same?
    python3 benches/peers/run.py steps --models resnet18 --batches 128 512 --precisions bf16
    python3 benches/peers/run.py autoattack --autoattack-path ~/auto-attack --run runs/NAME

The record, benches/records/DATE-DEVICE-peers.json unless --out names another, is written anew after every
case. `scripts/records.py results` puts it into docs/results.md.
"""

import argparse
import datetime
import json
import os
import pathlib
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
from records import output, processor  # noqa: E402

METHODS = ["pgd-at", "trades", "raat"]
MODES = ["eager", "graph", "compile", "compile+graph"]
# What is measured unless asked otherwise.
BATCHES = {
    "cuda": {"resnet-mini": [128], "resnet18": [128, 256, 512], "wrn-28-10": [128, 256, 512]},
    "host": {"resnet-mini": [128], "resnet18": [32]},
}
PRECISIONS = {"cuda": ["bf16", "tf32", "f32"], "host": ["f32"]}
TORCH_DEVICE = {"cuda": "cuda", "host": "cpu"}
CLOCKS = "clocks.sm,clocks.mem,clocks.max.sm,temperature.gpu,power.draw,utilization.gpu"
# Above this load average per processor, before anything was started, times are not results.
QUIET = 0.25


class Failure(Exception):
    """The reason stands in the record."""


def last_line(text):
    return (text.strip().splitlines() or ["no message"])[-1][:300]


def clocks():
    """What nvidia-smi and the kernel say of the clocks at this moment."""
    found = {"load": os.getloadavg()[0]}
    try:
        text = output("nvidia-smi", f"--query-gpu={CLOCKS}", "--format=csv,noheader", "--id=0")
        found |= dict(zip(CLOCKS.split(","), (cell.strip() for cell in text.split(","))))
    except (OSError, subprocess.CalledProcessError):
        pass
    try:
        lines = [line.split(":") for line in open("/proc/cpuinfo") if line.startswith("cpu MHz")]
        found["cpu_mhz"] = round(statistics.mean(float(value) for _, value in lines))
    except (OSError, statistics.StatisticsError):
        pass
    return found


def driver():
    try:
        return output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0").strip()
    except (OSError, subprocess.CalledProcessError):
        return None


class Worker:
    """A PyTorch process that times steps of one case."""

    def __init__(self, options, case):
        model, method, batch, precision = case
        command = [options.python, HERE / "worker.py", "steps", model, method, batch, precision,
                   TORCH_DEVICE[options.device], options.threads]
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=self.log, text=True)

    def time(self, mode, seconds):
        """Seconds of a step: median, deciles. Raises Failure."""
        try:
            self.process.stdin.write(f"{mode} {seconds}\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.process.wait()
            self.log.seek(0)
            raise Failure(f"the process ended: {last_line(self.log.read().decode(errors='replace'))}")
        answer = json.loads(line)
        if "error" in answer:
            raise Failure(answer["error"])
        return answer

    def close(self):
        self.process.kill()
        self.process.communicate()
        self.log.close()


def saddle_seconds(options, case):
    """Seconds of saddle's step. Raises Failure."""
    model, method, batch, precision = case
    command = [options.saddle, "bench", "step", "--device", options.device, "--model", model,
               "--method", method, "--batch", batch, "--precision", precision,
               "--seconds", options.seconds, "--json"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise Failure(last_line(done.stderr))
    row = json.loads(done.stdout)["rows"][0]
    # Images a second: the slow decile is the 90th percentile of the seconds.
    return {"median": batch / row["value"], "p10": batch / row["p90"], "p90": batch / row["p10"]}


def impossible(device, mode, precision):
    """Why PyTorch cannot do this on any machine of the kind, or None."""
    if device == "cuda":
        return None
    if precision == "tf32":
        return "tf32 needs a CUDA device"
    return "CUDA graphs need a CUDA device" if "graph" in mode else None


def measure(options, worker, case, mode):
    """A row: saddle and PyTorch in turn, `repetitions` times."""
    row = dict(zip(("model", "method", "batch", "precision"), case)) | {"mode": mode}
    if reason := impossible(options.device, mode, case[3]):
        return row | {"skipped": reason}
    row |= {"saddle": [], "pytorch": [], "clocks": [clocks()]}
    try:
        # Builds, tunes and compiles; not counted.
        worker.time(mode, 0)
    except Failure as failure:
        return row | {"skipped": str(failure)}
    for _ in range(options.repetitions):
        try:
            row["saddle"].append(saddle_seconds(options, case))
        except Failure as failure:
            row["saddle_skipped"] = str(failure)
        try:
            row["pytorch"].append(worker.time(mode, options.seconds))
        except Failure as failure:
            return row | {"skipped": str(failure)}
    row["clocks"].append(clocks())
    return row


def steps(options, record):
    batches = BATCHES[options.device]
    keys = ("model", "method", "batch", "precision", "mode")
    done = {tuple(row[key] for key in keys) for row in record["rows"]}
    for model in options.models or batches:
        for precision in options.precisions or PRECISIONS[options.device]:
            for batch in options.batches or batches.get(model, [8]):
                for method in options.methods:
                    case = (model, method, batch, precision)
                    wanted = [mode for mode in options.modes if (*case, mode) not in done]
                    if wanted:
                        run_case(options, record, case, wanted)


def late(options):
    return time.monotonic() > options.end


def run_case(options, record, case, wanted):
    worker = None
    for mode in wanted:
        if late(options):
            print(f"{' '.join(map(str, case))} {mode}: not run within --limit; --resume goes on")
            continue
        worker = worker or Worker(options, case)
        row = measure(options, worker, case, mode)
        if "skipped" in row and "clocks" in row:
            # A failed capture or launch can leave a process unable to do more.
            worker.close()
            worker = None
        record["rows"].append(row)
        keep(options, record)
        print(line(row), flush=True)
    if worker:
        worker.close()


def line(row):
    name = f"{row['model']} {row['method']} batch {row['batch']} {row['precision']} {row['mode']}"
    times = lambda who: "/".join(f"{1e3 * part['median']:.1f}" for part in row.get(who, [])) or "-"
    reason = "; ".join(str(row[key]) for key in ("skipped", "saddle_skipped") if key in row)
    return f"{name}: saddle {times('saddle')} ms, PyTorch {times('pytorch')} ms{reason and ': ' + reason}"


def verify(options, record):
    models = dict.fromkeys(["resnet-mini", *(options.models or ["resnet18"])])
    command = [options.python, HERE / "verify.py", options.saddle, options.device,
               TORCH_DEVICE[options.device], options.threads, *models]
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True)
    if not done.stdout:
        print("verify: ended without a result; the lines above say why")
        return False
    record["verify"] = json.loads(done.stdout)
    keep(options, record)
    wrong = [row for row in record["verify"] if row.get("wrong")]
    print(f"verify: {len(record['verify'])} comparisons, {len(wrong)} wrong")
    return not wrong


def autoattack(options, record):
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        run = options.run or folder / "run"
        if not options.run:
            output(options.saddle, "train", "--device", options.device, "--seed", 0, "--quiet", "--out", run)
        evaluate = [options.saddle, "eval", "--weights", run, "--checkpoint", "best", "--quiet"]
        evaluate += ["--device", options.device, *(["--n", options.n] if options.n else [])]
        clean = folder / "clean.safetensors"
        # With a radius of 0 the adversarial images are the clean ones.
        output(*evaluate, "--attack", "autoattack:fgsm", "--eps", 0, "--save-adv", clean)
        rows = []
        for number in range(options.repetitions):
            result, before = folder / f"{number}.json", clocks()
            output(*evaluate, "--attack", "autoattack", "--batch", options.attack_batch, "--out", result)
            own = json.loads(result.read_text())
            seconds = sum(attack["seconds"] for attack in own["results"])
            rows.append({"clocks": [before], "saddle": {"seconds": seconds, "results": own["results"]}})
            evaluation = [own["norm"], own["evaluation"]["eps"], options.attack_batch]
            weights = run / "checkpoints" / "best.safetensors"
            command = [options.python, HERE / "reference.py", weights, clean, *evaluation,
                       TORCH_DEVICE[options.device], options.threads, options.autoattack_path or ""]
            done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
            rows[-1]["clocks"].append(clocks())
            if done.returncode:
                rows[-1]["skipped"] = last_line(done.stderr)
            else:
                rows[-1]["reference"] = json.loads(done.stdout)
            print(attack_line(rows[-1]), flush=True)
    record["autoattack"] = {
        "weights": f"best checkpoint of {options.run.name if options.run else 'the default job, seed 0'}",
        "norm": own["norm"],
        "eps": own["evaluation"]["eps"],
        "images": own["results"][0]["attacked"],
        "rows": rows,
    }
    keep(options, record)


def attack_line(row):
    reference = row.get("reference")
    other = f"{reference['seconds']:.1f} s, {reference['robust']:.2f} %" if reference else row["skipped"]
    own = f"{row['saddle']['seconds']:.1f} s, {row['saddle']['results'][-1]['accuracy']:.2f} %"
    return f"AutoAttack: saddle {own}; reference: {other}"


def keep(options, record):
    options.out.parent.mkdir(parents=True, exist_ok=True)
    scratch = options.out.with_suffix(".tmp")
    scratch.write_text(json.dumps(record, indent=1) + "\n")
    scratch.replace(options.out)


def without_paths(words):
    """A command line as others can read it: where things lie on this machine says nothing to them."""
    paths = ["--python", "--saddle", "--out", "--run", "--autoattack-path"]
    pairs = list(zip([None, *words], words))
    return [word for before, word in pairs if before not in paths and word.split("=")[0] not in paths]


def about(options):
    """The record's head. Ends the program where PyTorch is missing."""
    done = subprocess.run([options.python, HERE / "worker.py", "about"], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {options.python} cannot run PyTorch: {last_line(done.stderr)}")
    peer = json.loads(done.stdout)
    options.device = options.device or ("cuda" if peer["cuda_device"] else "host")
    if options.device == "cuda" and not peer["cuda_device"]:
        sys.exit("error: --device cuda: PyTorch finds no CUDA device")
    options.threads = options.threads or peer["threads"]
    load, processors = os.getloadavg()[0], len(os.sched_getaffinity(0))
    busy = f"load average {load:.1f} on {processors} processors"
    version = output(options.saddle, "--version").strip()
    return {
        "peers": peer | {"driver": driver(), "saddle": version, "threads_used": options.threads},
        "date": datetime.date.today().isoformat(),
        # Of the binary: there may be no repository here.
        "commit": version.partition("(")[2].rstrip(")") or "unknown",
        "processor": processor(),
        "device": peer["cuda_device"] if options.device == "cuda" else f"host ({processors} threads)",
        "command": "benches/peers/run.py " + shlex.join(without_paths(sys.argv[1:])),
        "clocks": [clocks()],
        "loaded": busy if load > QUIET * processors else None,
        "rows": [],
    }


def arguments():
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("what", nargs="*", help="verify, steps, autoattack [default: all three]")
    parser.add_argument("--device", choices=["cuda", "host"], help="default: cuda where PyTorch has it")
    parser.add_argument("--saddle", type=pathlib.Path, default=ROOT / "target" / "release" / "saddle")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has PyTorch")
    parser.add_argument("--threads", type=int, help="PyTorch's threads on the host")
    parser.add_argument("--models", nargs="+", choices=["resnet-mini", "resnet18", "wrn-28-10"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--batches", nargs="+", type=int)
    parser.add_argument("--precisions", nargs="+", choices=["f32", "tf32", "bf16"])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each repetition, at least five steps")
    parser.add_argument("--repetitions", type=int, default=3, help="of saddle and PyTorch in turn")
    parser.add_argument("--limit", type=float, default=1e9, help="start nothing after so many seconds")
    parser.add_argument("--run", type=pathlib.Path, help="AutoAttack: a run directory [default: train one]")
    parser.add_argument("--n", type=int, help="AutoAttack: only the first images")
    parser.add_argument("--attack-batch", type=int, default=512)
    parser.add_argument("--autoattack-path", type=pathlib.Path, help="a checkout of fra31/auto-attack")
    parser.add_argument("--resume", action="store_true", help="add to the record of --out what is missing")
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    known = {"verify": verify, "steps": steps, "autoattack": autoattack}
    if unknown := [what for what in options.what if what not in known]:
        parser.error(f"unknown work {unknown[0]!r}; known: {', '.join(known)}")
    if not options.saddle.is_file():
        parser.error(f"{options.saddle}: no such program; build it (cargo build --release) or give --saddle")
    options.work = {name: work for name, work in known.items() if name in (options.what or known)}
    options.end = time.monotonic() + options.limit
    return options


def main():
    options = arguments()
    record = about(options)
    kind = "cuda" if options.device == "cuda" else "host"
    options.out = options.out or ROOT / "benches" / "records" / f"{record['date']}-{kind}-peers.json"
    if options.resume and options.out.is_file():
        earlier = json.loads(options.out.read_text())
        if (earlier["device"], earlier["peers"]) != (record["device"], record["peers"]):
            sys.exit(f"error: {options.out}: of another machine or other versions; name another --out")
        record = earlier | {"clocks": earlier["clocks"] + record["clocks"],
                            "loaded": earlier["loaded"] or record["loaded"]}
    if record["loaded"]:
        print(f"warning: {record['loaded']} before the first step; the record says so", file=sys.stderr)
    good = True
    for name, work in options.work.items():
        if not late(options):
            good = work(options, record) is not False and good
    record["clocks"].append(clocks())
    keep(options, record)
    print(options.out)
    sys.exit(not good)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: {shlex.join(map(str, error.cmd))}: {last_line(error.stderr)}")
