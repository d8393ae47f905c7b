"""The inner attack."""

import torch

from .net import Watch


def norms(d):
    return d.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def ascend(adv, gradient, x, s):
    """One step of the attack, back into the ball around x and into [0,1]."""
    if s.norm == "linf":
        size = gradient.abs().flatten(1)
        Watch.sign = min(Watch.sign, (size.min(1).values / size.max(1).values).min().item())
        stepped = adv + s.step_size * gradient.sign()
        return torch.min(torch.max(stepped, x - s.eps), x + s.eps).clamp(0, 1)
    d = adv + s.step_size * gradient / (norms(gradient) + 1e-8) - x
    return (x + d * (s.eps / norms(d)).clamp(max=1)).clamp(0, 1)


def pgd(objective, x, start, s):
    """`s.attack_steps` steps up the objective, a sum over the images, from `start`; only the gradient for the input is taken."""
    adv = start.detach()
    for _ in range(s.attack_steps):
        adv = adv.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(objective(adv), adv)
        adv = ascend(adv.detach(), gradient, x, s)
    return adv.detach()
