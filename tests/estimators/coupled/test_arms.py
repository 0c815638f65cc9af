"""ARMS: with two samples it is DisARM; wrong weights and wrong samples are rejected.

Random tests have fixed seeds. A z-test fails at 5 standard errors, by chance once in 1.7 million; with at most 30
comparisons in this file that is a false alarm once in 56,000 seeds. The standard errors of measured
variances are below 1 %, and the gaps above 15 %. Everything else is exact.
"""

import math

import pytest
import torch

import sampleprop as sp
from estimators.coupled.replicates import (
    COPULAS,
    ROWS,
    Z,
    bernoullis,
    combined,
    exact,
    gradients,
    largest_z,
    rough,
    variance,
)
from sampleprop.estimators.coupled import arms, copulas
from sampleprop.estimators.coupled.arms import ARMS
from sampleprop.estimators.coupled.disarm import DisARM


@pytest.mark.parametrize("copula", COPULAS)
def test_arms_with_two_samples_is_disarm(copula: copulas.Copula) -> None:
    logits = torch.linspace(-12, 12, 50 * 4, dtype=torch.float64).reshape(50, 4)
    draw = DisARM().propose(bernoullis(logits), generator=torch.Generator().manual_seed(3))
    costs = rough(draw.points)
    of_disarm = combined(DisARM(), draw, logits, bernoullis, costs)
    of_arms = combined(ARMS(2, copula=copula), arms.Draw(draw.points), logits, bernoullis, costs)
    torch.testing.assert_close(of_arms, of_disarm, rtol=1e-12, atol=1e-14)
    assert of_disarm.count_nonzero() > 20


@pytest.mark.parametrize("copula", COPULAS)
def test_arms_with_two_samples_draws_antithetic_pairs(copula: copulas.Copula) -> None:
    logits = torch.linspace(-3, 3, 7).expand(2000, 7)
    points = ARMS(2, copula=copula).propose(bernoullis(logits), generator=torch.Generator().manual_seed(4)).points
    assert not (points[:, :, :3] == 1).all(0).any()
    assert not (points[:, :, 4:] == 0).all(0).any()


# Traps: each mutant must be rejected by the z-test that the original passes.


def largest_z_of(estimator: sp.Estimator) -> float:
    logits = torch.tensor([0.4, -0.9, 1.3], dtype=torch.float64)
    return largest_z(gradients(estimator, logits, bernoullis, rough, ROWS, seed=10), exact(logits, bernoullis, rough))


@pytest.mark.parametrize("copula", COPULAS)
@pytest.mark.parametrize("k", [2, 4])
def test_the_original_passes(copula: copulas.Copula, k: int) -> None:
    assert largest_z_of(ARMS(k, copula=copula)) < Z


def test_weights_left_out_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copulas, "decorrelation", lambda copula, k, q: torch.ones_like(q))
    assert largest_z_of(ARMS(4)) > 2 * Z


def test_independent_samples_with_the_weights_of_coupled_ones_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        copulas,
        "uniforms",
        lambda copula, shape, like, generator: torch.rand(shape, dtype=like.dtype, generator=generator),
    )
    assert largest_z_of(ARMS(4)) > 2 * Z


def test_arms_beats_several_pairs_and_leave_one_out() -> None:
    logits = torch.tensor([0.4, -0.9, 1.3], dtype=torch.float64)
    of_arms = variance(ARMS(4), logits, bernoullis)
    assert of_arms < 0.85 * variance(DisARM(4), logits, bernoullis)
    assert of_arms < 0.85 * variance(sp.ScoreFunction(4), logits, bernoullis)


@pytest.mark.parametrize("estimator", [ARMS(3), ARMS(3, copula="dirichlet")], ids=repr)
def test_saturated_bernoullis_are_certain_and_have_no_gradient(estimator: sp.Estimator) -> None:
    logits = torch.tensor([40.0, -200.0, 1e4, -1e4, math.inf, -math.inf, 0.3])
    gradient = gradients(estimator, logits, bernoullis, rough, 1000, seed=13)
    assert torch.equal(gradient[:, 1:6], torch.zeros(1000, 5))
    assert gradient.isfinite().all()
    assert gradient[:, 6].abs().max() > 0


def test_a_lone_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        ARMS(1)


def test_an_unknown_copula_is_refused() -> None:
    with pytest.raises(ValueError, match='needs copula="systematic" or copula="dirichlet"; got \'gaussian\''):
        ARMS(4, copula="gaussian")
