#!/usr/bin/env python3
"""Write the goldens of the training methods: `methods_input.safetensors` and `methods.json` (README.md says what is in them).

    python3 make_methods.py            # both files, next to this script
    python3 make_methods.py --check    # write nothing; fail if a file here is not what this machine would write
    python3 make_methods.py --search 0 100   # look for a seed that is good enough
"""

import argparse
import json
import math
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F

from make_goldens import safetensors_bytes
from reference.losses import margin
from reference.net import MODELS, Net, Watch, initial
from reference.step import step

HERE = Path(__file__).resolve().parent
SEED = 1
BATCH, LABELS = 8, [3, 1, 4, 1, 5, 3, 4, 1]
LINF = {"eps": "3/16", "step_size": "3/32", "attack_steps": "3"}
L2 = {"norm": "l2", "eps": "1", "step_size": "1/2", "attack_steps": "3"}
SPLIT = LINF | {"rho": "3/4"}
LATE = LINF | {"epoch": "105"}
# What a float32 run may differ by, and how near to zero may be a gradient whose sign is taken, a ReLU input in the loss, a
# margin: a seed is refused otherwise.
LARGEST_FLOAT32_ERROR, SMALLEST_SIGN, SMALLEST_RELU, SMALLEST_MARGIN = 2e-5, 3e-5, 5e-7, 1e-3


def cases():
    """(name, method, settings, inputs that stand for others)."""
    plain = [(name, name, LINF, {}) for name in ("standard", "pgd-at", "trades", "mart", "consistency-at", "afa", "afa-linear")]
    yield from plain
    for name in ("pgd-at", "trades", "mart"):
        yield f"{name}, l2", name, L2, {}
    yield "trades, two passes", "trades", LINF | {"trades_passes": "2"}, {}
    for base in ("pgd-at", "trades", "mart", "consistency-at"):
        for variant in ("code", "paper"):
            yield f"rpat on {base}, {variant}", "rpat", LINF | {"base": base, "variant": variant}, {}
    yield "rpat, lambda 0", "rpat", LINF | {"lambda": "0"}, {}
    yield "rpat on trades, two passes", "rpat", LINF | {"base": "trades", "trades_passes": "2"}, {}
    for variant in ("code", "paper"):
        yield f"rpat, a 1/4, {variant}", "rpat", LINF | {"a": "1/4", "variant": variant}, {}
    for name in ("rebat", "rpat++"):
        yield f"{name}, epoch 0", name, LINF, {}
        yield f"{name}, epoch 105", name, LATE, {}
        yield f"{name}, epoch 106", name, LATE | {"epoch": "106"}, {}
        yield f"{name}, epoch 105, wa eval", name, LATE | {"wa_mode": "eval"}, {}
    yield "rebat++, epoch 105", "rebat++", LATE | {"late_eps": "1/4", "late_steps": "5"}, {}
    for name in ("raat", "raat++"):
        for variant in ("code", "paper"):
            yield f"{name}, {variant}", name, SPLIT | {"variant": variant}, {}
    yield "raat, rho 1", "raat", SPLIT | {"rho": "1"}, {}
    yield "raat, S empty", "raat", SPLIT, {"y": "y_none"}
    yield "raat, S full", "raat", SPLIT, {"y": "y_all", "x2": "x"}
    yield "raat#, epoch 0", "raat#", SPLIT, {}
    yield "raat#, epoch 105", "raat#", SPLIT | LATE, {}
    yield "raat#, epoch 105, wa eval", "raat#", SPLIT | LATE | {"wa_mode": "eval"}, {}
    yield "raat#, epoch 105, paper", "raat#", SPLIT | LATE | {"variant": "paper"}, {}
    yield "raat#, S empty", "raat#", SPLIT | LATE, {"y": "y_none"}
    yield "afa, clean+adv", "afa", LINF | {"contrast": "clean+adv"}, {}
    for attack in ("afa", "kl"):
        yield f"afa-trades, {attack} attack", "afa-trades", LINF | {"joint_attack": attack}, {}
    for name in ("pgd-at", "trades"):
        yield f"{name}, awp", name, LINF | {"awp_gamma": "0.01"}, {}


# ---------------------------------------------------------------------------------------------------- inputs
def grey(values):
    """17 levels, as scanned digits have."""
    return (values.clamp(0, 1) * 16).round() / 16


def images():
    """Two views of 8 smooth pictures: for each label a few low waves, which each image and view varies."""
    line = (torch.arange(8) + 0.5) * math.pi / 8
    waves = torch.stack([torch.cos(a * line)[:, None] * torch.cos(b * line)[None, :] for a in range(4) for b in range(4)])
    classes = torch.randn(10, 16)
    own = 0.4 * classes[LABELS] + 0.5 * torch.randn(BATCH, 16)
    view = lambda blur: grey(0.5 + 0.2 * torch.einsum("nk,kij->nij", own + blur * torch.randn(BATCH, 16), waves))[:, None]
    return view(0.0), view(0.6)


def train(x, y):
    """A net after a few steps of SGD, and an average of it with an earlier one; float32 values."""
    widths, blocks, channels, _, preact = MODELS["resnet-mini"]
    net = Net(initial(widths, blocks, channels, preact))
    snapshots = []
    for i in range(40):
        noisy = x + 0.05 * torch.randn(x.shape, dtype=torch.float64)
        loss = F.cross_entropy(net(noisy, "train"), y, label_smoothing=0.4)
        grads = torch.autograd.grad(loss, list(net.parameters.values()))
        with torch.no_grad():
            for p, g in zip(net.parameters.values(), grads):
                p -= 0.1 * g
        if i in (30, 39):
            snapshots.append(net.tensors())
    early, last = snapshots
    return {k: v.float() for k, v in last.items()}, {k: (0.5 * v + 0.5 * early[k]).float() for k, v in last.items()}


def noise():
    return ((2 * torch.rand(BATCH, 1, 8, 8) - 1) * 192).round() / 1024


def inputs(seed):
    """The batch, the weights and the averaged net's."""
    torch.manual_seed(seed)
    x, x2 = images()
    weights, wa = train(torch.cat([x, x2]).double(), torch.tensor(LABELS).repeat(2))
    # The second view of one image looks like another image: only its first view is classified correctly.
    x2[2] = grey(0.25 * x[2] + 0.75 * x[3])
    batch = {"x": x, "x2": x2, "noise": noise(), "noise2": noise(), "mix": torch.tensor(0.6875)}
    with torch.no_grad():
        right = Net(weights)(x.double(), "eval").argmax(1)
    # Two labels that the net was not trained for: these images are misclassified.
    y = torch.tensor(LABELS)
    y[:2] = (y[:2] + 3) % 10
    return batch | {"y": y, "y_all": right, "y_none": (right + 1) % 10}, weights, wa


def run(case, source, dtype=torch.float64):
    _, method, settings, swaps = case
    batch, weights, wa = source
    batch = batch | {name: batch[other] for name, other in swaps.items()}
    return step(method, Net(weights, dtype), batch, settings, Net(wa, dtype))


# --------------------------------------------------------------------------------------------------- a seed
def float32_differences(single, reference):
    """Pixels of adversarial images that differ, and the largest error of another output: relative to its L2 norm or, of a
    term of the loss, to the loss."""
    pixels, worst = 0, 0.0
    for name, want in reference.items():
        difference = single[name].double() - want.double()
        scale = reference["loss" if name.startswith("loss") else name].double().norm()
        if name.startswith("x_adv"):
            pixels += int((difference.abs() > 1e-5).sum())
        elif scale > 0:
            worst = max(worst, (difference.norm() / scale).item())
    return pixels, worst


def watched(case, source):
    """The outputs of a case and how near it comes to other branches."""
    Watch.reset()
    outputs = run(case, source)
    return outputs, {"smallest_sign": Watch.sign, "smallest_relu": Watch.relu}


def measure(case, source):
    """The outputs of a case and what says how robust they are."""
    outputs, robust = watched(case, source)
    robust["pixels"], robust["error"] = float32_differences(run(case, source, torch.float32), outputs)
    return outputs, robust


def interesting(source):
    """Whether the splits and the sets S of RAAT, RAAT++ and RAAT# are neither empty nor full and differ between the
    variants, and S is empty where it should be."""
    batch, weights, wa = source
    by_name = {case[0]: case for case in cases()}
    if any(run(by_name[f"{name}, S empty"], source)["loss.dicar"] != 0 for name in ("raat", "raat#")):
        return False
    splits = []
    for name in ("raat, code", "raat, paper", "raat#, epoch 0", "raat#, epoch 105, wa eval"):
        out = run(by_name[name], source)
        margins = torch.cat([out[f"margin.{kind}"] for kind in ("clean", "adv", "reduced")])
        if not 0 < out["boundary"].sum() < len(out["boundary"]) or margins.abs().min() < SMALLEST_MARGIN:
            return False
        splits.append(out["boundary"].tolist())
    for net, bn in ((weights, "eval"), (wa, "batch"), (wa, "eval")):
        with torch.no_grad():
            right = [margin(Net(net)(batch[view].double(), bn), batch["y"]) > 0 for view in ("x", "x2")]
        if not 2 <= (right[0] & right[1]).sum() < right[0].sum() < BATCH:
            return False
    return splits[0] != splits[1]


def good(source):
    """`good`, the first case that is not, or None for a batch without interest."""
    if not interesting(source):
        return None
    for case in cases():
        _, near = watched(case, source)
        if near["smallest_sign"] < SMALLEST_SIGN or near["smallest_relu"] < SMALLEST_RELU:
            return f"{case[0]}: {near}"
    for case in cases():
        _, robust = measure(case, source)
        if robust["pixels"] or robust["error"] > LARGEST_FLOAT32_ERROR:
            return f"{case[0]}: {robust}"
    return "good"


# -------------------------------------------------------------------------------------------------- summary
def signs(length, k):
    """+-1 by index: the highest bit of splitmix64's output for the state k * 2^32 + index; a set bit is -1."""
    z = numpy.arange(length, dtype=numpy.uint64) + numpy.uint64(k << 32) + numpy.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    z = z ^ (z >> numpy.uint64(31))
    return torch.from_numpy(1.0 - 2.0 * (z >> numpy.uint64(63)).astype(numpy.float64))


def summary(tensor):
    """The L2 norm and the dot products with four vectors of signs."""
    flat = tensor.double().flatten()
    return [float(f"{v:.9g}") for v in [flat.norm().item(), *((flat * signs(len(flat), k)).sum().item() for k in range(4))]]


def record(case, source):
    name, method, settings, swaps = case
    outputs, robust = measure(case, source)
    entry = {"name": name, "method": method, "settings": settings, "inputs": swaps, "scalars": {}, "tensors": {}}
    for key, value in outputs.items():
        if key == "boundary":
            entry[key] = value.tolist()
        elif value.dim() == 0:
            entry["scalars"][key] = value.item()
        else:
            entry["tensors"][key] = summary(value)
    entry["float32"] = {k: v if isinstance(v, int) else float(f"{v:.1e}") for k, v in robust.items() if v != float("inf")}
    return entry


def json_text(entries):
    """One line for each tensor."""
    def text(entry):
        tensors = ",\n".join(f"  {json.dumps(k)}:{json.dumps(v, separators=(',', ':'))}" for k, v in entry["tensors"].items())
        return json.dumps(entry | {"tensors": "@"}).replace('"@"', "{\n" + tensors + "}")

    return '{"torch": ' + json.dumps(torch.__version__) + ', "cases": [\n' + ",\n".join(map(text, entries)) + "\n]}\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the files here, byte for byte")
    parser.add_argument("--search", type=int, nargs=2, metavar=("FROM", "TO"), help="say what is wrong with each of these seeds")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    if args.search:
        for seed in range(*args.search):
            verdict = good(inputs(seed))
            if verdict:
                print(seed, verdict, flush=True)
        return

    batch, weights, wa = source = inputs(SEED)
    tensors = batch | {f"weights.{k}": v for k, v in weights.items()} | {f"wa.{k}": v for k, v in wa.items()}
    entries = [record(case, source) for case in cases()]
    files = {
        "methods_input.safetensors": safetensors_bytes(tensors, {"arch": "resnet-mini", "seed": str(SEED)}),
        "methods.json": json_text(entries).encode(),
    }
    for entry in entries:
        print(f"{entry['name']:30} {entry['scalars']} {entry['float32']}")
    differing = []
    for name, content in files.items():
        if args.check:
            differing += [name] if not (HERE / name).exists() or (HERE / name).read_bytes() != content else []
        else:
            (HERE / name).write_bytes(content)
        print(f"{name:28} {len(content):8} bytes")
    if differing:
        raise SystemExit(f"not as written here: {', '.join(differing)}")


if __name__ == "__main__":
    main()
