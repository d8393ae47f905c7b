#!/usr/bin/env python3
"""Check the reference in `reference/` by itself: gradients by finite differences, and the bases written a second time, with
PyTorch's own modules and losses.

    python3 check_reference.py
"""

import copy
import sys

import torch
import torch.nn.functional as F
from torch import nn

import make_goldens
from check_step import golden_batch
from make_methods import cases
from reference.net import Net
from reference.step import step

STEP, TOLERANCE, PROBES = 1e-7, 1e-6, 5


def module(weights):
    """The net of the goldens as PyTorch modules."""
    make_goldens.CHANNELS = 1
    net = make_goldens.ResNet(make_goldens.BasicBlock, 16, 1).double()
    missing, unexpected = net.load_state_dict({k: v.double() for k, v in weights.items()}, strict=False)
    assert not unexpected and all(k.endswith("num_batches_tracked") for k in missing)
    return net


def inputs(case, batch):
    return batch | {name: batch[other] for name, other in case[3].items()}


# ---------------------------------------------------------------------------------------- finite differences
def finite_differences(case, source):
    """The largest relative error of a directional derivative, over a few parameters; the adversarial images are held fixed.

    A direction is the gradient of one parameter plus noise: along it the loss certainly changes."""
    _, method, settings, _ = case
    batch, weights, wa = source
    batch = inputs(case, batch)
    out = step(method, Net(weights), batch, settings, Net(wa))
    batch |= {k: v for k, v in out.items() if k.startswith("x_adv")}
    torch.manual_seed(1)
    names = [k for k in out if k.startswith("grad.") and out[k].norm() > 0]
    chosen = [names[i] for i in torch.randperm(len(names))[: PROBES - 1]]
    chosen += [name for name in ("grad.linear.weight",) if name in names]
    worst = 0.0
    for name in chosen:
        parameter, gradient = name[len("grad."):], out[name]
        direction = gradient / gradient.norm() + torch.randn_like(gradient) / gradient.numel() ** 0.5
        values = []
        for sign in (1, -1):
            net = Net(weights)
            net.parameters[parameter] = (net.parameters[parameter] + sign * STEP * direction).detach().requires_grad_(True)
            values.append(step(method, net, batch, settings, Net(wa))["loss"].item())
        expected = (gradient * direction).sum().item()
        worst = max(worst, abs((values[0] - values[1]) / (2 * STEP) - expected) / abs(expected))
    return worst, len(chosen)


# ------------------------------------------------------------------------------------------- second derivation
def second_pgd(net, x, y, start, eps, size, steps):
    """Madry's attack on a module in eval mode, as usually written."""
    net.eval()
    adv = start.clone()
    for _ in range(steps):
        adv.requires_grad_(True)
        (grad,) = torch.autograd.grad(nn.CrossEntropyLoss()(net(adv), y), adv)
        adv = adv.detach() + size * torch.sign(grad)
        adv = torch.clamp(x + torch.clamp(adv - x, -eps, eps), 0.0, 1.0)
    net.train()
    return adv


def second_trades_attack(net, x, start, eps, size, steps):
    net.eval()
    adv = start.clone()
    for _ in range(steps):
        adv.requires_grad_(True)
        divergence = nn.KLDivLoss(reduction="sum")(F.log_softmax(net(adv), dim=1), F.softmax(net(x), dim=1))
        (grad,) = torch.autograd.grad(divergence, adv)
        adv = adv.detach() + size * torch.sign(grad)
        adv = torch.clamp(torch.min(torch.max(adv, x - eps), x + eps), 0.0, 1.0)
    net.train()
    return adv


def second_trades(net, b, p, beta=6.0):
    adv = second_trades_attack(net, b["x"], b["x"] + b["noise"], **p)
    clean, robust, again = net(b["x"]), net(adv), net(b["x"])
    kl = nn.KLDivLoss(reduction="batchmean")(F.log_softmax(robust, dim=1), F.softmax(again, dim=1))
    return F.cross_entropy(clean, b["y"]) + beta * kl


def second_mart(net, b, p, beta=6.0):
    adv = second_pgd(net, b["x"], b["y"], b["x"] + b["noise"], **p)
    logits, logits_adv = net(b["x"]), net(adv)
    adv_probs = F.softmax(logits_adv, dim=1)
    two = torch.argsort(adv_probs, dim=1)[:, -2:]
    rival = torch.where(two[:, -1] == b["y"], two[:, -2], two[:, -1])
    bce = F.cross_entropy(logits_adv, b["y"]) + F.nll_loss(torch.log(1.0001 - adv_probs + 1e-12), rival)
    nat_probs = F.softmax(logits, dim=1)
    true = torch.gather(nat_probs, 1, b["y"].unsqueeze(1)).squeeze()
    kl = nn.KLDivLoss(reduction="none")(torch.log(adv_probs + 1e-12), nat_probs).sum(dim=1)
    return bce + beta * torch.mean(kl * (1.0000001 - true))


def second_consistency(net, b, p):
    x, y = torch.cat([b["x"], b["x2"]]), b["y"].repeat(2)
    adv = second_pgd(net, x, y, (x + torch.cat([b["noise"], b["noise2"]])).clamp(0, 1), **p)
    z = net(adv)
    first, second = (F.softmax(half / 0.5, dim=1) for half in z.chunk(2))
    log_mixture = torch.clamp((first + second) / 2.0, 1e-8, 1).log()
    js = (F.kl_div(log_mixture, first, reduction="batchmean") + F.kl_div(log_mixture, second, reduction="batchmean")) / 2
    return F.cross_entropy(z, y) + js


def second_rpat(net, b, p):
    adv = second_pgd(net, b["x"], b["y"], (b["x"] + b["noise"]).clamp(0, 1), **p)
    z_adv, z_mid, z = net(adv), net(0.5 * adv + 0.5 * b["x"]), net(b["x"])
    return F.cross_entropy(z_adv, b["y"]) + nn.MSELoss()(z_mid, 0.5 * z + 0.5 * z_adv)


def second_raat(net, b, p):
    """Image by image, with loops and lists."""
    x, y, n = torch.cat([b["x"], b["x2"]]), b["y"].repeat(2), len(b["x"])
    adv = second_pgd(net, x, y, (x + torch.cat([b["noise"], b["noise2"]])).clamp(0, 1), **p)
    net.eval()
    chosen, right = [], []
    for i in range(2 * n):
        reduced = x[i] + 0.75 * (adv[i] - x[i])
        correct = [net(image[None]).argmax().item() == y[i].item() for image in (x[i], adv[i], reduced)]
        chosen.append(reduced if correct == [True, False, False] else adv[i])
        right.append(correct[0])
    net.train()
    loss = F.cross_entropy(net(torch.stack(chosen)), y)
    both = [i for i in range(n) if right[i] and right[i + n]]
    r = b["mix"].double()
    u = net(torch.stack([r * adv[i] + (1 - r) * adv[i + n] for i in both]))
    z = net(x)
    v = torch.stack([r * z[i] + (1 - r) * z[i + n] for i in both])
    p_u, p_v = F.softmax(u / 0.5, dim=1), F.softmax(v / 0.5, dim=1)
    log_mixture = ((p_u + p_v) / 2).clamp(min=1e-8).log()
    total = 0.0
    for i in range(len(both)):
        total = total + 0.5 * (p_u[i] * (p_u[i].log() - log_mixture[i]) + p_v[i] * (p_v[i].log() - log_mixture[i])).sum()
    return loss + total / len(both)


def second_afa(net, b, p):
    """The sums of the contrastive loss written out; features are what enters `linear`."""
    features = []
    net.linear.register_forward_pre_hook(lambda _, args: features.append(args[0]))

    def loss(f_adv, f_clean):
        each = []
        for i in range(len(b["y"])):
            s = [F.cosine_similarity(f_adv[i], c, dim=0) / 0.1 for c in f_clean]
            log_total = torch.stack(s).exp().sum().log()
            positives = [s[a] - log_total for a in range(len(s)) if b["y"][a] == b["y"][i]]
            each.append(-sum(positives) / len(positives))
        return torch.stack(each)

    net.eval()
    net(b["x"])
    clean, adv = features[-1].detach(), (b["x"] + b["noise"]).clamp(0, 1)
    for _ in range(p["steps"]):
        adv.requires_grad_(True)
        net(adv)
        (grad,) = torch.autograd.grad(loss(features[-1], clean).sum(), adv)
        adv = adv.detach() + p["size"] * torch.sign(grad)
        adv = (b["x"] + (adv - b["x"]).clamp(-p["eps"], p["eps"])).clamp(0, 1)
    net.train()
    net(torch.cat([b["x"], adv]))
    f, f_adv = features[-1].chunk(2)
    return loss(f_adv, f).mean()


def second_rebat(net, b, p):
    net.train()
    x, adv = b["x"], (b["x"] + b["noise"]).clamp(0, 1)
    for _ in range(p["steps"]):
        adv.requires_grad_(True)
        (grad,) = torch.autograd.grad(F.cross_entropy(net(adv), b["y"]), adv)
        adv = (x + (adv.detach() + p["size"] * grad.sign() - x).clamp(-p["eps"], p["eps"])).clamp(0, 1)
    net(adv.detach())
    z = net(adv)
    with torch.no_grad():
        target = F.softmax(b["wa"].eval()(adv), dim=1)
    return F.cross_entropy(z, b["y"]) + F.kl_div(F.log_softmax(z, dim=1), target, reduction="batchmean")


def second_awp(net, b, p, gamma=0.01):
    """The weights are moved by a copy of the net, so that the net's own running statistics see one pass only."""
    adv = second_pgd(net, b["x"], b["y"], (b["x"] + b["noise"]).clamp(0, 1), **p)
    proxy = copy.deepcopy(net).train()
    F.cross_entropy(proxy(adv), b["y"]).backward()
    for own, moved in zip(net.parameters(), proxy.parameters()):
        if moved.dim() > 1:
            own.data += gamma * own.data.norm() / (moved.grad.norm() + 1e-12) * moved.grad
    return F.cross_entropy(net(adv), b["y"])


SECOND = {
    "pgd-at, awp": second_awp,
    "trades": second_trades, "mart": second_mart, "consistency-at": second_consistency, "rpat on pgd-at, code": second_rpat,
    "raat, code": second_raat, "afa": second_afa, "rebat, epoch 106": second_rebat,
}


def second_derivation(case, source):
    """The largest relative difference of the loss, a gradient or a running statistic from its second derivation."""
    name, method, settings, _ = case
    batch, weights, wa = source
    want = step(method, Net(weights), batch, settings, Net(wa))
    net = module(weights)
    b = {k: v.double() if v.is_floating_point() else v for k, v in batch.items()} | {"wa": module(wa)}
    loss = SECOND[name](net, b, {"eps": 3 / 16, "size": 3 / 32, "steps": 3})
    names, parameters = zip(*net.named_parameters())
    grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    grads = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads)]
    got = {"loss": loss.detach()} | {f"grad.{k}": g for k, g in zip(names, grads)}
    got |= {f"buffer.{k}": v for k, v in net.named_buffers() if not k.endswith("num_batches_tracked")}
    assert set(got) <= set(want)
    return max(((v - want[k]).norm() / want[k].norm().clamp(min=1e-9)).item() for k, v in got.items())


def main():
    torch.set_num_threads(1)
    source, bad = golden_batch(), 0
    for case in cases():
        text, wrong = "", False
        if "awp" not in case[0]:
            # With AWP the gradient belongs to the moved weights, which themselves depend on the weights.
            error, probes = finite_differences(case, source)
            wrong |= error > TOLERANCE
            text += f"finite differences of {probes} parameters {error:.1e}  "
        if case[0] in SECOND:
            error = second_derivation(case, source)
            wrong |= error > 1e-9
            text += f"second derivation {error:.1e}"
        bad += wrong
        print(f"{'FAILED' if wrong else 'ok':7} {case[0]:30} {text}", flush=True)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
