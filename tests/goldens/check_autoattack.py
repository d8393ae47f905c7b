#!/usr/bin/env python3
"""AutoAttack by saddle and by torchattacks (a port of the authors' code) on the same weights and images, attack by attack.

    python3 check_autoattack.py --saddle PATH --weights RUN/checkpoints/best.safetensors -- --dataset digits
    python3 check_autoattack.py --saddle PATH --weights FILE -- --dataset cifar10 --data DIR --n 300 --norm l2 --eps 0.5

What stands behind -- goes to `saddle eval`. For networks of BasicBlocks that do not normalise images. Needs torch, and torchattacks 3.5 from
PyPI (`pip install --no-deps torchattacks`; of what that imports, the attacks used here need nothing but torch).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

import torch

from reference.files import read_safetensors
from reference.net import Net


class Absent(types.ModuleType):
    """Stands for a package that only other attacks of torchattacks need."""

    __path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def torchattacks():
    for name in ("scipy", "scipy.stats", "scipy.optimize", "scipy.optimize.optimize", "scipy._lib", "scipy._lib._util", "torchvision", "tqdm"):
        try:
            __import__(name)
        except ImportError:
            sys.modules[name] = Absent(name)
    import torchattacks

    return torchattacks


class Classifier(torch.nn.Module):
    """Logits of a weight file's network in eval mode."""

    def __init__(self, tensors):
        super().__init__()
        self.net = Net(tensors, torch.float32)
        for tensor in self.net.parameters.values():
            tensor.requires_grad_(False)
        # torchattacks asks the parameters for the device.
        self.device = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return self.net(x, "eval")


def attacks(package, model, norm, eps, classes):
    """The standard version with AutoAttack's own numbers, which are not torchattacks' defaults."""
    norm = {"linf": "Linf", "l2": "L2"}[norm]
    targeted = dict(norm=norm, eps=eps, steps=100, seed=0, n_classes=classes)
    yield "apgd-ce", package.APGD(model, norm=norm, eps=eps, steps=100, loss="ce", seed=0)
    yield "apgd-t", package.APGDT(model, **targeted)
    yield "fab-t", package.FAB(model, **targeted, multi_targeted=True)
    yield "square", package.Square(model, norm=norm, eps=eps, n_queries=5000, seed=0, resc_schedule=False)


def evaluate(saddle, weights, arguments, attack, more):
    subprocess.run([saddle, "eval", "--quiet", "--weights", weights, "--attack", attack, *arguments, *more], check=True, stdout=subprocess.DEVNULL)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--saddle", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--batch", type=int, default=360)
    parser.add_argument("eval", nargs="*", help="arguments of saddle eval")
    args = parser.parse_args()
    package = torchattacks()
    with tempfile.TemporaryDirectory() as folder:
        result, clean = Path(folder) / "result.json", Path(folder) / "clean.safetensors"
        evaluate(args.saddle, args.weights, args.eval, "autoattack", ["--out", result])
        # With a radius of 0 the adversarial images are the clean ones.
        evaluate(args.saddle, args.weights, args.eval, "autoattack:fgsm", ["--eps", "0", "--save-adv", clean])
        own, (images, _) = json.loads(result.read_text()), read_safetensors(clean)
    tensors, metadata = read_safetensors(args.weights)
    if metadata.get("mean"):
        sys.exit("this network normalises images, which this script does not")
    model, x, y = Classifier(tensors).eval(), images["x_adv"], images["y"]

    def right(x, y):
        with torch.no_grad():
            return torch.cat([model(part).argmax(1) == labels for part, labels in zip(x.split(args.batch), y.split(args.batch))])

    robust, rows = right(x, y), {row["attack"]: row for row in own["results"]}
    print(f"{'attack':10} {'saddle %':>9} {'torchattacks %':>15} {'s':>7} {'s':>7}")
    line = lambda name, seconds: print(f"{name:10} {rows[name]['accuracy']:9.2f} {100 * robust.double().mean().item():15.2f} {rows[name]['seconds']:7.1f} {seconds:7.1f}", flush=True)
    line("clean", 0.0)
    for name, attack in attacks(package, model, own["norm"], own["evaluation"]["eps"], int(metadata["num_classes"])):
        began = time.time()
        for rows_left in robust.nonzero().squeeze(1).split(args.batch):
            robust[rows_left] = right(attack(x[rows_left], y[rows_left]), y[rows_left])
        line(name, time.time() - began)


if __name__ == "__main__":
    main()
