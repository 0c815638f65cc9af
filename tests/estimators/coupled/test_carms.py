"""CARMS: with two classes it is ARMS; every pair of classes must occur, and as often as its weight says.

Random tests have fixed seeds. A z-test fails at 5 standard errors, by chance once in 1.7 million; with at most 150
comparisons in this file that is a false alarm once in 11,000 seeds. The standard errors of measured
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
    one_hots,
    rough,
    variance,
)
from sampleprop.estimators.coupled import carms, copulas
from sampleprop.estimators.coupled.arms import ARMS
from sampleprop.estimators.coupled.carms import CARMS

PEAKED = torch.tensor([[1.6, -0.9, 0.1, -0.4, 0.3]], dtype=torch.float64) * 1.3  # the largest probability is about 0.7


@pytest.mark.parametrize("copula", COPULAS)
@pytest.mark.parametrize("k", [2, 3, 5])
def test_every_pair_of_classes_occurs_as_often_as_its_weight_says(copula: copulas.Copula, k: int) -> None:
    """The support condition: P(c, c') r = p_c p_c' for all c ≠ c', with none left out."""
    rows = 50_000
    draw = CARMS(k, copula=copula).propose(
        one_hots(PEAKED.expand(rows, 1, 5)), generator=torch.Generator().manual_seed(6)
    )
    first, second = draw.points[0, :, 0], draw.points[1, :, 0]  # [rows, 5]
    order = draw.order[0, 0]
    weights = carms._weights(copula, k, carms._sticks(PEAKED.log_softmax(-1)[0], order))
    places = order.argsort()
    r = weights[torch.minimum(places[:, None], places[None, :])]  # [5, 5]
    products = (first[:, :, None] * second[:, None, :] * r).flatten(1)
    p = PEAKED[0].softmax(-1)
    different = ~torch.eye(5, dtype=torch.bool).flatten()
    assert largest_z(products[:, different], torch.outer(p, p).flatten()[different]) < Z


def test_weights_are_below_two() -> None:
    logits = torch.randn(5000, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(7)) * 3
    logits[:1000] = 0
    for copula in COPULAS:
        for k in (2, 3, 8):
            weights = carms._weights(copula, k, carms._sticks(logits, carms._order(logits)))
            assert weights.max() < 2


@pytest.mark.parametrize("copula", COPULAS)
@pytest.mark.parametrize("k", [2, 5])
def test_carms_with_two_classes_is_arms(copula: copulas.Copula, k: int) -> None:
    eta = torch.linspace(-4, 4, 90, dtype=torch.float64).reshape(30, 3)
    draw = ARMS(k, copula=copula).propose(bernoullis(eta), generator=torch.Generator().manual_seed(8))
    costs = rough(draw.points)
    logits = torch.stack([torch.zeros_like(eta), eta], -1)
    points = torch.stack([1 - draw.points, draw.points], -1)
    order = carms._order(logits)
    of_carms = combined(CARMS(k, copula=copula), carms.Draw(points, order), logits, one_hots, costs)
    of_arms = combined(ARMS(k, copula=copula), draw, eta, bernoullis, costs)
    torch.testing.assert_close(of_carms[..., 1], of_arms, rtol=1e-10, atol=1e-13)


# Traps: each mutant must be rejected by the z-test that the original passes.


def largest_z_of(estimator: sp.Estimator) -> float:
    return largest_z(gradients(estimator, PEAKED, one_hots, rough, ROWS, seed=9), exact(PEAKED, one_hots, rough))


@pytest.mark.parametrize("copula", COPULAS)
@pytest.mark.parametrize("k", [2, 4])
def test_the_original_passes(copula: copulas.Copula, k: int) -> None:
    assert largest_z_of(CARMS(k, copula=copula)) < Z


def test_descending_sticks_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first stick is above 1/2, so a pair never passes it together: classes behind it never meet."""
    weights = carms._weights
    monkeypatch.setattr(carms, "_order", lambda logits: logits.argsort(-1, descending=True))
    # The weight of pairs that never occur is 1/0, and does not matter.
    monkeypatch.setattr(carms, "_weights", lambda *args: weights(*args).nan_to_num(0, 0, 0))
    assert largest_z_of(CARMS(2)) > 2 * Z


def test_a_fixed_order_of_classes_is_rejected() -> None:
    """With antithetic inverse transforms u, 1 - u over ordered classes, most pairs of different classes never meet."""
    p = PEAKED[0].softmax(-1)
    edges = p.cumsum(-1)
    lower, upper = torch.cat([edges.new_zeros(1), edges[:-1]]), edges
    # J(c, c'): how much of the interval of c the mirrored interval of c' covers.
    joint = (
        torch.minimum(upper[:, None], 1 - lower[None, :]) - torch.maximum(lower[:, None], 1 - upper[None, :])
    ).clamp_min(0)
    torch.testing.assert_close(joint.sum(1), p)
    u = torch.rand(ROWS, dtype=torch.float64, generator=torch.Generator().manual_seed(11))
    classes = torch.stack([torch.bucketize(u, edges[:-1]), torch.bucketize(1 - u, edges[:-1])])
    points = torch.nn.functional.one_hot(classes, 5).to(torch.float64)  # [2, ROWS, 5]
    f = rough(points.unsqueeze(2))
    r = p[classes[0]] * p[classes[1]] / joint[classes[0], classes[1]]
    estimates = 0.5 * (r * (f[0] - f[1])).unsqueeze(-1) * (points[0] - points[1])
    gradient = exact(PEAKED, one_hots, rough)[0]
    never = (joint == 0) & ~torch.eye(5, dtype=torch.bool)
    assert never.any()
    assert largest_z(estimates, gradient) > 2 * Z


def test_weights_left_out_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copulas, "decorrelation", lambda copula, k, q: torch.ones_like(q))
    assert largest_z_of(CARMS(4)) > 2 * Z


def test_independent_samples_with_the_weights_of_coupled_ones_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        copulas,
        "uniforms",
        lambda copula, shape, like, generator: torch.rand(shape, dtype=like.dtype, generator=generator),
    )
    assert largest_z_of(CARMS(4)) > 2 * Z


def test_carms_beats_leave_one_out() -> None:
    logits = torch.tensor([[0.5, -0.3, 0.8, 0.1], [0.2, 0.6, -0.7, -0.1]], dtype=torch.float64)
    for k in (2, 4):
        assert variance(CARMS(k), logits, one_hots) < 0.9 * variance(sp.ScoreFunction(k), logits, one_hots)


@pytest.mark.parametrize("estimator", [CARMS(2), CARMS(5), CARMS(5, copula="dirichlet")], ids=repr)
@pytest.mark.parametrize(
    "row",
    [
        [-math.inf, 0.2, -math.inf, 0.0, 1.0],
        [0.0, -math.inf, 0.0, -math.inf, -math.inf],
        [-math.inf, -math.inf, 3.0, -math.inf, -math.inf],
        [1e4, -1e4, 0.0, -math.inf, 20.0],
        [0.0] * 5,
    ],
)
def test_impossible_classes_are_never_drawn_and_have_no_gradient(estimator: sp.Estimator, row: list[float]) -> None:
    logits = torch.tensor([row, row])
    impossible = logits.softmax(-1) == 0
    points = estimator.propose(one_hots(logits.expand(5000, 2, 5)), generator=torch.Generator().manual_seed(14)).points
    assert torch.equal(points.sum(-1), torch.ones(estimator.samples, 5000, 2))
    assert not points[:, :, impossible].any()
    gradient = gradients(estimator, logits, one_hots, rough, 1000, seed=15)
    assert gradient.isfinite().all()
    assert not gradient[:, impossible].any()


def test_a_lone_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        CARMS(1)


def test_an_unknown_copula_is_refused() -> None:
    with pytest.raises(ValueError, match='needs copula="systematic" or copula="dirichlet"; got \'gaussian\''):
        CARMS(4, copula="gaussian")
