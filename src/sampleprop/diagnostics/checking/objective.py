"""Whether f is what the estimator's objective asks for: the bounds subtract log q themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution

from sampleprop import families, graph
from sampleprop.diagnostics.checking.findings import Finding
from sampleprop.estimator import Estimator

DRAWS = 8
TOLERANCE = 1e-3


def log_q(
    f: Callable[[Tensor], Any], dist: Distribution, estimator: Estimator[Any, Any], generator: Generator
) -> Finding | None:
    """Find an f that contains a multiple of log q, given to an estimator whose objective subtracts log q itself.

    At fixed points, the derivative of such an f with respect to φ is this multiple of the score. It can be seen where φ
    requires a gradient.
    """
    if estimator.objective == "mean":
        return None
    variables = families.recognize(dist)
    points = variables.sample(DRAWS, generator)
    with torch.enable_grad():  # the graphs are kept, for they contain that of φ
        log_prob, costs = variables.log_prob(points), f(points)
        wanted = graph.leaves([log_prob])
        if not wanted or not isinstance(costs, Tensor) or not costs.requires_grad:
            return None
        score, slope = _slopes(log_prob, wanted), _slopes(costs, wanted)
    times = float(slope @ score / (score @ score))  # NaN for a score of 0
    if not abs(times) > TOLERANCE or float((slope - times * score).abs().max()) > TOLERANCE * abs(times) * float(
        score.abs().max()
    ):
        return None
    return Finding(
        "log q in f",
        "error",
        f"f contains {times:.3g} log q: at fixed points its derivative with respect to φ is so many times the score. "
        f"{estimator.name} subtracts log q itself. Let f return log p(x, z) alone, or use Pathwise for another cost.",
    )


def _slopes(values: Tensor, wanted: Sequence[Tensor]) -> Tensor:
    """The derivatives of the values of each point, [k * coordinates]: of one alone any two might be proportional."""
    found = [torch.autograd.grad(x.sum(), wanted, retain_graph=True, materialize_grads=True) for x in values]
    return torch.cat([part.flatten().double() for parts in found for part in parts])
