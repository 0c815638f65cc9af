"""Gumbel-Rao: what it shares with straight-through Gumbel-softmax, and what it shows to f.

Random tests compare at |z| < 4.5, as `problems.py` explains.
"""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from estimators.relaxed.problems import PROBLEMS, THRESHOLD, both, estimates, rebuilt, variance
from sampleprop.estimators.relaxed.gumbel_rao import GumbelRao
from sampleprop.estimators.relaxed.relaxation import soften
from sampleprop.estimators.relaxed.straight_through_gumbel import StraightThroughGumbel
from sampleprop.families import Bernoullis, OneHots
from sampleprop.surrogate import straight_through


def test_one_noise_of_gumbel_rao_is_straight_through_gumbel() -> None:
    single, many, reference = (
        estimates(estimator, "one-hots")
        for estimator in (GumbelRao(noises=1), GumbelRao(noises=10), StraightThroughGumbel())
    )
    for one in (single, many):
        difference = one.mean(0) - reference.mean(0)
        error = ((one.var(0) + reference.var(0)) / one.shape[0]).sqrt()
        assert (difference / error).abs().max() < THRESHOLD
    assert variance(many) < 0.8 * variance(single)


class ThroughTheNoise(GumbelRao):
    """Differentiates the noise given x, too."""

    def points(self, variables: Bernoullis | OneHots, generator: Generator | None) -> Tensor:
        hard = variables.sample(self.draws, generator)
        v = torch.rand((self.noises, *hard.shape), dtype=torch.float64, generator=generator)
        z = rebuilt(variables, hard.expand(v.shape), v)
        return straight_through(self.name, hard, soften(variables, z / self.temperature).mean(0))


def test_gumbel_rao_through_the_conditional_noise_would_be_another_estimator() -> None:
    reference = estimates(StraightThroughGumbel(), "one-hots")
    mutant = estimates(ThroughTheNoise(), "one-hots")
    error = ((mutant.var(0) + reference.var(0)) / mutant.shape[0]).sqrt()
    assert ((mutant.mean(0) - reference.mean(0)) / error).abs().max() > 2 * THRESHOLD


@both
def test_gumbel_rao_shows_f_true_samples(problem: str) -> None:
    dist, logits = PROBLEMS[problem]
    phi = logits.float().expand(50, *logits.shape).clone().requires_grad_()
    points = GumbelRao(4, temperature=0.3).propose(dist(phi)).points
    assert torch.equal(points, points.round())
    assert points.requires_grad


def test_bad_arguments_are_refused() -> None:
    for argument in ({"temperature": -1.0}, {"noises": 0}, {"noises": 2.0}):
        with pytest.raises(ValueError, match="GumbelRao needs"):
            GumbelRao(**argument)
