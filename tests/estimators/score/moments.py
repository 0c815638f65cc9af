"""Exact moments of an estimator of discrete variables, by enumeration of every draw.

The tests of this folder are therefore exact, and cannot raise a false alarm unless they say how often they do.
"""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, OneHotCategorical

import sampleprop as sp
from sampleprop import families

BITS = torch.tensor([0.4, -0.9, 1.3], dtype=torch.float64)
EDGE = torch.tensor([4.0, -5.0, 0.3], dtype=torch.float64)
CLASSES = torch.tensor([0.3, -1.0, 2.0, 0.5, -0.4], dtype=torch.float64)
VARIABLES = torch.tensor([[0.3, -1.0, 0.5], [1.2, 0.1, -0.2]], dtype=torch.float64)


def bits(logits: Tensor) -> Distribution:
    return Independent(Bernoulli(logits=logits), 1)


def onehot(logits: Tensor) -> Distribution:
    return OneHotCategorical(logits=logits)


def onehots(logits: Tensor) -> Distribution:
    return Independent(OneHotCategorical(logits=logits), 1)


Make = Callable[[Tensor], Distribution]
F = Callable[[Tensor], Tensor]

PROBLEMS: dict[str, tuple[Make, Tensor]] = {
    "bits": (bits, BITS),
    "edge": (bits, EDGE),
    "one-hot": (onehot, CLASSES),
    "one-hots": (onehots, VARIABLES),
}


def wave(x: Tensor, theta: Tensor | float = 1.0) -> Tensor:
    """[k, rows, *event] -> [k, rows]: coupled, smooth between the points too, with an offset."""
    x = x.flatten(2)
    weights = torch.linspace(-1.0, 2.0, x.shape[-1], dtype=x.dtype)
    return 2 + theta * (x * weights).sum(-1).sin() + 0.5 * x[..., 0] * x[..., -1] ** 2


def exact(make: Make, logits: Tensor, f: F = wave) -> tuple[Tensor, Tensor]:
    """The exact value and gradient."""
    phi = logits.clone().requires_grad_()
    value = sp.expect(lambda x: f(x.unsqueeze(1)).squeeze(1), make(phi), sp.Enumerate())
    value.backward()
    return value.detach(), _gradient(phi)


def states_of(make: Make, logits: Tensor) -> tuple[Tensor, Tensor]:
    """The possible joint states and their probabilities."""
    variables = families.recognize(make(logits))
    assert isinstance(variables, families.Discrete)
    states = variables.support()
    probability = variables.log_prob(states).detach().exp()
    return states[probability > 0], probability[probability > 0]


def combined(
    estimator: sp.Estimator[Any, Any], make: Make, logits: Tensor, draw: Any, f: F = wave
) -> tuple[Tensor, Tensor]:
    """Value and gradient of each row of a draw: [rows], [rows, ...]."""
    rows = draw.points.shape[1]
    phi = logits.expand(rows, *logits.shape).clone().requires_grad_()
    probe_costs = None if draw.probes is None else f(draw.probes)
    value = estimator.combine(make(phi), draw, f(draw.points), probe_costs=probe_costs, relaxed_f=f)
    value.sum().backward()
    return value.detach(), _gradient(phi)


def moments(gradients: Tensor, probability: Tensor) -> tuple[Tensor, Tensor]:
    """The mean, and the total variance, over all draws."""
    mean = torch.tensordot(probability, gradients, 1)
    return mean, probability @ (gradients - mean).square().flatten(1).sum(1)


def every_tuple(draw: Callable[[Tensor], Any], make: Make, logits: Tensor, k: int) -> tuple[Any, Tensor]:
    """All draws of k independent samples, as rows, with their probabilities."""
    states, p = states_of(make, logits)
    index = torch.tensor(list(itertools.product(range(len(states)), repeat=k))).T  # [k, rows]
    return draw(states[index]), p[index].prod(0)


def _gradient(phi: Tensor) -> Tensor:
    assert phi.grad is not None
    return phi.grad
