"""What is timed: one step, forward and backward, of a toy, of a categorical model and of a discrete VAE."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from naive import Cost


class Workload(NamedTuple):
    """One model: what an estimator gets from it, and how its step begins and ends."""

    parameter: Callable[[], Tensor]
    cost: Cost
    trained: list[Tensor]
    size: int  # coordinates of a point

    def step(self, estimate: Callable[[Tensor], Tensor]) -> None:
        for tensor in self.trained:
            tensor.grad = None
        estimate(self.parameter()).mean().backward()


def toy(kind: str, size: int) -> Workload:
    """f(x) = Σ (x - 0.45)², batch 1; a variable with `size` outcomes where a single one is asked for, ten at least."""
    if kind == "outcomes":
        size = max(size, 10)
    shape = (1, size, 10) if kind == "one-hots" else (1, size)
    # Rates of at most 12, beyond which counts would exceed the outcomes of GeneralizedGumbelSoftmax.
    leaf = torch.randn(shape).clamp(max=2.5 if kind == "counts" else 10).requires_grad_()
    event = (-2, -1) if kind == "one-hots" else -1
    return Workload(lambda: leaf, lambda x: (x - 0.45).square().sum(event), [leaf], leaf.numel())


def categorical(kind: str) -> Workload | None:
    """20 variables with 10 classes each, batch 16, and a perceptron 200-64-1 for a cost."""
    if kind != "one-hots":
        return None
    leaf = torch.randn(16, 20, 10).requires_grad_()
    network = torch.nn.Sequential(torch.nn.Linear(200, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
    trained = [leaf, *network.parameters()]
    return Workload(lambda: leaf, lambda x: network(x.flatten(-2)).squeeze(-1), trained, 200)


def vae(kind: str) -> Workload | None:
    """784-200-784, batch 100: one linear layer on either side of 200 latent variables."""
    if kind not in ("bits", "reals", "counts"):
        return None
    encoder, decoder = torch.nn.Linear(784, 200), torch.nn.Linear(200, 784)
    images = (torch.rand(100, 784) > 0.5).to(torch.get_default_dtype())

    def cost(z: Tensor) -> Tensor:
        x = decoder(z)
        return F.binary_cross_entropy_with_logits(x, images.expand_as(x), reduction="none").sum(-1)

    return Workload(lambda: encoder(images), cost, [*encoder.parameters(), *decoder.parameters()], 200)


WORKLOADS: dict[str, Callable[[str], Workload | None]] = {
    "toy-1": lambda kind: toy(kind, 1),
    "toy-1000": lambda kind: toy(kind, 1000),
    "categorical": categorical,
    "vae": vae,
}
