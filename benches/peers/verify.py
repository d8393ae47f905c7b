#!/usr/bin/env python3
"""Compares the peers' steps with `saddle check-step`, and PyTorch's modes with each other. run.py starts it.

Same weights, images and random numbers, float32 on both sides, each against the peer in float64. First the
adversarial images: rounding may turn the sign of a gradient near zero, after which the pixel goes another way
and others may follow. Then, at saddle's adversarial images, loss, gradients and running statistics: the ReLU
inputs within rounding of zero, of which a large net has many, move gradients more than sums do. So the
yardstick of what rounding does to a net is what it does to PyTorch's own float32.
"""

import copy
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

import files
import modes
import nets
from methods import ATTACK_STEPS, METHODS, Given, Step

BATCH, TRAINED, MIX = 16, 30, 0.6875
# saddle's errors that need no explanation: the fraction of pixels that differ; relative errors of the loss,
# of all gradients as one vector and of all running statistics. Above them, FACTOR times PyTorch's are fine.
# MODE: the relative error of the change of the weights in another mode.
ROUNDING, FACTOR, MODE = {"pixels": 2e-2, "loss": 2e-6, "grad": 1e-3, "buffer": 2e-6}, 4, 1e-2


@torch.no_grad()
def before_boundary(net, x, others):
    """Each image moved towards another one for as long as its prediction stays, within 1/1024 of the way."""
    prediction, near, far = net(x).argmax(1), torch.zeros(len(x), 1, 1, 1), torch.ones(len(x), 1, 1, 1)
    for _ in range(10):
        middle = (near + far) / 2
        same = (net(torch.lerp(x, others, middle)).argmax(1) == prediction).view(-1, 1, 1, 1)
        near, far = torch.where(same, middle, near), torch.where(same, far, middle)
    return torch.lerp(x, others, near)


def case(model, device):
    """A net after a few steps, two views of images with labels that it mostly gets right, some by small
    margins, and noise: RAAT's S and its boundary samples are some of the images, not all and not none."""
    torch.manual_seed(0)
    _, channels, side, eps = nets.MODELS[model]
    smooth = F.interpolate(torch.rand(BATCH, channels, 5, 5), (side, side), mode="bilinear")
    x = (smooth + 0.1 * (torch.rand_like(smooth) - 0.5)).clamp(0, 1)
    x2 = (x + 0.1 * (torch.rand_like(x) - 0.5)).clamp(0, 1)
    labels = torch.arange(BATCH) % 10
    net = nets.build(model)
    optimiser = torch.optim.SGD(net.parameters(), 0.05)
    for _ in range(TRAINED):
        loss = F.cross_entropy(net(torch.cat([x, x2])), labels.repeat(2), label_smoothing=0.4)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    net.eval()
    x[4:8] = before_boundary(net, x[4:8], x.flip(0)[4:8])
    with torch.no_grad():
        y = net(x).argmax(1)
    y[:3] = (y[:3] + 3) % 10
    noise = lambda: 0.25 * eps * (2 * torch.rand_like(x) - 1)
    step_size = eps / 16
    batch = {"x": x, "x2": x2, "y": y, "noise": noise(), "noise2": noise(), "mix": torch.tensor([MIX])}
    return net.to(device), {name: tensor.to(device) for name, tensor in batch.items()}, eps / 4, step_size


def inputs(method, batch):
    """All views, their labels and their noise."""
    views = METHODS[method][1]
    both = lambda name: torch.cat([batch[name], batch[name + "2"]]) if views == 2 else batch[name]
    x = both("x").contiguous(memory_format=torch.channels_last)
    return x, batch["y"].repeat(views), both("noise")


def saddle_step(saddle, device, method, model, net, batch, eps, step_size):
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{name}.safetensors" for name in ("weights", "batch", "out")}
        files.write(paths["weights"], net.state_dict())
        files.write(paths["batch"], batch)
        command = [saddle, "check-step", "--method", method, "--model", model, "--device", device]
        command += [word for name, path in paths.items() for word in (f"--{name}", path)]
        settings = [f"eps={eps!r}", f"step_size={step_size!r}", f"attack_steps={ATTACK_STEPS}"]
        settings.append("precision=f32")
        command += [word for setting in settings for word in ("--set", setting)]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"saddle check-step: {done.stderr.strip()}")
        return files.read(paths["out"])[0]


def relative(pairs):
    """The error of all tensors as one vector."""
    error = sum((got.double() - want.double()).square().sum() for got, want in pairs)
    return (error / sum(want.double().square().sum() for _, want in pairs)).sqrt().item()


def peer_step(net, method, form, batch, eps, step_size, adv):
    """The peer's adversarial images; and at `adv` loss, gradients and running statistics, under the names of
    `saddle check-step`; and the step."""
    net = copy.deepcopy(net)
    x, y, noise = inputs(method, batch)
    kind = next(net.parameters()).dtype
    given = Given(noise.to(kind), MIX)
    step = Step(net, eps, step_size, "f32", fixed_shape=form == "masked", given=given)
    step.draw()
    statistics = {name: buffer.clone() for name, buffer in net.named_buffers()}
    out, _ = METHODS[method][0](step, x.to(kind), y)
    for name, buffer in net.named_buffers():
        buffer.data.copy_(statistics[name])
    given.x_adv = adv.to(kind).contiguous(memory_format=torch.channels_last)
    _, loss = METHODS[method][0](step, x.to(kind), y)
    loss.backward()
    tensors = {"loss": loss.detach().view(1)}
    tensors |= {f"grad.{name}": parameter.grad for name, parameter in net.named_parameters()}
    tensors |= {f"buffer.{name}": buffer for name, buffer in net.named_buffers()}
    return out, tensors, step


def compare(saddle, saddle_device, method, model, device):
    """A row for each form of the method: how far saddle and the peer are from the peer in float64."""
    net, batch, eps, step_size = case(model, device)
    ours = saddle_step(saddle, saddle_device, method, model, net, batch, eps, step_size)
    ours = {name: tensor.to(device) for name, tensor in ours.items()}
    adv = torch.cat([ours[name] for name in ("x_adv", "x_adv2") if name in ours])
    exact_adv, exact, _ = peer_step(copy.deepcopy(net).double(), method, None, batch, eps, step_size, adv)

    def errors(images, tensors):
        pair = lambda name: (tensors[name].view_as(exact[name]), exact[name])
        of = lambda kind: [pair(name) for name in exact if name.startswith(kind)]
        pixels = ((images - exact_adv).abs() > 1e-5).double().mean().item()
        return {"pixels": pixels} | {kind: relative(of(kind)) for kind in ("loss", "grad", "buffer")}

    rows = []
    for form in modes.forms(method, "eager"):
        own, tensors, step = peer_step(net, method, form, batch, eps, step_size, adv)
        row = {"model": model, "method": method, "form": form, "batch": BATCH}
        row |= {"saddle": errors(adv, ours), "peer": errors(own, tensors), "wrong": []}
        for name, floor in ROUNDING.items():
            if not row["saddle"][name] <= max(floor, FACTOR * row["peer"][name]):
                row["wrong"].append(name)
        if method == "raat":
            row |= {"members": int(step.members.sum()), "boundary": int(ours["boundary"].sum())}
            if not (0 < row["members"] < BATCH and 0 < row["boundary"] < 2 * BATCH):
                row["wrong"].append("S or the boundary samples are all or none: the case shows nothing")
        rows.append(row)
    return rows


def compare_modes(method, model, device):
    """The change of the weights by a step in every mode, against that of the eager one."""
    rows, changes = [], {}
    for mode in modes.MODES:
        row = {"model": model, "method": method, "mode": mode}
        rows.append(row)
        if reason := modes.impossible(mode, "f32", device):
            row["skipped"] = reason
            continue
        try:
            changes[mode] = change(method, model, mode, device)
        except Exception as error:  # of whatever kind: the other modes are still worth comparing
            row["wrong"] = [f"{type(error).__name__}: {error}"[:300]]
            continue
        row["change"] = relative(list(zip(changes[mode], changes["eager"])))
        row["wrong"] = [] if row["change"] <= MODE else ["change"]
    return rows


def change(method, model, mode, device):
    """The change of all tensors of the network by a step."""
    torch._dynamo.reset()
    net, batch, eps, step_size = case(model, device)
    x, y, noise = inputs(method, batch)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    step = modes.TrainingStep(net, method, x, y, eps, step_size, mode, "f32", given=Given(noise, MIX))
    # Capture has taken steps.
    for name, tensor in net.state_dict().items():
        tensor.data.copy_(before[name])
    for state in step.optimiser.state.values():
        state["momentum_buffer"].zero_()
    step.run()
    return [tensor - before[name] for name, tensor in net.state_dict().items()]


def main():
    saddle, saddle_device, device, threads, *models = sys.argv[1:]
    torch.set_num_threads(int(threads))
    modes.set_precision("f32")
    rows = []
    for model in models:
        for method in METHODS:
            found = compare(saddle, saddle_device, method, model, device)
            # In a large net a mode's rounding leads the attack elsewhere, as the first comparison shows.
            found += compare_modes(method, model, device) if model == "resnet-mini" else []
            for row in found:
                print(json.dumps(row), file=sys.stderr, flush=True)
            rows += found
    print(json.dumps(rows))
    sys.exit(any(row.get("wrong") for row in rows))


if __name__ == "__main__":
    main()
