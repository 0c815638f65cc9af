"""The noise given the sample, and the correction of mean zero that is made of it.

Random tests compare at |z| < 4.5, as `problems.py` explains.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from estimators.relaxed.problems import PROBLEMS, THRESHOLD, bits, both, estimates, exact, f, largest_z, rebuilt
from sampleprop import families
from sampleprop.costs import Costs, Softening
from sampleprop.estimators.relaxed import conditional
from sampleprop.estimators.relaxed.rebar import REBAR
from sampleprop.estimators.relaxed.relaxation import harden, soften


def corrected(variables: Any, draw: conditional.Draw, c: Any) -> Tensor:
    costs = Costs(torch.zeros(len(draw.points)))
    return conditional.correction(variables, draw, c, costs)


def coupling(variables: families.Discrete, points: Tensor, z: Tensor) -> Tensor:
    """The uniform noise for which z̃ is z."""
    logits = variables.logits.detach()
    if isinstance(variables, families.Bernoullis):
        p, u = logits.sigmoid(), (z - logits).sigmoid()
        return torch.where(points > 0, (u - (1 - p)) / p, u / (1 - p))
    largest = z.amax(-1, keepdim=True)
    e = torch.where(points > 0, (-z).exp(), (logits - z).exp() * -torch.expm1(z - largest))
    return (-e).exp()


@both
@pytest.mark.parametrize("coupled", [False, True])
def test_the_correction_is_what_autograd_gives_through_the_noise(problem: str, coupled: bool) -> None:
    dist, logits = PROBLEMS[problem]
    phi = (logits.log_softmax(-1) if problem == "one-hots" else logits).expand(5, *logits.shape).clone()
    phi.requires_grad_()
    variables = families.recognize(dist(phi))
    variables = dataclasses.replace(variables, logits=phi)  # for one-hots: without the projection of the normalization
    generator = torch.Generator().manual_seed(0)
    points, z, _, _ = conditional.propose(variables, 3, True, generator)
    uniform = torch.rand(z.shape, dtype=z.dtype, generator=generator)
    v = coupling(variables, points, z) if coupled else uniform
    conditioned = rebuilt(variables, points, v)
    free = z + (phi - phi.detach())

    def c(z: Tensor) -> Tensor:
        return f(soften(variables, z / math.exp(-0.7)))

    score = variables.log_prob(points) - (phi.logsumexp(-1).sum(-1) if problem == "one-hots" else 0.0)
    wanted = (c(free) - c(conditioned) - c(conditioned).detach() * score).mean(0).sum()
    (wanted,) = torch.autograd.grad(wanted, phi)
    draw = conditional.Draw(points, z, None if coupled else conditioned.detach())
    torch.testing.assert_close(
        corrected(variables, draw, conditional.with_gradient(c)),
        wanted,
    )

    def by_hand(z: Tensor) -> tuple[Tensor, Tensor]:
        return conditional.squashed(variables, z, Softening(torch.tensor(-0.7)), conditional.with_gradient(f))

    torch.testing.assert_close(corrected(variables, draw, by_hand), wanted)


@both
def test_the_conditional_noise_gives_the_same_sample(problem: str) -> None:
    dist, logits = PROBLEMS[problem]
    variables = families.recognize(dist(3 * logits))
    draw = conditional.propose(variables, 2000, False, torch.Generator().manual_seed(0))
    torch.testing.assert_close(harden(variables, draw.conditional), draw.points)
    assert not torch.equal(draw.z, draw.conditional)


def test_small_probabilities_keep_their_precision() -> None:
    """In float32, at a logit of -20, the derivative with respect to z̃ of a drawn 1 is that of float64."""
    results = []
    for dtype in (torch.float32, torch.float64):
        variables = families.recognize(bits(torch.tensor([-20.0, -16.0, -9.0], dtype=dtype)))
        z = torch.tensor([[0.5, 2.0, 0.01]], dtype=dtype)
        draw = conditional.Draw(torch.ones(1, 3, dtype=dtype), z, z.clone())
        y = torch.tensor([1.0, 2.0, 3.0], dtype=dtype)
        # Through a linear c the correction is y - y + (1 - ∂z̃/∂φ) y less the score's part.
        results.append(corrected(variables, draw, lambda z, y=y: ((z * y).sum(-1), y.expand_as(z))).double())
    torch.testing.assert_close(*results, rtol=1e-6, atol=0.0)


MUTANTS = {
    "z̃ detached": ("_difference", lambda variables, points, z, y: y),
    "z̃ with the derivative of z": ("_difference", lambda variables, points, z, y: torch.zeros_like(y)),
    "z̃ not given x": (
        "latent",
        lambda variables, points, generator: conditional.propose(variables, len(points), True, generator).z,
    ),
    "z̃ given another temperature": (
        "latent",
        lambda variables, points, generator: 2 * LATENT(variables, points, generator),
    ),
}

LATENT = conditional.latent


@both
@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_test_of_unbiasedness_rejects_mutants(problem: str, mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditional, *MUTANTS[mutant])
    assert largest_z(estimates(REBAR().eval(), problem, rows=60_000), exact(problem)) > 2 * THRESHOLD
