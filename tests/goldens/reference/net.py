"""Residual networks as functions of a dictionary of tensors under PyTorch's names.

The batch-norm mode is an argument of every pass: `train` (batch statistics; the running ones move), `batch` (batch
statistics, the running ones stay) or `eval` (running statistics).
"""

import torch
import torch.nn.functional as F

MOMENTUM, EPSILON = 0.1, 1e-5
BUFFERS = ("running_mean", "running_var")


class Watch:
    """How near a float32 run comes to another branch: the smallest |ReLU input| of the loss, and the smallest attack gradient, as
    a part of the largest of its image, whose sign is taken. `near`: per bias that moves a ReLU's input, its channels and the
    values within `NEAR` of zero, where someone asks for them by making it a dictionary."""

    NEAR = 1e-3
    relu = sign = float("inf")
    near = None

    @classmethod
    def reset(cls):
        cls.relu = cls.sign = float("inf")


def relu(x, bias):
    """`bias`: the name of the last one that was added to x, channel by channel."""
    if torch.is_grad_enabled():
        seen = x.detach()
        Watch.relu = min(Watch.relu, seen.abs().min().item())
        if Watch.near is not None:
            at = (seen.abs() < Watch.NEAR).nonzero(as_tuple=True)
            Watch.near.setdefault(bias, []).append((at[1], seen[at]))
    return F.relu(x)


class Net:
    """A ResNet of BasicBlocks, post-activation or (when there is a final `bn`) pre-activation; strides 1, 2, 2, ..."""

    def __init__(self, tensors, dtype=torch.float64):
        tensors = {k: v.detach().to(dtype).clone() for k, v in tensors.items() if not k.endswith("num_batches_tracked")}
        self.buffers = {k: v for k, v in tensors.items() if k.endswith(BUFFERS)}
        self.parameters = {k: v.requires_grad_(True) for k, v in tensors.items() if k not in self.buffers}
        self.preact = "bn.weight" in self.parameters

    def conv(self, name, x, stride=1):
        weight = self.parameters[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def norm(self, name, x, bn):
        weight, bias = self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"]
        mean, var = (self.buffers[f"{name}.{kind}"] for kind in BUFFERS)
        if bn == "batch":
            return F.batch_norm(x, None, None, weight, bias, True, 0.0, EPSILON)
        if bn == "train":
            mean, var = mean.clone(), var.clone()
            self.buffers[f"{name}.running_mean"], self.buffers[f"{name}.running_var"] = mean, var
        return F.batch_norm(x, mean, var, weight, bias, bn == "train", MOMENTUM, EPSILON)

    def rectified(self, name, x, bn):
        return relu(self.norm(name, x, bn), f"{name}.bias")

    def block(self, name, x, stride, bn):
        shortcut = f"{name}.shortcut.0.weight" in self.parameters
        if self.preact:
            a = self.rectified(f"{name}.bn1", x, bn)
            skip = self.conv(f"{name}.shortcut.0", a, stride) if shortcut else x
            a = self.rectified(f"{name}.bn2", self.conv(f"{name}.conv1", a, stride), bn)
            return self.conv(f"{name}.conv2", a) + skip
        a = self.rectified(f"{name}.bn1", self.conv(f"{name}.conv1", x, stride), bn)
        a = self.norm(f"{name}.bn2", self.conv(f"{name}.conv2", a), bn)
        skip = self.norm(f"{name}.shortcut.1", self.conv(f"{name}.shortcut.0", x, stride), bn) if shortcut else x
        return relu(a + skip, f"{name}.bn2.bias")

    def features(self, x, bn):
        """What the classifier reads: `[N, width]`."""
        assert bn in ("train", "batch", "eval")
        x = self.conv("conv1", x)
        if not self.preact:
            x = self.rectified("bn1", x, bn)
        stage = 1
        while f"layer{stage}.0.conv1.weight" in self.parameters:
            block = 0
            while f"layer{stage}.{block}.conv1.weight" in self.parameters:
                x = self.block(f"layer{stage}.{block}", x, 2 if stage > 1 and block == 0 else 1, bn)
                block += 1
            stage += 1
        if self.preact:
            x = self.rectified("bn", x, bn)
        return x.mean((2, 3))

    def classify(self, features):
        return F.linear(features, self.parameters["linear.weight"], self.parameters["linear.bias"])

    def __call__(self, x, bn):
        """Logits `[N, classes]`."""
        return self.classify(self.features(x, bn))

    def tensors(self):
        """Parameters and running statistics, detached."""
        return {k: v.detach().clone() for k, v in (self.parameters | self.buffers).items()}


def initial(widths, blocks, channels, preact=False, classes=10):
    """A network with PyTorch's default initialisation of convolutions and of the classifier, and randomised batch norms."""
    out = {}

    def uniform(name, shape, fan_in):
        out[name] = (2 * torch.rand(shape) - 1) / fan_in**0.5

    def conv(name, cin, cout, kernel):
        uniform(f"{name}.weight", (cout, cin, kernel, kernel), cin * kernel * kernel)

    def norm(name, channels):
        out[f"{name}.weight"], out[f"{name}.bias"] = 0.5 + torch.rand(channels), 0.4 * torch.rand(channels) - 0.2
        out[f"{name}.running_mean"], out[f"{name}.running_var"] = torch.zeros(channels), torch.ones(channels)

    conv("conv1", channels, widths[0], 3)
    if not preact:
        norm("bn1", widths[0])
    cin = widths[0]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            name, stride = f"layer{stage + 1}.{block}", 2 if stage > 0 and block == 0 else 1
            conv(f"{name}.conv1", cin, width, 3)
            norm(f"{name}.bn1", cin if preact else width)
            conv(f"{name}.conv2", width, width, 3)
            norm(f"{name}.bn2", width)
            if stride > 1 or cin != width:
                conv(f"{name}.shortcut.0", cin, width, 1)
                if not preact:
                    norm(f"{name}.shortcut.1", width)
            cin = width
    if preact:
        norm("bn", cin)
    uniform("linear.weight", (classes, cin), cin)
    uniform("linear.bias", (classes,), cin)
    return out


# What `saddle` calls these networks: widths of the stages, blocks a stage, image channels, image side, pre-activation.
MODELS = {
    "resnet-mini": ((16, 32, 64), 1, 1, 8, False),
    "resnet18": ((64, 128, 256, 512), 2, 3, 32, False),
    "preact-resnet18": ((64, 128, 256, 512), 2, 3, 32, True),
}
