"""Whole training steps in PyTorch's modes and precisions.

eager            operations as they come
graph            the whole step, attack and update included, in one CUDA graph
compile          torch.compile of the passes, the objectives and the attack step
compile+graph    these in one CUDA graph
"""

import torch

import nets
from methods import METHODS, Given, Step

MODES = ["eager", "graph", "compile", "compile+graph"]
PRECISIONS = ["f32", "tf32", "bf16"]


def impossible(mode, precision, device):
    """Why a device cannot do this, or None."""
    if device == "cuda":
        old = torch.cuda.get_device_capability() < (8, 0)
        return f"{precision} needs compute capability 8.0" if old and precision != "f32" else None
    if precision == "tf32":
        return "tf32 needs a CUDA device"
    return "CUDA graphs need a CUDA device" if "graph" in mode else None


def set_precision(precision):
    """The precision of float32 products; bf16 comes from autocast. Convolution algorithms are tried out."""
    tf32 = precision != "f32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True


def forms(method, mode):
    """The forms of RAAT's set S that a mode has: `gathered` images, or a `masked` batch of fixed shape."""
    if method != "raat":
        return [None]
    return ["masked"] if "graph" in mode else ["gathered", "masked"]


class TrainingStep:
    """`run()` is a step of `method` on the batch `x`, `y` of one view, or of several after one another."""

    def __init__(self, net, method, x, y, eps, step_size, mode, precision, form=None, lr=0.01,
                 given=Given()):
        set_precision(precision)
        graph, compiles = "graph" in mode, mode.startswith("compile")

        def compiled(function, dynamic=False):
            return torch.compile(function, dynamic=dynamic) if compiles else function

        form = form or forms("raat", mode)[0]
        self.step = Step(net, eps, step_size, precision, compiled, form == "masked", given)
        self.net, self.method, self.x, self.y = net, METHODS[method][0], x, y
        self.optimiser = torch.optim.SGD(net.parameters(), lr, momentum=0.9, weight_decay=5e-4, fused=True)
        self.loss, self.graph = None, None
        if graph:
            self.capture()

    def on_device(self):
        self.step.twin.refresh()
        _, loss = self.method(self.step, self.x, self.y)
        # Gradients are written, not added to: a replayed graph finds those of the step before.
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self.loss = loss.detach()

    def capture(self):
        """Three steps on a stream of their own, as CUDA graphs ask for, then the one that is recorded."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.on_device()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.on_device()

    def run(self):
        self.step.draw()
        self.graph.replay() if self.graph else self.on_device()


def bench_step(model, method, batch, device, mode, precision, form=None):
    """The step that `saddle bench step` times: random images, labels 0 to 9 in turn."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    _, channels, side, eps = nets.MODELS[model]
    views = METHODS[method][1]
    x = torch.rand(batch * views, channels, side, side, device=device)
    y = (torch.arange(batch, device=device) % 10).repeat(views)
    x = x.contiguous(memory_format=torch.channels_last)
    return TrainingStep(nets.build(model, device), method, x, y, eps, eps, mode, precision, form)
