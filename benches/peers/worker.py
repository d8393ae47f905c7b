#!/usr/bin/env python3
"""Times PyTorch's training steps for run.py: one process per case, which keeps what it has built and tuned
while saddle is timed in between.

    worker.py about                                            versions and the device, as JSON
    worker.py steps MODEL METHOD BATCH PRECISION DEVICE THREADS    one line in, one line of JSON out

A line in: `MODE SECONDS`. The answer: {"median", "p10", "p90" (seconds of a step), "steps"...} or {"error"}.
"""

import gc
import json
import os
import sys
import time

import torch

import modes
from methods import METHODS

WARM_UP, LEAST = 3, 5


def about():
    cuda = torch.cuda.is_available()
    properties = torch.cuda.get_device_properties(0) if cuda else None
    return {
        "cuda_device": properties.name if cuda else None,
        "memory": properties.total_memory if cuda else None,
        "capability": list(torch.cuda.get_device_capability()) if cuda else None,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "versions": {
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "triton": version("triton"),
            "onednn": torch.backends.mkldnn.is_available(),
        },
    }


def version(package):
    try:
        return __import__(package).__version__
    except ImportError:
        return None


def summary(times):
    times = sorted(times)
    at = lambda share: times[round((len(times) - 1) * share)]
    return {"median": at(0.5), "p10": at(0.1), "p90": at(0.9), "steps": len(times)}


class Case:
    """A case in the mode that was asked for last."""

    def __init__(self, model, method, batch, precision, device):
        self.model, self.method, self.batch, self.precision = model, method, int(batch), precision
        self.device, self.mode, self.training_step, self.form = device, None, None, None

    def wait(self):
        if self.device == "cuda":
            torch.cuda.synchronize()

    def timed(self):
        self.wait()
        began = time.perf_counter()
        self.training_step.run()
        self.wait()
        return time.perf_counter() - began

    def free(self):
        self.mode = self.training_step = None
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def build(self, mode, form):
        self.free()
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self.training_step = modes.bench_step(
            self.model, self.method, self.batch, self.device, mode, self.precision, form)
        for _ in range(WARM_UP):
            self.timed()

    def prepare(self, mode):
        """Builds the step; of the forms of RAAT's set that the mode has, the faster one."""
        trials = {}
        for form in modes.forms(self.method, mode):
            self.build(mode, form)
            trials[form] = min(self.timed() for _ in range(3))
        fastest = min(trials, key=trials.get)
        if fastest != form:
            self.build(mode, fastest)
        self.mode, self.form = mode, fastest

    def time(self, mode, seconds):
        if mode != self.mode:
            self.prepare(mode)
        times, began = [], time.perf_counter()
        while len(times) < LEAST or time.perf_counter() - began < seconds:
            times.append(self.timed())
        answer = summary(times)
        if self.device == "cuda":
            answer["peak_memory"] = torch.cuda.max_memory_allocated()
        if METHODS[self.method][1] == 2:
            answer |= {"form": self.form, "members": int(self.training_step.step.members.sum())}
        return answer


def main():
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if sys.argv[1] == "about":
        print(json.dumps(about()), file=answers, flush=True)
        return
    *case, threads = sys.argv[2:]
    torch.set_num_threads(int(threads))
    case = Case(*case)
    for line in sys.stdin:
        mode, seconds = line.split()
        try:
            answer = case.time(mode, float(seconds))
        except torch.OutOfMemoryError:
            answer = {"error": "out of memory"}
        except Exception as error:  # of whatever kind: the reason stands in the record
            answer = {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"}
        if "error" in answer:
            case.free()
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
