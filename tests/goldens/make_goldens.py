#!/usr/bin/env python3
"""Write the PyTorch reference values ("goldens") that saddle's network and loss tests compare with.

Every value is computed in float64 from inputs and parameters that were first rounded to float32, and is then
stored as float32: what is stored is the right answer to float32 precision, not PyTorch's float32 rounding of it.
Needs PyTorch (and NumPy, which PyTorch uses) only; safetensors files are written by `write_safetensors` below.

    python3 make_goldens.py            # all files, next to this script
    python3 make_goldens.py --check    # write nothing; fail if a file here is not what this machine would write
"""

import argparse
import copy
import json
import struct
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

BATCH, CHANNELS, SIDE, CLASSES = 6, 3, 8, 10
SGD = dict(lr=0.05, momentum=0.9, weight_decay=5e-4)
SGD_STEPS = 10

# ---------------------------------------------------------------------------------------------- rectifier
# A float32 implementation may put a ReLU input within rounding error of zero on the other side, and its gradients
# then differ for a good reason. `closest_to_zero` records the smallest |ReLU input| so that a seed with such an
# input can be refused.
closest_to_zero = float("inf")


def relu(x):
    global closest_to_zero
    closest_to_zero = min(closest_to_zero, x.detach().abs().min().item())
    return F.relu(x)


def conv(cin, cout, kernel, stride=1):
    return nn.Conv2d(cin, cout, kernel, stride=stride, padding=kernel // 2, bias=False)


# --------------------------------------------------------------------------------------------------- nets
class BasicBlock(nn.Module):
    """Post-activation: relu(bn2(conv2(relu(bn1(conv1 x)))) + shortcut(x))."""

    expansion = 1

    def __init__(self, cin, planes, stride):
        super().__init__()
        self.conv1, self.bn1 = conv(cin, planes, 3, stride), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = conv(planes, planes, 3), nn.BatchNorm2d(planes)
        self.shortcut = post_activation_shortcut(cin, planes, stride)

    def forward(self, x):
        out = relu(self.bn1(self.conv1(x)))
        return relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """Post-activation 1x1, 3x3 (strided), 1x1 to four times the planes."""

    expansion = 4

    def __init__(self, cin, planes, stride):
        super().__init__()
        self.conv1, self.bn1 = conv(cin, planes, 1), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = conv(planes, planes, 3, stride), nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = conv(planes, 4 * planes, 1), nn.BatchNorm2d(4 * planes)
        self.shortcut = post_activation_shortcut(cin, 4 * planes, stride)

    def forward(self, x):
        out = relu(self.bn1(self.conv1(x)))
        out = relu(self.bn2(self.conv2(out)))
        return relu(self.bn3(self.conv3(out)) + self.shortcut(x))


def post_activation_shortcut(cin, cout, stride):
    if stride == 1 and cin == cout:
        return nn.Sequential()
    return nn.Sequential(conv(cin, cout, 1, stride), nn.BatchNorm2d(cout))


class PreActBlock(nn.Module):
    """Pre-activation: a convolutional shortcut reads relu(bn1(x)), an identity shortcut the raw x."""

    expansion = 1

    def __init__(self, cin, planes, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(cin), conv(cin, planes, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(planes), conv(planes, planes, 3)
        if stride != 1 or cin != planes:
            self.shortcut = nn.Sequential(conv(cin, planes, 1, stride))

    def forward(self, x):
        a = relu(self.bn1(x))
        skip = self.shortcut(a) if hasattr(self, "shortcut") else x
        return self.conv2(relu(self.bn2(self.conv1(a)))) + skip


class ResNet(nn.Module):
    """conv1, layer1..3, linear; `bn1` after conv1 for post-activation blocks, a final `bn` for PreAct blocks."""

    def __init__(self, block, width, blocks):
        super().__init__()
        self.conv1 = conv(CHANNELS, width, 3)
        self.preact = block is PreActBlock
        if not self.preact:
            self.bn1 = nn.BatchNorm2d(width)
        cin = width
        for stage, stride in enumerate((1, 2, 2)):
            planes = width * 2**stage
            layer = []
            for i in range(blocks):
                layer.append(block(cin, planes, stride if i == 0 else 1))
                cin = planes * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layer))
        if self.preact:
            self.bn = nn.BatchNorm2d(cin)
        self.linear = nn.Linear(cin, CLASSES)

    def forward(self, x):
        out = self.conv1(x)
        if not self.preact:
            out = relu(self.bn1(out))
        out = self.layer3(self.layer2(self.layer1(out)))
        if self.preact:
            out = relu(self.bn(out))
        return self.linear(out.mean((2, 3)))


class WideBlock(nn.Module):
    """WRN block: when the channels change, relu(bn1(x)) feeds conv1 and convShortcut; else the raw x is added."""

    def __init__(self, cin, cout, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(cin), conv(cin, cout, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(cout), conv(cout, cout, 3)
        self.convShortcut = None if cin == cout else conv(cin, cout, 1, stride)

    def forward(self, x):
        a = relu(self.bn1(x))
        skip = x if self.convShortcut is None else self.convShortcut(a)
        return self.conv2(relu(self.bn2(self.conv1(a)))) + skip


class WideGroup(nn.Module):
    def __init__(self, cin, cout, stride, blocks):
        super().__init__()
        self.layer = nn.Sequential(
            *[WideBlock(cin if i == 0 else cout, cout, stride if i == 0 else 1) for i in range(blocks)]
        )

    def forward(self, x):
        return self.layer(x)


class WideResNet(nn.Module):
    """conv1 with half the first group's width, block1..3, final bn1, fc."""

    def __init__(self, width, blocks):
        super().__init__()
        self.conv1 = conv(CHANNELS, width // 2, 3)
        self.block1 = WideGroup(width // 2, width, 1, blocks)
        self.block2 = WideGroup(width, 2 * width, 2, blocks)
        self.block3 = WideGroup(2 * width, 4 * width, 2, blocks)
        self.bn1 = nn.BatchNorm2d(4 * width)
        self.fc = nn.Linear(4 * width, CLASSES)

    def forward(self, x):
        out = relu(self.bn1(self.block3(self.block2(self.block1(self.conv1(x))))))
        return self.fc(out.mean((2, 3)))


# The four nets of the tests, and two with two blocks per stage: only those reach the identity shortcut of Bottleneck
# and WideBlock. Each row: constructor, width, blocks per stage, first seed to try (the one found).
NETS = {
    "basicblock": (lambda: ResNet(BasicBlock, 8, 1), 8, 1, 1014),
    "preact": (lambda: ResNet(PreActBlock, 8, 1), 8, 1, 2003),
    "bottleneck": (lambda: ResNet(Bottleneck, 4, 1), 4, 1, 3138),
    "wide": (lambda: WideResNet(8, 1), 8, 1, 4000),
    "bottleneck2": (lambda: ResNet(Bottleneck, 4, 2), 4, 2, 5708),
    "wide2": (lambda: WideResNet(4, 2), 4, 2, 6011),
}
# A seed is refused when some ReLU input is nearer to zero than this, or when PyTorch in float32 is further than this
# from the reference (a nearly constant channel, which batch norm then blows up, does that).
SMALLEST_RELU_INPUT = 2e-5
LARGEST_FLOAT32_ERROR = 5e-6


def perturb_batch_norms(net):
    """Random affine parameters and running statistics: with PyTorch's 1, 0, 0, 1 a mix-up would go unseen."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.2, 0.2)
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 1.5)


def logits_and_gradients(net, x, y):
    """Logits, the gradient of the mean cross entropy for x, and for each parameter by name."""
    x = x.clone().requires_grad_(True)
    logits = net(x)
    names, parameters = zip(*net.named_parameters())
    grad_x, *grads = torch.autograd.grad(F.cross_entropy(logits, y), (x, *parameters))
    return logits.detach(), grad_x, dict(zip(names, grads))


def sgd_losses(net, x, y):
    net.train()
    optimiser = torch.optim.SGD(net.parameters(), **SGD)
    losses = []
    for _ in range(SGD_STEPS):
        loss = F.cross_entropy(net(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def measure(net, x, y):
    """Everything a golden file holds besides x, y and the parameters. `net` itself is left as it was."""
    out = {}
    for mode in ("eval", "train"):
        fresh = copy.deepcopy(net).train(mode == "train")
        logits, grad_x, grads = logits_and_gradients(fresh, x, y)
        out[f"{mode}.logits"], out[f"{mode}.grad_x"] = logits, grad_x
        out.update({f"{mode}.grad.{name}": grad for name, grad in grads.items()})
    # `fresh` is the train-mode copy after exactly one pass
    out.update({f"train.buffer.{k}": v for k, v in fresh.named_buffers() if not k.endswith("num_batches_tracked")})
    out["losses"] = sgd_losses(copy.deepcopy(net), x, y)
    return out


def relative_errors(got, want):
    """Largest |got - want| of each kind of tensor, relative to the largest |want| of that tensor."""
    worst = {}
    for name, w in want.items():
        kind = ".".join(name.split(".")[:2])
        error = ((got[name].double() - w).abs().max() / w.abs().max()).item()
        worst[kind] = max(worst.get(kind, 0.0), error)
    return worst


def net_golden(name, seed):
    """One net's tensors, metadata and PyTorch float32 errors; None where the seed is refused."""
    global closest_to_zero
    build, width, blocks, _ = NETS[name]
    torch.manual_seed(seed)
    net = build()
    perturb_batch_norms(net)
    x = torch.rand(BATCH, CHANNELS, SIDE, SIDE)
    y = torch.randint(CLASSES, (BATCH,))
    tensors = {"x": x, "y": y, **{f"param.{k}": v.clone() for k, v in net.state_dict().items()}}

    single = measure(net, x, y)
    closest_to_zero = float("inf")
    reference = measure(net.double(), x.double(), y)
    errors = relative_errors(single, reference)
    if closest_to_zero < SMALLEST_RELU_INPUT or max(errors.values()) > LARGEST_FLOAT32_ERROR:
        return None
    tensors.update(reference)
    metadata = {
        "arch": name, "width": str(width), "blocks": str(blocks), "num_classes": str(CLASSES), "seed": str(seed),
        "torch": torch.__version__, "lr": str(SGD["lr"]), "momentum": str(SGD["momentum"]),
        "weight_decay": str(SGD["weight_decay"]), "smallest_relu_input": f"{closest_to_zero:.1e}",
    }
    return tensors, metadata, errors


# ---------------------------------------------------------------------------------------------------- ops
JS_TEMPERATURE = 0.5


def kl_rows(log_p, log_q):
    return (log_p.exp() * (log_p - log_q)).sum(1)


def js_rows(u, v):
    """Jensen-Shannon divergence of softmax(u/T) and softmax(v/T), the mixture clamped at 1e-8."""
    log_p, log_q = F.log_softmax(u / JS_TEMPERATURE, 1), F.log_softmax(v / JS_TEMPERATURE, 1)
    log_m = ((log_p.exp() + log_q.exp()) / 2).clamp(min=1e-8).log()
    return 0.5 * (kl_rows(log_p, log_m) + kl_rows(log_q, log_m))


def ops_golden():
    """Loss operations: ordinary logits in `7x10` and `5x3`, steep ones in `4x6` (the JS mixture is clamped)."""
    torch.manual_seed(7000)
    out = {}
    for rows, classes, spread in ((7, 10, 2.0), (5, 3, 2.0), (4, 6, 15.0)):
        case = f"{rows}x{classes}"
        u32, v32 = spread * torch.randn(rows, classes), spread * torch.randn(rows, classes)
        labels = torch.randint(classes, (rows,))
        u, v = u32.double().requires_grad_(True), v32.double().requires_grad_(True)

        per_sample = F.cross_entropy(u, labels, reduction="none")
        (grad,) = torch.autograd.grad(per_sample.mean(), u)
        out.update({f"ce.{case}.logits": u, f"ce.{case}.labels": labels, f"ce.{case}.per_sample": per_sample,
                    f"ce.{case}.mean": per_sample.mean(), f"ce.{case}.grad": grad})

        pairs = {
            "kl": kl_rows(F.log_softmax(u, 1), F.log_softmax(v, 1)),
            "js": js_rows(u, v),
            "mse": ((u - v) ** 2).mean(1),
        }
        for op, per_sample in pairs.items():
            grad_u, grad_v = torch.autograd.grad(per_sample.mean(), (u, v), retain_graph=True)
            out.update({f"{op}.{case}.u": u, f"{op}.{case}.v": v, f"{op}.{case}.per_sample": per_sample,
                        f"{op}.{case}.mean": per_sample.mean(), f"{op}.{case}.grad_u": grad_u,
                        f"{op}.{case}.grad_v": grad_v})

        own = u.gather(1, labels[:, None]).squeeze(1)
        rival = u.scatter(1, labels[:, None], float("-inf")).max(1).values
        out.update({f"margin.{case}.logits": u, f"margin.{case}.labels": labels, f"margin.{case}.margin": own - rival})
    return {k: t.detach() for k, t in out.items()}, {"js_temperature": str(JS_TEMPERATURE), "torch": torch.__version__}


# ------------------------------------------------------------------------------------------------ writing
def safetensors_bytes(tensors, metadata):
    """8-byte little-endian header length, JSON header, raw data. Integers (8 bytes each) come first, for alignment."""
    header, data = {"__metadata__": dict(sorted(metadata.items()))}, b""
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].is_floating_point(), item[0])):
        kind, tensor = ("F32", tensor.float()) if tensor.is_floating_point() else ("I64", tensor.long())
        assert torch.isfinite(tensor).all(), f"{name} is not finite"
        raw = tensor.contiguous().numpy().astype("<f4" if kind == "F32" else "<i8").tobytes()
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="folder for the files")
    parser.add_argument("--only", choices=[*NETS, "ops"], help="this file only")
    parser.add_argument("--check", action="store_true", help="compare with the files in --out, byte for byte")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    total, differing = 0, []
    for name in [args.only] if args.only else [*NETS, "ops"]:
        note = ""
        if name == "ops":
            tensors, metadata = ops_golden()
        else:
            seed = NETS[name][3]
            while (golden := net_golden(name, seed)) is None:
                seed += 1
            tensors, metadata, errors = golden
            note = "float32 error " + ", ".join(f"{k} {e:.0e}" for k, e in errors.items())
        content = safetensors_bytes(tensors, metadata)
        path = args.out / f"{name}.safetensors"
        if args.check:
            if not path.exists() or path.read_bytes() != content:
                differing.append(path.name)
        else:
            path.write_bytes(content)
        total += len(content)
        print(f"{path.name:24} {len(content):8} bytes, {len(tensors):3} tensors  {note}")
    print(f"{'total':24} {total:8} bytes")
    if differing:
        raise SystemExit(f"not as written here: {', '.join(differing)}")


if __name__ == "__main__":
    main()
