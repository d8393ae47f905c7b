#!/usr/bin/env python3
"""Compare `saddle check-step` with the PyTorch reference in `reference/`: every method and variant, on a small and on a large network.

    python3 check_step.py --saddle ../../target/release/saddle                    # everything
    python3 check_step.py --saddle PATH --model resnet-mini --case raat           # cases whose names contain `raat`
    python3 check_step.py --reference-only                                        # the reference alone: |S|, boundary, losses

The adversarial images are compared first: pixels that differ are those whose gradient a float32 program sees on the other side of
zero, and may be few. Loss, gradients and running statistics are then compared with the reference's at the images that saddle
attacked to. A large network has so many ReLU inputs that a few lie within float32's rounding of zero, and a single one of them can
move the gradient of a small tensor by more than the limit without any mistake. So biases before its ReLUs are first moved, by about
1e-6 and only where it is needed, until no ReLU input of the attack or the loss is that near zero. What PyTorch in float32 is off by
stands below a case that fails all the same.

The reference of a large network needs a fast BLAS (Debian: libopenblas0-pthread): with libblas3 a float64 pass and its gradient took
5.0 s instead of 0.4 on two Zen 4 cores.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

from make_goldens import safetensors_bytes
from make_methods import cases
from reference.files import read_safetensors
from reference.net import MODELS, Net, Watch, initial
from reference.settings import number
from reference.step import step

HERE = Path(__file__).resolve().parent
BATCH, TRAINING = 8, 10
# What a method is called by `--method`, where it is not its name here.
METHODS = {"afa-linear": "afa"}
MORE = {"afa-linear": {"stage": "linear"}}
# Attack sizes of the goldens, replaced for large networks: at 3/16 every image would be misclassified. After one pixel that float32
# sees on the other side of zero the next steps of the attack go other ways in up to a third of an image, so it has one step.
SMALLER = {"3/16": "8/255", "3/32": "4/255", "1/4": "10/255", "1": "128/255", "1/2": "64/255", "3": "1", "5": "2"}
# How far from zero the ReLU inputs of a large network should be, by the part of the network that they are in: about what float32 is
# off by near zero (PyTorch, one pass: up to 1.7e-6 before layer2, 3.2e-6 behind). Where one is nearer, its bias is moved until all
# are `MOVED` times as far; `AT_ONCE` of the biases in each of so many rounds, as the adversarial images and all later layers follow.
CLEAR = {"bn1": 1.5e-6, "layer1": 1.5e-6, "layer2": 3e-6, "layer3": 5e-6, "layer4": 5e-6, "bn": 5e-6}
MOVED, ROUNDS, AT_ONCE = 1.25, 60, 24
# The largest difference between two logits of a large network: more, and the gradient of a probability near 1 is all rounding.
SPREAD = 4
# The largest part of an adversarial image's pixels that may differ, and the largest relative errors.
PIXELS = 2e-3
GRADIENT, LOSS, BUFFER, MARGIN = 1e-3, 1e-5, 1e-4, 1e-3


# ---------------------------------------------------------------------------------------------------- inputs
def training_batch(model, seed):
    """Images, labels and weights: a net trained for a few steps in float32 on these images, some then right by a small margin."""
    torch.manual_seed(seed)
    widths, blocks, channels, side, preact = MODELS[model]
    noise = lambda scale: scale * (2 * torch.rand(BATCH, channels, side, side) - 1)
    smooth = F.interpolate(torch.rand(BATCH, channels, 5, 5), size=(side, side), mode="bilinear", align_corners=True)
    x = (smooth + noise(0.05)).clamp(0, 1)
    x2 = (x.flip(3) * 0.15 + x * 0.85 + noise(0.05)).clamp(0, 1)
    y = torch.tensor([3, 1, 4, 1, 5, 3, 4, 1])
    net = Net(initial(widths, blocks, channels, preact), torch.float32)
    snapshots = []
    for _ in range(TRAINING):
        loss = F.cross_entropy(net(torch.cat([x, x2]), "train"), y.repeat(2), label_smoothing=0.4)
        grads = torch.autograd.grad(loss, list(net.parameters.values()))
        with torch.no_grad():
            for p, g in zip(net.parameters.values(), grads):
                p -= 0.05 * g
        snapshots.append(net.tensors())
    # Running statistics without what is left of their first values, 0 and 1.
    left = 0.9**TRAINING
    for name, value in net.buffers.items():
        net.buffers[name] = (value - left * name.endswith("running_var")) / (1 - left)
    with torch.no_grad():
        z = net(torch.cat([x, x2]), "eval")
        right = z[:BATCH].argmax(1)
        for name in ("linear.weight", "linear.bias"):
            net.parameters[name] *= SPREAD / max(SPREAD, (z.amax(1) - z.amin(1)).max().item())
    weights = net.tensors()
    wa = {k: 0.7 * v + 0.3 * snapshots[-3][k] if k in net.parameters else v * 1.02 for k, v in weights.items()}
    y = right.clone()
    y[:2] = (y[:2] + 3) % 10
    x2[2] = 0.2 * x[2] + 0.8 * x[3]
    return {"x": x, "x2": x2, "mix": torch.tensor(0.6875), "y": y, "y_all": right, "y_none": (right + 1) % 10}, weights, wa


def golden_batch():
    """The goldens' own input."""
    tensors, _ = read_safetensors(HERE / "methods_input.safetensors")
    part = lambda prefix: {k[len(prefix):]: v for k, v in tensors.items() if k.startswith(prefix)}
    return {k: v for k, v in tensors.items() if "." not in k}, part("weights."), part("wa.")


def with_noise(batch, settings, seed):
    """Start perturbations within the ball, where the batch brings none."""
    if "noise" in batch:
        return batch
    torch.manual_seed(seed)
    eps = number(settings["eps"])
    size = eps if settings.get("norm") != "l2" else eps / batch["x"][0].numel() ** 0.5
    draw = lambda: size * (2 * torch.rand(batch["x"].shape) - 1)
    return batch | {"noise": draw(), "noise2": draw()}


def prepare(case, source, large, seed):
    """The settings and the batch of a case."""
    _, _, settings, swaps = case
    batch, weights, wa = source
    if large:
        sizes = ("eps", "step_size", "attack_steps", "late_eps", "late_steps")
        settings = {k: SMALLER.get(v, v) if k in sizes else v for k, v in settings.items()}
    batch = with_noise(batch | {name: batch[other] for name, other in swaps.items()}, settings, seed)
    names = ("x", "y", "x2", "noise", "noise2", "mix")
    return settings, {k: batch[k] for k in names}, weights, wa


def nearest_clear(values, clear):
    """The smallest number that, added to all values, leaves each at least `clear` from zero."""
    candidates = torch.cat([-values - clear, -values + clear])
    candidates = candidates[(values[:, None] + candidates).abs().amin(0) >= clear * (1 - 1e-9)]
    return candidates[candidates.abs().argmin()].item()


def move_off_zero(weights, near):
    """The weights with biases moved so that ReLU inputs that were near zero are not; None where none was. The first layers come
    first and only a few biases are moved at once: each moves the ReLU inputs of all later layers a little."""
    moved, count = {}, 0
    for bias, seen in near.items():
        channels, values = (torch.cat(part) for part in zip(*seen))
        clear = CLEAR[bias.split(".")[0]]
        for channel in channels[values.abs() < clear].unique().tolist():
            moved.setdefault(bias, weights[bias].clone())[channel] += nearest_clear(values[channels == channel], MOVED * clear)
            count += 1
        if count >= AT_ONCE:
            break
    return weights | moved if moved else None


# ------------------------------------------------------------------------------------------------ comparison
def run_saddle(binary, extra, method, model, settings, batch, weights, wa, folder):
    """The tensors that `saddle check-step` writes; the text of its error, where it fails."""
    paths = {name: str(folder / f"{name}.safetensors") for name in ("weights", "wa", "batch", "out")}
    for name, tensors in (("weights", weights), ("wa", wa), ("batch", batch)):
        Path(paths[name]).write_bytes(safetensors_bytes(tensors, {}))
    Path(paths["out"]).unlink(missing_ok=True)
    command = [binary, "check-step", "--method", METHODS.get(method, method), "--model", model, "--weights", paths["weights"]]
    command += ["--batch", paths["batch"], "--out", paths["out"], "--wa-weights", paths["wa"], *extra]
    for key, value in (settings | MORE.get(method, {})).items():
        command += ["--set", f"{key}={value}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        return (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()[-1]
    return read_safetensors(paths["out"])[0]


def relative(got, want):
    return ((got.double() - want).norm() / want.norm().clamp(min=1e-12)).item()


def compare(got, own, want, pixels):
    """What is wrong, and the largest errors. `own`: the reference's own attack; `want`: the reference at saddle's images."""
    problems, worst = [], {"pixels": 0.0, "loss": 0.0, "gradient": 0.0, "buffer": 0.0, "margin": 0.0}

    def note(kind, name, error, limit):
        worst[kind] = max(worst[kind], error)
        if not error <= limit:
            problems.append(f"{name}: {error:.1e}")

    for name, reference in want.items():
        if name not in got:
            problems.append(f"{name} is missing")
            continue
        value = got[name]
        if value.numel() != reference.numel() or (value.dim() > 1 and value.shape != reference.shape):
            problems.append(f"{name} has shape {list(value.shape)}, not {list(reference.shape)}")
            continue
        value = value.reshape(reference.shape).double()
        if name.startswith("x_adv"):
            differing = ((value - own[name]).abs() > 1e-5).double().mean().item()
            note("pixels", name, differing, pixels)
        elif name.startswith("loss"):
            note("loss", name, (value - reference).abs().item() / max(want["loss"].abs().item(), 1e-12), LOSS)
        elif name.startswith("grad."):
            if reference.norm() == 0:
                note("gradient", name, value.abs().max().item(), 0.0)
            else:
                note("gradient", name, relative(value, reference), GRADIENT)
        elif name.startswith("buffer."):
            note("buffer", name, relative(value, reference), BUFFER)
        elif name.startswith("margin."):
            note("margin", name, (value - reference).abs().max().item() / reference.abs().max().item(), MARGIN)
        elif not torch.equal(value, reference.double()):
            problems.append(f"{name} differs")
    return problems, worst


def summary(outputs):
    parts = [f"{k} {v.item():.6g}" for k, v in outputs.items() if k.startswith("loss")]
    if "boundary" in outputs:
        right = (outputs["margin.clean"] > 0).sum().item()
        parts.append(f"right {right}, boundary {outputs['boundary'].sum().item()} of {len(outputs['boundary'])}")
    return ", ".join(parts)


def check(case, model, source, args, folder):
    """Prints a case's line; whether it is right."""
    large = model != "resnet-mini"
    settings, batch, weights, wa = prepare(case, source, large, args.seed)
    name, method = case[0], case[1]

    def reference(batch, **how):
        Watch.near = {} if large else None
        return step(method, Net(weights), batch, settings, Net(wa), **how)

    if args.reference_only:
        print(f"{model:16} {name:30} {summary(reference(batch))}", flush=True)
        return True
    for left in range(ROUNDS, -1, -1):
        got = run_saddle(args.saddle, args.extra, method, model, settings, batch, weights, wa, folder)
        if isinstance(got, str):
            print(f"FAILED  {model:16} {name:30} {got}", flush=True)
            return False
        made = {k: v for k, v in got.items() if k.startswith("x_adv")}
        if not large or left == 0 or any(value.shape != batch["x"].shape for value in made.values()):
            break
        reference(batch | made, backward=False)
        moved = move_off_zero(weights, Watch.near)
        if moved is None:
            break
        weights = moved
    # Here `got` is of these weights, also where the rounds did not suffice.
    own = want = reference(batch)
    wanted = {k: v.float() for k, v in own.items() if k.startswith("x_adv")}
    if made.keys() == wanted.keys() and all(made[k].shape == v.shape for k, v in wanted.items()):
        if not all(torch.equal(made[k], v) for k, v in wanted.items()):
            want = reference(batch | made)
    problems, worst = compare(got, own, want, PIXELS)
    if large:
        worst["nearest ReLU input"] = Watch.relu
    verdict = "FAILED" if problems else "ok"
    errors = ", ".join(f"{kind} {error:.1e}" for kind, error in worst.items())
    print(f"{verdict:7} {model:16} {name:30} {errors}", flush=True)
    for problem in problems[: args.problems]:
        print(f"            {problem}", flush=True)
    if len(problems) > args.problems:
        print(f"            and {len(problems) - args.problems} more", flush=True)
    if problems and large:
        float32 = step(method, Net(weights, torch.float32), batch | made, settings, Net(wa, torch.float32))
        _, worst = compare({k: v.double() for k, v in float32.items()}, own, want, PIXELS)
        print("            PyTorch in float32: " + ", ".join(f"{kind} {error:.1e}" for kind, error in worst.items()), flush=True)
    return not problems


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--saddle", default=str(HERE.parents[1] / "target/release/saddle"), help="the compiled binary")
    parser.add_argument("--model", action="append", choices=list(MODELS), help="this network only; may be repeated")
    parser.add_argument("--case", default="", help="only cases with this text in their name")
    parser.add_argument("--seed", type=int, help="for resnet-mini: random input of this seed instead of the goldens' own")
    parser.add_argument("--extra", action="append", default=[], help="another argument for saddle, such as --device=cuda")
    parser.add_argument("--problems", type=int, default=6, help="tensors to name of each case that fails")
    parser.add_argument("--reference-only", action="store_true", help="do not run saddle")
    args = parser.parse_args()
    torch.set_num_threads(1)
    own_input = args.seed is None
    args.seed = args.seed or 0
    failed = total = 0
    with tempfile.TemporaryDirectory() as folder:
        for model in args.model or ["resnet-mini", "resnet18"]:
            source = golden_batch() if model == "resnet-mini" and own_input else training_batch(model, args.seed)
            for case in cases():
                if args.case in case[0]:
                    total += 1
                    failed += not check(case, model, source, args, Path(folder))
    print(f"{total - failed} of {total} cases are as the reference")
    sys.exit(1 if failed or not total else 0)


if __name__ == "__main__":
    main()
