"""Second derivatives: right where an estimator has the order (refusals of the others are in test_contract).

False alarms: 1e-4 for this file.
"""

from __future__ import annotations

import math
from typing import Any
from zlib import crc32

import pytest
import torch
from torch import Generator, Tensor

import sampleprop as sp
from certificates.pairs import PAIRS
from sampleprop.certificates import Problem
from sampleprop.certificates.trial import threshold

ROWS = 60_013
SECOND = [
    (variant, problem)
    for variant, problem in PAIRS
    if variant.order(problem.dist(problem.rows(1)[0])) >= 2
    and problem.name in ("f of φ", "three problems in a batch", "five classes", "two integers", "normal, cosine")
]
COMPARISONS = sum((problem.phi[0].numel() + problem.theta[0].numel()) ** 2 * problem.count for _, problem in SECOND)
THRESHOLD = threshold(COMPARISONS, 1e-4)


def _hessian(value: Tensor, phi: Tensor, theta: Tensor) -> Tensor:
    """Of each row's value by its row of φ and θ together: [rows, parameters, parameters]."""
    first = torch.autograd.grad(value.sum(), (phi, theta), create_graph=True, materialize_grads=True)
    gradient = torch.cat([g.flatten(1) for g in first], 1)  # [rows, parameters]
    columns = []
    for i in range(gradient.shape[1]):
        second = torch.autograd.grad(
            gradient[:, i].sum(), (phi, theta), retain_graph=True, materialize_grads=True, allow_unused=True
        )
        columns.append(torch.cat([g.flatten(1) for g in second], 1))
    return torch.stack(columns, 1)


@pytest.mark.parametrize(("variant", "problem"), SECOND, ids=str)
def test_hessian(variant: sp.Estimator[Any, Any], problem: Problem) -> None:
    phi, theta = problem.rows(1)
    exact = _hessian(problem.exact(variant, phi, theta), phi, theta)  # [count, parameters, parameters]
    replicates = ROWS // problem.count
    phi, theta = problem.rows(replicates)
    generator = Generator().manual_seed(crc32(f"{variant.label} {problem}".encode()))
    value = sp.expect(lambda x: problem.f(x, phi, theta), problem.dist(phi), variant, generator=generator)
    found = _hessian(value, phi, theta).reshape(replicates, *exact.shape)
    errors = found.std(0) / math.sqrt(replicates) + 1e-9
    z = (found.mean(0) - exact).abs() / errors
    assert z.max() < THRESHOLD
    # What that could see: along the exact Hessian, an error of a quarter of its size.
    along = (found * exact).flatten(1).sum(1) / exact.square().sum()
    assert along.std() / math.sqrt(replicates) * (THRESHOLD + 2.33) < 0.25


def test_ordinary_surrogate_is_rejected() -> None:
    """The test above would see the mistake that the box operator exists to avoid."""
    problem = next(problem for _, problem in SECOND if problem.name == "f of φ")
    phi, theta = problem.rows(1)
    exact = _hessian(problem.exact(sp.ScoreFunction(1), phi, theta), phi, theta)
    phi, theta = problem.rows(ROWS)
    dist = problem.dist(phi)
    points = dist.sample((1,))
    costs, log_prob = problem.f(points, phi, theta), dist.log_prob(points)
    value = (costs + costs.detach() * (log_prob - log_prob.detach())).mean(0)
    found = _hessian(value, phi, theta)
    z = (found.mean(0) - exact[0]).abs() / (found.std(0) / math.sqrt(ROWS) + 1e-9)
    assert z.max() > 2 * THRESHOLD
