"""One training step: attack, loss, gradients, running statistics."""

import torch

from . import methods, settings
from .net import Watch


class Step:
    """What the parts of a method share while a step is made. `x`, `y` and `adv` hold both views, one after the other, where
    a method has two."""

    def __init__(self, net, batch, s, wa, views):
        dtype = next(iter(net.parameters.values())).dtype
        images = {k: batch[k].to(dtype) for k in ("x", "x2", "noise", "noise2", "x_adv", "x_adv2") if k in batch}
        both = lambda name: torch.cat([images[name], images[f"{name}2"]]) if views == 2 else images[name]
        self.net, self.wa, self.s, self.n, self.views = net, wa, s, len(images["x"]), views
        self.x, self.noise, self.y = both("x"), both("noise") if "noise" in images else None, batch["y"].long().repeat(views)
        self.given_adv = both("x_adv") if "x_adv" in images else None
        self.mix = batch["mix"].to(dtype) if "mix" in batch else None
        self.adv, self.bn, self.outputs = None, "train", {}

    def train(self, x):
        """Logits of a [train] pass of the net."""
        return self.net(x, self.bn)

    def uniform_start(self):
        return (self.x + self.noise).clamp(0, 1)

    def gaussian_start(self):
        return self.x + self.noise

    def view(self, index):
        """The rows of one view in the tensors that hold both."""
        return slice(index * self.n, (index + 1) * self.n)


def total(terms):
    return sum(weight * value for _, value, weight in terms)


def gradients(net, loss):
    """By name; zero where the loss does not depend on the parameter."""
    found = torch.autograd.grad(loss, list(net.parameters.values()), allow_unused=True)
    return {k: torch.zeros_like(p) if g is None else g for (k, p), g in zip(net.parameters.items(), found)}


def perturb_weights(net, loss, gamma):
    """AWP: moves every parameter of two or more dimensions up the loss by gamma times its own norm."""
    for (name, w), g in zip(list(net.parameters.items()), gradients(net, loss).values()):
        if w.dim() >= 2:
            moved = w + gamma * w.norm() / (g.norm() + 1e-12) * g
            net.parameters[name] = moved.detach().requires_grad_(True)


def step(method, net, batch, given, wa=None, backward=True):
    """The outputs of one step, without gradients where there is no `backward`; `net`'s running statistics are moved, its parameters
    too by AWP.

    `batch`: `x`, `y`, and what the method needs of `x2`, `noise`, `noise2`, `mix`. With `x_adv` (and `x_adv2`) the attack is
    still made, for what it does to the running statistics, but the loss is taken at these images.
    """
    s = settings.read(given)
    chosen = methods.find(method, s)
    c = Step(net, batch, s, wa, chosen.views)
    if chosen.attack:
        made = c.adv = chosen.attack(c)
        c.outputs["x_adv"] = made[c.view(0)]
        if c.views == 2:
            c.outputs["x_adv2"] = made[c.view(1)]
        if c.given_adv is not None:
            c.adv = c.given_adv
    Watch.relu = float("inf")
    if s.awp_gamma > 0:
        c.bn = "batch"
        perturb_weights(net, total(chosen.loss(c)), s.awp_gamma)
        c.bn = "train"
    terms = chosen.loss(c)
    loss = total(terms)
    out = {"loss": loss, **{f"loss.{name}": value for name, value, _ in terms}, **c.outputs}
    if backward:
        out |= {f"grad.{k}": g for k, g in gradients(net, loss).items()}
    out |= {f"buffer.{k}": v for k, v in net.buffers.items()}
    return {k: v.detach() for k, v in out.items()}
