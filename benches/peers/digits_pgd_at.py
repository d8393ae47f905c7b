#!/usr/bin/env python3
"""saddle's default job in PyTorch: PGD-AT on the embedded digits, as a reference for accuracy and speed.

Data: 1,797 8x8 digits, values/16; the first 1,437 train, the last 360 test; no augmentation, no
normalisation. Net: post-activation ResNet of width 16 (16, 32, 64), one block per stage, 1 input channel,
PyTorch's default init. Attack: Linf, uniform start, eval-mode batch norm, in training and in evaluation.
Optimiser: SGD, momentum 0.9, weight decay on every parameter; the learning rate is set before every
iteration; the last partial batch is kept.

    python3 benches/peers/digits_pgd_at.py                  # the default recipe, three seeds
    python3 benches/peers/digits_pgd_at.py --standard       # the same without the attack

Measure speed on an idle machine only: PyTorch's two threads wait for each other at every operation, and one
busy neighbour can slow them tenfold or more. `--threads 1` is the safer choice on a shared machine.
"""

import argparse
import gzip
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from nets import ResNet

TRAIN_IMAGES = 1437


def load_digits(path):
    """Rows of 64 pixels (0..16) and a label -> x [1797,1,8,8] in [0,1], y [1797]."""
    with gzip.open(path, "rt") as file:
        rows = torch.tensor([[float(cell) for cell in line.split(",")] for line in file])
    return rows[:, :64].reshape(-1, 1, 8, 8) / 16, rows[:, 64].long()


def pgd(net, x, y, eps, step, steps):
    """Linf PGD on the cross entropy, uniform start, running statistics; leaves the net in eval mode."""
    net.eval()
    adv = (x + torch.empty_like(x).uniform_(-eps, eps)).clamp(0, 1)
    for _ in range(steps):
        adv.requires_grad_(True)
        loss = F.cross_entropy(net(adv), y, reduction="sum")
        (grad,) = torch.autograd.grad(loss, adv)
        adv = adv.detach() + step * grad.sign()
        adv = torch.min(torch.max(adv, x - eps), x + eps).clamp(0, 1)
    return adv


def accuracy(net, x, y):
    net.eval()
    with torch.no_grad():
        return 100 * (net(x).argmax(1) == y).double().mean().item()


def learning_rate(args, t):
    """Learning rate at progress t in [0, 1) of the training."""
    if args.schedule == "constant":
        return args.lr
    if args.schedule == "multistep":  # x0.1 at 70 % and again at 90 %
        return args.lr * 0.1 ** ((t >= 0.7) + (t >= 0.9))
    if t < args.warmup:
        return args.lr * (t / args.warmup)
    t = (t - args.warmup) / (1 - args.warmup)
    return args.lr * (1 - t if args.schedule in ("linear", "onecycle") else 0.5 * (1 + math.cos(math.pi * t)))


def train(args, x, y, seed):
    """One run. Returns the net and the seconds its training took."""
    torch.manual_seed(seed)
    # 1.3 times the speed of the default layout
    net = ResNet(1, args.width, 3, 1).to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(net.parameters(), args.lr, momentum=0.9, weight_decay=args.weight_decay)
    per_epoch = math.ceil(len(x) / args.batch)
    started, iteration = time.perf_counter(), 0
    for _ in range(args.epochs):
        for index in torch.randperm(len(x)).split(args.batch):
            images, labels = x[index], y[index]
            if not args.standard:
                images = pgd(net, images, labels, args.eps, args.step, args.steps)
            net.train()
            # the middle of the iteration, so that no iteration has learning rate zero
            t = (iteration + 0.5) / (per_epoch * args.epochs)
            optimiser.param_groups[0]["lr"] = learning_rate(args, t)
            loss = F.cross_entropy(net(images), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            iteration += 1
    return net, time.perf_counter() - started


def arguments():
    root = Path(__file__).resolve().parents[2]
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--data", type=Path, default=root / "src" / "data" / "digits.csv.gz")
    parser.add_argument("--standard", action="store_true", help="train on clean images")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--lr", type=float, default=0.2, help="highest learning rate")
    parser.add_argument("--schedule", default="onecycle",
                        choices=["constant", "linear", "cosine", "onecycle", "multistep"])
    parser.add_argument("--warmup", type=float, help="rising part of the run (onecycle 0.3, others 0)")
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--step", type=float, help="attack step, default eps/4")
    parser.add_argument("--steps", type=int, default=10, help="attack steps in training (evaluation: 20)")
    parser.add_argument("--eval-step", type=float, help="attack step in evaluation, default eps/4")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    args.step = args.eps / 4 if args.step is None else args.step
    args.eval_step = args.eps / 4 if args.eval_step is None else args.eval_step
    if args.warmup is None:
        args.warmup = 0.3 if args.schedule == "onecycle" else 0.0
    return args


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    x, y = load_digits(args.data)
    x_test, y_test = x[TRAIN_IMAGES:], y[TRAIN_IMAGES:]
    x, y = x[:TRAIN_IMAGES], y[:TRAIN_IMAGES]
    print(f"lr {args.lr} {args.schedule} warmup {args.warmup} epochs {args.epochs} wd {args.weight_decay} "
          f"batch {args.batch}{' standard' if args.standard else ''}")
    cleans, robusts = [], []
    for seed in args.seeds:
        net, seconds = train(args, x, y, seed)
        clean = accuracy(net, x_test, y_test)
        robust = accuracy(net, pgd(net, x_test, y_test, args.eps, args.eval_step, 20), y_test)
        cleans.append(clean)
        robusts.append(robust)
        speed = args.epochs * len(x) / seconds
        print(f"  seed {seed}: clean {clean:.1f}  PGD-20 {robust:.1f}  {speed:.0f} images/s  {seconds:.1f} s",
              flush=True)
    count = len(cleans)
    print(f"  mean: clean {sum(cleans) / count:.2f}  PGD-20 {sum(robusts) / count:.2f}; "
          f"worst: clean {min(cleans):.1f}  PGD-20 {min(robusts):.1f}")


if __name__ == "__main__":
    main()
