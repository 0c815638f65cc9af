"""Whether f is what the estimator's objective asks for: the bounds subtract log q themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution

from sampleprop import families, graph
from sampleprop.diagnostics.checking.findings import Finding
from sampleprop.estimator import Estimator

DRAWS = 8


def log_q(
    f: Callable[[Tensor], Any], dist: Distribution, estimator: Estimator[Any, Any], generator: Generator
) -> Finding | None:
    """Find an f that contains -log q, given to an estimator whose objective subtracts log q itself.

    At fixed points, the derivative of such an f with respect to φ is that of -log q. It can be seen where φ requires a
    gradient.
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
        scores = torch.autograd.grad(log_prob.sum(), wanted, retain_graph=True, materialize_grads=True)
        found = torch.autograd.grad(costs.sum(), wanted, retain_graph=True, materialize_grads=True)
    size = max(float(score.abs().max()) for score in scores)
    if size == 0 or any(
        float((slope + score).abs().max()) > 1e-3 * size for slope, score in zip(found, scores, strict=True)
    ):
        return None
    return Finding(
        "log q in f",
        "error",
        f"f contains -log q: at fixed points its derivative with respect to φ is that of -log q. {estimator.name} "
        "subtracts log q itself, so here it is subtracted twice. Let f return log p(x, z) alone, or use Pathwise.",
    )
