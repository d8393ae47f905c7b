#!/usr/bin/env python3
"""AutoAttack by its authors' package on a weight file of saddle's; run.py starts it.

    reference.py WEIGHTS IMAGES NORM EPS BATCH DEVICE THREADS [CHECKOUT]

IMAGES holds x_adv and y, as `saddle eval --save-adv` writes them. The package is the `autoattack` that Python
finds, or that of a checkout of https://github.com/fra31/auto-attack. Prints JSON.
"""

import json
import os
import sys
import time

import torch
from torch import nn

import files
import nets


def package(checkout):
    if checkout:
        sys.path.insert(0, checkout)
    try:
        import autoattack
    except ImportError as error:
        source = "https://github.com/fra31/auto-attack"
        sys.exit(f"error: {error}: install it from {source}, or name a checkout with --autoattack-path")
    return autoattack


class Normalised(nn.Module):
    """A network with the normalisation of its metadata before it."""

    def __init__(self, net, metadata):
        super().__init__()
        self.net = net
        read = lambda key: [float(part) for part in metadata.get(key, "").split(",") if part]
        numbers = [read("mean"), read("std")]
        self.numbers = [torch.tensor(part).view(1, -1, 1, 1) for part in numbers] if all(numbers) else None

    def forward(self, x):
        if self.numbers:
            mean, std = (part.to(x) for part in self.numbers)
            x = (x - mean) / std
        return self.net(x.contiguous(memory_format=torch.channels_last))


def main():
    # The authors' code prints; the answer has standard output to itself.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    weights, images, norm, eps, batch, device, threads, checkout = (sys.argv[1:] + [""])[:8]
    torch.set_num_threads(int(threads))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    attack = package(checkout)
    tensors, metadata = files.read(weights)
    data, _ = files.read(images)
    x, y = data["x_adv"].to(device), data["y"].to(device)
    net = nets.build(metadata["arch"], device, x.shape[1], int(metadata["num_classes"]))
    nets.load(net, tensors)
    model = Normalised(net, metadata).eval()
    norm = {"linf": "Linf", "l2": "L2"}[norm]
    adversary = attack.AutoAttack(model, norm=norm, eps=float(eps), seed=0, verbose=False, device=device)
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    x_adv = adversary.run_standard_evaluation(x, y, bs=int(batch))
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    accuracy = lambda images: 100 * torch.cat([
        model(part).argmax(1) == labels for part, labels in zip(images.split(int(batch)), y.split(int(batch)))
    ]).double().mean().item()
    with torch.no_grad():
        result = {"seconds": seconds, "clean": accuracy(x), "robust": accuracy(x_adv), "images": len(x)}
    print(json.dumps(result), file=answer, flush=True)


if __name__ == "__main__":
    main()
