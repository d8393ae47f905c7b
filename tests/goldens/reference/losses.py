"""The losses of the methods, one value per row unless said otherwise; gradients flow through every argument."""

import torch
import torch.nn.functional as F


def cross_entropy(z, y):
    return -F.log_softmax(z, 1).gather(1, y[:, None]).squeeze(1)


def kl(log_p, log_q):
    """KL(P || Q) from logarithms of probabilities."""
    return (log_p.exp() * (log_p - log_q)).sum(1)


def kl_logits(u, v):
    """KL(softmax u || softmax v)."""
    return kl(F.log_softmax(u, 1), F.log_softmax(v, 1))


def js(log_p, log_q):
    """Jensen-Shannon divergence; the mixture is not below 1e-8."""
    log_m = ((log_p.exp() + log_q.exp()) / 2).clamp(min=1e-8).log()
    return 0.5 * (kl(log_p, log_m) + kl(log_q, log_m))


def js_logits(u, v, temperature):
    return js(F.log_softmax(u / temperature, 1), F.log_softmax(v / temperature, 1))


def rival(values, y):
    """The largest entry of each row but its label's."""
    return values.scatter(1, y[:, None], float("-inf")).max(1).values


def margin(z, y):
    return z.gather(1, y[:, None]).squeeze(1) - rival(z, y)


def boosted_cross_entropy(z, y):
    """MART's BCE."""
    return cross_entropy(z, y) - (1.0001 - rival(F.softmax(z, 1), y) + 1e-12).log()


def mart_kl(z, z_adv, y):
    """KL(p(x) || p(x') + 1e-12), weighted by 1.0000001 - p_y(x)."""
    divergence = kl(F.log_softmax(z, 1), (F.softmax(z_adv, 1) + 1e-12).log())
    return divergence * (1.0000001 - F.softmax(z, 1).gather(1, y[:, None]).squeeze(1))


def feature_alignment(f_adv, f_clean, y, tau, contrast):
    """AFA's supervised contrastive loss of each adversarial anchor. Positives: the images of the set with the anchor's
    label; the set is the clean batch or, `clean+adv`, both batches without the anchor itself."""
    anchors, clean = F.normalize(f_adv, dim=1, eps=0.0), F.normalize(f_clean, dim=1, eps=0.0)
    both = contrast == "clean+adv"
    points, labels = (torch.cat([clean, anchors]), torch.cat([y, y])) if both else (clean, y)
    similarity = anchors @ points.T / tau
    allowed = torch.ones_like(similarity, dtype=torch.bool)
    if both:
        index = torch.arange(len(y))
        allowed[index, len(y) + index] = False
    log_total = similarity.masked_fill(~allowed, float("-inf")).logsumexp(1, keepdim=True)
    positive = (allowed & (y[:, None] == labels[None, :])).to(similarity.dtype)
    return -(positive * (similarity - log_total)).sum(1) / positive.sum(1)
