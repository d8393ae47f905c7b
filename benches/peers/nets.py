"""The networks of the peers, with saddle's names of parameters: a weight file fits both.

Every net's forward takes `rows`, a weight of 1 or 0 for each image or None: batch norm in train mode then has
the statistics of the images of weight 1. The others' logits mean nothing and must not reach a loss.
"""

import copy

import torch
import torch.nn.functional as F
from torch import nn


class BatchNorm(nn.BatchNorm2d):
    """Batch norm over all images, or over the weighted ones."""

    def __init__(self, channels):
        super().__init__(channels)
        # Nothing reads it, and counting is a launch per layer.
        self.num_batches_tracked = None

    def forward(self, x, rows=None):
        if rows is None or not self.training:
            return super().forward(x)
        weights, pixels = rows.view(-1, 1, 1, 1), x.shape[2] * x.shape[3]
        count = (rows.sum() * pixels).clamp(min=1)
        values = x.float()
        mean = (values * weights).sum((0, 2, 3)) / count
        centred = (values - mean.view(1, -1, 1, 1)) * weights
        var = centred.square().sum((0, 2, 3)) / count
        with torch.no_grad():
            moved = self.momentum * rows.amax()
            # .data: backward passes of earlier batches have saved these, but do not read them.
            self.running_mean.data.lerp_(mean, moved)
            self.running_var.data.lerp_(var * count / (count - 1).clamp(min=1), moved)
        scale = self.weight * torch.rsqrt(var + self.eps)
        return (centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(x.dtype)


def conv(cin, cout, kernel, stride):
    return nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=False)


class Shortcut(nn.Sequential):
    """Nothing, or a convolution with its batch norm."""

    def forward(self, x, rows):
        return self[1](self[0](x), rows) if len(self) else x


class Block(nn.Module):
    """ResNet's BasicBlock."""

    def __init__(self, cin, cout, stride):
        super().__init__()
        self.conv1, self.bn1 = conv(cin, cout, 3, stride), BatchNorm(cout)
        self.conv2, self.bn2 = conv(cout, cout, 3, 1), BatchNorm(cout)
        changes = stride != 1 or cin != cout
        self.shortcut = Shortcut(*([conv(cin, cout, 1, stride), BatchNorm(cout)] if changes else []))

    def forward(self, x, rows):
        out = F.relu(self.bn1(self.conv1(x), rows))
        return F.relu(self.bn2(self.conv2(out), rows) + self.shortcut(x, rows))


class ResNet(nn.Module):
    """Post-activation ResNet for small images."""

    def __init__(self, channels=3, width=64, stages=4, blocks=2, classes=10):
        super().__init__()
        self.conv1, self.bn1 = conv(channels, width, 3, 1), BatchNorm(width)
        cin, self.stages = width, [f"layer{stage + 1}" for stage in range(stages)]
        for stage, name in enumerate(self.stages):
            cout, strides = width << stage, [2 if stage else 1] + [1] * (blocks - 1)
            made = [Block(cin if block == 0 else cout, cout, stride) for block, stride in enumerate(strides)]
            self.add_module(name, nn.Sequential(*made))
            cin = cout
        self.linear = nn.Linear(cin, classes)

    def forward(self, x, rows=None):
        out = F.relu(self.bn1(self.conv1(x), rows))
        for stage in self.stages:
            for block in getattr(self, stage):
                out = block(out, rows)
        return self.linear(out.mean((2, 3)))


class WideBlock(nn.Module):
    """WideResNet's block; its convolutional shortcut reads relu(bn1(x))."""

    def __init__(self, cin, cout, stride):
        super().__init__()
        self.bn1, self.conv1 = BatchNorm(cin), conv(cin, cout, 3, stride)
        self.bn2, self.conv2 = BatchNorm(cout), conv(cout, cout, 3, 1)
        self.convShortcut = conv(cin, cout, 1, stride) if cin != cout else None

    def forward(self, x, rows):
        before = F.relu(self.bn1(x, rows))
        out = self.conv2(F.relu(self.bn2(self.conv1(before), rows)))
        return out + (x if self.convShortcut is None else self.convShortcut(before))


class Group(nn.Module):
    """A stage of a WideResNet."""

    def __init__(self, cin, cout, stride, blocks):
        super().__init__()
        made = [WideBlock(cout if block else cin, cout, 1 if block else stride) for block in range(blocks)]
        self.layer = nn.Sequential(*made)

    def forward(self, x, rows):
        for block in self.layer:
            x = block(x, rows)
        return x


class WideResNet(nn.Module):
    def __init__(self, channels=3, depth=28, factor=10, classes=10):
        super().__init__()
        blocks, width = (depth - 4) // 6, 16 * factor
        self.conv1 = conv(channels, 16, 3, 1)
        self.block1 = Group(16, width, 1, blocks)
        self.block2 = Group(width, 2 * width, 2, blocks)
        self.block3 = Group(2 * width, 4 * width, 2, blocks)
        self.bn1, self.fc = BatchNorm(4 * width), nn.Linear(4 * width, classes)

    def forward(self, x, rows=None):
        out = self.conv1(x)
        for group in (self.block1, self.block2, self.block3):
            out = group(out, rows)
        return self.fc(F.relu(self.bn1(out, rows)).mean((2, 3)))


# By saddle's name: the net, the channels and the height of its images, and eps.
MODELS = {
    "resnet-mini": (lambda channels, classes: ResNet(channels, 16, 3, 1, classes), 1, 8, 0.1),
    "resnet18": (lambda channels, classes: ResNet(channels, classes=classes), 3, 32, 8 / 255),
    "wrn-28-10": (lambda channels, classes: WideResNet(channels, classes=classes), 3, 32, 8 / 255),
}


def build(model, device="cpu", channels=None, classes=10):
    """A new network in the layout that PyTorch's convolutions are fastest in."""
    make, usual, _, _ = MODELS[model]
    return make(channels or usual, classes).to(device, memory_format=torch.channels_last)


@torch.no_grad()
def load(net, tensors):
    """Copies a weight file's tensors into a network. Errors: it has others, or of other shapes."""
    state = net.state_dict()
    names = {name for name in tensors if not name.endswith("num_batches_tracked")}
    if names != set(state):
        raise ValueError(f"the weights have other names than the network: {sorted(names ^ set(state))[:4]}")
    for name, value in state.items():
        value.copy_(tensors[name])


class Twin:
    """A network in eval mode for the attack, on the storage of the trained one: it sees every update, and as
    its parameters need no gradient, neither eager nor compiled passes compute theirs. In bf16 it has copies
    of the weights, so that they are rounded once per step and not once per pass: call `refresh` after
    updates."""

    def __init__(self, net, precision):
        self.net = copy.deepcopy(net).eval()
        self.copies = []
        for mine, original in zip(self.net.modules(), net.modules()):
            for name, parameter in original.named_parameters(recurse=False):
                value = parameter.detach()
                if precision == "bf16" and value.dim() > 1:
                    value = value.to(torch.bfloat16)
                    self.copies.append((value, parameter))
                setattr(mine, name, nn.Parameter(value, requires_grad=False))
            for name, buffer in original.named_buffers(recurse=False):
                setattr(mine, name, buffer)

    @torch.no_grad()
    def refresh(self):
        for copied, original in self.copies:
            copied.copy_(original)
