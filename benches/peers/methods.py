"""PGD-AT, TRADES and RAAT: the attack and the loss of each, in the order of its paper.

They compute what src/method/{pgd_at,trades,raat}.rs compute, and docs say where a paper and its released code
differ. `python3 benches/peers/run.py verify` compares the two, tensor by tensor.
"""

import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from nets import Twin

ATTACK_STEPS, BETA, SIGMA = 10, 6.0, 0.001
LAMBDA, RHO, TEMPERATURE, MIX_BETA = 1.0, 0.1, 0.5, 0.75


def kl(log_p, log_q):
    """KL(P || Q) of each row, from logarithms."""
    return (log_p.exp() * (log_p - log_q)).sum(1)


def js(u, v):
    """The Jensen-Shannon divergence of each row at the temperature; the mixture is not below 1e-8."""
    log_p, log_q = F.log_softmax(u / TEMPERATURE, 1), F.log_softmax(v / TEMPERATURE, 1)
    log_m = ((log_p.exp() + log_q.exp()) / 2).clamp(min=1e-8).log()
    return 0.5 * (kl(log_p, log_m) + kl(log_q, log_m))


def trades_loss(z, y, again, z_adv):
    divergence = kl(F.log_softmax(again, 1), F.log_softmax(z_adv, 1)).mean()
    return F.cross_entropy(z, y) + BETA * divergence


def linf_step(x_adv, gradient, x, eps, step_size):
    moved = x_adv + step_size * gradient.sign()
    return torch.min(torch.max(moved, x - eps), x + eps).clamp(0, 1)


@dataclass
class Given:
    """What a check gives instead of having it drawn or computed: the starts of the attack as differences to
    the clean images, DICAR's r, the adversarial images."""

    noise: torch.Tensor = None
    mix: float = None
    x_adv: torch.Tensor = None


class Step:
    """What the methods need of a network: passes, attacks, random numbers.

    `compiled` makes a faster function of one (the identity, or torch.compile). `fixed_shape`: RAAT's set S is
    a mask over the whole batch; else its images are gathered, and every step waits for their number.
    """

    def __init__(self, net, eps, step_size, precision, compiled=lambda function, **_: function,
                 fixed_shape=False, given=Given()):
        self.net, self.twin = net.train(), Twin(net, precision)
        self.eps, self.step_size, self.fixed_shape, self.given = eps, step_size, fixed_shape, given
        self.device = next(net.parameters()).device
        attacked, bf16 = self.twin.net, precision == "bf16"
        self.r = torch.full((), 0.75, device=self.device)
        self.members = None

        def logits(module, *inputs):
            # Copies of weights that autocast caches would be stale in a replayed graph.
            with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16, cache_enabled=False):
                z = module(*inputs)
            return z.float() if bf16 else z

        self.train = compiled(lambda x: logits(net, x))
        self.train_some = compiled(lambda x: logits(net, x), dynamic=True)
        self.train_rows = compiled(lambda x, rows: logits(net, x, rows))
        self.eval = torch.no_grad()(compiled(lambda x: logits(attacked, x)))
        self.ce = compiled(lambda x, y: F.cross_entropy(logits(attacked, x), y, reduction="sum"))
        self.kl = compiled(lambda x, p: kl(p, F.log_softmax(logits(attacked, x), 1)).sum())
        self.move = compiled(linf_step)
        self.trades_loss, self.js = compiled(trades_loss), compiled(js, dynamic=True)

    def draw(self):
        """Random numbers of the next step that the host draws."""
        l = random.betavariate(MIX_BETA, MIX_BETA)
        self.r.fill_(self.given.mix if self.given.mix is not None else max(l, 1 - l))

    def pgd(self, objective, x, target, start):
        """The adversarial images after steps up the objective from `start`, all images at once."""
        if self.given.x_adv is not None:
            return self.given.x_adv
        x_adv = start
        for _ in range(ATTACK_STEPS):
            x_adv = x_adv.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(objective(x_adv, target), x_adv)
            x_adv = self.move(x_adv.detach(), gradient, x, self.eps, self.step_size)
        return x_adv

    def uniform(self, x):
        noise = self.given.noise
        noise = torch.empty_like(x).uniform_(-self.eps, self.eps) if noise is None else noise
        return (x + noise).clamp(0, 1)

    def gaussian(self, x):
        noise = self.given.noise
        return x + (SIGMA * torch.randn_like(x) if noise is None else noise)


def pgd_at(step, x, y):
    x_adv = step.pgd(step.ce, x, y, step.uniform(x))
    return x_adv, F.cross_entropy(step.train(x_adv), y)


def trades(step, x, y):
    clean = F.log_softmax(step.eval(x), 1)
    x_adv = step.pgd(step.kl, x, clean, step.gaussian(x))
    # Three passes, as in the benchmark code: the running statistics move three times.
    z, z_adv, again = step.train(x), step.train(x_adv), step.train(x)
    return x_adv, step.trades_loss(z, y, again, z_adv)


def raat(step, x, y):
    """`x` and `y` hold two views of each image, view after view."""
    x_adv = step.pgd(step.ce, x, y, step.uniform(x))
    x_reduced = x + RHO * (x_adv - x)
    right, adv, reduced = (step.eval(images).argmax(1) == y for images in (x, x_adv, x_reduced))
    boundary = right & ~adv & ~reduced
    x_ce = torch.where(boundary.view(-1, 1, 1, 1), x_reduced, x_adv)
    ce = F.cross_entropy(step.train(x_ce), y)
    b = len(x) // 2
    step.members = right[:b] & right[b:]
    dicar = masked_dicar if step.fixed_shape else gathered_dicar
    return x_adv, ce + LAMBDA * dicar(step, x, x_adv, step.members)


def mixture(step, both):
    """r times the first view and 1 - r times the second."""
    first, second = both.chunk(2)
    return step.r * first + (1 - step.r) * second


def gathered_dicar(step, x, x_adv, members):
    """DICAR of the members alone: the fewest convolutions, but the host must know how many there are."""
    index = members.nonzero().squeeze(1)
    if len(index) == 0:
        return x.new_zeros(())
    mixed = mixture(step, x_adv)[index].contiguous(memory_format=torch.channels_last)
    u, z = step.train_some(mixed), step.train(x)
    return step.js(u, mixture(step, z)[index]).mean()


def masked_dicar(step, x, x_adv, members):
    """The same with the shapes of a whole batch, which a CUDA graph needs: batch norm weights the images."""
    rows, any_member = members.float(), members.any()
    u = step.train_rows(mixture(step, x_adv), rows)
    before = [buffer.clone() for buffer in step.net.buffers()]
    z = step.train(x)
    with torch.no_grad():
        for buffer, value in zip(step.net.buffers(), before):
            buffer.data.copy_(torch.where(any_member, buffer, value))
    return (step.js(u, mixture(step, z)) * rows).sum() / rows.sum().clamp(min=1)


# By saddle's name: the function, and how many views of each image it takes.
METHODS = {"pgd-at": (pgd_at, 1), "trades": (trades, 1), "raat": (raat, 2)}
