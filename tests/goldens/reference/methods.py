"""The methods: for each how many views, its attack and its loss, a list of (term, value, weight) whose sum is the loss.

Adversarial images are `c.adv`; [train] passes are `c.train`, in the order in which they are written here.
"""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Callable, Optional

import torch
import torch.nn.functional as F

from .attacks import pgd
from .losses import boosted_cross_entropy, cross_entropy, feature_alignment, js, js_logits, kl_logits, margin, mart_kl


@dataclass
class Method:
    loss: Callable
    attack: Optional[Callable] = None
    views: int = 1


def attack_ce(c):
    return pgd(lambda adv: cross_entropy(c.net(adv, "eval"), c.y).sum(), c.x, c.uniform_start(), c.s)


def attack_ce_gaussian(c):
    return pgd(lambda adv: cross_entropy(c.net(adv, "eval"), c.y).sum(), c.x, c.gaussian_start(), c.s)


def attack_kl(c):
    clean = c.net(c.x, "eval").detach()
    return pgd(lambda adv: kl_logits(clean, c.net(adv, "eval")).sum(), c.x, c.gaussian_start(), c.s)


# ------------------------------------------------------------------------------------------------- the bases
# Each leaves its logits in `c.z` (clean, where it makes a clean pass) and `c.z_adv`, for RPAT.
def standard(c):
    return [("ce", cross_entropy(c.train(c.x), c.y).mean(), 1)]


def pgd_at(c):
    c.z, c.z_adv = None, c.train(c.adv)
    return [("ce", cross_entropy(c.z_adv, c.y).mean(), 1)]


def trades(c):
    first, c.z_adv = c.train(c.x), c.train(c.adv)
    c.z = c.train(c.x) if c.s.trades_passes == 3 else first
    return [("ce", cross_entropy(first, c.y).mean(), 1), ("kl", kl_logits(c.z, c.z_adv).mean(), c.s.beta)]


def mart(c):
    c.z, c.z_adv = c.train(c.x), c.train(c.adv)
    return [("bce", boosted_cross_entropy(c.z_adv, c.y).mean(), 1), ("kl", mart_kl(c.z, c.z_adv, c.y).mean(), c.s.beta)]


def consistency_at(c, weight=None):
    c.z, c.z_adv = None, c.train(c.adv)
    divergence = js_logits(c.z_adv[c.view(0)], c.z_adv[c.view(1)], c.s.temperature)
    weight = c.s.lam if weight is None else weight
    return [("ce", cross_entropy(c.z_adv, c.y).mean(), 1), ("js", divergence.mean(), weight)]


BASES = {
    "pgd-at": Method(pgd_at, attack_ce),
    "trades": Method(trades, attack_kl),
    "mart": Method(mart, attack_ce_gaussian),
    "consistency-at": Method(consistency_at, attack_ce, views=2),
}


# ------------------------------------------------------------------------------------------------------ RPAT
def robust_perception(c):
    a = c.s.a
    z_a = c.train((1 - a) * c.adv + a * c.x)
    z = c.train(c.x) if c.z is None else c.z
    if c.s.variant == "code":
        return ((z_a - (a * z + (1 - a) * c.z_adv)) ** 2).mean()
    t = 1 - a
    return (((z_a - z) / t - (c.z_adv - z_a) / (1 - t)) ** 2).mean()


def rpat(s):
    base = BASES[s.base]

    def loss(c):
        # `lambda` is the weight of RP here; the weight of Consistency-AT's JS stays 1.
        terms = base.loss(c, 1.0) if s.base == "consistency-at" else base.loss(c)
        return terms + [("rp", robust_perception(c), s.lam)]

    return replace(base, loss=loss)


# ------------------------------------------------------------------------------------------------ ReBAT family
def attack_train_mode(c, view, s):
    """PGD whose passes are [train], and one more for the per-sample loss."""
    x, y, start = c.x[c.view(view)], c.y[c.view(view)], c.uniform_start()[c.view(view)]
    adv = pgd(lambda adv: cross_entropy(c.net(adv, "train"), y).sum(), x, start, s)
    with torch.no_grad():
        c.net(adv, "train")
    return adv


def attack_rebat(c):
    return attack_train_mode(c, 0, c.s)


def attack_rebat_plus(c):
    late = {"eps": c.s.late_eps, "attack_steps": c.s.late_steps} if c.s.epoch >= c.s.late_start_epoch else {}
    return attack_train_mode(c, 0, SimpleNamespace(**(vars(c.s) | late)))


def teacher(c, x):
    """Logits of the averaged net; in train mode until its first evaluation, which ends epoch `average_start_epoch`."""
    batch_statistics = c.s.wa_mode == "code" and c.s.epoch <= c.s.average_start_epoch
    with torch.no_grad():
        return c.wa(x, "batch" if batch_statistics else "eval")


def rebat(c):
    z = c.train(c.adv)
    terms = [("ce", cross_entropy(z, c.y).mean(), 1)]
    if c.s.epoch >= c.s.average_start_epoch:
        terms.append(("rebat", kl_logits(teacher(c, c.adv), z).mean(), c.s.lam))
    return terms


def rpat_plus(c):
    a = c.s.a
    z = c.train(c.adv)
    terms = [("ce", cross_entropy(z, c.y).mean(), 1)]
    if c.s.epoch >= c.s.average_start_epoch:
        clean = teacher(c, c.x)
        step = teacher(c, c.x + (1 - a) * (c.adv - c.x)) - a * clean
        terms.append(("rp", kl_logits(step, (1 - a) * z).mean(), c.s.lam))
    return terms


# ------------------------------------------------------------------------------------------------------ RAAT
def split(c, z, z_adv, z_reduced, y):
    """Which samples are boundary ones; writes the margins and the split to the outputs."""
    clean, adv, reduced = margin(z, y), margin(z_adv, y), margin(z_reduced, y)
    boundary = reduced < 0 if c.s.variant == "paper" else (clean > 0) & (adv < 0) & (reduced < 0)
    c.outputs |= {"margin.clean": clean, "margin.adv": adv, "margin.reduced": reduced, "boundary": boundary.to(torch.uint8)}
    return boundary


def raat_split(c):
    """RAAT and RAAT++: by the net itself, [eval]. The reduced images, the split, and which clean images are right."""
    with torch.no_grad():
        reduced = c.x + c.s.rho * (c.adv - c.x)
        z = c.net(c.x, "eval")
        boundary = split(c, z, c.net(c.adv, "eval"), c.net(reduced, "eval"), c.y)
    return select(boundary, reduced, c.adv), margin(z, c.y) > 0


def select(mask, then, otherwise):
    return torch.where(mask.view(-1, 1, 1, 1), then, otherwise)


def both_right(c, right):
    """S, from which images of both views are right (`paper`: of the first view)."""
    return right[: c.n] if c.s.variant == "paper" else right[: c.n] & right[c.n :]


def dicar(c, s, clean_passes):
    """JS between mixing before and after the net, over S; `clean_passes` makes the logits of both clean views."""
    if not s.any():
        return torch.zeros((), dtype=c.x.dtype)
    r, t = c.mix, c.s.temperature
    u = c.train(r * c.adv[c.view(0)][s] + (1 - r) * c.adv[c.view(1)][s])
    z = clean_passes()
    z1, z2 = z[: c.n][s], z[c.n :][s]
    if c.s.variant == "paper":
        mixed = r * F.softmax(z1 / t, 1) + (1 - r) * F.softmax(z2 / t, 1)
        return js(F.log_softmax(u / t, 1), mixed.log()).mean()
    return js_logits(u, r * z1 + (1 - r) * z2, t).mean()


def raat(c):
    x_ce, right = raat_split(c)
    ce = cross_entropy(c.train(x_ce), c.y).mean()
    return [("ce", ce, 1), ("dicar", dicar(c, both_right(c, right), lambda: c.train(c.x)), c.s.lam)]


def raat_plus(c):
    x_ce, _ = raat_split(c)
    z_adv, z = c.train(c.adv), c.train(c.x)
    bce = boosted_cross_entropy(c.train(x_ce), c.y).mean()
    with torch.no_grad():
        right = margin(c.net(c.x, "eval"), c.y) > 0
    beta = c.s.lam if c.s.variant == "paper" else c.s.beta
    return [
        ("bce", bce, 1),
        ("kl", mart_kl(z, z_adv, c.y).mean(), beta),
        ("dicar", dicar(c, both_right(c, right), lambda: c.train(c.x)), c.s.lam),
    ]


def attack_both_views(c):
    return torch.cat([attack_train_mode(c, 0, c.s), attack_train_mode(c, 1, c.s)])


def raat_sharp(c):
    first, second = c.view(0), c.view(1)
    x1, x1_adv, y = c.x[first], c.adv[first], c.y[first]
    reduced = x1 + c.s.rho * (x1_adv - x1)
    z1, z2 = teacher(c, x1), teacher(c, c.x[second])
    boundary = split(c, z1, teacher(c, x1_adv), teacher(c, reduced), y)
    s = both_right(c, margin(torch.cat([z1, z2]), c.y) > 0)
    ce = cross_entropy(c.train(select(boundary, reduced, x1_adv)), y).mean()
    alignment = dicar(c, s, lambda: torch.cat([c.train(x1), c.train(c.x[second])]))
    with torch.no_grad():
        c.train(x1_adv)
    return [("ce", ce, 1), ("dicar", alignment, c.s.lam if c.s.epoch >= c.s.average_start_epoch else 0)]


# ------------------------------------------------------------------------------------------------------- AFA
def attack_afa(c):
    clean = c.net.features(c.x, "eval").detach()
    objective = lambda adv: feature_alignment(c.net.features(adv, "eval"), clean, c.y, c.s.tau, c.s.contrast).sum()
    return pgd(objective, c.x, c.uniform_start(), c.s)


def afa_features(c):
    """Clean and adversarial features of one [train] pass over [x; x'], and AFA's loss."""
    f = c.net.features(torch.cat([c.x, c.adv]), c.bn)
    clean, adv = f[: c.n], f[c.n :]
    return clean, adv, feature_alignment(adv, clean, c.y, c.s.tau, c.s.contrast).mean()


def afa(c):
    return [("afa", afa_features(c)[2], 1)]


def afa_linear(c):
    """The classifier on the frozen backbone."""
    with torch.no_grad():
        f = c.net.features(c.adv, "eval")
    return [("ce", cross_entropy(c.net.classify(f), c.y).mean(), 1)]


def attack_joint(c):
    return attack_afa(c) if c.s.joint_attack == "afa" else attack_kl(c)


def afa_trades(c):
    f, f_adv, alignment = afa_features(c)
    z, z_adv = c.net.classify(f), c.net.classify(f_adv)
    return [
        ("ce", cross_entropy(z, c.y).mean(), 1),
        ("kl", kl_logits(z, z_adv).mean(), c.s.beta),
        ("afa", alignment, c.s.lam),
    ]


METHODS = BASES | {
    "standard": Method(standard),
    "rebat": Method(rebat, attack_rebat),
    "rebat++": Method(rebat, attack_rebat_plus),
    "rpat++": Method(rpat_plus, attack_rebat),
    "raat": Method(raat, attack_ce, views=2),
    "raat++": Method(raat_plus, attack_ce_gaussian, views=2),
    "raat#": Method(raat_sharp, attack_both_views, views=2),
    "afa": Method(afa, attack_afa),
    "afa-linear": Method(afa_linear, attack_ce),
    "afa-trades": Method(afa_trades, attack_joint),
}


def find(name, s):
    return rpat(s) if name == "rpat" else METHODS[name]
