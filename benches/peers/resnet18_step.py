#!/usr/bin/env python3
"""Whole PGD-10 adversarial training steps of the CIFAR ResNet-18 in PyTorch, the peer of `saddle bench step
--model resnet18`: Linf, eps 8/255, step size 2/255, uniform start, batch norm in eval mode during the attack,
SGD with momentum 0.9 and weight decay 5e-4.

Prints a JSON list: for each batch size and mode the median and the spread (10th and 90th percentile) of the
seconds of a step, after a warm-up. Modes:
    float32        matrix products in float32 proper (cuda.matmul.allow_tf32 = cudnn.allow_tf32 = False)
    tf32           PyTorch's default for convolutions
    bf16           autocast to bfloat16
each with images in channels_last order and cudnn.benchmark on.

    python3 benches/peers/resnet18_step.py --batch 128 512
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F
from digits_pgd_at import Block
from torch import nn

EPS, STEP_SIZE, ATTACK_STEPS = 8 / 255, 2 / 255, 10


class ResNet18(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64)
        widths, blocks, cin = [64, 128, 256, 512], [], 64
        for number, width in enumerate(widths):
            blocks += [Block(cin, width, 1 if number == 0 else 2), Block(width, width, 1)]
            cin = width
        self.blocks, self.linear = nn.Sequential(*blocks), nn.Linear(512, 10)

    def forward(self, x):
        out = self.blocks(F.relu(self.bn1(self.conv1(x))))
        return self.linear(out.mean((2, 3)))


def step(net, optimiser, x, y, autocast):
    net.eval()
    adv = (x + torch.empty_like(x).uniform_(-EPS, EPS)).clamp(0, 1)
    for _ in range(ATTACK_STEPS):
        adv.requires_grad_(True)
        with autocast():
            loss = F.cross_entropy(net(adv).float(), y)
        (grad,) = torch.autograd.grad(loss, adv)
        adv = adv.detach() + STEP_SIZE * grad.sign()
        adv = torch.min(torch.max(adv, x - EPS), x + EPS).clamp(0, 1)
    net.train()
    optimiser.zero_grad(set_to_none=True)
    with autocast():
        loss = F.cross_entropy(net(adv).float(), y)
    loss.backward()
    optimiser.step()


def measure(device, batch, mode, seconds):
    tf32 = mode != "float32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True

    def autocast():
        return torch.autocast(device.type, torch.bfloat16, enabled=mode == "bf16")

    torch.manual_seed(0)
    net = ResNet18().to(device).to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    x = torch.rand(batch, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
    y = torch.randint(10, (batch,), device=device)
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    times = []
    for number in range(10_000):
        wait()
        began = time.perf_counter()
        step(net, optimiser, x, y, autocast)
        wait()
        if number >= 3:
            times.append(time.perf_counter() - began)
        if len(times) >= 5 and sum(times) > seconds:
            break
    deciles = statistics.quantiles(times, n=10)
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "pytorch": torch.__version__,
        "cuda": torch.version.cuda,
        "batch": batch,
        "mode": mode,
        "steps": len(times),
        "seconds": {"p10": deciles[0], "median": statistics.median(times), "p90": deciles[8]},
        "images_per_second": batch / statistics.median(times),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[128])
    parser.add_argument("--modes", nargs="+", default=["float32", "tf32", "bf16"])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    device = torch.device(args.device)
    rows = [measure(device, batch, mode, args.seconds) for batch in args.batch for mode in args.modes]
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
